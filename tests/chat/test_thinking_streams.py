"""Thoughts in streams of an engine: tokens, counts, results, hidden thoughts and the thinking budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from harness import BYTES, UNHURRIED, Gate, ids, scripted, within

from chat.test_thinking import (
    CLOSE,
    FIRST,
    MULTIBYTE,
    OPEN,
    OPENING_TEMPLATE,
    TAGS,
    TEMPLATE,
    TEXTS,
    reference,
)
from headrace import GenerationResult, InvalidRequestError, StreamTimeoutError, Token, Usage
from headrace.values.output_format import Tags


def generate(
    pieces: Sequence[bytes], template: str | None = TEMPLATE, **overrides: object
) -> tuple[list[Token], GenerationResult]:
    """Chat with a model that writes these pieces as its tokens; what every stream must keep is checked on the way."""
    script = [FIRST + at for at in range(len(pieces))]
    table = {**BYTES, **dict(zip(script, pieces, strict=True))}
    with scripted(script, pieces=table, chat_template=template) as made:
        stream = made.model.chat_stream([{"role": "user", "content": "p"}], UNHURRIED, **overrides)
        tokens = within(list, stream)
        result = within(stream.result)
    assert [token.index for token in tokens] == list(range(result.usage.completion_tokens))
    assert not any(token.rest for token in tokens[:-1])
    assert joined(tokens, "text") == result.text
    assert joined(tokens, "thinking") == (result.thinking or "")
    assert result.usage.thinking_tokens <= result.usage.completion_tokens
    return tokens, result


def joined(tokens: Sequence[Token], kind: str) -> str:
    return "".join(part.text for token in tokens for part in token.parts if part.kind == kind)


def byte_splits(data: bytes) -> Iterator[list[bytes]]:
    for count in (0, 1, 2):
        for cuts in combinations(range(1, len(data)), count):
            borders = [0, *cuts, len(data)]
            yield [data[start:end] for start, end in pairwise(borders)]
    yield [bytes([byte]) for byte in data]


def all_at_once(
    texts: Sequence[Sequence[bytes]], template: str = TEMPLATE, **overrides: object
) -> Iterator[tuple[Sequence[bytes], list[Token], GenerationResult]]:
    """Many outputs, each a stream of its own on one engine."""
    pieces, scripts = dict(BYTES), list[list[int]]()
    for text in texts:
        first = FIRST + len(pieces)
        scripts.append(list(range(first, first + len(text))))
        pieces.update(zip(scripts[-1], text, strict=True))
    left = iter(scripts)
    with scripted(lambda _: next(left), pieces=pieces, chat_template=template, max_queue=len(texts)) as made:
        for text in texts:
            stream = made.model.chat_stream([{"role": "user", "content": "p"}], UNHURRIED, **overrides)
            yield text, within(list, stream), within(stream.result)


def tokens_of_thought(pieces: Sequence[bytes], tags: Tags) -> int:
    """From the first token to the one that completes the closing tag."""
    data = b""
    for count, piece in enumerate(pieces, start=1):
        data += piece
        if tags.closer.encode() in data:
            return count
    return len(pieces)


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
@pytest.mark.parametrize("tags", [TAGS, MULTIBYTE], ids=["ascii", "multibyte"])
def test_every_split_into_tokens(tags: Tags, mode: str) -> None:
    text = f"{tags.opener}é {tags.closer}\nü"
    for pieces, tokens, result in all_at_once(
        list(byte_splits(text.encode())), thinking=mode, thinking_tags=(tags.opener, tags.closer)
    ):
        assert len(tokens) == len(pieces) + 1 == result.usage.completion_tokens
        assert joined(tokens, "text") == result.text == (text if mode == "raw" else "ü"), pieces
        assert result.thinking == ("é" if mode == "split" else None), pieces
        assert joined(tokens, "thinking") == ("é" if mode == "split" else ""), pieces
        assert result.usage.thinking_tokens == tokens_of_thought(pieces, tags), pieces
        assert result.finish_reason == "stop"
        if mode == "raw":
            assert all(token.kind == "text" for token in tokens), pieces


@pytest.mark.parametrize("text", TEXTS[2:], ids=repr)
@pytest.mark.parametrize("template", [TEMPLATE, OPENING_TEMPLATE], ids=["", "opened"])
def test_every_text_as_single_bytes(text: str, template: str) -> None:
    is_open = template is OPENING_TEMPLATE
    tokens, result = generate([bytes([byte]) for byte in text.encode()], template)
    thought, answer = reference(text, is_open=is_open)
    assert (result.thinking, result.text) == (thought, answer)
    closed = text.find(CLOSE) + len(CLOSE) if CLOSE in text else len(text)
    assert result.usage.thinking_tokens == (0 if thought is None else closed)
    raw = generate([bytes([byte]) for byte in text.encode()], template, thinking="raw")[1]
    assert (raw.thinking, raw.text) == (None, text)
    hidden = generate([bytes([byte]) for byte in text.encode()], template, thinking="hide")[1]
    assert (hidden.thinking, hidden.text) == (None, answer)
    assert raw.usage == hidden.usage == result.usage
    assert all(token.kind != "tool_call" for token in tokens)


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
def test_max_tokens_cuts_at_every_position(mode: str) -> None:
    text = "<think>a b </think>\n\nc d"
    pieces = [bytes([byte]) for byte in text.encode()]
    for most in range(1, len(pieces) + 1):
        tokens, result = generate(pieces, max_tokens=most, thinking=mode)
        thought, answer = reference(text[:most])
        assert len(tokens) == most
        assert result.finish_reason == "length"
        assert result.text == (text[:most] if mode == "raw" else answer)
        assert result.thinking == (thought if mode == "split" else None)
        if most < len(OPEN):
            assert result.usage.thinking_tokens == 0
        else:
            assert result.usage.thinking_tokens == min(most, text.index(CLOSE) + len(CLOSE))


def test_the_usage_is_right_after_every_token() -> None:
    text = "<think>ab</think>cd"
    gate = Gate()
    with scripted(ids(text), chat_template=TEMPLATE, before_step=gate) as made:
        stream = made.model.chat_stream([{"role": "user", "content": "p"}], UNHURRIED)
        gate.wait()
        for count in range(1, len(text) + 1):
            gate.pass_one()
            within(stream.__next__)
            gate.wait()  # the engine stands before the next step, so that the counts stand still
            thought = 0 if count < len(OPEN) else min(count, text.index(CLOSE) + len(CLOSE))
            assert stream.usage == Usage(1, 0, count, thought)
        gate.open()
        assert within(stream.result).usage == Usage(1, 0, len(text) + 1, text.index("c"))


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
def test_a_cancel_at_every_position_leaves_what_was_shown(mode: str) -> None:
    text = "<think>a b</think>\n\nc d"
    for count in range(1, len(text)):
        gate = Gate()
        with scripted(ids(text), chat_template=TEMPLATE, before_step=gate) as made:
            stream = made.model.chat_stream([{"role": "user", "content": "p"}], UNHURRIED, thinking=mode)
            gate.step(count)
            gate.wait()
            stream.cancel()
            gate.open()
            tokens = within(list, stream)
            result = within(stream.result)
        assert result.finish_reason == "cancelled"
        assert len(tokens) == result.usage.completion_tokens >= count
        assert joined(tokens, "text") == result.text
        assert joined(tokens, "thinking") == (result.thinking or "")
        assert reference(text)[1].startswith(result.text) or mode == "raw"


SECRET = "ЖЯЩ"


def test_a_hidden_thought_leaks_nowhere() -> None:
    text = f"<think>{SECRET}</think>ok"
    for pieces, tokens, result in all_at_once(list(byte_splits(text.encode())), thinking="hide", logprobs=3):
        assert not set(SECRET) & set(result.text + str(result)), pieces
        for token in tokens:
            assert not set(SECRET) & set(token.text), pieces
            assert not set(SECRET.encode()) & set(token.bytes), pieces
            assert not any(set(SECRET) & set(part.text) for part in token.parts), pieces
        assert b"".join(token.bytes for token in tokens) == b"ok", pieces
        assert not set(SECRET) & set(repr(result)), pieces


def test_the_partial_of_a_timeout_hides_it_too() -> None:
    gate = Gate()
    with scripted(ids(f"<think>{SECRET}"), chat_template=TEMPLATE, before_step=gate) as made:
        stream = made.model.chat_stream(
            [{"role": "user", "content": "p"}], UNHURRIED, thinking="hide", stall_timeout_ms=1, buffer_size=10
        )
        gate.open()
        with pytest.raises(StreamTimeoutError) as caught:
            within(lambda: (stream.wait_end(), list(stream)))
    assert caught.value.partial is not None
    assert caught.value.partial.usage.completion_tokens == 10
    assert caught.value.partial.usage.thinking_tokens == 10
    assert not set(SECRET) & set(repr(caught.value.partial) + repr(caught.value.args))


def test_the_partial_of_a_timeout_has_the_thought_that_was_shown() -> None:
    with scripted(ids("<think>one two"), chat_template=TEMPLATE) as made:
        stream = made.model.chat_stream(
            [{"role": "user", "content": "p"}], UNHURRIED, stall_timeout_ms=1, buffer_size=10
        )
        with pytest.raises(StreamTimeoutError) as caught:
            within(lambda: (stream.wait_end(), list(stream)))
    assert caught.value.partial is not None
    assert (caught.value.partial.thinking, caught.value.partial.text) == ("one", "")


def test_a_stop_sequence_is_looked_for_in_the_answer_only() -> None:
    _, result = generate([b"<think>", b"a STOP b", b"</think>", b"c", b" ST", b"OP", b"d"], stop_sequences=["STOP"])
    assert (result.thinking, result.text) == ("a STOP b", "c ")
    assert (result.finish_reason, result.stop_sequence) == ("stop_sequence", "STOP")


def test_what_is_held_for_a_stop_arrives_in_the_end() -> None:
    tokens, result = generate([b"<think>", b"a", b"</think>", b"ST"], stop_sequences=["STOP"])
    assert [token.text for token in tokens] == ["", "a", "", "", "ST"]
    assert result.text == "ST"


def test_a_token_that_has_the_whole_thought_counts_as_one() -> None:
    tokens, result = generate([b"<think>a</think>", b"b"])
    assert (result.thinking, result.text) == ("a", "b")
    assert [(token.kind, token.text) for token in tokens] == [("thinking", "a"), ("text", "b"), ("text", "")]
    assert result.usage.thinking_tokens == 1


def test_a_token_with_two_kinds_gives_the_second_with_the_next_token() -> None:
    tokens, _ = generate([b"<think>a", b"b</think>c", b"d"])
    assert [(token.kind, token.text) for token in tokens] == [
        ("thinking", "a"),
        ("thinking", "b"),
        ("text", "cd"),
        ("text", ""),
    ]


def test_the_last_token_carries_the_rest() -> None:
    tokens, result = generate([b"<think>a", b"b</think>c", b"d"], max_tokens=2)
    assert (tokens[-1].kind, tokens[-1].text) == ("thinking", "b")
    assert [(part.kind, part.text) for part in tokens[-1].rest] == [("text", "c")]
    assert [(part.kind, part.text) for part in tokens[-1].parts] == [("thinking", "b"), ("text", "c")]
    assert (result.thinking, result.text) == ("ab", "c")


def test_a_closing_tag_is_no_part_of_an_answer_that_ends_there() -> None:
    _, result = generate([b"<think>", b"a", b"</think>"])
    assert (result.thinking, result.text, result.finish_reason) == ("a", "", "stop")
    assert result.usage.thinking_tokens == 3  # the token that ends the generation is no thought
    assert result.usage.completion_tokens == 4


def test_a_thought_that_the_model_ends_without_closing_it() -> None:
    _, result = generate([b"<think>", b"a"])
    assert (result.thinking, result.text, result.finish_reason) == ("a", "", "stop")
    assert result.usage.thinking_tokens == 2


def test_a_model_that_does_not_think_has_no_thought() -> None:
    _, result = generate([b"<think>a</think>b"], "{{ messages[-1].content }}")
    assert (result.thinking, result.text, result.usage.thinking_tokens) == (None, "<think>a</think>b", 0)


def test_the_tags_can_be_given() -> None:
    _, result = generate([b"(hm)", b"b"], "{{ messages[-1].content }}", thinking_tags=("(", ")"))
    assert (result.thinking, result.text) == ("hm", "b")


def test_what_the_user_writes_opens_no_thought() -> None:
    with scripted(ids("a</think>b"), chat_template=TEMPLATE) as made:
        result = within(made.model.chat, [{"role": "user", "content": "p <think>"}])
    assert (result.thinking, result.text) == (None, "a</think>b")


def test_a_plain_prompt_may_open_the_thought() -> None:
    with scripted(ids("a</think>b"), chat_template=TEMPLATE) as made:
        result = within(made.model.generate, "p <think>\n")
        assert (result.thinking, result.text) == ("a", "b")
        result = within(made.model.generate, ids("p <think>\n"))
        assert (result.thinking, result.text) == ("a", "b")


def test_an_answer_that_is_continued_may_be_a_thought() -> None:
    messages = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "<think>a"}]
    with scripted(ids("b</think>c"), chat_template=TEMPLATE) as made:
        result = within(made.model.chat, messages, continue_final_message=True)
        assert (result.thinking, result.text) == ("b", "c")
        messages[1]["content"] = "<think>a</think>"
        result = within(made.model.chat, messages, continue_final_message=True)
        assert (result.thinking, result.text) == (None, "b</think>c")


# The budget.


@pytest.mark.parametrize("budget", [0, 1, 5])
@pytest.mark.parametrize("template", [TEMPLATE, OPENING_TEMPLATE], ids=["", "opened"])
def test_a_budget_closes_the_thought_after_exactly_so_many_tokens(budget: int, template: str) -> None:
    opener = [] if template is OPENING_TEMPLATE else [bytes([byte]) for byte in OPEN.encode()]
    thought = [b"a"] * budget
    _, result = generate([*opener, *thought, b"then this"], template, thinking_budget=budget)
    assert (result.thinking, result.text, result.finish_reason) == ("a" * budget, "then this", "stop")
    assert result.usage.thinking_tokens == len(opener) + budget + len(CLOSE)  # the closing tag is a token a byte here


@pytest.mark.parametrize("mode", ["hide", "raw"])
def test_a_budget_also_where_the_thought_is_not_kept_apart(mode: str) -> None:
    _, result = generate([b"<think>", b"a", b"b", b"c"], thinking_budget=2, thinking=mode)
    assert result.text == ("<think>ab</think>c" if mode == "raw" else "c")


def test_a_budget_leaves_a_shorter_thought_alone() -> None:
    _, result = generate([b"<think>", b"a", b"</think>", b"c"], thinking_budget=2)
    assert (result.thinking, result.text, result.usage.thinking_tokens) == ("a", "c", 3)


def test_a_budget_lets_a_tag_that_was_begun_be_finished() -> None:
    _, result = generate([b"<think>", b"a", b"</th", b"ink>", b"b"], thinking_budget=2)
    assert (result.thinking, result.text) == ("a", "b")
    _, result = generate([b"<think>", b"a", b"</th", b"x", b"b"], thinking_budget=2)
    assert (result.thinking, result.text) == ("a</thx", "b"), "it was none, so that now the tag is forced"


@pytest.mark.parametrize("thinking", ["split", "hide"])
def test_a_forced_tag_that_is_cut_shows_nothing_of_itself(thinking: str) -> None:
    for most in range(1, 1 + len("<think>ab</think>")):
        _, result = generate(
            [bytes([byte]) for byte in b"<think>abcd"], thinking=thinking, thinking_budget=2, max_tokens=most
        )
        assert "<" not in result.text + (result.thinking or "") or most < len("<think>")


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_together_with_a_schema(budget: int) -> None:
    script = [*ids("<think>"), *ids("a" * budget), *ids('{"x":1}')]
    if budget == 0:
        script = ids('{"x":1}')  # it may not begin one
    with scripted(script, chat_template=TEMPLATE) as made:
        schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
        schema["additionalProperties"] = False
        result = within(
            made.model.chat,
            [{"role": "user", "content": "p"}],
            thinking_budget=budget,
            json_schema=schema,
            max_tokens=99,
        )
    assert result.text == '{"x":1}'
    assert result.parsed == {"x": 1}
    assert result.thinking == ("a" * budget if budget else None)
    assert result.finish_reason == "stop"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thinking", "yes"),
        ("thinking", None),
        ("thinking_budget", -1),
        ("thinking_budget", 1.5),
        ("thinking_tags", "<think>"),
        ("thinking_tags", ("<think>",)),
        ("thinking_tags", ("<think>", " ")),
        ("thinking_tags", ("", "</think>")),
        ("thinking_tags", ("<a>", 1)),
    ],
)
def test_settings_that_cannot_be(name: str, value: object) -> None:
    with scripted() as made, pytest.raises(InvalidRequestError) as caught:
        made.model.generate("p", **{name: value})
    assert caught.value.field == name
