"""Prefixes are computed once, counted right, and never change what is generated."""

from __future__ import annotations

import pytest
from harness import Gate, Scripted, echo, echoed, ids, scripted, texts, within
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import TokenStream

PREFIX = "a system prompt that many share. "  # longer than what is worth waiting for


def cached(made: Scripted, prompt: str) -> int:
    result = within(made.model.generate, prompt)
    assert result.text == echoed(prompt)
    assert result.usage.prompt_tokens == len(prompt)
    return result.usage.cached_tokens


def test_cached_tokens() -> None:
    with scripted(echo) as made:
        prompt = PREFIX + "one"
        assert cached(made, prompt) == 0
        assert cached(made, prompt) == len(prompt) - 1, "the last one must be computed, to sample from it"
        assert cached(made, PREFIX + "two") == len(PREFIX)
        assert cached(made, prompt + " and more") == len(prompt)
        assert cached(made, PREFIX[:7]) == 6
        assert cached(made, "else") == 0
        assert made.model.metrics.cached_tokens == 2 * len(prompt) - 1 + len(PREFIX) + 6


def test_the_answer_is_part_of_the_next_turns_prefix() -> None:
    with scripted(echo) as made:
        first = "hello"
        turn = first + made.model.generate(first).text
        # The end token was sampled, but never computed.
        assert cached(made, turn + " and then?") == len(turn)


def test_only_what_is_not_cached_is_computed() -> None:
    with scripted(echo) as made:
        cached(made, PREFIX + "one")
        made.steps.clear()
        prompt = PREFIX + "two"
        cached(made, prompt)
        assert made.num_computed() == len("two") + len(echoed(prompt))


def together(made: Scripted, *prompts: str) -> list[TokenStream]:
    with made.hold():
        return [made.model.generate_stream(prompt) for prompt in prompts]


def test_requests_that_arrive_together_compute_their_prefix_once() -> None:
    with scripted(echo) as made:
        prompts = [PREFIX + end for end in ("one", "two", "three", "four")]
        streams = together(made, *prompts)
        assert [texts(stream) for stream in streams] == [echoed(prompt) for prompt in prompts]
        assert [stream.usage.cached_tokens for stream in streams[:3]] == [0, len(PREFIX), len(PREFIX) + 1]
        assert streams[3].usage.cached_tokens == len(PREFIX)
        assert made.model.metrics.prefill_tokens == len(PREFIX + "one") + len("two" + "hree" + "four")


def test_the_same_prompt_many_times_is_computed_once() -> None:
    with scripted(echo) as made:
        prompt = PREFIX * 3
        streams = together(made, *[prompt] * 8)
        assert [texts(stream) for stream in streams] == [echoed(prompt)] * 8
        assert [stream.usage.cached_tokens for stream in streams] == [0] + [len(prompt) - 1] * 7


def test_who_comes_while_the_prefix_is_computed_waits_for_it() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate, max_batch=32) as made:
        first = made.model.generate_stream(PREFIX * 3 + "one")
        gate.step()
        gate.wait()
        second = made.model.generate_stream(PREFIX * 3 + "two")
        gate.open()
        assert texts(second) == echoed(PREFIX * 3 + "two")
        assert texts(first) == echoed(PREFIX * 3 + "one")
        assert second.usage.cached_tokens == len(PREFIX * 3)
        assert made.model.metrics.prefill_tokens == len(PREFIX * 3 + "one") + len("two")


@pytest.mark.parametrize("how", ["cancel", "drop"])
def test_where_the_first_is_cancelled_the_next_goes_on_from_there(how: str) -> None:
    for at in range(1, 6):
        gate = Gate()
        with scripted(echo, before_step=gate, max_batch=32) as made:
            streams = together(made, *[PREFIX * 5 + end for end in ("one", "two", "three")])
            gate.step(at - 1)
            computed = made.num_computed() + sum(len(part.tokens) for part in gate.wait())
            if how == "cancel":
                streams[0].cancel()
            else:
                streams[0] = streams[1]
            gate.open()
            assert texts(streams[1]) == echoed(PREFIX * 5 + "two")
            assert texts(streams[2]) == echoed(PREFIX * 5 + "three")
            assert streams[1].usage.cached_tokens >= min(computed, len(PREFIX * 5))
            most = len(PREFIX * 5) + len("one") + len("two") + len("three")
            assert made.model.metrics.prefill_tokens <= most, "part was computed twice"


def test_a_cancelled_turn_leaves_a_valid_prefix() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate, max_batch=32) as made:
        prompt = PREFIX * 3
        stream = made.model.generate_stream(prompt)
        gate.step()
        gate.wait()  # before a step that will not be run to its end
        computed = made.num_computed()
        assert 0 < computed < len(prompt)
        stream.cancel()
        gate.open()
        assert within(stream.result).text == ""
        assert cached(made, prompt) == computed


def test_a_stream_that_was_cancelled_in_its_answer_leaves_that_too() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        stream = made.model.generate_stream("hello")
        gate.step(4)
        gate.wait()
        stream.cancel()
        gate.open()
        text = within(stream.result).text
        assert text == echoed("hello")[:5]
        assert cached(made, "hello" + text) == len("hello") + 4


def test_a_running_stream_shares_its_prefix() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        running = made.model.generate_stream(PREFIX)
        gate.step(2)
        gate.wait()
        other = made.model.generate_stream(PREFIX + "and on")
        gate.open()
        assert texts(other) == echoed(PREFIX + "and on")
        assert other.usage.cached_tokens == len(PREFIX)
        assert texts(running) == echoed(PREFIX)


def test_what_was_used_last_is_kept() -> None:
    with scripted(lambda _: ids("ok"), num_cells=200, max_streams=2, prefix_cache_mb=0) as made:
        prompts = [letter * 50 for letter in "abc"]
        for prompt in prompts:
            made.model.generate(prompt)
        assert made.model.generate(prompts[0]).usage.cached_tokens == 49
        made.model.generate("d" * 80)  # there is no room for all: "b" has to go
        assert made.model.generate(prompts[0]).usage.cached_tokens == 49
        assert made.model.generate(prompts[1]).usage.cached_tokens == 0


def test_a_recurrent_model_reuses_whole_prefixes_only() -> None:
    with scripted(echo, can_drop_partial=False) as made:
        first = "hello"
        turn = first + made.model.generate(first).text
        assert cached(made, turn + " and then?") == len(turn)
        assert cached(made, turn[:-3] + "else") == 0
        streams = together(made, *[PREFIX + end for end in ("one", "two", "three")])
        assert [texts(stream) for stream in streams] == [echoed(PREFIX + end) for end in ("one", "two", "three")]


REQUESTS = st.lists(st.text("ab", min_size=1, max_size=40), min_size=2, max_size=8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(REQUESTS, st.booleans(), st.sampled_from([64, 200, 4000]), st.sampled_from([16, 512]), st.integers(2, 5))
def test_no_sharing_changes_an_answer(
    prompts: list[str], partial: bool, num_cells: int, max_batch: int, max_streams: int
) -> None:
    """Every step of the scripted runner checks that the KV it builds on is the right one."""
    with scripted(
        lambda prompt: (ids("<") + list(prompt))[:20],
        can_drop_partial=partial,
        num_cells=num_cells,
        num_rows=6,
        max_batch=max_batch,
        max_streams=max_streams,
    ) as made:
        for _ in range(2):
            streams = together(made, *prompts)
            for prompt, stream in zip(prompts, streams, strict=True):
                assert texts(stream) == ("<" + prompt)[:20]
                assert 0 <= stream.usage.cached_tokens < len(prompt)
