"""Session files of real models: the KV that comes back is the KV that was saved, and nothing else is taken for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cases import sampled

from headrace import Context, ConversationManager, InvalidRequestError, Model
from headrace.engine.llama_runner import LlamaRunner
from headrace.llama.context import LlamaContext
from headrace.llama.state import StateError

from .conftest import GREEDY
from .ties import assert_greedy, read
from .waits import prompt_of, until_idle


def loaded(ref: str = "smollm2", n_ctx: int = 2048, **settings: Any) -> Model:
    return Model.load(ref, n_ctx=n_ctx, n_threads=1, max_streams=4, config=GREEDY, **settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session of 600 tokens, which are two pieces."""
    path = tmp_path_factory.mktemp("sessions") / "session"
    with loaded() as model, Context(model) as context:
        context.generate(prompt_of(model, 590, "Es war einmal:"), max_tokens=11, ignore_eos=True)
        assert context.save(path).num_cached == 600
    return path


@pytest.fixture(scope="module")
def fresh_model() -> Iterator[Model]:
    with loaded() as model:
        yield model


@pytest.fixture
def fresh(fresh_model: Model) -> Iterator[Model]:
    """A model with an empty memory."""
    fresh_model._core.engine.clear_cache()
    yield fresh_model
    until_idle(fresh_model)


@pytest.mark.parametrize(
    ("ref", "kv_type", "seed"), sampled(product(["smollm2", "gemma3-270m"], ["f16", "q8_0"], [1, None]), 5)
)
def test_the_continuation_is_that_of_a_model_that_was_never_closed(
    ref: str, kv_type: str, seed: int | None, path: Path
) -> None:
    """Also where that computes it again, since a seed promises what an empty memory would bring."""
    cached = 0 if seed is None else 1088
    with loaded(ref, kv_type=kv_type) as model, Context(model) as context:
        prompt = prompt_of(model, 1100, "Zum Beispiel:")
        # What was guessed lies in other cells, which a seeded stream does not take over.
        context.generate(prompt, max_tokens=8, ignore_eos=True, speculation="off", seed=seed)
        session = context.save(path)
        assert session.num_cached == 1107
        more = [*session.tokens, *prompt_of(model, 5, "Und dann")]
        expected = context.generate(more, max_tokens=24, seed=1)
        assert expected.usage.cached_tokens == cached, "whole pieces, to be repeatable"
    with loaded(ref, kv_type=kv_type) as model:
        context = Context.load(model, path)
        model.check_integrity()
        # The order of the cells is that of the tokens, so that even the last bits are the same, and a seed keeps it.
        result = context.generate(more, max_tokens=24, seed=1)
        assert result.usage.cached_tokens == cached
        assert result.text == expected.text
        # A prompt that parts from it in the middle, before the window of the last tokens begins.
        other = [*prompt[:300], *prompt_of(model, 9, "Something else entirely")]
        tokens, forked = read(context.generate_stream(other, max_tokens=8))
        assert forked.usage.cached_tokens == 300
        model._core.engine.clear_cache()
        assert_greedy(model, other, [token.id for token in tokens])
        until_idle(model)


def test_a_conversation_goes_on(path: Path, fresh: Model) -> None:
    with loaded() as model:
        conversation = ConversationManager(model, system_prompt="You are brief.")
        for question in ("Name a fruit.", "Name another one."):
            conversation.send(question, max_tokens=20).result()
        session = conversation.save(path)
        expected = conversation.send("Which is sweeter?", max_tokens=20).result()
    again = ConversationManager.load(fresh, path)
    fork = again.fork()
    result = again.send("Which is sweeter?", max_tokens=20).result()
    assert result.usage.cached_tokens == expected.usage.cached_tokens >= session.num_cached - 1
    assert result.text == expected.text
    assert fork.send("And which is larger?", max_tokens=4).result().usage.cached_tokens >= session.num_cached - 1


def test_streams_go_on_beside_it(saved: Path, fresh: Model, path: Path) -> None:
    prompts = [prompt_of(fresh, 40, f"Nummer {number}:") for number in range(3)]
    streams = [fresh.generate_stream(prompt, max_tokens=40, ignore_eos=True) for prompt in prompts]
    for _ in range(3):
        context = Context.load(fresh, saved)
        assert context.save(path).num_cached == 600
        assert path.stat().st_size == saved.stat().st_size
        assert Context.load(fresh, path).session.num_cached == 600
    generated = [[token.id for token in stream] for stream in streams]
    until_idle(fresh)
    for prompt, ids in zip(prompts, generated, strict=True):
        assert_greedy(fresh, prompt, ids, ignore_eos=True)


@pytest.mark.parametrize(
    ("ref", "kv_type", "words"),
    [
        ("gemma3-270m", "f16", "another model, 'smollm2', and this is 'gemma3-270m'"),
        ("smollm2", "q8_0", "its KV is 'f16 of llama.cpp .*', and that of this model 'q8_0"),
    ],
)
def test_another_model_and_another_kv_type(saved: Path, ref: str, kv_type: str, words: str) -> None:
    with loaded(ref, kv_type=kv_type) as model:
        with pytest.raises(InvalidRequestError, match=words):
            Context.load(model, saved)
        assert model.metrics.kv_cached == 0


def test_a_context_that_is_too_small(saved: Path) -> None:
    with loaded(n_ctx=256) as model, pytest.raises(InvalidRequestError, match="601 tokens, but the context holds 256"):
        Context.load(model, saved)


def test_damage(saved: Path, fresh: Model, path: Path) -> None:
    data = bytearray(saved.read_bytes())
    for at in (0, 9, 13, 30, 2000, 4000, 1_000_000, len(data) - 100_000, len(data) - 1):
        path.write_bytes(data[:at])
        with pytest.raises(InvalidRequestError, match="cannot be loaded"):
            Context.load(fresh, path)
        data[at] ^= 64
        path.write_bytes(data)
        with pytest.raises(InvalidRequestError, match="cannot be loaded"):
            Context.load(fresh, path)
        data[at] ^= 64
    fresh.check_integrity()
    prompt = prompt_of(fresh, 590, "Es war einmal:")
    tokens, _ = read(fresh.generate_stream(prompt, max_tokens=8))  # with the pieces that were whole
    fresh._core.engine.clear_cache()
    assert_greedy(fresh, prompt, [token.id for token in tokens])


# KV that somebody made up


@pytest.fixture
def context(fresh: Model) -> LlamaContext:
    runner = fresh._core.engine._runner
    assert isinstance(runner, LlamaRunner)
    return runner._context


@pytest.fixture
def state(fresh: Model, context: LlamaContext) -> bytearray:
    """The KV of 20 positions, from 0 on."""
    prompt = prompt_of(fresh, 21, "Kurz:")
    fresh.generate(prompt, max_tokens=1)
    data = fresh._core.engine.with_cache(lambda kv: kv.save(prompt, 0, 20))
    assert data is not None
    return data


def refuse(model: Model, context: LlamaContext, data: bytes | bytearray, words: str, end: int = 20) -> None:
    def load(_: object) -> None:
        with pytest.raises(StateError, match=words):
            context.load_state(18, 19, 0, end, bytearray(data))
        assert context.position_max(18) == context.position_max(19) == -1

    model._core.engine.with_cache(load)


def test_kv_of_other_positions(fresh: Model, context: LlamaContext, state: bytearray) -> None:
    refuse(fresh, context, state, "20 cells in 1 streams", end=19)
    refuse(fresh, context, state, "20 cells in 1 streams", end=21)
    for position in (-1, 7, 20, 2**31 - 1, -(2**31)):
        changed = bytearray(state)
        struct.pack_into("<i", changed, 16 + 12 * 8, position)
        refuse(fresh, context, changed, "it has other positions")
    changed = bytearray(state)
    struct.pack_into("<I", changed, 16 + 4, 2)  # a cell of two sequences
    refuse(fresh, context, changed, "it has other positions")


def test_kv_of_another_shape(fresh: Model, context: LlamaContext, state: bytearray) -> None:
    layers = 16 + 12 * 20
    for at, format, value in (
        (0, "<I", 0),  # magic
        (8, "<I", 2),  # streams
        (12, "<I", 0),  # cells
        (12, "<I", 2**32 - 1),
        (layers, "<I", 1),  # values are transposed
        (layers + 4, "<I", 29),  # layers
        (layers + 4, "<I", 2**32 - 1),
        (layers + 8, "<i", 8),  # type
        (layers + 12, "<Q", 0),  # bytes of a cell
        (layers + 12, "<Q", 2**63),
    ):
        changed = bytearray(state)
        struct.pack_into(format, changed, at, value)
        refuse(fresh, context, changed, "KV")
    for length in (0, 3, 8, 12, 100, layers + 4, layers + 30, len(state) // 2, len(state) - 1):
        refuse(fresh, context, state[:length], "KV")
    refuse(fresh, context, state + b"\0", "KV")
    refuse(fresh, context, state + state[8:], "KV")


# Sliding windows


def test_a_prefix_whose_window_was_given_away_is_not_reused() -> None:
    """llama.cpp gives the cells that a sequence's window has left behind to others, in the layers that have one."""
    # Prompts are read in steps of 512 tokens, and so the third takes more cells at once than the first gave up for it.
    with loaded("gemma3-270m", step_target_ms=60_000) as model:
        first, second, third = (prompt_of(model, count, f"{count}:")[1:] for count in (1150, 700, 400))
        beginning = [*second[:90], *prompt_of(model, 6, "But")[1:]]
        model.generate(first, max_tokens=2, ignore_eos=True)
        written, _ = read(model.generate_stream(second, max_tokens=2, ignore_eos=True))
        model.generate(third, max_tokens=2, ignore_eos=True)
        context = model._core.engine._runner._context  # pyright: ignore
        assert any(context.position_min(row) > 0 for row in range(context.n_seq_max)), "nothing was given away"
        tokens, result = read(model.generate_stream(beginning, max_tokens=8))
        assert result.usage.cached_tokens == 0
        # What goes on from its end finds all that it looks at.
        longer = [*second, *(token.id for token in written)]
        assert model.generate(longer, max_tokens=2).usage.cached_tokens == len(second) + 1
        model._core.engine.clear_cache()
        assert_greedy(model, beginning, [token.id for token in tokens])
        until_idle(model)
