"""A draft model: here the model itself, so that almost all of its guesses are right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace import InvalidRequestError, Model, ModelNotFoundError, StreamConfig
from headrace.engine.speculation.draft_model import DraftModel
from headrace.engine.tuning.cost import CostModel
from headrace.llama.context import LlamaContext
from headrace.llama.model import LlamaModel
from headrace.store import resolve

from .ties import assert_greedy, read


def a_step(_: object, __: int) -> float:
    return 1e-6


def nothing(_: object, __: int) -> float:
    return 0.0


@pytest.fixture(scope="module")
def drafted() -> Iterator[Model]:
    config = StreamConfig(temperature=0, timeout_ms=0, max_tokens=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CostModel, "decode_time", a_step)
        patch.setattr(DraftModel, "seconds", nothing)
        with Model.load("smollm2", draft="smollm2", n_ctx=512, n_threads=1, max_streams=3, config=config) as model:
            yield model
            model.check_integrity()
            check_drafter(model)


def check_drafter(model: Model) -> None:
    engine = model._core.engine
    drafter = engine._runner.drafter
    assert isinstance(drafter, DraftModel)
    engine._call(drafter.check_integrity)


def test_greedy_text_stays(drafted: Model) -> None:
    for text in ("Once upon a time", "The capital of France is"):
        prompt = drafted.tokenize(text)
        tokens, result = read(drafted.generate_stream(prompt))
        assert_greedy(drafted, prompt, [token.id for token in tokens], speculation="off")
        assert result.metrics.accepted_tokens > 20
        check_drafter(drafted)


def test_more_streams_than_it_can_follow(drafted: Model) -> None:
    prompts = [drafted.tokenize(f"{number} little ducks went out one day") for number in range(5)]
    streams = [drafted.generate_stream(prompt) for prompt in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        tokens, _ = read(stream)
        assert_greedy(drafted, prompt, [token.id for token in tokens], speculation="off")
    check_drafter(drafted)


def test_texts_that_do_not_all_fit_do_not_drive_each_other_out() -> None:
    path = resolve("smollm2").path
    with LlamaModel.load(path) as model, LlamaContext(model, n_ctx=512, n_batch=256, n_seq_max=2, n_threads=1) as own:
        drafter = DraftModel.load(path, model, own, n_gpu_layers=0, num_rows=2, n_threads=1)
        try:
            drafter.warm_up()
            long, other = list(range(100, 300)), list(range(400, 800))
            drafter.read("long", long, 1e6)
            assert drafter.behind("long", long) == 1
            for _ in range(3):
                drafter.read("other", other, 1e6)
                assert drafter.behind("other", other) == len(other)
                assert drafter.guess([("other", other)], 2) == [[]]
                assert len(drafter.guess([("long", long)], 2)[0]) == 2
                assert drafter.behind("long", long) == 0
            assert drafter.guess([("long", long)], 400) == [[]]
            drafter.forget("long")
            drafter.read("other", other, 1e6)
            assert len(drafter.guess([("other", other)], 2)[0]) == 2
            drafter.check_integrity()
        finally:
            drafter.close()


def test_models_that_cannot_guess() -> None:
    with pytest.raises(InvalidRequestError, match="49152") as caught:
        Model.load("smollm2", draft="gemma3-270m", n_ctx=256)
    assert caught.value.field == "draft"
    with pytest.raises(ModelNotFoundError):
        Model.load("smollm2", draft="no-such-model", n_ctx=256)
