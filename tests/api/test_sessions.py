"""Session files: what comes back, what is refused, and that nothing else is disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import BYTES, Gate, Scripted, echo, ids, run_async, scripted, texts, wait_until, within

from headrace import (
    Context,
    ConversationManager,
    EngineClosedError,
    HeadraceError,
    InvalidRequestError,
    StreamConfig,
)
from headrace.engine.scripted import ScriptedRunner

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
PROMPT = "once upon a time"
SMALL: dict[str, Any] = {"most_saved": 7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a session"


@pytest.fixture
def saved(path: Path) -> Path:
    """A session of a prompt and its reply, in several pieces."""
    with scripted("there was a king", **SMALL) as made, Context(made.model, temperature=0.5) as context:
        context.generate(PROMPT, max_tokens=9)
        session = context.save(path)
    assert session.tokens == tuple(ids(PROMPT + "there was"))
    assert session.num_cached == len(session.tokens) - 1
    assert session.num_bytes == path.stat().st_size
    return path


@pytest.fixture
def fresh() -> Iterator[Scripted]:
    with scripted("!", **SMALL) as made:
        yield made


def refused(made: Scripted, path: Path, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        Context.load(made.model, path)
    assert caught.value.field == "path"
    assert str(path) in str(caught.value)
    assert made.engine.metrics().kv_used == 0


# What comes back


def test_what_was_saved_is_not_computed_again(saved: Path, fresh: Scripted) -> None:
    with Context.load(fresh.model, saved) as context:
        assert context.session is not None
        assert context.session.num_cached == len(PROMPT + "there was") - 1
        assert fresh.engine.metrics().kv_cached == context.session.num_cached
        assert fresh.num_computed() == 0
        result = context.generate(PROMPT + "there was no more")
        assert result.usage.cached_tokens == context.session.num_cached
        # The beginning alone is there as well, for any context.
        assert fresh.model.generate(PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_the_settings_come_back(path: Path, fresh: Scripted) -> None:
    given = StreamConfig(
        max_tokens=3,
        temperature=0,
        stop_sequences=("x", "é"),
        logit_bias={5: -1.5},
        json_schema={"type": "integer"},
        thinking_tags=("<t>", "</t>"),
        seed=2**63,
    )
    with scripted("1", chat_template=TEMPLATE) as made:
        context = Context(made.model, given.replace(json_schema=None), system_prompt="Be brief.")
        context.generate("hi")
        context._caller.defaults = given  # pyright: ignore[reportPrivateUsage]
        context.save(path)
    loaded = Context.load(fresh.model, path)
    assert loaded._caller.defaults == given  # pyright: ignore[reportPrivateUsage]
    assert loaded._caller.system_prompt == "Be brief."  # pyright: ignore[reportPrivateUsage]
    other = Context.load(fresh.model, path, max_tokens=4, system_prompt=None)
    assert other._caller.defaults == given.replace(max_tokens=4)  # pyright: ignore[reportPrivateUsage]
    assert other._caller.system_prompt is None  # pyright: ignore[reportPrivateUsage]


def test_a_type_as_schema_is_left_out(path: Path, fresh: Scripted) -> None:
    with scripted("1") as made:
        context = Context(made.model)
        context.generate("hi")
        context._caller.defaults = StreamConfig(json_schema=list[int])  # pyright: ignore[reportPrivateUsage]
        context.save(path)
    assert Context.load(fresh.model, path)._caller.defaults == StreamConfig()  # pyright: ignore[reportPrivateUsage]


def test_the_last_stream_counts_and_a_cancelled_one_is_one(path: Path) -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made, Context(made.model) as context:
        stream = context.generate_stream(PROMPT)
        gate.step(3)
        gate.wait()
        stream.cancel()
        gate.open()
        assert texts(stream).startswith("abc")
        made.settle()
        session = context.save(path)
        assert session.tokens[: len(PROMPT) + 3] == tuple(ids(PROMPT + "abc"))
        assert session.num_cached >= len(PROMPT) + 2


def test_nothing_to_save(path: Path, fresh: Scripted) -> None:
    with pytest.raises(InvalidRequestError, match="no stream of this context has ended"):
        Context(fresh.model).save(path)
    assert not path.exists()


def test_what_was_evicted_is_saved_without_its_kv(path: Path, fresh: Scripted) -> None:
    with scripted("abc") as made, Context(made.model) as context:
        context.generate(PROMPT)
        made.engine.clear_cache()
        session = context.save(path)
        assert session.num_cached == 0
    loaded = Context.load(fresh.model, path)
    assert loaded.session is not None
    assert (loaded.session.tokens, loaded.session.num_cached) == (session.tokens, 0)
    assert loaded.generate(PROMPT).usage.cached_tokens == 0


def test_a_part_that_is_left_is_saved(path: Path, fresh: Scripted) -> None:
    with scripted(echo, num_cells=200, prefix_cache_mb=0, **SMALL) as made, Context(made.model) as context:
        context.generate("a" * 150, max_tokens=2)
        made.model.generate("b" * 100, max_tokens=2)
        session = context.save(path)
        assert 0 < session.num_cached < 150
    loaded = Context.load(fresh.model, path)
    assert loaded.generate("a" * 150).usage.cached_tokens == session.num_cached


def test_a_model_whose_memory_cannot_be_cut_saves_the_tokens_only(path: Path) -> None:
    with scripted("abc", can_drop_partial=False) as made, Context(made.model) as context:
        context.generate(PROMPT)
        assert context.save(path).num_cached == 0
        assert Context.load(made.model, path).session == context.save(path)


def test_a_second_load_shares_the_first(saved: Path, fresh: Scripted) -> None:
    first = Context.load(fresh.model, saved)
    used = fresh.engine.metrics().kv_cached
    second = Context.load(fresh.model, saved)
    fork = second.fork()
    assert fresh.engine.metrics().kv_cached == used
    assert first.session == second.session == fork.session
    for context in (first, second, fork):
        assert context.generate(PROMPT + "there was no more").usage.cached_tokens >= used


def test_a_fork_has_a_life_of_its_own(saved: Path, fresh: Scripted, tmp_path: Path) -> None:
    context = Context.load(fresh.model, saved, max_tokens=5)
    fork = context.fork()
    context.close()
    assert fork.generate("x").usage.completion_tokens == 2
    assert fork._caller.defaults.max_tokens == 5  # pyright: ignore[reportPrivateUsage]
    assert fork.save(tmp_path / "other").tokens == (*ids("x!"), 0)


def test_a_session_is_saved_again(saved: Path, fresh: Scripted, tmp_path: Path) -> None:
    again = Context.load(fresh.model, saved).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    assert again.num_bytes == saved.stat().st_size


def test_in_tasks(path: Path) -> None:
    async def main() -> None:
        with scripted("abc", **SMALL) as made:
            async with Context(made.asynchronous) as context:
                await context.generate(PROMPT)
                session = await context.save(path)
            made.engine.clear_cache()
            async with await Context.load(made.asynchronous, path, max_tokens=1) as context:
                assert context.session == session
                result = await context.fork().generate(PROMPT + "abcdef")
                assert result.usage.cached_tokens == session.num_cached
                assert result.usage.completion_tokens == 1

    run_async(main())


# Room


def test_others_give_way(saved: Path) -> None:
    with scripted("!", num_cells=30, **SMALL) as made:
        made.model.generate("something that fills it")
        context = Context.load(made.model, saved)
        assert context.session is not None
        assert context.session.num_cached == len(PROMPT + "there was") - 1
        assert context.generate(PROMPT + "there").usage.cached_tokens == len(PROMPT + "there") - 1


def test_running_streams_do_not_give_way(saved: Path) -> None:
    with scripted(echo, num_cells=30, **SMALL) as made:
        stream = made.model.generate_stream("0123456789", max_tokens=6, buffer_size=1)
        wait_until(lambda: made.engine.metrics().paused)
        context = within(Context.load, made.model, saved)
        assert context.session is not None
        assert context.session.num_cached == 2 * SMALL["most_saved"]  # of 24 in all, beside the 10 of the stream
        assert texts(stream) == "[01234"


def test_a_session_that_is_too_long_for_the_context(saved: Path) -> None:
    with scripted("!", num_cells=20) as made:
        refused(made, saved, "it has 25 tokens, but the context holds 20; load the model with a larger n_ctx")


def test_streams_go_on_undisturbed(path: Path, fresh: Scripted) -> None:
    with scripted(echo, **SMALL) as made, Context(made.model) as context:
        context.generate("a tale " * 30, max_tokens=2)
        streams = [made.model.generate_stream(f"stream {number}" * 9, max_tokens=60) for number in range(4)]
        for number in range(5):
            session = context.save(path)
            Context.load(made.model, path)
            assert session.num_cached == 211, number
        for number, stream in enumerate(streams):
            assert texts(stream) == f"[{f'stream {number}' * 9}]"[:60]


# What is refused


def test_truncated_files(saved: Path, fresh: Scripted) -> None:
    data = saved.read_bytes()
    for length in (*range(0, len(data), 7), len(data) - 1):
        saved.write_bytes(data[:length])
        refused(fresh, saved, "it is cut off" if length >= 1 else "it is no session file")
    saved.write_bytes(data + b"\0")
    refused(fresh, saved, "it has bytes behind its end")
    saved.write_bytes(data)
    Context.load(fresh.model, saved)


def test_flipped_bits(saved: Path, fresh: Scripted) -> None:
    data = saved.read_bytes()
    for at in (*range(24), *range(24, len(data), 7), len(data) - 1):
        saved.write_bytes(data[:at] + bytes([data[at] ^ (1 << (at % 8))]) + data[at + 1 :])
        refused(fresh, saved, "cannot be loaded: it is|cannot be loaded: something")
    assert fresh.model.generate(PROMPT).text == "!"


def forged(path: Path, version: int = 1, tokens: list[int] | None = None, **changes: Any) -> None:
    """A file with another header, and right hashes."""
    data = path.read_bytes()
    _, _, length, count = struct.unpack_from("<8sIII", data)
    header = json.loads(data[20 : 20 + length]) | changes
    text = json.dumps({name: value for name, value in header.items() if value is not ...}).encode()
    ids_ = data[20 + length : 20 + length + 4 * count] if tokens is None else struct.pack(f"<{len(tokens)}i", *tokens)
    start = struct.pack("<8sIII", b"HEADRACE", version, len(text), len(ids_) // 4) + text + ids_
    digest = hashlib.sha256(start).digest()
    end = struct.pack("<IIQ", 0, 0, 0)
    path.write_bytes(start + digest + end + hashlib.sha256(digest + end).digest())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fingerprint": "0"}, "it was saved with another model, 'scripted', and this is 'scripted'"),
        ({"kv_format": "q8_0"}, "its KV is 'q8_0', and that of this model 'scripted'"),
        ({"version": 2}, "it is of version 2, and this headrace reads version 1"),
        ({"tokens": [1, -1]}, "it has a token that the model does not have"),
        ({"tokens": [1, 999]}, "it has a token that the model does not have"),
        ({"settings": 5}, "its settings cannot be used"),
        ({"settings": {"max_tokens": 0}}, "its settings cannot be used: max_tokens is 0"),
        ({"settings": {"no_such": 0}}, "its settings cannot be used: .*no_such"),
        ({"system_prompt": 5}, "its header is not what headrace writes"),
        ({"conversation": []}, "its header is not what headrace writes"),
        ({"num_in_order": -1}, "its header is not what headrace writes"),
        ({"num_in_order": True}, "its header is not what headrace writes"),
        ({"more": 1}, "its header is not what headrace writes"),
        ({"model": ...}, "its header is not what headrace writes"),
    ],
    ids=str,
)
def test_a_forged_header(saved: Path, fresh: Scripted, changes: dict[str, Any], words: str) -> None:
    forged(saved, **changes)
    refused(fresh, saved, words)


def test_a_forged_range(saved: Path, fresh: Scripted) -> None:
    forged(saved)
    Context.load(fresh.model, saved)
    data = saved.read_bytes()[: -16 - 32]
    for start, end in ((0, 26), (1, 2), (5, 5), (3, 1), (0, 2**32 - 1)):
        piece = struct.pack("<IIQ", start, end, 2) + b"[]"
        saved.write_bytes(data + piece + hashlib.sha256(data[-32:] + piece).digest())
        refused(fresh, saved, "is out of place")


def test_what_left_the_memory_while_it_was_saved_is_not_said_to_be_in_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes back instead was computed by somebody else, in other pieces."""
    prompt = "abc" * 30

    def num_in_order() -> int:
        data = path.read_bytes()
        start = struct.calcsize("<8sIII")
        return json.loads(data[start : start + struct.unpack_from("<I", data, 12)[0]])["num_in_order"]

    with scripted("xyz", num_cells=1000) as made, Context(made.model) as context:

        def is_copied() -> bool:
            return not made.engine._scheduler.kv.can_copy_ahead

        made.model.generate(prompt)
        wait_until(is_copied)
        context.generate(prompt, seed=1)
        wait_until(is_copied)
        context.save(path)
        assert num_in_order() == 64
        calls: list[int] = []
        with_cache = made.engine.with_cache

        def disturbed(function: Any) -> Any:
            result = with_cache(function)
            calls.append(1)
            if len(calls) == 1:
                monkeypatch.undo()
                made.model.generate("others")
            return result

        monkeypatch.setattr(made.engine, "with_cache", disturbed)
        session = context.save(path)
        assert session.num_cached == len(session.tokens) - 1
        assert num_in_order() == 0
    with scripted("xyz", num_cells=1000) as fresh:
        Context.load(fresh.model, path)
        assert fresh.model.generate(prompt, seed=1).usage.cached_tokens == 0


def test_another_vocabulary(saved: Path) -> None:
    with scripted("!", pieces={**BYTES, 300: b"more"}) as made:
        refused(made, saved, "it was saved with another model")


def test_another_kv_format(saved: Path) -> None:
    with scripted("!", kv_format="other") as made:
        refused(made, saved, "its KV is 'scripted', and that of this model 'other'")


def test_files_that_are_none(path: Path, fresh: Scripted) -> None:
    refused(fresh, path, "there is no such file")
    path.write_text("HEAD over heels")
    refused(fresh, path, "it is no session file")
    refused(fresh, path.parent, "it is not a file")
    refused(fresh, path / "below", "it is not a file|there is no such file|cannot be read")
    for wrong in (None, 5, b"bytes", "a\0b"):
        with pytest.raises(InvalidRequestError, match="path"):
            Context.load(fresh.model, wrong)  # pyright: ignore


# Writing


def test_only_the_owner_may_read_it(saved: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert list(saved.parent.iterdir()) == [saved]


def test_a_file_that_cannot_be_written_leaves_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with scripted("abc") as made, Context(made.model) as context:
        context.generate("other")
        for target in (saved.parent, saved.parent / "no such" / "file"):
            with pytest.raises(InvalidRequestError, match="cannot be written") as caught:
                context.save(target)
            assert caught.value.field == "path"
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InvalidRequestError, match="cannot be written: No space left on device"):
            context.save(saved)
        assert saved.read_bytes() == old
        assert list(saved.parent.iterdir()) == [saved]


def test_an_engine_that_fails_in_the_midst_leaves_the_old_file(saved: Path) -> None:
    class Failing(ScriptedRunner):
        def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
            if start:
                raise RuntimeError("no more")
            return super().save_sequence(sequence, spare, start, end)

    old = saved.read_bytes()
    with scripted("abc", runner_type=Failing, **SMALL) as made, Context(made.model) as context:
        context.generate(PROMPT)
        with pytest.raises(RuntimeError, match="no more"):
            context.save(saved)
        made.settle()
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


def test_a_closed_model(saved: Path) -> None:
    with scripted("abc") as made:
        context = Context.load(made.model, saved)
        made.model.close()
        for call in (lambda: context.save(saved), lambda: Context.load(made.model, saved)):
            with pytest.raises(EngineClosedError):
                call()


# Conversations


def test_a_conversation_comes_back_with_its_kv(path: Path) -> None:
    with scripted("well", chat_template=TEMPLATE) as made:
        conversation = ConversationManager(made.model, system_prompt="Hm.", max_messages=7)
        for question in ("Who?", "How?"):
            conversation.send(question).result()
        session = conversation.save(path)
        assert session.num_cached == len(session.tokens) - 1
        messages, text = conversation.get_messages(), conversation.to_json()
    with scripted("fine", chat_template=TEMPLATE) as made:
        for model in (made.model, Context(made.model), made.asynchronous):
            again = ConversationManager.load(model, path)
            assert again.get_messages() == messages
            assert again.to_json() == text
        fork = again.fork()
        reply = again.send("Why?").result()
        assert reply.usage.cached_tokens == session.num_cached
        assert fork.get_messages() == messages
        assert fork.send("When?").result().usage.cached_tokens >= session.num_cached
        assert again.get_messages()[-2]["content"] == "Why?"
        assert Context.load(made.model, path).session == session


def test_a_conversation_keeps_the_system_prompt_of_its_context(path: Path) -> None:
    with scripted("well", chat_template=TEMPLATE) as made:
        conversation = ConversationManager(Context(made.model, system_prompt="Be brief."))
        within(conversation.send("hello").result)
        conversation.save(path)
    with scripted("fine", chat_template=TEMPLATE) as made:
        again = ConversationManager.load(made.model, path)
        assert again.system_prompt == "Be brief."
        usage = within(again.send("and?").result).usage
        assert usage.cached_tokens >= len("<system>Be brief.<user>hello<assistant>well")
        other = ConversationManager.load(Context(made.model, system_prompt="Be long."), path)
        assert other.system_prompt is None, "the context's own"


def test_a_conversation_without_messages_and_one_without_a_model(path: Path, fresh: Scripted) -> None:
    session = ConversationManager(fresh.model).save(path)
    assert (session.tokens, session.num_cached) == ((), 0)
    assert ConversationManager.load(fresh.model, path).get_messages() == []
    with pytest.raises(InvalidRequestError, match="model"):
        ConversationManager().save(path)
    with pytest.raises(HeadraceError, match="model"):
        ConversationManager.load(None, path)  # pyright: ignore


def test_a_context_is_no_conversation(saved: Path, fresh: Scripted) -> None:
    with pytest.raises(InvalidRequestError, match="holds no conversation"):
        ConversationManager.load(fresh.model, saved)
    forged(saved, conversation='{"version": 1}')
    with pytest.raises(InvalidRequestError, match="max_messages"):
        ConversationManager.load(fresh.model, saved)
