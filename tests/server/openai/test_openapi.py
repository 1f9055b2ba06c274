"""Requests generated from the OpenAPI document, valid and invalid: each gets an answer, none a server error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from headrace.engine.constraint import Constraint
from headrace.engine.scripted import ScriptedRunner
from server.harness import MODEL, serving
from server.live import live


class Obliging(ScriptedRunner):
    """Writes what it was told to, as a model does, where a grammar does not let the script come."""

    def _constrained(self, token: int, constraint: Constraint) -> int:
        row = np.zeros(max(self.pieces) + 1, np.float32)
        constraint.restrict(row)
        allowed = [int(one) for one in np.flatnonzero(row == 0)]
        return next(one for one in (token, *allowed) if one in allowed and not constraint.refuses(one))


@pytest.fixture(scope="module")
def document() -> Iterator[schemathesis.BaseSchema]:
    """The document of a server on a scripted model."""
    with serving("abc", {"max_body_mb": 0.1}, num_cells=512, runner_type=Obliging) as server, live(server.app) as port:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


# The plugin for pytest does not know this version of it, so the operations are named here.
OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/models/{id}", "GET"),
    ("/v1/streams/{id}", "GET"),
    ("/v1/streams/{id}", "DELETE"),
]
NEEDED = ("model", "messages", "prompt", "input")
PLAIN = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"prompt": "a"},
    "/v1/responses": {"input": "a"},
}
WITHOUT_INPUT = [
    ("/v1/models", "GET"),
    ("/health", "GET"),
    ("/ready", "GET"),
    ("/metrics", "GET"),
]


def test_all_operations_are_tried(document: schemathesis.BaseSchema) -> None:
    found = {(one.ok().path, one.ok().method.upper()) for one in document.get_all_operations()}
    assert found == {*OPERATIONS, *WITHOUT_INPUT}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_makes_the_server_fail(
    document: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode
) -> None:
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = MODEL  # any other is refused before the rest is looked at
        case.call_and_validate(checks=[not_a_server_error])
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # Few of the settings go together with all others, as a schema does not say. What must be there does.
            case.body = {name: value for name, value in case.body.items() if name in NEEDED}
            case.call_and_validate(checks=[not_a_server_error])

    check()


@pytest.mark.parametrize(("path", "body"), PLAIN.items())
def test_a_plain_request_is_served(document: schemathesis.BaseSchema, path: str, body: dict[str, object]) -> None:
    assert document[path]["POST"].Case(body={"model": MODEL, **body}).call().status_code == 200


@pytest.mark.parametrize(("path", "method"), WITHOUT_INPUT)
def test_what_takes_no_input_answers(document: schemathesis.BaseSchema, path: str, method: str) -> None:
    assert document[path][method].Case().call().status_code == 200
