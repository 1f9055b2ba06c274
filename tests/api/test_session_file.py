"""Session files that are damaged, forged, or of another model are refused; writing is all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from harness import BYTES, Scripted, scripted, wait_until

from api.session_helpers import PROMPT, SMALL, forged, refused
from headrace import Context, EngineClosedError, InvalidRequestError
from headrace.engine.scripted import ScriptedRunner

# What is refused


def test_truncated_files(saved_session: Path, fresh_model: Scripted) -> None:
    data = saved_session.read_bytes()
    for length in (*range(0, len(data), 7), len(data) - 1):
        saved_session.write_bytes(data[:length])
        refused(fresh_model, saved_session, "it is cut off" if length >= 1 else "it is no session file")
    saved_session.write_bytes(data + b"\0")
    refused(fresh_model, saved_session, "it has bytes behind its end")
    saved_session.write_bytes(data)
    Context.load(fresh_model.model, saved_session)


def test_flipped_bits(saved_session: Path, fresh_model: Scripted) -> None:
    data = saved_session.read_bytes()
    for at in (*range(24), *range(24, len(data), 7), len(data) - 1):
        saved_session.write_bytes(data[:at] + bytes([data[at] ^ (1 << (at % 8))]) + data[at + 1 :])
        refused(fresh_model, saved_session, "cannot be loaded: it is|cannot be loaded: something")
    assert fresh_model.model.generate(PROMPT).text == "!"


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
def test_a_forged_header(saved_session: Path, fresh_model: Scripted, changes: dict[str, Any], words: str) -> None:
    forged(saved_session, **changes)
    refused(fresh_model, saved_session, words)


def test_a_forged_range(saved_session: Path, fresh_model: Scripted) -> None:
    forged(saved_session)
    Context.load(fresh_model.model, saved_session)
    data = saved_session.read_bytes()[: -16 - 32]
    for start, end in ((0, 26), (1, 2), (5, 5), (3, 1), (0, 2**32 - 1)):
        piece = struct.pack("<IIQ", start, end, 2) + b"[]"
        saved_session.write_bytes(data + piece + hashlib.sha256(data[-32:] + piece).digest())
        refused(fresh_model, saved_session, "is out of place")


def test_what_left_the_memory_while_it_was_saved_is_not_said_to_be_in_order(
    session_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes back instead was computed by somebody else, in other pieces."""
    prompt = "abc" * 30

    def num_in_order() -> int:
        data = session_path.read_bytes()
        start = struct.calcsize("<8sIII")
        return json.loads(data[start : start + struct.unpack_from("<I", data, 12)[0]])["num_in_order"]

    with scripted("xyz", num_cells=1000) as made, Context(made.model) as context:

        def is_copied() -> bool:
            return not made.engine._scheduler.kv.can_copy_ahead

        made.model.generate(prompt)
        wait_until(is_copied)
        context.generate(prompt, seed=1)
        wait_until(is_copied)
        context.save(session_path)
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
        session = context.save(session_path)
        assert session.num_cached == len(session.tokens) - 1
        assert num_in_order() == 0
    with scripted("xyz", num_cells=1000) as fresh_model:
        Context.load(fresh_model.model, session_path)
        assert fresh_model.model.generate(prompt, seed=1).usage.cached_tokens == 0


def test_another_vocabulary(saved_session: Path) -> None:
    with scripted("!", pieces={**BYTES, 300: b"more"}) as made:
        refused(made, saved_session, "it was saved with another model")


def test_another_kv_format(saved_session: Path) -> None:
    with scripted("!", kv_format="other") as made:
        refused(made, saved_session, "its KV is 'scripted', and that of this model 'other'")


def test_files_that_are_none(session_path: Path, fresh_model: Scripted) -> None:
    refused(fresh_model, session_path, "there is no such file")
    session_path.write_text("HEAD over heels")
    refused(fresh_model, session_path, "it is no session file")
    refused(fresh_model, session_path.parent, "it is not a file")
    refused(fresh_model, session_path / "below", "it is not a file|there is no such file|cannot be read")
    for wrong in (None, 5, b"bytes", "a\0b"):
        with pytest.raises(InvalidRequestError, match="path"):
            Context.load(fresh_model.model, wrong)  # pyright: ignore


# Writing


def test_only_the_owner_may_read_it(saved_session: Path) -> None:
    assert stat.S_IMODE(saved_session.stat().st_mode) == 0o600
    assert list(saved_session.parent.iterdir()) == [saved_session]


def test_a_file_that_cannot_be_written_leaves_the_old_one(saved_session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved_session.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with scripted("abc") as made, Context(made.model) as context:
        context.generate("other")
        for target in (saved_session.parent, saved_session.parent / "no such" / "file"):
            with pytest.raises(InvalidRequestError, match="cannot be written") as caught:
                context.save(target)
            assert caught.value.field == "path"
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InvalidRequestError, match="cannot be written: No space left on device"):
            context.save(saved_session)
        assert saved_session.read_bytes() == old
        assert list(saved_session.parent.iterdir()) == [saved_session]


def test_an_engine_that_fails_in_the_midst_leaves_the_old_file(saved_session: Path) -> None:
    class Failing(ScriptedRunner):
        def save_sequence(self, sequence: int, spare: int, start: int, end: int) -> bytearray | None:
            if start:
                raise RuntimeError("no more")
            return super().save_sequence(sequence, spare, start, end)

    old = saved_session.read_bytes()
    with scripted("abc", runner_type=Failing, **SMALL) as made, Context(made.model) as context:
        context.generate(PROMPT)
        with pytest.raises(RuntimeError, match="no more"):
            context.save(saved_session)
        made.settle()
    assert saved_session.read_bytes() == old
    assert list(saved_session.parent.iterdir()) == [saved_session]


def test_a_closed_model(saved_session: Path) -> None:
    with scripted("abc") as made:
        context = Context.load(made.model, saved_session)
        made.model.close()
        for call in (lambda: context.save(saved_session), lambda: Context.load(made.model, saved_session)):
            with pytest.raises(EngineClosedError):
                call()
