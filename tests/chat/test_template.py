"""Real chat templates render as they should; messages that cannot be used are refused by their place."""

from __future__ import annotations

import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, IntEnum
from time import thread_time
from types import SimpleNamespace
from typing import Any

import pytest

from chat.templates import GEMMA, LLAMA3, QWEN, SMOLLM2, SMOLLM2_SYSTEM, one, template, user
from headrace.chat.template import Message, Segment, checked_messages
from headrace.values.errors import InvalidRequestError

CHAT = [Message("system", "Be brief."), Message("user", "Hi! "), Message("assistant", "Hello.")]


# Real templates


def test_smollm2() -> None:
    smollm2 = template(SMOLLM2)
    assert one(smollm2.render([user("Hi")])) == (
        SMOLLM2_SYSTEM + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert one(smollm2.render(CHAT, add_generation_prompt=False)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi! <|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
    )


def test_llama3() -> None:
    llama3 = template(
        LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|bos|>"
    )
    assert one(llama3.render(CHAT[:2])) == (
        "<|bos|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_gemma() -> None:
    gemma = template(GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos>")
    assert one(gemma.render([user(" Hi "), Message("assistant", "Hello."), user("Bye")])) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )
    with pytest.raises(InvalidRequestError, match="System role not supported") as caught:
        gemma.render(CHAT[:2])
    assert caught.value.field == "messages"
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        gemma.render([user("one"), user("two")])


def test_qwen() -> None:
    qwen = template(QWEN)
    history = [user("1+1?"), Message("assistant", "<think>easy</think>\n\n2"), user("and 2+2?")]
    assert one(qwen.render(history, enable_thinking=False)) == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\nand 2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_tools() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln <&>", "days": 2}}}
    messages = [
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "name": "weather"},
    ]
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    assert one(template(QWEN).render(messages, tools=[tool])) == (
        f"<|im_start|>system\n{json.dumps(tool)}\n<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n"
        f"<|im_start|>assistant\n<tool_call>{json.dumps(call['function'], ensure_ascii=False)}</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>rain</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_language_of_transformers() -> None:
    source = (
        "{%- for i in range(9) %}\n  {%- if i == 1 %}{% continue %}{% endif %}\n"
        "  {%- if i == 4 %}{% break %}{% endif %}\n"
        "    {%- generation %}{{ i }}{% endgeneration %}\n{% endfor %}"
        "{{ strftime_now('%%') }}{{ {'b': 'é<', 'a': [1]} | tojson(indent=2) }}{{ bos_token ~ eos_token ~ 3 }}"
        "{{ 'b-a'.split('-') | sort | join('+') }}{{ '%s %03d' % ('x', 7) }}{{ '{} {:.2f}'.format('y', 1) }}"
        "{{ ['x'] * 2 }}{{ 7 // 2 ** 1 }}{{ 'a\nb' | indent(1) }}{{ 'aa' | replace('a', 'bc') }}"
    )
    assert one(template(source).render([user("Hi")])) == (
        '023%{\n  "b": "é<",\n  "a": [\n    1\n  ]\n}<s></s>3a+bx 007y 1.00[\'x\', \'x\']3a\n bbcbc'
    )


def test_the_same_from_many_threads() -> None:
    smollm2 = template(SMOLLM2)
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda i: one(smollm2.render([user(f"question {i}")])), range(100)))
    assert [f"question {i}<|im_end|>" in text for i, text in enumerate(texts)] == [True] * 100


def test_a_short_chat_takes_less_than_a_millisecond() -> None:
    smollm2 = template(SMOLLM2)
    times: list[float] = []
    for _ in range(30):
        start = thread_time()
        smollm2.render(CHAT)
        times.append(thread_time() - start)
    assert min(times) < 0.001


# Continuing the last message


@pytest.mark.parametrize(
    ("source", "content", "end"),
    [
        (SMOLLM2, "It is ", "<|im_start|>assistant\nIt is "),
        (SMOLLM2, "", "<|im_start|>assistant\n"),
        (SMOLLM2, "a <", "<|im_start|>assistant\na <"),
        (GEMMA, "It is ", "<start_of_turn>model\nIt is"),
        (QWEN, "<think>hm</think>\n\nIt", "<|im_start|>assistant\n<think>hm</think>\n\nIt"),
    ],
)
def test_continue_final_message(source: str, content: str, end: str) -> None:
    segments = template(source).render([user("Why?"), Message("assistant", content)], continue_final_message=True)
    assert one(segments).endswith(end)


def test_only_an_assistants_message_can_be_continued() -> None:
    with pytest.raises(InvalidRequestError, match="assistant") as caught:
        template(SMOLLM2).render([user("Hi")], continue_final_message=True)
    assert caught.value.field == "messages[0]"


def test_continuing_needs_a_template_that_writes_the_message() -> None:
    with pytest.raises(InvalidRequestError, match="does not write the last message"):
        template("{{ messages[0].content }}").render(
            [user("Hi"), Message("assistant", "Hello")], continue_final_message=True
        )


# Messages that cannot be used


@pytest.mark.parametrize(
    ("messages", "field", "message"),
    [
        ([], "messages", "at least one"),
        ("Hi", "messages", "a list"),
        (None, "messages", "a list"),
        ([3], "messages[0]", "role and content"),
        ([user("Hi"), "Hi"], "messages[1]", "role and content"),
        ([{"content": "Hi"}], "messages[0].role", "one of assistant"),
        ([{"role": "king", "content": "Hi"}], "messages[0].role", "king"),
        ([{"role": ["user"], "content": "Hi"}], "messages[0].role", "one of"),
        ([{"role": "user"}], "messages[0].content", "a string"),
        ([{"role": "assistant", "content": None}], "messages[0].content", "a string"),
        ([user("a"), user("b"), user("c\0")], "messages[2].content", "NUL"),
        ([user("a"), user("b\ud800")], "messages[1].content", r"'\ud800' at index 1"),
        ([SimpleNamespace(role="user", content=b"Hi")], "messages[0].content", "a string"),
        ([user("")], "messages[0].content", "empty prompt"),
        ([user("Hi"), user(" \n\t")], "messages[1].content", "empty prompt"),
        ([{"role": "user", "content": []}], "messages[0].content", "empty prompt"),
        ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0]", "type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]", "text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type", "image_url"),
        ([{"role": "user", "content": "x", "name": "a\0"}], "messages[0].name", "NUL"),
        ([{"role": "user", "content": "x", "a": {"b": [1, {1}]}}], "messages[0].a.b[1]", "a string"),
        ([{"role": "user", "content": "x", 3: "y"}], "a key of messages[0]", "a string"),
        ([{"role": "user", "content": "x", "a\ud800": "y"}], "a key of messages[0]", "surrogate"),
    ],
)
def test_messages_that_cannot_be_used(messages: Any, field: str, message: str) -> None:
    for check in (template(SMOLLM2).render, checked_messages):
        with pytest.raises(InvalidRequestError) as caught:
            check(messages)
        assert caught.value.field == field
        assert message in str(caught.value)


def test_messages_nested_without_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidRequestError, match="at most 64 levels"):
        template(SMOLLM2).render([{"role": "user", "content": "x", "a": endless}])


def test_tools_and_extra_values_that_cannot_be_used() -> None:
    smollm2 = template(SMOLLM2)
    for tools in ("tool", [3], [{"a": {1, 2}}]):
        with pytest.raises(InvalidRequestError, match="tools"):
            smollm2.render([user("Hi")], tools=tools)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="documents"):
        smollm2.render([user("Hi")], documents=object())


def test_text_parts_are_joined_before_anything_else() -> None:
    parts = [{"type": "text", "text": "a<|im_"}, {"type": "text", "text": "end|>b"}]
    segments = template("{{ messages[0].content }}").render([{"role": "user", "content": parts}])
    assert segments == [Segment("a", True), Segment("<|im_end|>", False), Segment("b", True)]


def test_the_callers_messages_are_left_as_they_were() -> None:
    messages = [user("Hi"), {"role": "assistant", "content": "<|im_end|>", "tags": ["<"]}]
    before = json.dumps(messages)
    template(SMOLLM2).render(messages, continue_final_message=True)
    assert json.dumps(messages) == before


def test_checked_messages() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "<|im_end|>𠀀"}]}
    given = [SimpleNamespace(role="system", content="s"), call, parts]
    assert checked_messages(given) == [{"role": "system", "content": "s"}, call, user("<|im_end|>𠀀")]  # type: ignore[arg-type]


class Role(str, Enum):  # noqa: UP042
    USER = "user"


class Said(str, Enum):  # noqa: UP042
    HI = "Hi"


class Level(IntEnum):
    HIGH = 3


class Loud(str):
    """A string that is written otherwise than it is."""

    def __str__(self) -> str:
        return self.upper()

    def __format__(self, _: str) -> str:
        return self.upper()


# Writes everything that a template can see.
EVERYTHING = "{% for message in messages %}{{ message.role }}: {{ message | tojson }} {{ message }}{% endfor %}"


@pytest.mark.parametrize(
    "message",
    [
        {"role": Role.USER, "content": Said.HI},
        SimpleNamespace(role=Role.USER, content=Said.HI),
        Message(Role.USER, Said.HI),
        {"role": Role.USER, "content": [{"type": Loud("text"), "text": Said.HI}]},
        {Loud("role"): Loud("user"), Loud("content"): Loud("Hi")},
    ],
)
def test_strings_of_derived_types_are_their_values(message: Any) -> None:
    for source in (SMOLLM2, GEMMA, QWEN, EVERYTHING):
        assert template(source).render([message]) == template(source).render([user("Hi")])
    assert repr(checked_messages([message])) == "[{'role': 'user', 'content': 'Hi'}]"


def test_values_of_derived_types_in_extra_keys_are_plain() -> None:
    given = user("x") | {Loud("key"): [Said.HI, Level.HIGH, True, (1.5, None)], "map": OrderedDict(a=Loud("b"))}
    plain = user("x") | {"key": ["Hi", 3, True, [1.5, None]], "map": {"a": "b"}}
    assert repr(checked_messages([given])) == repr([plain])
    assert template(EVERYTHING).render([given]) == template(EVERYTHING).render([plain])
    source = "{{ tools }}{{ extra }}"
    tools, extra = [{Loud("name"): Said.HI}], {"level": Level.HIGH}
    assert one(template(source).render([user("x")], tools=tools, extra=extra)) == "[{'name': 'Hi'}]{'level': 3}"


CONVERSATION: list[Any] = [
    Message("system", "Be brief."),
    {"role": Role.USER, "content": [{"type": "text", "text": "a<|im_"}, {"type": "text", "text": "end|>b"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": (1, 2.5, None, True)}}}],
    },
    {"role": "tool", "content": "𠀀<|im_start|>", "name": "f", "<|im_end|>": Said.HI},
    SimpleNamespace(role="assistant", content="It is"),
]


@pytest.mark.parametrize("source", [QWEN, EVERYTHING])
def test_checked_messages_render_as_the_messages_do(source: str) -> None:
    made = template(source)
    for messages in (CONVERSATION[:1], CONVERSATION[:2], CONVERSATION[:3], CONVERSATION):
        checked = checked_messages(messages)
        assert repr(checked_messages(checked)) == repr(checked)
        assert made.render(checked) == made.render(messages)
    settings = {"continue_final_message": True} if source is QWEN else {"add_generation_prompt": False}
    assert made.render(checked_messages(CONVERSATION), **settings) == made.render(CONVERSATION, **settings)


def test_checked_messages_are_copies() -> None:
    call = {"function": {"arguments": {"city": ["Köln"]}}}
    messages = [user("Hi"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    checked = checked_messages(messages)
    before = json.dumps(checked)
    call["function"]["arguments"]["city"].append("Bonn")
    messages[0]["content"] = "Bye"
    messages.pop()
    assert json.dumps(checked) == before
    template(EVERYTHING).render(checked)
    assert json.dumps(checked) == before
