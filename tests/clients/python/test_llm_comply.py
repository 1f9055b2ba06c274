"""llm-comply checks bodies and streams against OpenAI's and Open Responses' published schemas."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from serving import Server, beside_python

EXPECTED = tomllib.loads(Path(__file__).with_name("llm_comply.toml").read_text())
LUCK = EXPECTED["luck"]


@pytest.mark.parametrize("format", ["openai-chat", "open-responses"])
def test_what_fails_is_what_is_listed(server: Server, format: str) -> None:
    command = [beside_python("llm-comply"), "--base-url", server.api, "--api-key", "unused", "--model", "smollm2"]
    command += ["--format", format, "--timeout", "120", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    results = {result["id"]: result for result in report["results"]}
    errors = {id: [one for one in result.get("errors", []) if one not in LUCK] for id, result in results.items()}
    failed = {id: errors[id] for id, result in results.items() if result["status"] == "failed" and errors[id]}
    assert failed.keys() == EXPECTED[format].keys(), json.dumps(failed, indent=2)
    assert all(any("HTTP 400" in error for error in failed[id]) for id in failed), json.dumps(failed, indent=2)
    warnings = {id: result["warnings"] for id, result in results.items() if "warnings" in result}
    # The only one is that there is no endpoint for compaction; 404 is what the check allows then.
    assert warnings.keys() <= {"compact-response"}, json.dumps(warnings, indent=2)
    assert sum(result["status"] != "skipped" for result in results.values()) >= 8
