"""Text, tokens and counts agree to the last character, and each token is one."""

from __future__ import annotations

import pytest

from headrace import Model

from .ties import read

COUNTING = "one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two"


@pytest.fixture
def model(empty_model: Model) -> Model:
    """Here texts are compared to the last character."""
    return empty_model


@pytest.mark.parametrize(
    "prompt",
    [
        "The capital of France is",
        "def fibonacci(n):\n    ",
        "日本語 日本語 日本語",
        "🚀🚀🚀🚀🚀🚀",
        "a\n\n\n- b\n\n\n- c",
    ],
)
def test_tokens_text_and_counts_agree(model: Model, prompt: str) -> None:
    tokens, result = read(model.generate_stream(prompt, max_tokens=24))
    ids = [token.id for token in tokens]
    assert "".join(token.text for token in tokens) == "".join(map(str, tokens)) == result.text
    assert model.detokenize(ids) == result.text
    assert b"".join(token.bytes for token in tokens).decode("utf-8", "replace") == result.text
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert [token.timestamp for token in tokens] == sorted(token.timestamp for token in tokens)
    assert not any(token.is_last for token in tokens)
    assert result.usage.completion_tokens == result.tokens_used == len(tokens)
    assert result.usage.prompt_tokens == model.count_tokens(prompt)
    assert result.usage.total_tokens == result.usage.prompt_tokens + len(tokens)
    assert result.model == model.name == "smollm2"


def test_generate_and_its_streams_give_the_same(model: Model) -> None:
    prompt, settings = "Water boils at", {"max_tokens": 12}
    whole = model.generate(prompt, **settings)
    called: list[str] = []
    callback = model.generate_streaming(prompt, 12, lambda token: called.append(token.text))
    stream, result, _ = model.generate_stream_with_metrics(prompt, **settings)
    tokens = list(stream)
    assert "".join(called) == callback.text == whole.text == result().text
    assert "".join(token.text for token in tokens) == whole.text
    assert [token.is_last for token in tokens] == [False] * 12 + [True]
    assert tokens[-1].text == ""
    assert result().tokens_used == 12
    assert result().time_to_first_token_ms > 0
    assert result().latency_ms >= result().time_to_first_token_ms
    assert result().tokens_per_second > 0


def test_a_callback_that_returns_false_stops(model: Model) -> None:
    called: list[str] = []

    def callback(token) -> bool:
        called.append(token.text)
        return len(called) < 5

    result = model.generate_streaming("Counting:", 500, callback, ignore_eos=True)
    assert result.finish_reason == "cancelled"
    assert len(called) == 5
    assert result.text.startswith("".join(called))


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_max_tokens_is_exact(model: Model, max_tokens: int) -> None:
    tokens, result = read(model.generate_stream(COUNTING, max_tokens=max_tokens))
    assert len(tokens) == result.usage.completion_tokens == max_tokens
    assert result.finish_reason == "length"


def test_the_model_ends_by_itself_and_ignore_eos_goes_on(model: Model) -> None:
    messages = [{"role": "user", "content": "Answer with one word: what is the capital of France?"}]
    tokens, ended = read(model.chat_stream(messages, max_tokens=60))
    assert ended.finish_reason == "stop"
    assert tokens[-1].text == ""  # the end of the turn is a token, and has no text
    assert len(tokens) < 60
    on, result = read(model.chat_stream(messages, max_tokens=60, ignore_eos=True))
    assert result.finish_reason == "length"
    assert len(on) == 60
    assert tokens[-1].id not in [token.id for token in on]
    assert result.text.startswith(ended.text)


def test_characters_that_span_tokens_arrive_whole(model: Model) -> None:
    tokens, result = read(
        model.chat_stream([{"role": "user", "content": "Write only these emoji: 🦊🐼🐸🦉"}], max_tokens=40)
    )
    for token in tokens:
        token.text.encode()
    held = [token for token in tokens if token.bytes and not token.text]
    assert held, "no character spanned tokens"
    # Cut off by max_tokens, it may end inside a character; everything before that is whole.
    assert "\ufffd" not in "".join(token.text for token in tokens[:-1])
    assert "🦊" in result.text or "🐼" in result.text or "🐸" in result.text


def test_forced_bytes_make_emoji(model: Model) -> None:
    *lead, last = model.tokenize("🚀")
    assert len(lead) >= 2, "one token per emoji proves nothing"
    # The prompt ends after an emoji; each run forces the next token of another one.
    prompt, text = model.tokenize("🚀🚀"), ""
    for _ in range(2):
        emitted, ids = [], []
        for forced in (*lead, last):
            tokens, result = read(model.generate_stream([*prompt, *ids], max_tokens=1, logit_bias={forced: 1000.0}))
            ids.append(tokens[0].id)
            emitted.append(tokens[0].bytes)
            assert result.usage.completion_tokens == 1
        assert ids == [*lead, last]
        text += b"".join(emitted).decode()
    assert text == "🚀🚀"

    # Only these three tokens: whatever comes in between, a rocket is never torn.
    allowed = dict.fromkeys((*lead, last), 1000.0)
    tokens, result = read(model.generate_stream("🚀🚀🚀🚀🚀🚀", max_tokens=3 * len(allowed), logit_bias=allowed))
    assert {token.id for token in tokens} <= set(allowed)
    assert result.text == b"".join(token.bytes for token in tokens).decode("utf-8", "replace")
    assert "🚀" in result.text


def test_stop_sequences_end_the_text_and_never_show(model: Model) -> None:
    free = model.generate(COUNTING, max_tokens=16).text
    assert " five" in free
    for stop in (" five", "ve", " four five", "x se", "n"):
        tokens, result = read(model.generate_stream(COUNTING, max_tokens=16, stop_sequences=[stop]))
        expected, found, _ = free.partition(stop)
        assert bool(found) == (result.finish_reason == "stop_sequence")
        assert result.stop_sequence == (stop if found else None)
        assert result.text == expected
        assert "".join(token.text for token in tokens) == expected
        assert len(tokens) == result.usage.completion_tokens


def test_of_several_stop_sequences_the_earliest_match_wins(model: Model) -> None:
    free = model.generate(COUNTING, max_tokens=16).text
    stops = (" six", " five", "no such words", " five six")
    result = model.generate(COUNTING, max_tokens=16, stop_sequences=stops)
    assert result.stop_sequence == " five"
    assert result.text == free.partition(" five")[0]


def test_what_only_looked_like_a_stop_sequence_is_not_lost(model: Model) -> None:
    free = model.generate(COUNTING, max_tokens=16)
    result = model.generate(COUNTING, max_tokens=16, stop_sequences=[" five six sevenths", " four fives", "nineteen"])
    assert result.text == free.text
    assert result.finish_reason == "length"
