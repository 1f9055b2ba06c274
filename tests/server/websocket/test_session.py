"""`Session`, the state machine of a WebSocket, without a socket: frames in every order."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.server.websocket.session import Cancel, Proceed, Reply, Session, Start
from headrace.values.results import GenerationResult, Metrics, Part, Token, ToolCall, ToolCallDelta, TopLogprob, Usage
from server.websocket.session_steps import FAILED, STOPPED, error_of, say, start, tokens


@pytest.mark.parametrize("id", ["a", "i" * 128, "späße / ☃", '"\\', "\u2028", "0"])
def test_an_id_comes_back_as_it_was_given(id: str) -> None:
    session = Session()
    assert isinstance(say(session, "generate", id=id, prompt="x"), Start)
    frames = [session.started(id), *session.tokens(id, tokens("x")), session.done(id, STOPPED)]
    assert [json.loads(frame)["id"] for frame in frames] == [id] * 3
    assert all(frame.isascii() for frame in frames)


def test_a_living_id_is_refused_and_the_stream_goes_on() -> None:
    session = Session()
    start(session)
    error = error_of(say(session, "generate", id="a", prompt="again"))
    assert (error["id"], error["code"], error["final"]) == ("a", "id_in_use", False)
    error = error_of(say(session, "generate", id="a", prompt="again", temprature=1))
    assert (error["id"], error["code"], error["final"]) == ("a", "unknown_parameter", False)
    session.tokens("a", tokens("x"))
    session.done("a", STOPPED)
    start(session)  # and now it is free again


def test_a_second_plain_text_waits_for_nobody() -> None:
    session = Session()
    session.receive("one")
    error = error_of(session.receive("two"))
    assert (error["id"], error["code"], error["final"]) == ("0", "id_in_use", False)


def test_there_is_an_end_to_the_streams_of_one_socket() -> None:
    session = Session()
    for number in range(1024):
        start(session, str(number))
    error = error_of(say(session, "generate", id="more", prompt="x"))
    assert (error["code"], error["final"]) == ("too_many_streams", True)
    session.done("0", STOPPED)
    start(session, "more")


# Windows


def test_a_window_opens_by_what_was_acknowledged() -> None:
    session = Session()
    start(session, window=3)
    assert session.room("a") == 3
    session.tokens("a", tokens("x", "y"))
    assert session.room("a") == 1
    session.tokens("a", tokens("z", first=2))
    assert session.room("a") == 0
    assert say(session, "ack", id="a", index=1) == Proceed("a")
    assert session.room("a") == 2
    assert say(session, "ack", id="a", index=2) == Proceed("a")
    assert session.room("a") == 3


def test_an_old_ack_says_nothing_new() -> None:
    session = Session()
    start(session, window=3)
    session.tokens("a", tokens("x", "y", "z"))
    assert say(session, "ack", id="a", index=1) == Proceed("a")
    assert say(session, "ack", id="a", index=1) is None
    assert say(session, "ack", id="a", index=0) is None
    assert session.room("a") == 2


def test_what_was_not_sent_cannot_be_acknowledged() -> None:
    session = Session()
    start(session, window=3)
    error = error_of(say(session, "ack", id="a", index=0))
    assert (error["id"], error["code"], error["final"]) == ("a", "invalid_value", False)
    assert "nothing was sent yet" in error["message"]
    session.tokens("a", tokens("x", "y"))
    error = error_of(say(session, "ack", id="a", index=2))
    assert "index is 2; allowed: at most 1" in error["message"]
    assert session.room("a") == 1


def test_a_stream_without_a_window_may_be_acknowledged() -> None:
    session = Session()
    start(session)
    assert session.room("a") is None
    session.tokens("a", tokens("x"))
    say(session, "ack", id="a", index=0)
    assert session.room("a") is None
    assert error_of(say(session, "ack", id="a", index=1))["code"] == "invalid_value"


def test_what_crosses_the_last_frame_on_its_way_is_no_error() -> None:
    session = Session()
    start(session, window=3)
    session.tokens("a", tokens("x"))
    session.done("a", STOPPED)
    assert say(session, "ack", id="a", index=0) is None
    assert say(session, "cancel", id="a") is None
    error = error_of(say(session, "ack", id="a", index=1))
    assert (error["code"], error["final"]) == ("invalid_value", True)


def test_ended_streams_are_not_remembered_for_ever() -> None:
    session = Session()
    for number in range(300):
        start(session, str(number))
        session.done(str(number), STOPPED)
    assert say(session, "cancel", id="299") is None
    assert error_of(say(session, "cancel", id="0"))["code"] == "unknown_id"


def test_a_cancel_is_passed_on() -> None:
    session = Session()
    assert isinstance(say(session, "generate", id="a", prompt="x"), Start)
    assert say(session, "cancel", id="a") == Cancel("a")
    assert say(session, "cancel", id="a") == Cancel("a")
    session.done("a", GenerationResult("", "cancelled"))  # it had not even started
    assert say(session, "cancel", id="a") is None


# What the server says


def test_tokens_are_frames() -> None:
    session = Session()
    start(session)
    frames = session.tokens("a", tokens("Hü", "", '"\n'))
    assert [json.loads(frame) for frame in frames] == [
        {"type": "token", "id": "a", "text": text, "index": index, "kind": "text"}
        for index, text in enumerate(("Hü", "", '"\n'))
    ]
    frame = json.loads(session.tokens("a", tokens("hm", first=3, kind="thinking"))[0])
    assert (frame["index"], frame["kind"]) == (3, "thinking")


def test_log_probabilities_come_with_the_text_that_they_belong_to() -> None:
    session = Session()
    start(session, logprobs=1)
    held = Token("", 1, 0, 0.0, bytes=b"a", logprob=-0.5, top_logprobs=(TopLogprob(1, -0.5, b"a"),))
    rest = Token("ab", 2, 1, 0.0, bytes=b"b", logprob=-0.25, top_logprobs=(TopLogprob(2, -0.25, b"b"),))
    first, second = (json.loads(frame) for frame in session.tokens("a", [held, rest]))
    assert first["logprobs"] == []
    assert [(one["index"], one["token"], one["logprob"]) for one in second["logprobs"]] == [
        (0, "a", -0.5),
        (1, "b", -0.25),
    ]
    assert second["logprobs"][0]["top_logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [97]}]


def test_the_last_frame_has_all_counts_and_times() -> None:
    session = Session()
    start(session)
    usage, metrics = Usage(5, 2, 7, 1), Metrics(time_to_first_token_ms=1.23456)
    frame = json.loads(session.done("a", GenerationResult("x", "stop_sequence", "END", usage, metrics)))
    assert frame.pop("usage") == {
        "prompt_tokens": 5,
        "cached_tokens": 2,
        "completion_tokens": 7,
        "thinking_tokens": 1,
        "cost": None,
        "currency": None,
        "total_tokens": 12,
    }
    assert set(frame["metrics"]) == set(Metrics.__dataclass_fields__)
    assert frame.pop("metrics")["time_to_first_token_ms"] == 1.235
    ended = {"finish_reason": "stop_sequence", "stop_sequence": "END", "tool_calls": []}
    assert frame == {"type": "done", "id": "a", **ended}


def test_calls_are_in_the_frames_of_their_tokens_and_in_the_last() -> None:
    session = Session()
    start(session)
    begins, goes_on = ToolCallDelta(0, "call_1", "add", ""), ToolCallDelta(0, None, None, '{"a"')
    first, second = (
        json.loads(session.tokens("a", tokens(text, first=i, kind="tool_call", tool_call=call))[0])
        for i, (text, call) in enumerate((("", begins), ('{"a"', goes_on)))
    )
    assert (first["kind"], first["text"]) == ("tool_call", "")
    assert first["tool_call"] == {"index": 0, "id": "call_1", "name": "add", "arguments": "", "is_complete": False}
    assert (second["kind"], second["text"]) == ("tool_call", '{"a"')
    assert second["tool_call"] == {"index": 0, "id": None, "name": None, "arguments": '{"a"', "is_complete": False}
    calls = (ToolCall("call_1", "add", '{"a"', is_complete=False),)
    done = json.loads(session.done("a", GenerationResult("", "length", tool_calls=calls)))
    assert done["tool_calls"] == [{"id": "call_1", "name": "add", "arguments": '{"a"', "is_complete": False}]


def test_what_is_left_at_the_end_is_in_the_last_tokens_frame() -> None:
    session = Session()
    start(session, window=2, logprobs=0)
    call = ToolCallDelta(0, "call_1", "add", "{}")
    rest = (Part("text", "Hi"), Part("tool_call", "{}", call))
    one, other = session.tokens("a", [*tokens("hm", kind="thinking"), *tokens("", first=1, rest=rest)])
    assert "rest" not in json.loads(one)
    frame = json.loads(other)
    assert frame["rest"] == [
        {"text": "Hi", "kind": "text"},
        {
            "text": "{}",
            "kind": "tool_call",
            "tool_call": {"index": 0, "id": "call_1", "name": "add", "arguments": "{}", "is_complete": False},
        },
    ]
    assert (frame["index"], session.room("a")) == (1, 0), "a frame is a token, whatever it brings"
    assert say(session, "ack", id="a", index=1) == Proceed("a")


def test_a_failure_is_final() -> None:
    session = Session()
    start(session)
    assert json.loads(session.failed("a", FAILED)) == {
        "type": "error",
        "id": "a",
        "message": "it broke",
        "code": "generation_failed",
        "final": True,
    }
    assert not session.has_live


def test_the_server_cannot_say_things_in_another_order() -> None:
    session = Session()
    for wrong in (
        lambda: session.started("a"),
        lambda: session.tokens("a", tokens("x")),
        lambda: session.done("a", STOPPED),
        lambda: session.failed("a", FAILED),
        lambda: session.room("a"),
    ):
        with pytest.raises(RuntimeError, match="there is no stream 'a'"):
            wrong()
    say(session, "generate", id="a", prompt="x", window=2)
    for wrong in (lambda: session.tokens("a", tokens("x")), lambda: session.done("a", STOPPED)):
        with pytest.raises(RuntimeError, match="has not started"):
            wrong()
    session.started("a")
    with pytest.raises(RuntimeError, match="started twice"):
        session.started("a")
    with pytest.raises(RuntimeError, match="room for 2"):
        session.tokens("a", tokens("x", "y", "z"))
    with pytest.raises(RuntimeError, match="token 1 of"):
        session.tokens("a", tokens("x", first=1))
    session.done("a", STOPPED)
    with pytest.raises(RuntimeError, match="there is no stream"):
        session.tokens("a", tokens("x"))
    session.end_input()
    with pytest.raises(RuntimeError, match="end of the input"):
        session.receive("x")


@given(st.data())
def test_whatever_is_said_no_window_is_overrun_and_every_stream_ends_once(data: st.DataObject) -> None:
    session = Session()
    ids = st.sampled_from("abc")
    sent: dict[str, int] = {}
    acked: dict[str, int] = {}
    windows: dict[str, int] = {}
    for _ in range(data.draw(st.integers(0, 40))):
        id = data.draw(ids)
        match data.draw(st.sampled_from(["generate", "ack", "cancel", "tokens", "done"])):
            case "generate":
                window = data.draw(st.integers(1, 5))
                action = say(session, "generate", id=id, prompt="x", window=window)
                assert isinstance(action, Reply if id in windows else Start)
                if id not in windows:
                    session.started(id)
                    windows[id], sent[id], acked[id] = window, 0, 0
            case "ack":
                index = data.draw(st.integers(0, 12))
                action = say(session, "ack", id=id, index=index)
                assert isinstance(action, Reply) == (index >= sent.get(id, 0))
                if id in windows and index < sent[id]:
                    acked[id] = max(acked[id], index + 1)
            case "cancel":
                assert say(session, "cancel", id=id) == Cancel(id) if id in windows else True
            case "tokens" if id in windows:
                room = session.room(id)
                assert room == acked[id] + windows[id] - sent[id] >= 0
                count = data.draw(st.integers(0, room))
                session.tokens(id, tokens(*"x" * count, first=sent[id]))
                sent[id] += count
            case "done" if id in windows:
                session.done(id, STOPPED)
                del windows[id]
            case _:
                pass
        assert session.has_live == bool(windows)
