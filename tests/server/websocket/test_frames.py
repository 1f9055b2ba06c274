"""Frames of a WebSocket's client: their fields, and the errors for invalid ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.server.websocket.frames import MAX_FRAME, is_plain
from headrace.server.websocket.session import Reply, Session, Start
from headrace.values.config import StreamConfig
from server.websocket.session_steps import error_of, say


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
