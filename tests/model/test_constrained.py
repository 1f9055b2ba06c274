"""A real model kept to thoughts, schemas and tool calls: every output fits, and nobody else notices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import pytest
from harness import PATIENCE as A_WHILE
from pydantic import BaseModel

from headrace import GenerationResult, Model, StreamTimeoutError, Token

from .conftest import GREEDY
from .ties import NEAR, assert_greedy, read

PATIENCE = 10 * A_WHILE  # many tokens, on a machine that may have other things to do
SEEDS = range(20)
HOT = 1.5
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "bad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "Describe Bob, a 42 year old builder, as JSON."}]
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Paris, and in Rome?"}]
THOUGHT = r"<think>\n[a-z ]{5,20}\n</think>\n\nHello [a-z]{1,8}\."
TAGS = ("<think>", "</think>")


def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather in a city."""
    return f"{city}: 20 {unit}"


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


TOOLS = [get_weather, add]


# In place of the ones of conftest.py: one thread each, since masks are not made in the model's threads.


@pytest.fixture(scope="module")
def loaded_model() -> Iterator[Model]:
    with Model.load("smollm2", n_ctx=4096, n_threads=1, config=GREEDY) as model:
        yield model


@pytest.fixture(scope="module")
def loaded_small_model() -> Iterator[Model]:
    with Model.load("smollm2", n_ctx=256, n_threads=1, max_streams=8, config=GREEDY) as model:
        yield model


def schema_of(name: str) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "get_weather": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "add": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    }
    properties = kinds[name]
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def check(tokens: list[Token], result: GenerationResult) -> None:
    """What every stream keeps."""
    parts = [part for token in tokens for part in token.parts]
    assert [token.index for token in tokens] == list(range(result.usage.completion_tokens))
    assert "".join(part.text for part in parts if part.kind == "text") == result.text
    assert "".join(part.text for part in parts if part.kind == "thinking") == (result.thinking or "")
    arguments = [""] * len(result.tool_calls)
    for part in parts:
        if part.tool_call is not None:
            arguments[part.tool_call.index] += part.tool_call.arguments
    assert arguments == [call.arguments for call in result.tool_calls]


def check_calls(result: GenerationResult) -> None:
    """All calls are of known tools, and fit; only where the tokens ran out, the last is cut."""
    for call in result.tool_calls:
        if call.is_complete:
            jsonschema.validate(json.loads(call.arguments), schema_of(call.name))
    if result.finish_reason == "tool_calls":
        assert all(call.is_complete for call in result.tool_calls)
    else:
        assert result.finish_reason == "length"
        assert all(call.is_complete for call in result.tool_calls[:-1])


def test_output_fits_the_schema_whatever_is_sampled(model: Model) -> None:
    streams = [
        model.chat_stream(ASK, json_schema=PERSON, seed=seed, temperature=HOT, top_k=0, top_p=1.0, max_tokens=200)
        for seed in SEEDS
    ]
    results = [stream.result(PATIENCE) for stream in streams]
    for result in results:
        assert result.finish_reason == "stop"
        assert result.parsed == json.loads(result.text)
        jsonschema.validate(result.parsed, PERSON)
        assert result.text.endswith("}")
    assert len({result.text for result in results}) > 10, "they are all the same"


def test_calls_fit_their_tools_whatever_is_sampled(model: Model) -> None:
    settings: dict[str, Any] = {"temperature": HOT, "max_tokens": 70, "tools": TOOLS, "tool_choice": "required"}
    streams = [model.chat_stream(ASK_WEATHER, seed=seed, **settings) for seed in SEEDS]
    for stream in streams:
        result = stream.result(PATIENCE)
        check(list(stream), result)
        assert not result.text
        assert result.tool_calls
        check_calls(result)
    assert any(stream.result().finish_reason == "tool_calls" for stream in streams)
    assert any(len(stream.result().tool_calls) > 1 for stream in streams)


def test_a_named_tool_is_called_once_and_no_other(model: Model) -> None:
    for seed in range(3):
        result = model.chat(ASK_WEATHER, tools=TOOLS, tool_choice="add", seed=seed, temperature=HOT, max_tokens=100)
        assert [call.name for call in result.tool_calls] == ["add"]
        assert result.finish_reason == "tool_calls"
        check_calls(result)


def test_without_parallel_calls_there_is_one(model: Model) -> None:
    streams = [
        model.chat_stream(
            ASK_WEATHER,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            seed=seed,
            temperature=HOT,
            max_tokens=100,
            ignore_eos=bool(seed % 2),
        )
        for seed in range(4)
    ]
    for stream in streams:
        result = stream.result(PATIENCE)
        assert len(result.tool_calls) == 1
        assert result.finish_reason == "tool_calls"
        check_calls(result)


def test_a_model_that_has_seen_calls_calls_by_itself(model: Model) -> None:
    messages: list[dict[str, Any]] = []
    for city in ("Rome", "Paris", "Madrid"):
        arguments = json.dumps({"city": city, "unit": "C"})
        call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            {"role": "assistant", "content": f"The weather in {city} is sunny."},
        ]
    messages.append({"role": "user", "content": "What is the weather in Berlin?"})
    tokens, result = read(model.chat_stream(messages, tools=TOOLS, max_tokens=80))
    check(tokens, result)
    assert result.finish_reason == "tool_calls"
    assert result.tool_calls[0].name == "get_weather"
    check_calls(result)
    assert json.loads(result.tool_calls[0].arguments)["city"] == "Berlin"


@pytest.mark.parametrize("mode", ["split", "hide", "raw"])
def test_a_thought_and_an_answer(model: Model, mode: str) -> None:
    tokens, result = read(
        model.chat_stream(ASK, regex=THOUGHT, thinking_tags=TAGS, thinking=mode, seed=7, temperature=HOT, max_tokens=99)
    )
    check(tokens, result)
    whole = model.detokenize([token.id for token in tokens])
    found = re.fullmatch(r"<think>\n([a-z ]{5,20})\n</think>\n\n(Hello [a-z]{1,8}\.)", whole)
    assert found is not None
    assert result.finish_reason == "stop"
    assert result.text == (whole if mode == "raw" else found[2])
    assert result.thinking == (found[1].strip() if mode == "split" else None)
    counted = [len(model.detokenize([token.id for token in tokens[:count]])) for count in range(1, len(tokens) + 1)]
    end = whole.index(TAGS[1]) + len(TAGS[1])
    assert result.usage.thinking_tokens == next(at for at, length in enumerate(counted, 1) if length >= end)
    if mode == "hide":
        assert b"".join(token.bytes for token in tokens).decode().lstrip() == found[2]


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_thought_is_closed_where_its_budget_ends(model: Model, budget: int) -> None:
    prompt = "Think first. <think>\n"
    tokens, result = read(
        model.generate_stream(prompt, thinking_tags=TAGS, thinking_budget=budget, max_tokens=30, ignore_eos=True)
    )
    check(tokens, result)
    closing = len(model.tokenize(TAGS[1]))
    assert result.usage.thinking_tokens == budget + closing
    assert result.thinking == model.detokenize([token.id for token in tokens[:budget]]).strip()
    assert TAGS[1] not in result.text


@pytest.mark.parametrize("budget", [0, 1, 5, None])
def test_a_schema_behind_a_thought(model: Model, budget: int | None) -> None:
    # Where nothing closes it, the model's own full stop does.
    result = model.generate(
        "Some JSON about Bob. <think>",
        json_schema=PERSON,
        thinking_tags=("<think>", "</think>" if budget is not None else "."),
        thinking_budget=budget,
        max_tokens=250,
    )
    assert result.thinking is not None
    assert result.finish_reason == "stop"
    assert result.text[0] == "{"
    jsonschema.validate(result.parsed, PERSON)
    if budget is not None:
        assert result.usage.thinking_tokens == budget + len(model.tokenize("</think>"))


def test_a_required_call_behind_a_thought(model: Model) -> None:
    for seed in range(3):
        tokens, result = read(
            model.chat_stream(
                ASK_WEATHER,
                tools=[add],
                tool_choice="required",
                parallel_tool_calls=False,
                thinking_tags=TAGS,
                thinking_budget=4,
                seed=seed,
                temperature=HOT,
                max_tokens=100,
            )
        )
        check(tokens, result)
        assert result.finish_reason == "tool_calls"
        check_calls(result)
        # Both begin with "<" here; which one it is is the model's choice.
        most = len(model.tokenize(TAGS[0])) + 4 + len(model.tokenize(TAGS[1]))
        assert result.usage.thinking_tokens <= most
        assert (result.thinking is None) == (result.usage.thinking_tokens == 0)


class Person(BaseModel):
    name: str
    age: int


def test_a_type_gives_an_instance(model: Model) -> None:
    result = model.chat(ASK, json_schema=Person, max_tokens=60)
    assert isinstance(result.parsed, Person)


def test_it_ends_with_the_grammar_also_where_no_end_may_be_sampled(model: Model) -> None:
    free = model.chat(ASK, json_schema=PERSON, max_tokens=200)
    forced = model.chat(ASK, json_schema=PERSON, max_tokens=200, ignore_eos=True)
    for result in (free, forced):
        assert result.finish_reason == "stop"
        assert result.text.endswith("}")
    assert free.usage.completion_tokens == forced.usage.completion_tokens


def test_what_is_cut_by_max_tokens_has_no_object(model: Model) -> None:
    result = model.chat(ASK, json_schema=PERSON, max_tokens=5)
    assert (result.finish_reason, result.parsed) == ("length", None)


def test_the_same_seed_gives_the_same_and_another_one_another(model: Model) -> None:
    settings: dict[str, Any] = {"json_schema": PERSON, "temperature": HOT, "max_tokens": 200}

    def ids(seed: int) -> list[int]:
        return [token.id for token in model.chat_stream(ASK, seed=seed, **settings)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


@pytest.mark.parametrize(
    "settings",
    [
        {"repeat_penalty": 5.0},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"temperature": HOT, "min_p": 0.3, "seed": 1},
        {"temperature": 3.0, "top_k": 1},
    ],
    ids=str,
)
def test_other_settings_choose_only_among_what_may_come(model: Model, settings: dict[str, Any]) -> None:
    result = model.chat(ASK, json_schema=PERSON, max_tokens=250, **settings)
    assert result.finish_reason == "stop"
    jsonschema.validate(result.parsed, PERSON)


def test_a_bias_chooses_only_among_what_may_come(model: Model) -> None:
    (good,), (bad,) = model.tokenize("good"), model.tokenize("bad")
    (brace,) = model.tokenize("{")
    for wanted, other in ((good, bad), (bad, good)):
        result = model.chat(ASK, regex="good|bad", logit_bias={wanted: 50, other: -50, brace: 100})
        assert result.text == model.detokenize([wanted])
    # What must come comes, however unwanted it is.
    result = model.chat(ASK, regex="good", logit_bias=dict.fromkeys(range(2000), -1e30))
    assert result.text == "good"


def test_log_probabilities_are_the_models_own_also_where_it_had_no_choice(model: Model) -> None:
    settings: dict[str, Any] = {"logprobs": 20, "max_tokens": 1}
    ((free,), _) = read(model.chat_stream(ASK, **settings))
    ((constrained,), _) = read(model.chat_stream(ASK, regex="Q+", **settings))
    assert free.top_logprobs is not None
    assert constrained.top_logprobs is not None
    assert constrained.text[0] == "Q"
    own = {top.id: top.logprob for top in free.top_logprobs}
    for top in constrained.top_logprobs[:10]:
        assert abs(own[top.id] - top.logprob) < NEAR
    assert constrained.logprob is not None
    assert constrained.logprob < constrained.top_logprobs[-1].logprob, "as if it had been likely"


def test_constrained_streams_leave_their_neighbours_alone(model: Model) -> None:
    prompts = [f"A short text about the number {number}:" for number in range(8)]
    free = [model.generate_stream(prompt, max_tokens=20) for prompt in prompts]
    constrained = [
        model.chat_stream(ASK, json_schema=PERSON, seed=seed, temperature=HOT, max_tokens=200) for seed in range(8)
    ]
    for stream in constrained:
        jsonschema.validate(stream.result(PATIENCE).parsed, PERSON)
    generated = [[token.id for token in stream] for stream in free]
    for prompt, ids in zip(prompts, generated, strict=True):
        assert_greedy(model, model.tokenize(prompt), ids)


def test_constrained_streams_that_outgrow_the_memory_go_on_where_they_were(small_model: Model) -> None:
    before = small_model.metrics.preemptions
    words = "(one|two|three|four)"
    streams = [
        small_model.generate_stream(
            f"{number}. Count at random:",
            regex=f"( {words}){{32}}",
            seed=number,
            temperature=HOT,
            max_tokens=160,
            buffer_size=160,
        )
        for number in range(8)
    ]
    for stream in streams:
        result = stream.result(PATIENCE)
        check(list(stream), result)
        assert result.finish_reason == "stop"
        assert re.fullmatch(f"( {words}){{32}}", result.text)
    assert small_model.metrics.preemptions > before


def test_calls_go_on_after_a_preemption(small_model: Model) -> None:
    before = small_model.metrics.preemptions
    prompts = [f"{number} and one more. <tool_call>"[: 10 + number] for number in range(8)]
    streams = [
        small_model.chat_stream(
            [{"role": "user", "content": prompt}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": schema_of("add")}}],
            tool_choice="f",
            seed=number,
            temperature=HOT,
            max_tokens=80,
            buffer_size=100,
        )
        for number, prompt in enumerate(prompts)
    ]
    for stream in streams:
        result = stream.result(PATIENCE)
        check(list(stream), result)
        if result.finish_reason == "tool_calls":
            jsonschema.validate(json.loads(result.tool_calls[0].arguments), schema_of("add"))
        else:
            assert result.finish_reason == "length"
    assert small_model.metrics.preemptions > before


def test_a_cancelled_constrained_stream_keeps_what_was_shown(model: Model) -> None:
    stream = model.chat_stream(ASK, json_schema=PERSON, max_tokens=200, buffer_size=4)
    tokens = [next(stream) for _ in range(3)]
    stream.cancel()
    tokens += list(stream)
    result = stream.result(PATIENCE)
    check(tokens, result)
    assert (result.finish_reason, result.parsed) == ("cancelled", None)
    assert result.text.startswith("{")


def test_the_partial_of_a_constrained_stream_that_stalls(model: Model) -> None:
    stream = model.chat_stream(
        ASK_WEATHER, tools=TOOLS, tool_choice="add", max_tokens=200, buffer_size=20, stall_timeout_ms=1
    )
    assert stream.wait_end(PATIENCE)
    tokens = stream.read()
    with pytest.raises(StreamTimeoutError) as caught:
        stream.read()
    assert caught.value.partial is not None
    check(tokens, caught.value.partial)
    assert caught.value.partial.tool_calls[0].name == "add"
    assert not caught.value.partial.tool_calls[0].is_complete


def test_several_choices_share_the_prompt_and_the_grammar(model: Model) -> None:
    model._core.engine.clear_cache()
    caller = model._caller
    job = caller.chat_job(ASK, None, {"json_schema": PERSON, "temperature": HOT, "seed": 5, "max_tokens": 200})
    streams = [caller.start(choice) for choice in job.times(3)]
    results = [stream.result(PATIENCE) for stream in streams]
    for result in results:
        jsonschema.validate(result.parsed, PERSON)
    assert len({result.text for result in results}) == 3
    prompt_tokens = results[0].usage.prompt_tokens
    first, *others = [result.usage.cached_tokens for result in results]
    assert first == 0
    # Whoever came while the prompt was read took what there was, and read a short rest itself.
    assert all(prompt_tokens - 16 <= cached <= prompt_tokens - 1 for cached in others)
