"""Tools in chats: calls, streamed or not; the prompt; and refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import BYTES, ids, run_async

from server.harness import TEMPLATE, USER, Answer, checked, content_of, running

# Its words tell that the template knows tools; it shows all that it is given.
KNOWS_TOOLS = '{# <tool_call> "arguments" #}{{ messages | tojson }}|{{ tools | tojson }}'
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = [WEATHER, TIME]
ARGUMENTS = '{"city": "Ulm, \\"Süd\\""}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
TRIGGER, CITY_NAME = b"<tool_call>", 'Ulm, \\"Süd\\'.encode()
SECOND = '\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


def named(name: str) -> dict[str, Any]:
    """The choice of a tool."""
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    """The choice of some tools."""
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


def ask(script: Any, settings: dict[str, Any] | None = None, **body: Any) -> Answer:
    async def run() -> Answer:
        async with running(script, **(settings or {})) as server:
            answer = checked(await server.chat(**{"tools": TOOLS, **body}))
            assert answer.status == 200, answer.body
            return answer

    return run_async(run())


def calls_of(chunks: list[dict[str, Any]], choice: int = 0) -> list[dict[str, Any]]:
    """The calls of a streamed chat, put together as OpenAI's clients do it."""
    calls: list[dict[str, Any]] = []
    for chunk in chunks:
        for one in chunk["choices"]:
            if one["index"] != choice:
                continue
            for delta in one["delta"].get("tool_calls", []):
                if delta["index"] == len(calls):
                    assert set(delta) == {"index", "id", "type", "function"}
                    assert delta["function"]["arguments"] == "", "the first delta says what is called, and no more"
                    calls.append({"id": delta["id"], "type": delta["type"], "function": dict(delta["function"])})
                else:
                    assert set(delta) == {"index", "function"}
                    assert set(delta["function"]) == {"arguments"}
                    assert delta["index"] == len(calls) - 1
                    assert delta["function"]["arguments"]
                    calls[-1]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


def without_ids(calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and arguments."""
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def test_a_call_is_whole() -> None:
    answer = ask(CALL)
    (choice,) = answer.json["choices"]
    message = choice["message"]
    assert set(message) == {"role", "content", "refusal", "annotations", "tool_calls"}
    assert message["content"] is None
    assert without_ids(message["tool_calls"]) == [("weather", ARGUMENTS)]
    assert message["tool_calls"][0]["type"] == "function"
    assert choice["finish_reason"] == "tool_calls"


def test_a_call_streams() -> None:
    chunks = ask(CALL, stream=True).chunks
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "name" in deltas[1]["tool_calls"][0]["function"], "what is called is known before the arguments are"
    assert len(deltas) > len(ARGUMENTS) / 2, "arguments come as they are written"
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]
    assert without_ids(calls_of(chunks)) == [("weather", ARGUMENTS)]
    assert content_of(chunks) == ""


@pytest.mark.parametrize("cut", range(1, len(TRIGGER) + 1))
def test_no_split_of_the_trigger_shows(cut: int) -> None:
    pieces = BYTES | {300: TRIGGER[:cut]} | ({301: TRIGGER[cut:]} if TRIGGER[cut:] else {})
    # What closes a call is not left to the model, and so not to the script.
    rest = CALL.encode()[len(TRIGGER) :].removesuffix(b"\n</tool_call>")
    script = [token for token in pieces if token >= 300] + ids(rest)
    answer = ask(script, {"pieces": pieces}, stream=True)
    assert without_ids(calls_of(answer.chunks)) == [("weather", ARGUMENTS)]
    assert content_of(answer.chunks) == ""


@pytest.mark.parametrize("cut", range(1, len(CITY_NAME)))
def test_no_split_of_arguments_shows(cut: int) -> None:
    pieces = BYTES | {300: CITY_NAME[:cut], 301: CITY_NAME[cut:]}
    before, _, behind = CALL.encode().partition(CITY_NAME)
    answer = ask([*ids(before), 300, 301, *ids(behind)], {"pieces": pieces}, stream=True)
    assert without_ids(calls_of(answer.chunks)) == [("weather", ARGUMENTS)]
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_several_calls_and_words_before_them(stream: bool) -> None:
    answer = ask(f"Let me see.{CALL}{SECOND}", stream=stream)
    if stream:
        calls, content = calls_of(answer.chunks), content_of(answer.chunks)
    else:
        message = answer.json["choices"][0]["message"]
        calls, content = message["tool_calls"], message["content"]
    assert without_ids(calls) == [("weather", ARGUMENTS), ("time", "{}")]
    assert content == "Let me see."
    assert len({call["id"] for call in calls}) == 2


def test_one_call_where_no_more_are_wanted() -> None:
    message = ask(CALL + SECOND, parallel_tool_calls=False).json["choices"][0]["message"]
    assert without_ids(message["tool_calls"]) == [("weather", ARGUMENTS)]


@pytest.mark.parametrize("stream", [False, True])
def test_each_choice_has_calls_of_its_own(stream: bool) -> None:
    answer = ask(CALL, n=3, stream=stream)
    choices = (
        [calls_of(answer.chunks, choice) for choice in range(3)]
        if stream
        else [choice["message"]["tool_calls"] for choice in answer.json["choices"]]
    )
    assert [without_ids(calls) for calls in choices] == [[("weather", ARGUMENTS)]] * 3
    assert len({calls[0]["id"] for calls in choices}) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_says_so(stream: bool) -> None:
    answer = ask(CALL, max_tokens=50, stream=stream)
    if stream:
        calls, reason = calls_of(answer.chunks), answer.chunks[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = answer.json["choices"]
        calls, reason = choice["message"]["tool_calls"], choice["finish_reason"]
    ((name, arguments),) = without_ids(calls)
    assert name == "weather"
    assert arguments
    assert ARGUMENTS.startswith(arguments)
    assert arguments != ARGUMENTS
    assert reason == "length"


@pytest.mark.parametrize("choice", ["required", named("weather"), allowed("required", "weather")])
def test_a_call_can_be_forced(choice: Any) -> None:
    """The trigger and the name, where there is one, need not be in the script: nothing else may be sampled."""
    answer = ask(CALL, tool_choice=choice)
    assert without_ids(answer.json["choices"][0]["message"]["tool_calls"]) == [("weather", ARGUMENTS)]


def test_a_forced_call_does_not_need_the_models_consent() -> None:
    """The script does not have the trigger, which therefore is sampled although nobody proposes it."""
    answer = ask(CALL.removeprefix("<tool_call>"), tool_choice=named("weather"))
    assert without_ids(answer.json["choices"][0]["message"]["tool_calls"]) == [("weather", ARGUMENTS)]


def test_without_calls_it_is_a_chat_like_any_other() -> None:
    choice = ask("It rains.").json["choices"][0]
    assert choice["message"]["content"] == "It rains."
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_what_looks_like_a_call_is_text_where_none_may_come() -> None:
    message = ask(CALL, tool_choice="none").json["choices"][0]["message"]
    assert message["content"] == CALL
    assert "tool_calls" not in message


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        (None, ["weather", "time"]),
        ("auto", ["weather", "time"]),
        ("none", None),
        (named("time"), ["time"]),
        (allowed("auto", "weather"), ["weather"]),
        (allowed("auto", "time", "weather"), ["weather", "time"]),
    ],
)
def test_the_model_sees_the_tools_that_it_may_call(choice: Any, shown: list[str] | None) -> None:
    prompts: list[bytes] = []

    def script(prompt: tuple[int, ...]) -> list[int]:
        prompts.append(b"".join(BYTES[token] for token in prompt))
        return ids('<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>') if choice == named("time") else []

    ask(script, {"chat_template": KNOWS_TOOLS}, tool_choice=choice)
    tools = json.loads(prompts[0].partition(b"|")[2])
    assert (tools and [tool["function"]["name"] for tool in tools]) == shown
    if shown and shown[0] == "weather":
        assert tools[0] == WEATHER


def test_a_conversation_with_calls_reaches_the_template() -> None:
    prompts: list[bytes] = []

    def script(prompt: tuple[int, ...]) -> list[int]:
        prompts.append(b"".join(BYTES[token] for token in prompt))
        return ids("Rain.")

    first = ask(CALL).json["choices"][0]["message"]
    messages = [
        *USER,
        {**first, "reasoning_content": "They ask for Ulm."},
        {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "rain"},
        {"role": "assistant", "content": None, "refusal": "I will not say."},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
        {"role": "function", "name": "weather", "content": "sun"},
        {"role": "user", "content": "So?", "tool_calls": []},
    ]
    answer = ask(script, {"chat_template": KNOWS_TOOLS}, messages=messages)
    assert answer.json["choices"][0]["message"]["content"] == "Rain."
    turns = json.loads(prompts[0].partition(b"|")[0])
    assert turns[1]["content"] == "", "templates cannot do with null"
    assert turns[1]["reasoning_content"] == "They ask for Ulm."
    (call,) = turns[1]["tool_calls"]
    assert call["id"] == first["tool_calls"][0]["id"]
    assert call["function"] == {"name": "weather", "arguments": json.loads(ARGUMENTS)}
    assert turns[2] == {"role": "tool", "content": "rain", "tool_call_id": call["id"]}
    assert [turn["content"] for turn in turns[3:]] == ["I will not say.", "ab", "sun", "So?"]


def test_a_template_without_tools_is_told_in_words() -> None:
    prompts: list[bytes] = []

    def script(prompt: tuple[int, ...]) -> list[int]:
        prompts.append(b"".join(BYTES[token] for token in prompt))
        return []

    ask(script, {"chat_template": TEMPLATE})
    assert prompts[0].startswith(b"<system>")
    assert b'"name": "weather"' in prompts[0]


def test_a_stop_sequence_does_not_reach_into_a_call() -> None:
    answer = ask(CALL, stop=["Ulm", "tool"])
    assert without_ids(answer.json["choices"][0]["message"]["tool_calls"]) == [("weather", ARGUMENTS)]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_those_of_the_words(stream: bool) -> None:
    answer = ask(f"See.{CALL}", logprobs=True, stream=stream)
    chosen = [one for chunk in answer.chunks for one in chunk["choices"]] if stream else answer.json["choices"]
    entries = [entry["token"] for one in chosen if one["logprobs"] for entry in one["logprobs"]["content"]]
    assert entries == ["S", "e", "e", "."]
    calls = calls_of(answer.chunks) if stream else chosen[0]["message"]["tool_calls"]
    assert without_ids(calls) == [("weather", ARGUMENTS)]


BAD_NAME = {"type": "function", "function": {"name": "what is it?"}}
BAD_SCHEMA = {"type": "function", "function": {"name": "b", "parameters": {"type": "object", "minProps": 1}}}
NO_OBJECT = {"type": "function", "function": {"name": "b", "parameters": {"type": "string"}}}
LARGE = {"type": "function", "function": {"name": "b", "parameters": {"type": "object", "required": ["a"] * 20_000}}}
ANSWERED = {"role": "assistant", "content": "x"}
CALLED = {"id": "1", "type": "function", "function": {"name": "time", "arguments": "{}"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"tools": "weather"}, "tools", "array"),
        ({"tools": [TIME] * 129}, "tools", "128"),
        ({"tools": [TIME, WEATHER, TIME]}, "tools[2].function.name", "another"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing"),
        ({"tools": [BAD_NAME]}, "tools[0].function.name", "ASCII letters"),
        ({"tools": [WEATHER, BAD_SCHEMA]}, "tools[1].function.parameters", "minProps"),
        ({"tools": [WEATHER, BAD_SCHEMA], "tool_choice": named("b")}, "tools[1].function.parameters", "minProps"),
        ({"tools": [NO_OBJECT]}, "tools[0].function.parameters.type", "object"),
        ({"tools": [WEATHER, LARGE]}, "tools", "20000"),
        ({"tools": [{**TIME, "mood": 1}]}, "tools[0].mood", "no such"),
        ({"tools": [{"type": "function", "name": "flat"}]}, "tools[0].function", "missing"),
        ({"tool_choice": "weather"}, "tool_choice", "required"),
        ({"tool_choice": 5}, "tool_choice", "auto"),
        ({"tool_choice": named("sun")}, "tool_choice.function.name", '"weather", "time"'),
        ({"tool_choice": {"type": "function", "name": "time"}}, "tool_choice.function", "missing"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type", "function"),
        ({"tool_choice": allowed("auto", "time", "sun")}, "tool_choice.allowed_tools.tools[1].function.name", "time"),
        ({"tool_choice": allowed("none", "time")}, "tool_choice.allowed_tools.mode", "required"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "none"),
        ({"tools": [], "tool_choice": named("time")}, "tool_choice.function.name", "no tools"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "boolean"),
        ({"functions": [{"name": "x"}]}, "functions", "not supported"),
        ({"messages": [*USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id", "missing"),
        ({"messages": [*USER, {"role": "function", "content": "x"}]}, "messages[1].name", "missing"),
        ({"messages": [*USER, {"role": "assistant"}]}, "messages[1].content", "missing"),
        (
            {"messages": [*USER, {**ANSWERED, "tool_calls": [{"id": "1", "type": "custom"}]}]},
            "messages[1].tool_calls[0].type",
            "function",
        ),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALLED]}]}, "messages[0].tool_calls", "only"),
        ({"messages": [{"role": "user", "content": "x", "refusal": "y"}]}, "messages[0].refusal", "assistant"),
        ({"messages": [*USER, {**ANSWERED, "refusal": "y"}]}, "messages[1].refusal", "beside content"),
        ({"messages": [*USER, {**ANSWERED, "tool_call_id": "1"}]}, "messages[1].tool_call_id", "tool"),
    ],
)
def test_refusals_name_what_is_wrong(body: Any, param: str, says: str, stream: bool) -> None:
    async def run() -> None:
        async with running("fine") as server:
            answer = await server.chat(**{"tools": TOOLS, **body}, stream=stream)
            assert answer.status == 400, answer.body
            assert answer.error["param"] == param
            assert says in answer.error["message"], answer.error["message"]
            assert answer.error["message"].startswith(param), answer.error["message"]
            assert len(answer.error["message"]) < 600
            assert (await server.chat()).status == 200, "the server lives on"

    run_async(run())
