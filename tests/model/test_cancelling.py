"""Cancel is prompt, and what nobody reads any more is not computed."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from harness import PATIENCE, wait_until

from headrace import Context, Model, TokenStream

from .ties import assert_greedy
from .waits import prompt_of, until_idle


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def settled_steps(model: Model) -> int:
    model.check_integrity()
    return model.metrics.steps


def test_cancel_in_mid_prefill_frees_within_a_chunk(model: Model) -> None:
    prompt = prompt_of(model, 1600, "Cancelled while it is read.")
    before = model.metrics.prefill_tokens
    stream = model.generate_stream(prompt, max_tokens=4)
    wait_until(lambda: model.metrics.prefill_tokens > before)
    stream.cancel()
    at_cancel = model.metrics
    result = stream.result(PATIENCE)
    model.check_integrity()
    after = model.metrics

    assert result.finish_reason == "cancelled"
    assert result.usage.completion_tokens == 0
    assert result.text == ""
    assert after.steps - at_cancel.steps <= 1
    assert after.kv_used == 0
    assert 0 < after.prefill_tokens - before < len(prompt), "it was not cancelled in the midst of it"

    # What was computed until then is a prefix like any other.
    computed = after.prefill_tokens - before
    again = model.generate(prompt[: computed + 1], max_tokens=1)
    assert again.usage.cached_tokens == computed


def test_cancel_of_a_decoding_stream_frees_its_place_within_a_step(model: Model) -> None:
    stream = model.generate_stream("Once upon a time", max_tokens=1000, ignore_eos=True, buffer_size=1000)
    read = [next(stream) for _ in range(3)]
    stream.cancel()
    at_cancel = model.metrics.steps
    result = stream.result(PATIENCE)
    assert settled_steps(model) - at_cancel <= 1
    assert model.metrics.running == model.metrics.kv_used == 0
    assert result.finish_reason == "cancelled"

    # What had been sampled by then can still be read, and the text is exactly that.
    read += list(stream)
    assert "".join(token.text for token in read) == result.text
    assert len(read) == result.usage.completion_tokens
    stream.cancel()
    assert stream.result() == result


def test_a_cancelled_stream_leaves_its_neighbours_as_they_are(model: Model) -> None:
    prompts = [f"{name} is a city in" for name in ("Rome", "Cairo", "Lima")]
    streams = [model.generate_stream(prompt, max_tokens=20, ignore_eos=True) for prompt in prompts]
    doomed = model.generate_stream("Nobody will read", max_tokens=1000, ignore_eos=True)
    next(doomed)
    doomed.cancel()
    for prompt, stream in zip(prompts, streams, strict=True):
        ids = [token.id for token in stream]
        assert len(ids) == 20
        assert_greedy(model, model.tokenize(prompt), ids, ignore_eos=True)
    assert doomed.result(PATIENCE).finish_reason == "cancelled"


def leave_the_loop(stream: TokenStream) -> None:
    for _ in stream:
        break


def leave_the_with(stream: TokenStream) -> None:
    with stream:
        next(stream)


def close(stream: TokenStream) -> None:
    next(stream)
    stream.close()


def drop(stream: TokenStream) -> None:
    next(stream)


@pytest.mark.parametrize("leave", [leave_the_loop, leave_the_with, close, drop])
def test_a_stream_that_nobody_reads_any_more_is_cancelled(model: Model, leave) -> None:
    finished = model.metrics.streams_finished.get("cancelled", 0)
    leave(model.generate_stream("A very long story:", max_tokens=2000, ignore_eos=True))
    gc.collect()
    wait_until(lambda: model.metrics.streams_finished.get("cancelled", 0) == finished + 1)
    until_idle(model)


def test_a_task_that_is_cancelled_cancels_its_generation(model: Model) -> None:
    finished = model.metrics.streams_finished.get("cancelled", 0)

    async def main() -> None:
        task = asyncio.create_task(model.as_async().generate("Endless:", max_tokens=2000, ignore_eos=True))
        while not model.metrics.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: model.metrics.streams_finished.get("cancelled", 0) == finished + 1)


def test_cancel_generation_cancels_its_own_streams_and_no_others(model: Model) -> None:
    caller, other = Context(model, max_tokens=400, ignore_eos=True), Context(model, max_tokens=12, ignore_eos=True)
    own = [caller.generate_stream(f"Own {number}", buffer_size=400) for number in range(2)]
    others = [other.generate_stream("Another's"), model.generate_stream("The model's", ignore_eos=True, max_tokens=12)]
    for stream in (*own, *others):
        next(stream)
    caller.cancel_generation()
    assert [stream.result(PATIENCE).finish_reason for stream in own] == ["cancelled"] * 2
    assert [stream.result(PATIENCE).finish_reason for stream in others] == ["length"] * 2
    # The caller itself goes on.
    assert caller.generate("Again", max_tokens=2).finish_reason == "length"


def test_200_abandoned_streams_leave_nothing_behind(model: Model) -> None:
    def abandon_50() -> None:
        streams = [
            model.generate_stream(f"Abandoned {number}:", max_tokens=1000, ignore_eos=True) for number in range(50)
        ]
        next(streams[0])
        del streams
        gc.collect()
        until_idle(model)

    abandon_50()  # whatever is allocated once is allocated now
    before = resident_bytes()
    started = model.metrics.streams_started
    for _ in range(4):
        abandon_50()
    assert model.metrics.streams_started - started == 200
    assert resident_bytes() - before < 8 * 2**20
