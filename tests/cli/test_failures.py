"""Bad input and models that cannot be loaded: exit codes and messages."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from cli.commands import assert_error, headrace


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-ctx", "0"], "--n-ctx is 0; allowed: a whole number, at least 1"),
        (["--threads", "0"], "--threads is 0; allowed"),
        (["--gpu-layers", "-2"], "--gpu-layers is -2; allowed"),
        (["--temperature", "-1"], "--temperature is -1.0; allowed"),
        (["--temperature", "nan"], "--temperature is nan; allowed"),
        (["--top-p", "7"], "--top-p is 7.0; allowed: a finite number, 0 to 1"),
        (["--top-k", "-1"], "--top-k is -1; allowed"),
        (["--min-p", "inf"], "--min-p is inf; allowed"),
        (["--max-tokens", "0"], "--max-tokens is 0; allowed"),
        (["--max-tokens", "many"], "--max-tokens"),
        (["--seed", "-1"], "--seed is -1; allowed"),
        (["--stop", ""], "--stop is ('',); allowed"),
        (["--timeout", "-1"], "--timeout is -1.0; allowed"),
        (["--system", " "], "--system is ' '; allowed"),
        (["--system", "Be brief.", "--raw"], "--raw"),
        (["--no-such-flag"], "--no-such-flag"),
        (["another prompt"], "another prompt"),
    ],
)
def test_bad_flags(arguments, message):
    assert_error(headrace("run", "smollm2", "Hello", *arguments), 2, message)


@pytest.mark.parametrize("prompt", [b"", b"\n", b"  \n\t ", b"a\0b", b"a\xffb"])
def test_bad_prompts(prompt):
    assert_error(headrace("run", "smollm2", stdin=prompt), 2, "the prompt is ", "; allowed: ")
    if b"\0" not in prompt:
        assert_error(headrace("run", "smollm2", prompt), 2, "the prompt is ", "; allowed: ")


def test_closed_standard_input_is_an_empty_prompt():
    process = headrace(f"{sys.executable} -m headrace run smollm2 <&-", command=["sh", "-c"])
    assert_error(process, 2, "the prompt is ''; allowed")


def test_a_prompt_longer_than_the_context():
    process = headrace("run", "smollm2", "word " * 400, "--n-ctx", "256", "--threads", "1")
    assert_error(process, 2, "the prompt has 4", "the context holds 256", "--n-ctx")


def test_missing_arguments_and_commands():
    assert_error(headrace("run"), 2, "MODEL")
    assert_error(headrace("runn"), 2, "runn")
    process = headrace()
    assert (process.returncode, process.stdout) == (2, b"")
    assert b"Usage: headrace" in process.stderr


@pytest.fixture
def files(tmp_path, weights):
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_text("Dear diary,\n")
    (tmp_path / "folder.gguf").mkdir()
    with weights.open("rb") as whole:
        (tmp_path / "truncated.gguf").write_bytes(whole.read(3_000_000))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.gguf", "there is no model file"),
        ("folder.gguf", "folder"),
        ("empty.gguf", "is empty"),
        ("text.gguf", "is not a GGUF file"),
        ("truncated.gguf", "cannot be loaded"),
        ("new\nline\x1b[31m.gguf", "new line\\x1b[31m.gguf"),
    ],
)
def test_files_that_are_no_models(files, name, message):
    assert_error(headrace("run", str(files / name), "Hello"), 3, message)


def test_an_unknown_model():
    assert_error(headrace("run", "smolm2", "Hello"), 3, "smolm2", "did you mean smollm2")


def test_errors_in_json():
    process = headrace("run", "no-such-model", "Hello", "--json")
    assert process.returncode == 3
    assert process.stderr.startswith(b"headrace: there is no model named no-such-model")
    [error] = [json.loads(line) for line in process.stdout.splitlines()]
    assert error["type"] == "error"
    assert "no-such-model" in error["message"]


def test_a_model_whose_template_is_missing_or_broken(tmp_path, weights):
    model = tmp_path / "plain.gguf"
    shutil.copy(weights, model)
    with model.open("r+b") as file:
        head = file.read(8_000_000)
        template = head.index(b"{% for message")
        file.seek(template)
        file.write(b"{%")
        file.seek(template + 2)
        file.write(b" fro")
    assert_error(headrace("run", str(model), "Hello", "--threads", "1"), 2, "chat template failed", "--raw")
    with model.open("r+b") as file:
        file.seek(head.index(b"tokenizer.chat_template"))
        file.write(b"tokenizer.CHAT")
    assert_error(headrace("run", str(model), "Hello", "--threads", "1"), 2, "no chat template", "--raw")
    process = headrace("run", str(model), "Hello", "--raw", "-n", "2", "--threads", "1")
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout


def test_an_internal_error_is_one_line_unless_debugged():
    command = [sys.executable, "-c", "import sys; sys.stdin = 7; from headrace.cli import main; main()"]
    assert_error(
        headrace("run", "smollm2", command=command, HEADRACE_DEBUG=""), 1, "AttributeError", "HEADRACE_DEBUG=1"
    )
    assert b"Traceback" in headrace("run", "smollm2", command=command, HEADRACE_DEBUG="1").stderr
