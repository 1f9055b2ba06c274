"""The methods of models and contexts: prompts, `generate`, `chat` and the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from harness import Gate, Scripted, echo, echoed, ids, run_async, scripted, within

from headrace import (
    AsyncModel,
    Context,
    GenerationResult,
    InvalidRequestError,
    Message,
    StreamResult,
    Token,
)
from headrace.engine.runner import Sample

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}>"


# Prompts.


BAD_PROMPTS: list[tuple[object, str]] = [
    ("", "white space"),
    (" \n\t", "white space"),
    ("a\0b", "NUL"),
    ("a\ud800b", "surrogate"),
    ([], "at least one token"),
    ([99_999], "token ids"),
    ([-1], "token ids"),
    ([True], "token ids"),
    ([1.5], "token ids"),
    (["a"], "token ids"),
    (None, "token ids"),
    (7, "token ids"),
    (b"bytes", "token ids"),
    ({1: 2}, "token ids"),
]


@pytest.mark.parametrize(("prompt", "allowed"), BAD_PROMPTS)
def test_a_prompt_that_cannot_be_used(prompt: Any, allowed: str) -> None:
    async def main(made: Scripted) -> None:
        with pytest.raises(InvalidRequestError, match=allowed):
            await made.asynchronous.generate(prompt)
        with pytest.raises(InvalidRequestError, match=allowed):
            # What this must not block for, as the vocabulary, it only knows with the first token.
            await anext(made.asynchronous.generate_stream(prompt))

    with scripted("abc") as made:
        for call in (made.model.generate, made.model.generate_stream, made.model.generate_stream_with_metrics):
            with pytest.raises(InvalidRequestError, match=allowed) as caught:
                call(prompt)
            assert caught.value.field.partition("[")[0] == "prompt"
        run_async(main(made))
        assert made.model.metrics.streams_started == 0
        assert made.model.generate("p").text == "abc", "the engine still works"


def test_token_ids_are_prompts() -> None:
    with scripted(echo) as made:
        expected = echoed("hello")
        assert made.model.generate(ids("hello")).text == expected
        assert made.model.generate(tuple(ids("hello"))).text == expected
        assert made.model.generate(np.array(ids("hello"))).text == expected  # type: ignore[arg-type]


def test_tokenize_and_back() -> None:
    with scripted("abc", chat_template=TEMPLATE) as made:
        model = made.model
        assert model.tokenize("hé") == ids("hé")
        assert model.detokenize(ids("hé🙂")) == "hé🙂"
        assert model.detokenize(ids("🙂")[:2]) == "\ufffd"
        assert model.count_tokens("hé") == 3
        messages = [Message("user", "hi")]
        assert model.apply_chat_template(messages) == "<user>hi>"
        assert model.count_tokens(messages) == len("<user>hi>")
        assert model.name == "scripted"
        with pytest.raises(InvalidRequestError):
            model.detokenize([99_999])
        with pytest.raises(InvalidRequestError):
            model.tokenize(7)  # type: ignore[arg-type]


# Calls.


def test_generate_stream_yields_sampled_tokens_only() -> None:
    with scripted("hé") as made:
        tokens = within(list, made.model.generate_stream("p"))
        assert [token.text for token in tokens] == ["h", "", "é", ""]
        assert [token.bytes for token in tokens] == [b"h", b"\xc3", b"\xa9", b""]
        assert [str(token) for token in tokens] == [token.text for token in tokens]
        assert {token.kind for token in tokens} == {"text"}
        assert not any(token.is_last for token in tokens)
        assert all(token.logprob is None and token.top_logprobs is None for token in tokens)


def test_the_stream_with_metrics_ends_with_a_token_that_says_so() -> None:
    async def main(made: Scripted) -> None:
        stream, result, cancel = made.asynchronous.generate_stream_with_metrics("p")
        tokens = [token async for token in stream]
        check(tokens, await result())
        cancel()

    def check(tokens: list[Token], result: GenerationResult) -> None:
        assert [token.is_last for token in tokens] == [False, False, False, False, True]
        assert (tokens[-1].text, tokens[-1].id, tokens[-1].index) == ("", -1, 4)
        assert result.tokens_used == 4
        assert result.text == "abc" == "".join(token.text for token in tokens)

    with scripted("abc") as made:
        pair = made.model.generate_stream_with_metrics("p")
        assert isinstance(pair, StreamResult)
        check(within(list, pair.stream), within(pair.result))
        stream, result, cancel = made.model.generate_stream_with_metrics("p", max_tokens=1)
        cancel()
        assert within(list, stream)[-1].is_last
        assert within(result).finish_reason in ("cancelled", "length")
        run_async(main(made))


def test_its_cancel_cancels_it_alone() -> None:
    gate = Gate()
    with scripted("abcdef", before_step=gate) as made:
        with made.hold():
            mine = made.model.generate_stream_with_metrics("p")
            other = made.model.generate_stream_with_metrics("q")
        gate.wait()
        mine.cancel()
        gate.open()
        assert within(mine.result).finish_reason == "cancelled"
        assert within(other.result).text == "abcdef"


def test_generate_streaming() -> None:
    with scripted("abcdef") as made:
        texts: list[str] = []
        result = made.model.generate_streaming("p", 4, lambda token: texts.append(token.text))
        assert texts == [*"abcd"]
        assert (result.text, result.finish_reason) == ("abcd", "length")
        # Only False stops; what a callback happens to return does not.
        assert made.model.generate_streaming("p", 100, lambda _: 0).text == "abcdef"


def test_generate_streaming_stops_where_the_callback_says_so() -> None:
    texts: list[str] = []

    def until_c(token: Token) -> bool:
        texts.append(token.text)
        return token.text != "c"

    with scripted("abcdef" * 20) as made:
        result = made.model.generate_streaming("p", 1000, until_c, buffer_size=1)
        assert texts == ["a", "b", "c"]
        assert result.finish_reason == "cancelled"
        assert result.text.startswith("abc")
        assert len(result.text) <= 4


def test_an_exception_in_the_callback_comes_out_and_cancels() -> None:
    def fail(token: Token) -> None:
        if token.text == "c":
            raise LookupError("mine")

    with scripted("abcdef" * 20) as made:
        with pytest.raises(LookupError, match="mine"):
            made.model.generate_streaming("p", 1000, fail, buffer_size=1)
        made.settle()
        assert made.engine.metrics().streams_finished == {"cancelled": 1}


def test_generate_streaming_with_tasks() -> None:
    async def main(made: Scripted) -> None:
        texts: list[str] = []

        async def until_c(token: Token) -> bool:
            await asyncio.sleep(0)
            texts.append(token.text)
            return token.text != "c"

        result = await made.asynchronous.generate_streaming("p", 1000, until_c, buffer_size=1)
        assert texts == ["a", "b", "c"]
        assert result.finish_reason == "cancelled"
        texts.clear()
        result = await made.asynchronous.generate_streaming("p", 4, lambda token: texts.append(token.text))
        assert "".join(texts) == result.text == "abcd"

        async def fail(_: Token) -> None:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await made.asynchronous.generate_streaming("p", 1000, fail)

    with scripted("abcdef" * 20) as made:
        run_async(main(made))


def test_chat() -> None:
    async def main(made: Scripted) -> None:
        model = made.asynchronous
        result = await model.chat([Message("user", "hi")])
        assert result.text == echoed("<user>hi>")
        assert "".join([token.text async for token in model.chat_stream([Message("user", "hi")])]) == result.text

    with scripted(echo, chat_template=TEMPLATE) as made:
        model = made.model
        assert model.chat([{"role": "user", "content": "hi"}]).text == echoed("<user>hi>")
        assert model.chat([Message("user", "hi")], system_prompt="be").text == echoed("<system>be<user>hi>")
        assert model.generate("hi", system_prompt="be").text == echoed("<system>be<user>hi>")
        context = Context(model, system_prompt="be")
        assert context.generate("hi").text == context.chat([Message("user", "hi")]).text
        own = [Message("system", "own"), Message("user", "hi")]
        assert context.chat(own).text == echoed("<system>own<user>hi>")
        with pytest.raises(InvalidRequestError, match="system_prompt"):
            model.chat(own, system_prompt="be")
        with pytest.raises(InvalidRequestError, match="system_prompt"):
            model.generate(ids("hi"), system_prompt="be")
        run_async(main(made))


@pytest.mark.parametrize("messages", [[], "hi", [1], [{"role": "user"}], [{"content": "hi"}], None])
def test_messages_that_are_none(messages: Any) -> None:
    with scripted(echo, chat_template=TEMPLATE) as made:
        with pytest.raises(InvalidRequestError):
            made.model.chat(messages)
        assert made.model.metrics.streams_started == 0


def test_a_model_without_a_template_cannot_chat() -> None:
    with scripted(echo) as made, pytest.raises(InvalidRequestError, match="chat template"):
        made.model.chat([Message("user", "hi")])


def test_logprobs_arrive_on_the_tokens() -> None:
    def with_logprobs(*_: object) -> None:
        return None

    with scripted("ab", on_sample=with_logprobs) as made:
        sample = made.runner._sample
        made.runner._sample = lambda part: Sample(  # type: ignore[method-assign]
            sample(part).token, -0.5, ((ids("a")[0], -0.5), (ids("b")[0], -1.5))
        )
        first = within(next, made.model.generate_stream("p", logprobs=2))
        assert first.logprob == -0.5
        assert first.top_logprobs is not None
        assert [(top.id, top.logprob, top.bytes) for top in first.top_logprobs] == [
            (ids("a")[0], -0.5, b"a"),
            (ids("b")[0], -1.5, b"b"),
        ]


def test_finish_reasons() -> None:
    with scripted("abcdef") as made:
        model = made.model
        assert model.generate("p").finish_reason == "stop"
        assert model.generate("p", max_tokens=3).finish_reason == "length"
        stopped = model.generate("p", stop_sequences=["cd", "e"])
        assert (stopped.finish_reason, stopped.stop_sequence, stopped.text) == ("stop_sequence", "cd", "ab")


def test_a_face_of_the_same_engine() -> None:
    async def main(made: Scripted) -> None:
        model = made.asynchronous
        assert isinstance(model, AsyncModel)
        assert (await model.generate("p")).text == model.as_sync().generate("p").text == "abc"
        assert model.metrics.streams_started == 2

    with scripted("abc") as made:
        run_async(main(made))


def test_a_context_has_the_face_of_its_model() -> None:
    async def main(made: Scripted) -> None:
        async with Context(made.asynchronous, max_tokens=2) as context:
            assert (await context.generate("p")).text == "ab"
            assert [token.text async for token in context.generate_stream("p")] == ["a", "b"]

    with scripted("abc") as made:
        run_async(main(made))
        with Context(made.model, max_tokens=2) as context:
            assert context.generate("p").text == "ab"
        with pytest.raises(InvalidRequestError, match="AsyncModel"):
            Context("smollm2")  # type: ignore[call-overload]


def test_contexts_run_at_once() -> None:
    gate = Gate()
    with scripted(echo, before_step=gate) as made:
        with made.hold():
            streams = [Context(made.model).generate_stream(letter) for letter in "abc"]
        assert len(gate.wait()) == 3
        gate.open()
        assert [within(stream.result).text for stream in streams] == [echoed(letter) for letter in "abc"]
