"""Too little KV costs time, never a stream."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from harness import Scripted, echo, echoed, ids, run_async, scripted, texts, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import ContextOverflowError, InvalidRequestError, TokenStream


class Timed:
    """Does things on the engine thread, just before given steps."""

    def __init__(self) -> None:
        self._things: dict[int, list[Callable[[], object]]] = {}
        self._count = 0

    def __call__(self, _: object) -> None:
        for do in self._things.pop(self._count, ()):
            do()
        self._count += 1

    def at(self, step: int, do: Callable[[], object]) -> None:
        self._things.setdefault(step, []).append(do)


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("num_cells", [48, 50, 64, 100, 200])
def test_many_streams_in_little_kv_all_finish(num_cells: int, partial: bool) -> None:
    prompts = [f"prompt {at}" for at in range(12)]
    with scripted(echo, num_cells=num_cells, max_streams=8, can_drop_partial=partial) as made:
        with made.hold():
            streams = [made.model.generate_stream(prompt) for prompt in prompts]
        assert [texts(stream) for stream in streams] == [echoed(prompt) for prompt in prompts]
        assert {stream.finish_reason for stream in streams} == {"stop"}


def test_the_youngest_gives_way_and_its_reader_sees_only_a_pause() -> None:
    text = "x" * 60
    with scripted(ids(text), num_cells=100, max_streams=4) as made:
        with made.hold():
            streams = [made.model.generate_stream(letter) for letter in "abc"]
        for stream in streams:
            tokens = within(list, stream)
            assert "".join(token.text for token in tokens) == text
            assert [token.index for token in tokens] == list(range(61))
            assert stream.usage.completion_tokens == 61
        assert made.model.metrics.preemptions > 0
        order = [part.sampler for step in made.steps for part in step if part.sampler]
        finished = list(dict.fromkeys(reversed([id(sampler) for sampler in order])))[::-1]
        assert finished == list(dict.fromkeys(id(sampler) for sampler in order)), "the oldest finishes first"


def test_a_stream_that_outgrows_the_context_ends_with_length() -> None:
    with scripted(lambda _: ids("x" * 1000), num_cells=50) as made:
        result = within(made.model.generate, "prompt")
        assert result.finish_reason == "length"
        assert result.usage.total_tokens == 51  # the last one was sampled, and has no need of a cell
        assert result.text == "x" * 45
        other = within(made.model.generate, "p")
        assert other.usage.total_tokens == 51


def test_streams_that_all_outgrow_the_context_each_end_with_length() -> None:
    with scripted(lambda _: ids("x" * 1000), num_cells=50, max_streams=4) as made:
        with made.hold():
            streams = [made.model.generate_stream(letter * 10) for letter in "abcdef"]
        for stream in streams:
            result = within(stream.result)
            assert (result.finish_reason, result.usage.total_tokens) == ("length", 51)


def test_a_prompt_that_fills_the_context_gives_one_token() -> None:
    with scripted("abc", num_cells=50) as made:
        result = within(made.model.generate, "x" * 50)
        assert (result.text, result.finish_reason) == ("a", "length")


def test_a_prompt_longer_than_the_context_is_refused_before_anything_runs() -> None:
    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("x" * 51)
        with pytest.raises(ContextOverflowError):
            await stream.result()
        with pytest.raises(ContextOverflowError):
            await anext(stream)

    with scripted("abc", num_cells=50) as made:
        with pytest.raises(ContextOverflowError, match=r"51 tokens.*50") as caught:
            made.model.generate_stream("x" * 51)
        assert (caught.value.prompt_tokens, caught.value.n_ctx) == (51, 50)
        assert isinstance(caught.value, InvalidRequestError)
        run_async(main(made))
        assert made.model.metrics.streams_started == 0
        assert made.steps == []
        assert made.model.generate("x").text == "abc"


def test_cached_prefixes_go_before_anybody_is_preempted() -> None:
    with scripted(echo, num_cells=100, max_streams=4) as made:
        for letter in "abcdef":
            made.model.generate(letter * 8)
        assert made.model.metrics.kv_cached > 60
        with made.hold():
            streams = [made.model.generate_stream(letter * 4) for letter in "xy"]
        assert [texts(stream) for stream in streams] == [echoed("xxxx"), echoed("yyyy")]
        assert made.model.metrics.preemptions == 0


def test_the_first_of_a_shared_prefix_leaves_when_the_kv_is_full() -> None:
    """Whoever waits for its prefix then pins what was about to be evicted for the others' next tokens."""
    prompt = "p" * 200

    def answer(tokens: tuple[int, ...]) -> list[int]:
        return ids("x" * 60 if len(tokens) == 1 else "second" if len(tokens) > 200 else "first")

    def run(num_cells: int, at: int) -> None:
        script = Timed()
        sharing: list[TokenStream] = []
        with scripted(answer, num_cells=num_cells, before_step=script, step_target_ms=0.001) as made:
            generate = made.model.generate_stream
            script.at(8, lambda: sharing.extend((generate(prompt), generate(prompt + "q"))))
            script.at(at, lambda: sharing[0].cancel())
            with made.hold():
                decoding = [generate(letter) for letter in "abc"]
            assert [within(stream.result).text for stream in decoding] == ["x" * 60] * 3, (num_cells, at)
            assert within(sharing[1].result).text == "second", (num_cells, at)

    for num_cells in range(293, 304):
        for at in range(30, 37):
            run(num_cells, at)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=30), st.integers(0, 30)), min_size=2, max_size=8),
    st.sets(st.tuples(st.integers(0, 7), st.integers(1, 40)), max_size=3),
    st.integers(56, 90),
    st.integers(2, 4),
    st.sampled_from([8, 16, 512]),
    st.sampled_from([0.001, 60.0]),
    st.booleans(),
)
def test_whatever_comes_and_goes_the_others_finish(
    joining: list[tuple[str, int]],
    leaving: set[tuple[int, int]],
    num_cells: int,
    max_streams: int,
    max_batch: int,
    target: float,
    partial: bool,
) -> None:
    """Streams join at any step, and some are cancelled at any step."""
    script = Timed()
    with scripted(
        lambda prompt: (list(prompt)[::-1] + ids("!"))[:25],
        num_cells=num_cells,
        max_streams=max_streams,
        max_batch=max_batch,
        step_target_ms=target,
        can_drop_partial=partial,
        before_step=script,
    ) as made:
        streams: list[TokenStream] = []
        joins = threading.Lock()  # of the engine thread, and of this one

        def join() -> None:
            with joins:
                if len(streams) < len(joining):
                    streams.append(made.model.generate_stream(joining[len(streams)][0]))

        def leave(at: int) -> None:
            if at < len(streams):
                streams[at].cancel()

        for _, step in joining:
            script.at(step, join)
        for at, step in leaving:
            script.at(step, lambda at=at: leave(at))
        join()
        while len(streams) < len(joining):  # where nobody is left to make steps, the next one joins
            for stream in tuple(streams):
                within(stream.result)
            join()
        for at, (prompt, _) in enumerate(joining):
            result = within(streams[at].result)
            whole = (prompt[::-1] + "!")[:25]
            assert result.text == whole or (any(at == left for left, _ in leaving) and whole.startswith(result.text))
