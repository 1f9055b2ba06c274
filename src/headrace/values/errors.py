"""The errors that headrace raises, in one tree, and `shortened`, which shows a value in an error's message.

HeadraceError
├── ModelNotFoundError        no such file or name
├── ModelLoadError            not a GGUF, truncated, unsupported, out of memory
├── InvalidRequestError       (also a ValueError) a setting, prompt or message that cannot be used
│   └── ContextOverflowError  the prompt is longer than the context
├── QueueFullError            too many streams are waiting already
├── EngineClosedError         the engine was closed, or its thread died, before this call
└── GenerationError           the engine failed this stream
    └── StreamTimeoutError    one of the stream's deadlines passed
"""

from __future__ import annotations

import contextlib
import pickle
import reprlib
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from headrace.values.results import GenerationResult

__all__ = [
    "ContextOverflowError",
    "EngineClosedError",
    "GenerationError",
    "HeadraceError",
    "InvalidRequestError",
    "ModelLoadError",
    "ModelNotFoundError",
    "QueueFullError",
    "StreamTimeoutError",
    "shortened",
]

_Error = TypeVar("_Error", bound="HeadraceError")
_LARGER_CONTEXT = "load the model with a larger n_ctx if it was trained for one"


class HeadraceError(Exception):
    """The root of the tree: catch it to catch every error of headrace itself.

    Errors can be copied and pickled with their attributes, and so raised in another process. An attribute that cannot
    be pickled, such as a function that was given for a prompt, is replaced by its repr.
    """

    def __copy__(self) -> Self:
        copy = _without_attributes(type(self), self.args)
        copy.__dict__.update(self.__dict__)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, pickle would call the class with the message alone, which most of the classes do not take.
        state = {name: value if _can_pickle(value) else shortened(value) for name, value in self.__dict__.items()}
        return _without_attributes, (type(self), self.args), state


class ModelNotFoundError(HeadraceError):
    """The model reference names no file and no known model; the message says what was tried."""


class ModelLoadError(HeadraceError):
    """The file was found, but no model could be loaded from it."""


class InvalidRequestError(HeadraceError, ValueError):
    """A setting, prompt or message cannot be used.

    Attributes:
        field: the setting or argument that is wrong.
        value: the value that was given.
        allowed: the allowed values, in words.
    """

    def __init__(self, field: str, value: object, allowed: str, message: str | None = None) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(message or f"{field} is {shortened(value)}; allowed: {allowed}")


class ContextOverflowError(InvalidRequestError):
    """The prompt does not fit the context; raised before anything runs.

    Attributes:
        prompt_tokens: length of the prompt, in tokens; a lower bound for a prompt that is far too long to count.
        n_ctx: the longest sequence that the engine can hold, in tokens.
    """

    def __init__(
        self, prompt_tokens: int, n_ctx: int, *, is_counted: bool = True, remedy: str = _LARGER_CONTEXT
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.n_ctx = n_ctx
        super().__init__(
            "prompt",
            prompt_tokens,
            f"at most {n_ctx} tokens",
            f"the prompt has {'' if is_counted else 'at least '}{prompt_tokens} tokens, but the context holds {n_ctx}; "
            f"shorten the prompt, or {remedy}",
        )


class QueueFullError(HeadraceError):
    """As many streams run and wait as are allowed, so this stream was not queued.

    Attributes:
        max_queue: how many streams may wait.
        retry_after: seconds until a slot is likely to be free, estimated from earlier streams.
    """

    def __init__(self, max_queue: int, retry_after: float) -> None:
        self.max_queue = max_queue
        self.retry_after = retry_after
        super().__init__(
            f"the queue is full: {max_queue} streams are waiting, which is the limit; "
            f"try again in about {retry_after:.0f} s, or load the model with a larger max_queue"
        )


class EngineClosedError(HeadraceError):
    """The engine was closed, or its thread died, before this call."""


class GenerationError(HeadraceError):
    """The stream failed in the engine.

    Attributes:
        partial: the result so far, or None if it is not known.
    """

    def __init__(self, message: str, partial: GenerationResult | None = None) -> None:
        self.partial = partial
        super().__init__(message)


class StreamTimeoutError(GenerationError):
    """One of the stream's deadlines passed.

    Attributes:
        which: the deadline: "total", "queue", "first_token" or "stall".
        partial: the result so far.
    """

    def __init__(self, message: str, which: str, partial: GenerationResult | None = None) -> None:
        self.which = which
        super().__init__(message, partial)


def shortened(value: object) -> str:
    """Returns a value's repr, cut to 80 characters, for an error's message. It never raises."""
    text = f"<{type(value).__name__} that cannot be shown>"
    with contextlib.suppress(Exception):  # the __repr__ is broken, or an int has more digits than Python writes
        text = _REPR.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _short_repr() -> reprlib.Repr:
    short = reprlib.Repr()
    # Each limit is large enough to fill 80 characters.
    short.maxstring = short.maxlong = short.maxother = 100
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdict = short.maxarray = 30
    return short


_REPR = _short_repr()


def _without_attributes(type_: type[_Error], args: tuple[Any, ...]) -> _Error:
    """Returns an error without attributes, which pickle and copy then set."""
    return type_.__new__(type_, *args)


def _can_pickle(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # foreign code may raise anything
        return False
    return True
