"""`Context`: one user of a loaded model, with defaults, streams and a session file of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from headrace.api.caller import Caller
from headrace.api.core import Core
from headrace.api.methods import AsyncMethods, Methods, SyncMethods
from headrace.api.model import AsyncModel, Model, core_of
from headrace.values.config import StreamConfig, checked_config
from headrace.values.errors import InvalidRequestError

if TYPE_CHECKING:
    from headrace.api.sessions import Session

__all__ = ["AnyModel", "Context", "caller_of"]


_AnyContext = TypeVar("_AnyContext", "Context", "_AsyncContext")


class Context(SyncMethods):
    """One user of a loaded model, with its own defaults, its own streams, and its own flow in the fair queue.

    Many contexts share one engine, so they generate at the same time. `cancel_generation()` and `close()` end only the
    context's own streams. A context does not own the model. On an `AsyncModel`, a context is async, too: its methods
    are awaited, and its streams are iterated with `async for`.

    Args:
        model: a `Model` or an `AsyncModel`.
        config: the defaults of its streams; None takes the model's.
        defaults: fields of StreamConfig, and `system_prompt`.
    """

    @overload
    def __new__(cls, model: Model, config: StreamConfig | None = None, **defaults: Any) -> Context: ...
    @overload
    def __new__(cls, model: AsyncModel, config: StreamConfig | None = None, **defaults: Any) -> _AsyncContext: ...
    def __new__(
        cls, model: Model | AsyncModel, config: StreamConfig | None = None, **defaults: Any
    ) -> Context | _AsyncContext:
        if isinstance(model, AsyncModel):
            return _AsyncContext(model, config, **defaults)
        return super().__new__(cls)

    _session: Session | None = None

    def __init__(self, model: Model | AsyncModel, config: StreamConfig | None = None, **defaults: Any) -> None:
        super().__init__(*_core_and_caller(model, config, defaults))

    @overload
    @classmethod
    def load(
        cls, model: Model, path: str | os.PathLike[str], config: StreamConfig | None = None, **defaults: Any
    ) -> Context: ...
    @overload
    @classmethod
    def load(
        cls, model: AsyncModel, path: str | os.PathLike[str], config: StreamConfig | None = None, **defaults: Any
    ) -> Awaitable[_AsyncContext]: ...
    @classmethod
    def load(
        cls,
        model: Model | AsyncModel,
        path: str | os.PathLike[str],
        config: StreamConfig | None = None,
        **defaults: Any,
    ) -> Context | Awaitable[_AsyncContext]:
        """Return the context that `save` wrote, with its settings, its system prompt, and the KV of its last stream.

        The KV becomes a cached prefix of the model: a prompt that begins with the tokens of `session`, in any context,
        does not compute them again. With an `AsyncModel`, await the result.

        Args:
            model: the same model as when it was saved, with the same kv_type.
            path: the file.
            config: the defaults of its streams; None takes the saved ones.
            defaults: as for a new context; they override the saved ones.

        Raises:
            InvalidRequestError: the file cannot be read, is damaged, or is from another model or kv_type; a setting
                out of its range.
            EngineClosedError: the model was closed.
        """
        if isinstance(model, AsyncModel):
            return _AsyncContext.load(model, path, config, **defaults)
        return _load_context(cls, model, path, config, defaults)

    @property
    def session(self) -> Session | None:
        """The session file that this context was loaded from; None if it was not loaded."""
        return self._session

    def save(self, path: str | os.PathLike[str]) -> Session:
        """Write the tokens and the KV of this context's most recently ended stream to a session file.

        The file is written as a whole or not at all, and only its owner can read it. Running streams go on meanwhile.

        Args:
            path: the file; an existing one is replaced.

        Raises:
            InvalidRequestError: no stream of this context has ended yet; the file cannot be written.
            EngineClosedError: the model was closed.
        """
        return _save_context(self._caller, path)

    def fork(self) -> Context:
        """Return another context on the same model, with the same settings and the same session."""
        return _forked(self)

    def close(self) -> None:
        """Cancel this context's streams, and start no more. The model stays open."""
        self._caller.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AsyncContext(AsyncMethods):
    """A `Context` on an `AsyncModel`."""

    _session: Session | None = None

    def __init__(self, model: AsyncModel, config: StreamConfig | None = None, **defaults: Any) -> None:
        super().__init__(*_core_and_caller(model, config, defaults))

    @property
    def session(self) -> Session | None:
        """The session file that this context was loaded from; None if it was not loaded."""
        return self._session

    @classmethod
    async def load(
        cls, model: AsyncModel, path: str | os.PathLike[str], config: StreamConfig | None = None, **defaults: Any
    ) -> _AsyncContext:
        """Return the context that `save` wrote; see `Context.load`."""
        return await asyncio.to_thread(_load_context, cls, model, path, config, defaults)

    async def save(self, path: str | os.PathLike[str]) -> Session:
        """Write the tokens and the KV of the most recently ended stream to a session file; see `Context.save`."""
        return await asyncio.to_thread(_save_context, self._caller, path)

    def fork(self) -> _AsyncContext:
        """Return another context on the same model, with the same settings and the same session."""
        return _forked(self)

    async def close(self) -> None:
        """Cancel this context's streams, and start no more. The model stays open."""
        self._caller.close()

    async def __aenter__(self) -> _AsyncContext:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


AnyModel = Model | AsyncModel | Context | _AsyncContext


def caller_of(model: object) -> Caller:
    """Return the `Caller` that starts the streams of a model or a context.

    Raises:
        InvalidRequestError: it is no Model, AsyncModel or Context.
    """
    if not isinstance(model, Methods):
        raise InvalidRequestError("model", model, "a Model, an AsyncModel or a Context")
    return model._caller  # pyright: ignore[reportPrivateUsage]


def _core_and_caller(model: object, config: StreamConfig | None, defaults: dict[str, Any]) -> tuple[Core, Caller]:
    core = core_of(model)
    system_prompt = defaults.pop("system_prompt", None)
    return core, Caller(core, checked_config(config, core.config).replace(**defaults), system_prompt)


def _save_context(caller: Caller, path: str | os.PathLike[str]) -> Session:
    from headrace.api.sessions import save_session

    tokens = caller.last_tokens.tokens
    if not tokens:
        message = "no stream of this context has ended yet, so there is nothing to save"
        raise InvalidRequestError("context", None, "a context on which a stream has ended", message)
    return save_session(caller, path, tokens, None)


def _load_context(
    cls: type[_AnyContext],
    model: Any,
    path: str | os.PathLike[str],
    config: StreamConfig | None,
    defaults: dict[str, Any],
) -> _AnyContext:
    from headrace.api.sessions import load_session, saved_config

    core = core_of(model)
    session, header = load_session(core, path)
    settings = {"system_prompt": header["system_prompt"], **defaults}
    context = cls(model, config or saved_config(core, session, header), **settings)
    context._session = session  # pyright: ignore[reportPrivateUsage]
    context._caller.last_tokens.tokens = session.tokens  # pyright: ignore[reportPrivateUsage]
    return context


def _forked(context: _AnyContext) -> _AnyContext:
    fork = object.__new__(type(context))
    caller = context._caller  # pyright: ignore[reportPrivateUsage]
    Methods.__init__(fork, caller.core, Caller(caller.core, caller.defaults, caller.system_prompt))
    fork._session = context._session  # pyright: ignore[reportPrivateUsage]
    fork._caller.last_tokens.tokens = caller.last_tokens.tokens  # pyright: ignore[reportPrivateUsage]
    return fork
