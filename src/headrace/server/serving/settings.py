"""`Settings` of the server, from flags, `HEADRACE_*` variables and a TOML file, in this order of precedence."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from headrace.llama.kv_types import KVType
from headrace.values.errors import InvalidRequestError, shortened
from headrace.values.pricing import Pricing

__all__ = ["Settings", "flag_of", "read_settings", "split_model", "unknown_variables"]

_PREFIX = "HEADRACE_"
# Variables with this prefix that belong to other parts of headrace.
_OTHER_VARIABLES = ("CACHE_DIR", "CONFIG", "DEBUG", "MODELS_DIR")
# Flags that may be repeated have names in the singular.
_SINGULAR_FLAGS = {"api_keys": "api-key", "cors_origins": "cors-origin", "models": "model"}
_SECRET_SETTINGS = ("api_keys",)
_MAX_SECONDS = 100_000_000  # the longest deadline of a stream

# How pydantic's messages begin; removed from our own messages.
_PYDANTIC_PREFIX = re.compile(r"^(Input|String) should (be|have) ")
_NAME = re.compile(r"[^\s=,./~][^\s=,]{0,511}")
_KEY = re.compile(r"[!-~]+")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#,A-Z]+")


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number")
    return value


def _list_of(pattern: re.Pattern[str], allowed: str) -> BeforeValidator:
    """Returns a validator of each string in a list. A string with commas is split: a variable can only be a string."""

    def check(value: object) -> list[str]:
        given = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        parts = list(cast("Iterable[object]", given)) if isinstance(given, (list, tuple)) else [given]
        strings = [part for part in parts if isinstance(part, str) and pattern.fullmatch(part)]
        if len(strings) < len(parts):
            raise PydanticCustomError("list", "{allowed}", {"allowed": allowed})
        return strings

    return BeforeValidator(check)


def split_model(text: str) -> tuple[str | None, str]:
    """Returns the name and the reference in `name=ref`; None as the name of a reference alone.

    Text that starts with a dot, a slash or a tilde is a path, even if it has an equals sign.
    """
    name, equals, ref = text.partition("=")
    return (name, ref) if equals and _NAME.fullmatch(name) else (None, text)


_Integer = Annotated[int, BeforeValidator(_refuse_bool)]
_Number = Annotated[float, BeforeValidator(_refuse_bool)]
_Models = _list_of(re.compile(r"\s*\S[^\0]*(?<!=)"), "a list of models, each as a name, a path, or name=ref")
_Keys = _list_of(_KEY, "a list of keys, each of printable ASCII characters without spaces")
_Origins = _list_of(_ORIGIN, 'a list of origins in lower case, such as "https://chat.example.org", no paths; or "*"')


class Settings(BaseSettings):
    """The server's settings.

    Settings that are not given as arguments come from the `HEADRACE_*` variables, then from the defaults. In a
    variable, the values of a list are separated by commas.

    Args:
        models: the models that `headrace serve` loads, each as a reference or as `name=ref`.
        host: the address to listen on.
        port: the port to listen on; 0 for any free port.
        websocket: whether to serve a WebSocket at `/ws`.
        page: whether to serve the chat page at `/`, and the client for browsers at `/headrace.js`.
        api_keys: the API keys. Without any, the server is open to everybody.
        api_key_file: a file with more keys, one a line; empty lines and lines that begin with # are ignored.
        cors_origins: the origins whose pages may use the server from a browser.
        max_streams: the most streams that decode together, for each model.
        max_queue: the most streams that may wait, for each model.
        max_body_mb: the limit of a request's body, in millions of bytes.
        n_ctx: tokens of context of each model; None takes what the model was trained with, as far as memory allows.
        kv_type: precision of the KV cache.
        prefix_cache_mb: main memory for the offloaded KV of cached prefixes, for each model, in millions of bytes; 0
            for none.
        draft: a draft model for every model: a smaller one with the same vocabulary, which guesses tokens; None for
            none.
        threads: the most threads that compute; None takes one per available core.
        gpu_layers: layers to put on a GPU; -1 for all.
        speculation: whether tokens may be guessed from earlier text, for requests that do not say; None guesses if the
            request has no seed.
        timeout_ms: milliseconds that a stream may take, without pauses for its reader; 0 for no limit.
        stall_timeout_ms: milliseconds after which a client that takes no data is cut off; 0 for no limit.
        shutdown_timeout: seconds that running streams have to end when the server is told to stop.
        log_json: whether log lines are JSON objects.
        ping_interval: seconds without an event after which a stream sends a keep-alive comment.
        resume_window: seconds for which a resumable stream can be resumed after its end.
        resume_mb: the size of the event logs of all resumable streams, in millions of bytes.
        price_prompt: price of a million prompt tokens. If any price is given, answers have a cost.
        price_cached: price of a million cached prompt tokens; None for `price_prompt`.
        price_completion: price of a million completion tokens, thinking included.
        currency: currency of these prices; None for USD.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    models: Annotated[tuple[str, ...], NoDecode, _Models] = ()
    host: str = Field(default="127.0.0.1", min_length=1)
    port: _Integer = Field(default=8080, ge=0, le=65535)
    websocket: bool = False
    page: bool = True
    api_keys: Annotated[tuple[str, ...], NoDecode, _Keys] = Field(default=(), repr=False)
    api_key_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode, _Origins] = ()
    max_streams: _Integer = Field(default=16, ge=1, le=128)
    max_queue: _Integer = Field(default=64, ge=0)
    max_body_mb: _Number = Field(default=4, gt=0)
    n_ctx: _Integer | None = Field(default=None, ge=1)
    kv_type: KVType = "f16"
    prefix_cache_mb: _Number = Field(default=256, ge=0)
    draft: str | None = Field(default=None, min_length=1)
    threads: _Integer | None = Field(default=None, ge=1, le=512)
    gpu_layers: _Integer = Field(default=0, ge=-1)
    speculation: bool | None = None
    timeout_ms: _Number = Field(default=600_000, ge=0, le=_MAX_SECONDS * 1000)
    stall_timeout_ms: _Number = Field(default=60_000, ge=0, le=_MAX_SECONDS * 1000)
    shutdown_timeout: _Number = Field(default=30, ge=0, le=_MAX_SECONDS)
    log_json: bool = False
    ping_interval: _Number = Field(default=15, gt=0, le=_MAX_SECONDS)
    resume_window: _Number = Field(default=300, ge=0, le=_MAX_SECONDS)
    resume_mb: _Number = Field(default=64, gt=0)
    price_prompt: _Number | None = Field(default=None, ge=0)
    price_cached: _Number | None = Field(default=None, ge=0)
    price_completion: _Number | None = Field(default=None, ge=0)
    currency: str | None = Field(default=None, pattern=r"\S")

    @property
    def pricing(self) -> Pricing | None:
        """The prices; None if none are given, so that the models' own prices apply."""
        if (self.price_prompt, self.price_cached, self.price_completion, self.currency) == (None,) * 4:
            return None
        prompt, completion = self.price_prompt or 0.0, self.price_completion or 0.0
        return Pricing(prompt, self.price_cached, completion, self.currency or "USD")

    @model_validator(mode="after")
    def _read_key_file(self) -> Self:
        if self.api_key_file is not None:
            keys = (*self.api_keys, *_keys_in(self.api_key_file))
            object.__setattr__(self, "api_keys", tuple(dict.fromkeys(keys)))
        return self


def read_settings(flags: Mapping[str, Any], config: Path | None) -> Settings:
    """Returns the settings of a command: from its flags, then the variables, then a file, then the defaults.

    Args:
        flags: the settings given on the command line.
        config: a TOML file.

    Raises:
        InvalidRequestError: a value is not allowed, a key is unknown, or a file cannot be read. The error names the
            flag, the variable or the file.
    """
    if "HEADRACE_API_KEY" in os.environ:
        # A warning is not enough: the server would be open, although its operator meant to set a key.
        message = "the variable HEADRACE_API_KEY is unknown; allowed: HEADRACE_API_KEYS"
        raise InvalidRequestError("HEADRACE_API_KEY", None, "HEADRACE_API_KEYS", message)
    file = {} if config is None else _read_toml(config)
    for key in file:
        if key not in Settings.model_fields:
            raise _unknown_key(key, config)
    variables = EnvSettingsSource(Settings)()
    values = {**file, **variables, **flags}
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "api_key_file"
    source = f"{name} in {config}"
    if name in variables:
        source = _PREFIX + name.upper()
    if name in flags:
        source = flag_of(name)
    value = None if name in _SECRET_SETTINGS else values.get(name)
    given = "is wrong, but not shown here" if name in _SECRET_SETTINGS else f"is {shortened(value)}"
    allowed = _PYDANTIC_PREFIX.sub("", first["msg"])
    raise InvalidRequestError(source, value, allowed, f"{source} {given}; allowed: {allowed}")


def flag_of(name: str) -> str:
    """Returns the flag of a setting."""
    return f"--{_SINGULAR_FLAGS.get(name) or name.replace('_', '-')}"


def unknown_variables() -> dict[str, str | None]:
    """Returns the unknown `HEADRACE_*` variables that are set, each with a similar known one, or None."""
    known = [*(name.upper() for name in Settings.model_fields), *_OTHER_VARIABLES]
    found: dict[str, str | None] = {}
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            found[variable] = _PREFIX + close[0] if close else None
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    except ValueError as error:  # not TOML, or not UTF-8
        reason = f"it is not TOML: {error}"
    allowed = "a TOML file of settings"
    raise InvalidRequestError("config", str(path), allowed, f"config is {path}; {reason}; allowed: {allowed}")


def _unknown_key(key: str, config: Path | None) -> InvalidRequestError:
    known = sorted(Settings.model_fields)
    close = difflib.get_close_matches(key, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    message = f"{shortened(key)} in {config} is not a setting{meant}; allowed: {', '.join(known)}"
    return InvalidRequestError(key, key, ", ".join(known), message)


def _keys_in(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise PydanticCustomError("file", "a file that can be read; {reason}", {"reason": error.strerror}) from None
    except UnicodeDecodeError:
        raise PydanticCustomError("file", "a text file") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or not all(_KEY.fullmatch(key) for key in keys):
        allowed = "a file with a key on each line, at least one, of printable ASCII characters without spaces"
        raise PydanticCustomError("file", "{allowed}", {"allowed": allowed})
    return keys
