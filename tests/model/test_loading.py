"""Loading, `Model` and `AsyncModel` on one engine, callers on it, and closing."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest
from harness import PATIENCE

from headrace import (
    AsyncModel,
    Context,
    EngineClosedError,
    InvalidRequestError,
    Model,
    ModelLoadError,
    ModelNotFoundError,
    StreamConfig,
)
from headrace.llama.library import library
from headrace.store import resolve

SMALL = {"n_ctx": 256, "max_streams": 2}


@pytest.fixture
def model(empty_model: Model) -> Model:
    """Here texts are compared to the last character."""
    return empty_model


@pytest.mark.parametrize(
    "setting",
    [
        {"n_ctx": 0},
        {"n_ctx": -1},
        {"n_ctx": 1.5},
        {"kv_type": "q3"},
        {"kv_type": None},
        {"n_threads": 0},
        {"n_threads": -2},
        {"n_gpu_layers": -2},
        {"max_streams": 0},
        {"max_streams": 1000},
        {"max_queue": -1},
        {"step_target_ms": 0},
        {"step_target_ms": float("nan")},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(setting: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Model.load("smollm2", **setting)
    assert caught.value.field == next(iter(setting))


def test_keys_and_values_in_eight_bits() -> None:
    with Model.load("smollm2", kv_type="q8_0", config=StreamConfig(temperature=0), **SMALL) as model:
        assert "Paris" in model.generate("The capital of France is", max_tokens=4).text


def test_gpu_layers_need_a_build_with_a_gpu() -> None:
    # On a build with one, the same call loads.
    if library().bulk.llama_supports_gpu_offload():
        Model.load("smollm2", n_gpu_layers=1, **SMALL).close()
    else:
        with pytest.raises(InvalidRequestError, match="n_gpu_layers"):
            Model.load("smollm2", n_gpu_layers=1, **SMALL)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    text, empty, truncated = tmp_path / "text.gguf", tmp_path / "empty.gguf", tmp_path / "truncated.gguf"
    text.write_text("This is no model.")
    empty.touch()
    with weights().open("rb") as file:
        truncated.write_bytes(file.read(5_000_000))
    for path in (tmp_path, text, empty, truncated):
        with pytest.raises(ModelLoadError, match=path.name):
            Model.load(path)
    with pytest.raises(ModelNotFoundError, match=r"missing\.gguf"):
        Model.load(tmp_path / "missing.gguf")
    with pytest.raises(ModelNotFoundError, match="smollm2"):
        Model.load("no-such-model")


def weights() -> Path:
    return resolve("smollm2").path


def test_a_path_loads_like_a_name() -> None:
    with Model.load(weights(), **SMALL) as by_path, Model.load(str(weights()), **SMALL) as by_text:
        assert by_path.generate("Hi", max_tokens=2).usage.completion_tokens == 2
        assert by_path.name == by_text.name


@pytest.mark.anyio
async def test_loading_leaves_the_event_loop_free() -> None:
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    fractions: list[float] = []

    async def answer() -> int:
        return threading.get_ident()

    def progress(fraction: float) -> None:
        # The load waits here until the loop has answered: were it to block the loop, neither would go on.
        assert asyncio.run_coroutine_threadsafe(answer(), loop).result(PATIENCE) == thread
        assert threading.get_ident() != thread
        fractions.append(fraction)

    async with await AsyncModel.load("smollm2", progress=progress, **SMALL) as model:
        assert fractions[-1] == 1.0
        assert len(fractions) > 2
        result = await model.generate("Hi", max_tokens=2)
        assert result.usage.completion_tokens == 2


def test_what_progress_raises_ends_the_load() -> None:
    class StopError(Exception):
        pass

    def progress(fraction: float) -> None:
        raise StopError

    with pytest.raises(StopError):
        Model.load("smollm2", progress=progress, **SMALL)


def test_both_models_share_one_engine(model: Model) -> None:
    before = resident_bytes()
    asynchronous = model.as_async()
    again = asynchronous.as_sync()
    # The weights are 98 MB.
    assert resident_bytes() - before < 20 * 2**20

    async def generate() -> str:
        return (await asynchronous.generate("Two faces of", max_tokens=4)).text

    started = model.metrics.streams_started
    assert asyncio.run(generate()) == again.generate("Two faces of", max_tokens=4).text
    for face in (model, asynchronous, again):
        assert face.metrics.streams_started == started + 2
        assert face.name == "smollm2"


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_closing_one_model_closes_the_other() -> None:
    model = Model.load("smollm2", **SMALL)
    asynchronous = model.as_async()
    stream = model.generate_stream("Cut off", max_tokens=500, ignore_eos=True)
    next(stream)
    asyncio.run(asynchronous.close())
    assert stream.result(PATIENCE).finish_reason == "cancelled"
    for call in (
        lambda: model.generate("Hi"),
        lambda: model.tokenize("Hi"),
        lambda: asynchronous.generate_stream("Hi"),
    ):
        with pytest.raises(EngineClosedError):
            call()
    model.close()


def test_a_model_that_is_not_closed_warns() -> None:
    model = [Model.load("smollm2", **SMALL)]
    with pytest.warns(ResourceWarning, match="smollm2"):
        model.clear()


def test_a_stream_keeps_its_model_alive() -> None:
    streams = [Model.load("smollm2", **SMALL).generate_stream("Orphan", max_tokens=4, ignore_eos=True)]
    gc.collect()
    assert streams[0].result(PATIENCE).usage.completion_tokens == 4
    with pytest.warns(ResourceWarning, match="smollm2"):
        streams.clear()


def test_a_context_has_its_own_defaults(model: Model) -> None:
    short = Context(model, max_tokens=3)
    configured = Context(model, StreamConfig(max_tokens=5, temperature=0, timeout_ms=0))
    assert short.generate("Count:", ignore_eos=True).usage.completion_tokens == 3
    assert configured.generate("Count:", ignore_eos=True).usage.completion_tokens == 5
    assert short.generate("Count:", max_tokens=4, ignore_eos=True).usage.completion_tokens == 4
    pirate = Context(model, system_prompt="Talk like a pirate.", max_tokens=4)
    messages = [{"role": "system", "content": "Talk like a pirate."}, {"role": "user", "content": "Hi"}]
    assert pirate.generate("Hi").usage.prompt_tokens == model.count_tokens(messages)
    assert pirate.chat(messages[1:]).usage.prompt_tokens == model.count_tokens(messages)
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        Context(model, max_tokens=0)
    with pytest.raises(TypeError):
        Context(model, max_token=5)
    with pytest.raises(InvalidRequestError, match="model"):
        Context("smollm2")


def test_contexts_run_at_once(model: Model) -> None:
    contexts = [Context(model, max_tokens=12, ignore_eos=True) for _ in range(4)]
    streams = [context.generate_stream(f"Caller {number}:") for number, context in enumerate(contexts)]
    first = [next(stream) for stream in streams]
    assert [token.index for token in first] == [0] * 4
    assert {stream.result(PATIENCE).usage.completion_tokens for stream in streams} == {12}


def test_closing_a_context_leaves_the_model_open(model: Model) -> None:
    with Context(model, max_tokens=500, ignore_eos=True) as context:
        stream = context.generate_stream("Closed midway")
        next(stream)
    assert stream.result(PATIENCE).finish_reason == "cancelled"
    with pytest.raises(EngineClosedError, match="context"):
        context.generate("Hi")
    assert model.generate("Hi", max_tokens=1).usage.completion_tokens == 1


@pytest.mark.anyio
async def test_a_context_on_an_async_model_is_awaited(model: Model) -> None:
    async with Context(model.as_async(), max_tokens=6, ignore_eos=True) as context:
        whole = await context.generate("Awaited:")
        streamed = [token async for token in context.generate_stream("Awaited:")]
        stream, result, _ = context.generate_stream_with_metrics("Awaited:")
        last = [token async for token in stream][-1]
        called: list[str] = []
        callback = await context.generate_streaming("Awaited:", 6, lambda token: called.append(token.text))
    assert len(streamed) == 6
    assert last.is_last
    assert "".join(token.text for token in streamed) == whole.text == (await result()).text
    assert "".join(called) == callback.text == whole.text
    with pytest.raises(EngineClosedError):
        await context.generate("Hi")
