"""Settings: their sources, the order of precedence, and errors for invalid values."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.cli.serve import serve
from headrace.server import Settings
from headrace.server.serving.settings import flag_of, read_settings, split_model, unknown_variables
from headrace.values.errors import InvalidRequestError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("HEADRACE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "headrace.toml"


def test_flags_go_before_variables_before_the_file_before_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("port = 1\nmax_queue = 2\nn_ctx = 3\n")
    monkeypatch.setenv("HEADRACE_PORT", "10")
    monkeypatch.setenv("HEADRACE_MAX_QUEUE", "20")
    settings = read_settings({"port": 100}, config)
    assert (settings.port, settings.max_queue, settings.n_ctx, settings.threads) == (100, 20, 3, None)


def test_all_settings_can_be_given_in_each_way(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("c\n")
    values: dict[str, Any] = {
        "models": ["a", "b=./c.gguf"],
        "host": "::1",
        "port": 81,
        "websocket": True,
        "page": False,
        "api_keys": ["a", "b"],
        "api_key_file": str(keys),
        "cors_origins": ["https://a.example", "http://localhost:3000"],
        "max_streams": 3,
        "max_queue": 0,
        "max_body_mb": 0.5,
        "n_ctx": 4096,
        "kv_type": "q8_0",
        "prefix_cache_mb": 0.5,
        "draft": "small",
        "threads": 7,
        "gpu_layers": -1,
        "speculation": False,
        "timeout_ms": 0.0,
        "stall_timeout_ms": 1.5,
        "shutdown_timeout": 2.5,
        "log_json": True,
        "ping_interval": 3.5,
        "resume_window": 4.5,
        "resume_mb": 5.5,
        "price_prompt": 0.5,
        "price_cached": 0.0,
        "price_completion": 2.5,
        "currency": "EUR",
    }
    assert set(values) == set(Settings.model_fields)
    by_flags = read_settings(values, None)

    def toml(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value)

    config.write_text("".join(f"{name} = {toml(value)}\n" for name, value in values.items()))
    by_file = read_settings({}, config)

    for name, value in values.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", text)
    assert by_flags == by_file == read_settings({}, None) == Settings()
    for name, value in values.items():
        if name not in ("api_keys", "api_key_file"):
            expected = tuple(value) if isinstance(value, list) else value
            assert getattr(by_file, name) == expected, name
    assert by_file.api_keys == ("a", "b", "c")
    assert unknown_variables() == {}


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("port = -1", "port in FILE is -1; allowed: greater than or equal to 0"),
        ("port = 1.5", "port in FILE is 1.5; allowed: a valid integer"),
        ("port = true", "port in FILE is True; allowed: a number"),
        ("host = ''", "host in FILE is ''; allowed: at least 1 character"),
        ("log_json = 'maybe'", "log_json in FILE is 'maybe'; allowed: a valid boolean"),
        ("timeout_ms = inf", "timeout_ms in FILE is inf; allowed: a finite number"),
        ("stall_timeout_ms = 1e30", "stall_timeout_ms in FILE is 1e+30; allowed: less than or equal to"),
        ("max_body_mb = 0", "max_body_mb in FILE is 0; allowed: greater than 0"),
        ("threads = 1000", "threads in FILE is 1000; allowed: less than or equal to 512"),
        ("models = [1]", "models in FILE is [1]; allowed: a list of models"),
        ("models = ['a=']", "models in FILE is ['a=']; allowed: a list of models"),
        ("models = [' ']", "models in FILE is [' ']; allowed: a list of models"),
        ("cors_origins = ['a.example']", "cors_origins in FILE is ['a.example']; allowed: a list of origins"),
        ("cors_origins = ['https://a/']", "cors_origins in FILE is ['https://a/']; allowed: a list of origins"),
        ("prot = 1", "'prot' in FILE is not a setting; did you mean port?; allowed: api_key_file, api_keys, "),
        ("[server]\nport = 1", "'server' in FILE is not a setting; allowed: "),
        ("port = ", "config is FILE; it is not TOML: "),
        ("port = 1\nport = 2", "config is FILE; it is not TOML: "),
    ],
)
def test_errors_in_the_file_name_key_value_and_what_is_allowed(config: Path, toml: str, message: str) -> None:
    config.write_text(toml)
    with pytest.raises(InvalidRequestError) as raised:
        read_settings({}, config)
    assert str(raised.value).startswith(message.replace("FILE", str(config)))


def test_errors_say_where_the_value_came_from(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("port = -1")
    monkeypatch.setenv("HEADRACE_PORT", "many")
    with pytest.raises(InvalidRequestError, match=r"^HEADRACE_PORT is 'many'; allowed: a valid integer"):
        read_settings({}, config)
    with pytest.raises(InvalidRequestError, match=r"^--port is -2; allowed: greater than or equal to 0"):
        read_settings({"port": -2}, config)
    assert read_settings({"port": 1}, config).port == 1


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least of all does an empty list of keys open the server."""
    for name in ("HEADRACE_API_KEYS", "HEADRACE_PORT", "HEADRACE_MODELS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "")
            with pytest.raises(InvalidRequestError, match=f"^{name} is "):
                read_settings({}, None)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="it cannot be read: No such file"):
        read_settings({}, tmp_path / "none")
    with pytest.raises(InvalidRequestError, match="it cannot be read: Is a directory"):
        read_settings({}, tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequestError, match="it is not TOML"):
        read_settings({}, tmp_path / "binary")


def test_keys_come_from_both_places_once_each(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the app\n  first  \n\nsecond\r\n# old\nsecond\n")
    assert Settings(api_key_file=file).api_keys == ("first", "second")
    assert Settings(api_keys=("second", "third"), api_key_file=file).api_keys == ("second", "third", "first")


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"two words\n", "schlüssel\n".encode(), b"\xff\n"])
def test_a_key_file_without_keys_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"^--api-key-file is .*; allowed: ") as raised:
        read_settings({"api_key_file": file}, None)
    assert "words" not in str(raised.value)


@pytest.mark.parametrize("keys", [["secret words"], ["secret\n"], ["secret", ""], ["sécret"], "secret word", [1]])
def test_keys_are_never_shown(keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match=r"^--api-key is wrong, but not shown here; allowed: ") as raised:
        read_settings({"api_keys": keys}, None)
    assert "secret" not in repr(raised.value)
    with pytest.raises(ValidationError) as in_code:
        Settings(api_keys=keys)
    assert "secret" not in str(in_code.value)


def test_the_repr_has_no_keys() -> None:
    settings = Settings(api_keys=("secret",))
    assert "secret" not in f"{settings!r} {settings}"
    assert "port=8080" in repr(settings)


def test_settings_in_code_know_their_names_and_do_not_change() -> None:
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=1)  # pyright: ignore
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("smollm2", (None, "smollm2")),
        ("small=smollm2", ("small", "smollm2")),
        ("org/small-1.5:q4=./a.gguf", ("org/small-1.5:q4", "./a.gguf")),
        ("a=b=c.gguf", ("a", "b=c.gguf")),
        ("./a=b.gguf", (None, "./a=b.gguf")),
        ("/models/a=b.gguf", (None, "/models/a=b.gguf")),
        ("~/a=b.gguf", (None, "~/a=b.gguf")),
        ("x=./a=b.gguf", ("x", "./a=b.gguf")),
    ],
)
def test_names_of_models(text: str, parts: tuple[str | None, str]) -> None:
    assert split_model(text) == parts


def test_flags() -> None:
    assert [flag_of(name) for name in ("models", "api_keys", "cors_origins", "n_ctx")] == [
        "--model",
        "--api-key",
        "--cors-origin",
        "--n-ctx",
    ]


def test_unknown_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_API_KEY", "HEADRACE_SOMETHING_ELSE", "HEADRACE_DEBUG", "HEADRACE_MODELS_DIR"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == {"HEADRACE_API_KEY": "HEADRACE_API_KEYS", "HEADRACE_SOMETHING_ELSE": None}


def test_a_key_in_the_wrong_variable_does_not_leave_the_server_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_API_KEY", "secret")
    with pytest.raises(InvalidRequestError, match="HEADRACE_API_KEYS") as raised:
        read_settings({}, None)
    assert "secret" not in repr(raised.value)


def test_every_option_of_the_command_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def read(values: dict[str, Any], _: Path | None) -> Settings:
        given.update(values)
        raise Enough

    monkeypatch.setattr("headrace.server.serving.settings.read_settings", read)
    options = {name: [name] for name in inspect.signature(serve).parameters if name != "config"}
    with pytest.raises(Enough):
        serve(**options, config=None)  # pyright: ignore[reportArgumentType]
    named = {"model": "models", "api_key": "api_keys", "cors_origin": "cors_origins"}
    assert given.keys() == {named.get(name, name) for name in options}
    assert given["prefix_cache_mb"] == ["prefix_cache_mb"]
    # What is set by variables and files only: what nobody would want to give by hand, each time.
    assert set(Settings.model_fields) - given.keys() == {"ping_interval", "resume_window", "resume_mb"}
