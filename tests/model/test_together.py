"""Many callers at once, from threads and from tasks: each gets what it would get alone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from harness import PATIENCE, wait_until

from headrace import Model

from .ties import assert_greedy, read
from .waits import prompt_of

TOPICS = (
    "lighthouses",
    "volcanoes",
    "a lazy cat",
    "tax law",
    "the number seven",
    "old maps",
    "rain in Paris",
    "a chess game",
    "bread",
    "Jupiter",
    "a broken clock",
    "snow",
    "a red door",
    "bees",
    "the violin",
    "trains",
)
PROMPTS = [f"A short text about {topic}:" for topic in TOPICS]
NUM_TOKENS = 20


def test_16_callers_from_threads_and_tasks_get_what_they_would_get_alone(model: Model) -> None:
    in_threads, in_tasks = PROMPTS[:8], PROMPTS[8:]
    start = threading.Barrier(len(in_threads) + 1, timeout=PATIENCE)
    asynchronous = model.as_async()
    most_running = 0

    def from_a_thread(prompt: str) -> list[int]:
        start.wait()
        return [token.id for token in model.generate_stream(prompt, max_tokens=NUM_TOKENS)]

    async def from_a_task(prompt: str) -> list[int]:
        nonlocal most_running
        ids: list[int] = []
        async for token in asynchronous.generate_stream(prompt, max_tokens=NUM_TOKENS):
            ids.append(token.id)
            most_running = max(most_running, model.metrics.running)
        return ids

    async def from_tasks() -> list[list[int]]:
        await asyncio.to_thread(start.wait)
        return await asyncio.gather(*map(from_a_task, in_tasks))

    with ThreadPoolExecutor(len(in_threads)) as threads:
        futures = [threads.submit(from_a_thread, prompt) for prompt in in_threads]
        generated = asyncio.run(from_tasks())
        generated = [future.result(PATIENCE) for future in futures] + generated

    assert most_running > len(in_tasks), "they did not run together"
    for prompt, ids in zip(PROMPTS, generated, strict=True):
        assert_greedy(model, model.tokenize(prompt), ids)


def test_rows_of_no_use_leave_no_trace(model: Model) -> None:
    """Steps of one to three streams are padded to four rows, while prompts are read and afterwards."""
    engine = model._core.engine
    for table in engine._tuning.cost.tables.values():
        table.decode.clear()
        table.decode.update({1: 10.0, 2: 10.0, 3: 10.0, 4: 1e-9})
    context = engine._runner._context
    asked: list[int] = []
    decode = context.decode
    context.decode = lambda n_tokens, n_outputs: asked.append(n_outputs) or decode(n_tokens, n_outputs)
    try:
        streams = [model.generate_stream(prompt * 3, max_tokens=8, speculation="off") for prompt in PROMPTS[:3]]
        generated = [[token.id for token in stream] for stream in streams]
    finally:
        context.decode = decode
        for table in engine._tuning.cost.tables.values():
            table.decode.clear()
    assert asked.count(4) >= 4
    for prompt, ids in zip(PROMPTS, generated, strict=False):
        assert_greedy(model, model.tokenize(prompt * 3), ids)
    engine.check_integrity()


def test_a_stream_is_read_by_another_thread_than_the_one_that_made_it(model: Model) -> None:
    stream = model.generate_stream("One, two, three,", max_tokens=8)
    with ThreadPoolExecutor(1) as threads:
        tokens, result = threads.submit(read, stream).result(PATIENCE)
    assert len(tokens) == 8
    assert "".join(token.text for token in tokens) == result.text


def test_more_callers_than_places_all_get_their_turn(small_model: Model) -> None:
    streams = [small_model.generate_stream(f"{number} plus one is", max_tokens=3) for number in range(20)]
    assert small_model.metrics.running <= 8
    results = [stream.result(PATIENCE) for stream in streams]
    assert [result.usage.completion_tokens for result in results] == [3] * 20
    assert {result.finish_reason for result in results} == {"length"}


def test_a_slow_reader_pauses_only_itself(model: Model) -> None:
    slow = model.generate_stream("The slow reader's story:", max_tokens=30, ignore_eos=True, buffer_size=4)
    wait_until(lambda: model.metrics.paused == 1)
    others = [model.generate_stream(f"Story {number}:", max_tokens=24, ignore_eos=True) for number in range(3)]
    for other in others:
        assert other.result(PATIENCE).usage.completion_tokens == 24
    assert model.metrics.paused == 1
    assert model.metrics.running == 0
    assert slow.tokens_generated() == 4
    assert slow.finish_reason is None

    tokens, result = read(slow)
    assert len(tokens) == 30
    assert "".join(token.text for token in tokens) == result.text
    assert result.metrics.paused_ms > 0
    ids = [token.id for token in tokens]
    assert_greedy(model, model.tokenize("The slow reader's story:"), ids, ignore_eos=True)


def test_a_long_prompt_leaves_the_tokens_of_those_that_run_as_they_are(model: Model) -> None:
    running = model.generate_stream("The history of bread is", max_tokens=24, ignore_eos=True)
    tokens = [next(running), next(running)]
    newcomer = model.generate_stream(prompt_of(model, 300, "Somebody else's prompt."), max_tokens=1)
    tokens += list(running)
    assert newcomer.result(PATIENCE).usage.completion_tokens == 1
    ids = [token.id for token in tokens]
    assert_greedy(model, model.tokenize("The history of bread is"), ids, ignore_eos=True)
