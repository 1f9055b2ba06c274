"""The WebSocket's protocol as a state machine: what each frame leads to, in every order, without a socket."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.server.http.errors import ApiError
from headrace.server.websocket.frames import MAX_FRAME, is_plain
from headrace.server.websocket.session import Cancel, Proceed, Reply, Session, Start
from headrace.values.config import StreamConfig
from headrace.values.results import GenerationResult, Metrics, Part, Token, ToolCall, ToolCallDelta, TopLogprob, Usage

STOPPED = GenerationResult("", "stop")
FAILED = ApiError(500, "it broke", code="generation_failed")


def say(session: Session, type: str, **fields: Any) -> Any:
    """Hand a client's frame in; what to do about it."""
    return session.receive(json.dumps({"type": type, **fields}))


def start(session: Session, id: str = "a", **fields: Any) -> None:
    """Bring a stream to where its tokens may be sent."""
    assert isinstance(say(session, "generate", id=id, prompt="hi", **fields), Start)
    session.started(id)


def tokens(*texts: str, first: int = 0, **fields: Any) -> list[Token]:
    return [Token(text, 1, index, 0.0, **fields) for index, text in enumerate(texts, first)]


def error_of(action: Any) -> dict[str, Any]:
    assert isinstance(action, Reply), f"it was accepted: {action}"
    assert action.error is not None
    frame = json.loads(action.frame)
    assert (frame["message"], frame["code"]) == (action.error.message, action.error.code)
    assert frame.pop("type") == "error"
    return frame


# What the client says


def test_a_plain_text_is_a_prompt() -> None:
    for text in ("Hello!", "Hello!\n", "Hello!\r\n"):
        action = Session().receive(text)
        assert isinstance(action, Start)
        assert (action.request.id, action.request.prompt) == ("0", "Hello!")
    for text in ("", "[1]", '"{}"', "  two\n", "null"):
        action = Session().receive(text)
        assert isinstance(action, Start)
        assert action.request.prompt == text.rstrip("\n")


def test_white_space_before_json_does_not_make_it_plain() -> None:
    assert not is_plain(' \n\t{"type":"ping"}')
    assert Session().receive(' \n\t{"type":"ping"}') == Reply('{"type":"pong"}')


def test_generate_takes_every_setting_by_its_own_name() -> None:
    given = {name: getattr(StreamConfig(), name) for name in StreamConfig.__dataclass_fields__}
    given = {name: value for name, value in given.items() if value is not None} | {"stop_sequences": ["x"], "seed": 5}
    action = say(Session(), "generate", id="a", prompt=[1, 2], model="m", system_prompt="s", window=3, **given)
    assert isinstance(action, Start)
    assert action.request.settings() == given
    assert (action.request.prompt, action.request.model, action.request.system_prompt) == ([1, 2], "m", "s")


def test_null_is_as_good_as_nothing() -> None:
    action = say(Session(), "generate", id="a", prompt="x", messages=None, window=None, temperature=None, stop=None)
    assert isinstance(action, Start)
    assert action.request.settings() == {}


@pytest.mark.parametrize(("given", "stops"), [("END", ("END",)), (["a", "b"], ("a", "b"))])
def test_stop_is_a_shorter_name(given: Any, stops: tuple[str, ...]) -> None:
    action = say(Session(), "generate", id="a", prompt="x", stop=given)
    assert isinstance(action, Start)
    assert action.request.settings() == {"stop_sequences": stops}
    assert action.request.names == {"stop_sequences": "stop"}


GENERATE = {"type": "generate", "id": "a", "prompt": "hi"}
CHAT = {"type": "generate", "id": "a", "messages": [{"role": "user", "content": "x"}]}
TOOL = {"type": "function", "function": {"name": "add"}}
NO_SUB = ("invalid_value", "tool_choice.function.name is 'sub'; allowed: \"add\"")


@pytest.mark.parametrize(
    ("frame", "code", "says"),
    [
        ({"type": "sing", "id": "a"}, "unknown_type", "type is 'sing'; allowed: generate, cancel, ack, ping"),
        ({"id": "a"}, "unknown_type", "type is None"),
        ({"type": ["generate"], "id": "a"}, "unknown_type", "type is ['generate']"),
        ({"type": "generate", "id": "a"}, "missing_required_parameter", "neither prompt nor messages"),
        (GENERATE | {"messages": [{"role": "user", "content": "x"}]}, "invalid_value", "both prompt and messages"),
        (GENERATE | {"temprature": 1}, "unknown_parameter", "temprature"),
        (GENERATE | {"stream": True}, "unknown_parameter", "stream"),
        (GENERATE | {"prompt": 5}, "invalid_value", "prompt"),
        (GENERATE | {"prompt": [1, "2"]}, "invalid_value", "prompt"),
        (GENERATE | {"model": 5}, "invalid_value", "model"),
        (GENERATE | {"window": 0}, "invalid_value", "window"),
        (GENERATE | {"window": 1.5}, "invalid_value", "window"),
        (GENERATE | {"window": True}, "invalid_value", "window"),
        (GENERATE | {"system_prompt": []}, "invalid_value", "system_prompt"),
        (GENERATE | {"stop": ["a", 1]}, "invalid_value", "stop"),
        (GENERATE | {"stop": "a", "stop_sequences": ["b"]}, "invalid_value", "stop and stop_sequences"),
        ({"type": "generate", "id": "a", "messages": []}, "invalid_value", "messages"),
        (GENERATE | {"pricing": {"prompt": 1}}, "unknown_parameter", "pricing"),
        (GENERATE | {"json_schema": "{}"}, "invalid_value", "json_schema"),
        (GENERATE | {"tools": []}, "invalid_value", "tools is given with a prompt; allowed: with messages"),
        (GENERATE | {"tool_choice": "auto"}, "invalid_value", "tool_choice is given with a prompt"),
        (GENERATE | {"parallel_tool_calls": True}, "invalid_value", "parallel_tool_calls is given with a prompt"),
        (GENERATE | {"continue_final_message": True}, "invalid_value", "continue_final_message is given with a prompt"),
        (GENERATE | {"template_kwargs": {}}, "invalid_value", "template_kwargs is given with a prompt"),
        (CHAT | {"tools": [{"type": "web_search"}]}, "invalid_value", "tools[0].type"),
        (CHAT | {"tools": [TOOL, TOOL]}, "invalid_value", "tools[1].function.name is 'add', which another tool has"),
        (CHAT | {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, *NO_SUB),
        (CHAT | {"tool_choice": "required"}, "invalid_value", "tool_choice is 'required'"),
        (CHAT | {"template_kwargs": {"messages": []}}, "invalid_value", "template_kwargs"),
        (
            {"type": "generate", "id": "a", "messages": [{"role": "robot", "content": "x"}]},
            "invalid_value",
            "messages[0].role",
        ),
        ({"type": "cancel", "id": "a", "why": 1}, "unknown_parameter", "why"),
        ({"type": "cancel", "id": "a"}, "unknown_id", "'a'"),
        ({"type": "ack", "id": "a", "index": 0}, "unknown_id", "'a'"),
        ({"type": "ack", "id": "a"}, "missing_required_parameter", "index"),
        ({"type": "ack", "id": "a", "index": -1}, "invalid_value", "index"),
        ({"type": "ack", "id": "a", "index": 0.0}, "invalid_value", "index"),
        ({"type": "ping", "id": "a"}, "unknown_parameter", "id"),
    ],
)
def test_a_bad_frame_is_answered(frame: dict[str, Any], code: str, says: str) -> None:
    session = Session()
    error = error_of(session.receive(json.dumps(frame)))
    assert (error["id"], error["code"], error["final"]) == ("a", code, True)
    assert says in error["message"]
    assert say(session, "ping") == Reply('{"type":"pong"}'), "the socket lives"
    assert not session.has_live


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"binary", "invalid_frame"),
        (b'{"type":"ping"}', "invalid_frame"),
        ("{", "invalid_json"),
        ('{"type":"ping"} {}', "invalid_json"),
        ('{"type":"ping","type"', "invalid_json"),
        ('{"a":' * 40_000, "invalid_json"),
        ("x" * (MAX_FRAME + 1), "frame_too_large"),
        ("ü" * (MAX_FRAME // 2 + 1), "frame_too_large"),
        ('{"type":"generate","id":"a","prompt":"' + "x" * MAX_FRAME + '"}', "frame_too_large"),
        ('{"type":"ping","id":"\\ud800"}', "invalid_json"),
        (json.dumps({"type": "generate", "prompt": "x"}), "missing_required_parameter"),
        (json.dumps({"type": "generate", "id": 7, "prompt": "x"}), "invalid_value"),
        (json.dumps({"type": "generate", "id": "", "prompt": "x"}), "invalid_value"),
        (json.dumps({"type": "generate", "id": "i" * 129, "prompt": "x"}), "invalid_value"),
    ],
)
def test_a_frame_whose_id_cannot_be_told(frame: str | bytes, code: str) -> None:
    error = error_of(Session().receive(frame))
    assert (error["id"], error["code"], error["final"]) == (None, code, False)
    assert len(error["message"]) < 500


@pytest.mark.parametrize("frame", ["x" * MAX_FRAME, "ü" * (MAX_FRAME // 2)])
def test_the_largest_frame_is_taken(frame: str) -> None:
    assert isinstance(Session().receive(frame), Start)


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
