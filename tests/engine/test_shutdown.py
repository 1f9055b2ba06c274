"""Closing ends every stream, whoever closes and when; neither a fork nor the interpreter's end hangs."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from harness import BYTES, PATIENCE, UNHURRIED, Gate, Scripted, ids, run_async, scripted, started, wait_until, within

import headrace
from headrace import Context, EngineClosedError, InvalidRequestError, Model
from headrace.api.core import Core
from headrace.engine.loop import Engine
from headrace.engine.scripted import ScriptedRunner, ScriptedVocabulary


def test_close_ends_running_queued_and_paused_streams() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate, max_streams=2) as made:
        paused = made.model.generate_stream("p", buffer_size=1)
        gate.step()
        wait_until(lambda: made.model.metrics.paused == 1)
        running = made.model.generate_stream("q")
        gate.step(2)
        gate.wait()
        queued = [made.model.generate_stream("r") for _ in range(4)]
        readers = [started(stream.result) for stream in (paused, running, *queued)]
        closing = started(made.model.close)
        wait_until(lambda: made.engine.is_closed)
        gate.open()
        closing.result(PATIENCE)
        results = [reader.result(PATIENCE) for reader in readers]
        assert {result.finish_reason for result in results} == {"cancelled"}
        assert [result.text for result in results] == ["a", "abc", "", "", "", ""]
        assert made.runner.is_closed


def test_what_was_generated_can_be_read_after_the_close() -> None:
    with scripted("abcdef") as made:
        stream = made.model.generate_stream("p", buffer_size=3)
        wait_until(lambda: made.model.metrics.paused == 1)
        within(made.model.close)
        assert [token.text for token in stream] == ["a", "b", "c"]
        assert stream.result().text == "abc"


def test_close_again_and_from_all_sides() -> None:
    with scripted("abc") as made:
        closing = [started(made.model.close) for _ in range(4)]
        for future in closing:
            future.result(PATIENCE)
        made.model.close()
        run_async(made.asynchronous.close())


def test_close_from_another_thread_while_a_reader_waits() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        stream = made.model.generate_stream("p")
        reader = started(lambda: [token.text for token in stream])
        gate.step()
        gate.wait()
        wait_until(lambda: stream._channel._waiters)
        closing = started(made.model.close)
        wait_until(lambda: made.engine.is_closed)
        gate.open()
        closing.result(PATIENCE)
        assert reader.result(PATIENCE) == ["a", "b"]
        assert stream.finish_reason == "cancelled"


def test_close_right_after_a_cancel_still_wakes_who_waits() -> None:
    """Woken by the cancel, the engine finds that it shall close: the stream is no longer live when all others end."""

    async def main(made: Scripted) -> None:
        stream = made.asynchronous.generate_stream("p", buffer_size=1)
        while made.model.metrics.paused == 0:
            await asyncio.sleep(0)
        ended = asyncio.create_task(stream._channel.await_end())
        await asyncio.sleep(0)
        made.settle()
        made.engine._closing = True  # as close() does first; the engine wakes up only now
        stream.cancel()
        made.engine.close_soon()
        assert (await ended).finish_reason == "cancelled"

    for _ in range(20):
        with scripted("abcdef") as made:
            run_async(main(made))


def test_use_after_close() -> None:
    async def use_async(made: Scripted) -> None:
        model = made.asynchronous
        for call in (model.generate("p"), model.chat([{"role": "user", "content": "p"}])):
            with pytest.raises(EngineClosedError):
                await call
        with pytest.raises(EngineClosedError):
            model.generate_stream("p")
        with pytest.raises(EngineClosedError):
            await Context(model).generate("p")

    with scripted("abc", chat_template="{{ messages[0].content }}") as made:
        context = Context(made.model)
        made.model.close()
        for call in (
            lambda: made.model.generate("p"),
            lambda: made.model.generate_stream("p"),
            lambda: made.model.generate_stream_with_metrics("p"),
            lambda: made.model.generate_streaming("p", 3, print),
            lambda: made.model.chat([{"role": "user", "content": "p"}]),
            lambda: made.model.chat_stream([{"role": "user", "content": "p"}]),
            lambda: context.generate("p"),
        ):
            with pytest.raises(EngineClosedError, match="closed"):
                call()
        run_async(use_async(made))
        made.model.cancel_generation()
        assert made.model.metrics.streams_started == 0
        context.close()


def test_async_streams_that_were_not_started_yet_end_too() -> None:
    async def main(made: Scripted) -> None:
        streams = [made.asynchronous.generate_stream("p") for _ in range(20)]
        await made.asynchronous.close()
        for stream in streams:
            try:
                assert (await stream.result()).finish_reason in ("stop", "cancelled")
            except EngineClosedError:
                assert stream.finish_reason is None

    with scripted("abc" * 50) as made:
        run_async(main(made))


def test_everything_is_a_context_manager() -> None:
    async def main(made: Scripted) -> None:
        async with made.asynchronous as model:
            async with Context(model) as context:
                async with context.generate_stream("p") as stream:
                    assert (await anext(stream)).text == "a"
                assert (await stream.result()).finish_reason in ("cancelled", "stop")
            with pytest.raises(EngineClosedError):
                await context.generate("p")
        with pytest.raises(EngineClosedError):
            await model.generate("p")

    with scripted("abc") as made:
        with made.model.as_async().as_sync() as model, Context(model) as context:
            with context.generate_stream("p") as stream:
                assert next(stream).text == "a"
            assert within(stream.result).finish_reason in ("cancelled", "stop")
        with pytest.raises(EngineClosedError):
            made.model.generate("p")
    with scripted("abc") as made:
        run_async(main(made))


def unclosed() -> Model:
    engine = Engine(ScriptedRunner(BYTES, ids("abc")))
    return Model(Core(ScriptedVocabulary(BYTES), engine, name="forgotten", config=UNHURRIED))


def test_an_unclosed_model_warns_and_its_engine_ends() -> None:
    model = unclosed()
    thread = model._core.engine._thread
    assert model.generate("p").text == "abc"
    with pytest.warns(ResourceWarning, match="forgotten"):
        del model
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_closed_model_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = unclosed()
        model.close()
        del model
        gc.collect()


def test_a_warm_up_that_fails_is_over_when_its_error_arrives() -> None:
    """Whoever gets the error frees what the runner was made of."""

    class Failing(ScriptedRunner):
        def warm_up(self) -> None:
            raise RuntimeError("out of memory")

        def close(self) -> None:
            threading.Event().wait(0.2)
            super().close()

    runner = Failing({0: b""})
    with pytest.raises(RuntimeError, match="out of memory"):
        Engine(runner)
    assert runner.is_closed


@pytest.mark.parametrize(
    ("name", "value"), [("max_streams", 0), ("max_streams", 33), ("max_queue", -1), ("step_target_ms", 0)]
)
def test_limits_that_the_engine_cannot_keep(name: str, value: int) -> None:
    with pytest.raises(InvalidRequestError, match=name):
        Engine(ScriptedRunner(BYTES), **{name: value})


PREAMBLE = """
import os, sys, threading
sys.path.insert(0, {tests!r})
from harness import *
from headrace import *
def make(script, **settings):
    runner = ScriptedRunner(BYTES, ids(script), **settings)
    core = Core(ScriptedVocabulary(BYTES), Engine(runner), name="scripted", config=UNHURRIED)
    return Model(core)
"""


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own; it must end by itself."""
    source = Path(headrace.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE.format(tests=str(Path(__file__).parents[1])) + program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"},
        check=False,
    )


@pytest.mark.parametrize("how", ["pass", "sys.exit(0)", "del model, streams", "model.close()"])
def test_the_interpreter_ends_with_streams_running(how: str) -> None:
    done = run_program(
        f"""
model = make("abc" * 100_000)
streams = [model.generate_stream("p", buffer_size=size) for size in (1, 2, 1_000_000)]
print(next(streams[2]).text, flush=True)
{how}
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n", "")


def test_the_interpreter_ends_with_readers_asleep() -> None:
    done = run_program(
        """
gate = Gate()
model = make("abc", before_step=gate)
stream = model.generate_stream("p")
threading.Thread(target=lambda: [token for token in stream], daemon=True).start()
gate.wait()
threading.Timer(0.2, gate.open).start()
print("end", flush=True)
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_the_interpreter_ends_with_an_event_loop_left_behind() -> None:
    done = run_program(
        """
import asyncio
model = make("abc" * 1000)
async def main():
    global stream
    stream = model.as_async().generate_stream("p", buffer_size=1)
    print((await anext(stream)).text, flush=True)
asyncio.run(main())
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\n", "")


def test_a_fork_gets_errors_and_the_parent_goes_on() -> None:
    done = run_program(
        """
import asyncio
model = make("abc" * 1000)
stream = model.generate_stream("p", buffer_size=2)
assert next(stream).text == "a"
child = os.fork()
if child == 0:
    def fails(error, call):
        try:
            call()
        except error as raised:
            assert "fork" in str(raised) or "closed" in str(raised), raised
            return
        raise SystemExit(f"{call} went through")
    fails(GenerationError, lambda: list(stream))
    fails(GenerationError, stream.result)
    fails(EngineClosedError, lambda: model.generate("p"))
    fails(EngineClosedError, lambda: asyncio.run(model.as_async().generate("p")))
    stream.cancel()
    stream.close()
    model.cancel_generation()
    model.metrics
    model.check_integrity()
    model.close()
    own = make("xyz")
    assert own.generate("p").text == "xyz"
    own.close()
    print("child", flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert stream.result().text == "abc" * 1000
assert model.generate("p", max_tokens=3).text == "abc"
model.close()
print("parent", flush=True)
"""
    )
    assert (done.stdout, done.returncode) == ("child\nparent\n", 0), done.stderr


def test_a_fork_in_the_middle_of_a_step_does_not_hang() -> None:
    done = run_program(
        """
gate = Gate()
model = make("abc", before_step=gate)
stream = model.generate_stream("p")
waiting = threading.Thread(target=stream.result)
waiting.start()
gate.wait()
child = os.fork()
if child == 0:
    try:
        stream.result()
    except GenerationError:
        print("child", flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
gate.open()
waiting.join()
print(stream.result().text, flush=True)
model.close()
"""
    )
    assert (done.stdout, done.returncode) == ("child\nabc\n", 0), done.stderr
