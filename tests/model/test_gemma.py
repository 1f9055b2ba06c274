"""The other model: it comes in chunks, expects a beginning-of-text token, and cannot chat."""

from __future__ import annotations

import pytest

from headrace import InvalidRequestError, Model, StreamConfig

from .ties import assert_greedy, read


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory):
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_CACHE_DIR", str(cache))
        config = StreamConfig(temperature=0, timeout_ms=0)
        with Model.load("gemma3-270m", n_ctx=512, max_streams=4, config=config) as model:
            assert [path.suffix for path in cache.iterdir() if path.stat().st_size > 2**20] == [".gguf"]
            yield model
            model.check_integrity()


def test_it_generates(gemma: Model) -> None:
    prompts = ["1, 2, 3, 4, 5,", "The capital of France is", "🚀🚀🚀🚀"]
    streams = [gemma.generate_stream(prompt, max_tokens=10) for prompt in prompts]
    generated = [read(stream) for stream in streams]
    assert "6, 7" in generated[0][1].text
    for prompt, (tokens, result) in zip(prompts, generated, strict=True):
        assert "".join(token.text for token in tokens) == result.text
        assert_greedy(gemma, gemma.tokenize(prompt), [token.id for token in tokens])
    assert gemma.name == "gemma3-270m"


def test_the_beginning_of_text_is_added_once(gemma: Model) -> None:
    ids = gemma.tokenize("Hello")
    beginning = ids[0]
    assert gemma.detokenize([beginning]) == ""
    assert ids.count(beginning) == 1
    assert gemma.detokenize(ids) == "Hello"
    assert gemma.generate("Hello", max_tokens=1).usage.prompt_tokens == len(ids) == gemma.count_tokens("Hello")
    # Token ids are taken as they are, so nothing is added to those that have it.
    assert gemma.generate(ids, max_tokens=1).usage.prompt_tokens == len(ids)
    # And a user who writes its name gets its name.
    assert gemma.tokenize("<bos>Hello").count(beginning) == 1


def test_the_prefix_cache_with_sliding_windows(gemma: Model) -> None:
    prompt = gemma.tokenize("The quick brown fox jumps over the lazy dog. " * 6)
    first, _ = read(gemma.generate_stream(prompt, max_tokens=8))
    second, warm = read(gemma.generate_stream(prompt, max_tokens=8))
    assert warm.usage.cached_tokens == len(prompt) - 1
    for tokens in (first, second):
        assert_greedy(gemma, prompt, [token.id for token in tokens])


def test_it_cannot_chat_and_says_so(gemma: Model) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for call in (gemma.chat, gemma.chat_stream, gemma.apply_chat_template, gemma.count_tokens):
        with pytest.raises(InvalidRequestError, match="no chat template"):
            call(messages)
    with pytest.raises(InvalidRequestError, match="no chat template"):
        gemma.generate("Hi", system_prompt="Be brief.")
    assert gemma.generate("Hi", max_tokens=1).usage.completion_tokens == 1
