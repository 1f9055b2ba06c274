"""Every error that headrace raises, in one tree.

HeadraceError
├── ModelNotFoundError        no such file or name
├── ModelLoadError            not a GGUF, truncated, unsupported, out of memory
├── InvalidRequestError       (also a ValueError) a setting, prompt or message that cannot be used
│   └── ContextOverflowError  the prompt is longer than the context
├── QueueFullError            too many streams are waiting already
├── EngineClosedError         the engine was closed, or died, before this call
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
    """The root of the tree: catch it to catch everything headrace raises by itself.

    Errors can be copied and pickled, and so raised in another process, with their attributes. An attribute that cannot
    be pickled, such as a function that was given for a prompt, becomes a string that shows it.
    """

    def __copy__(self) -> Self:
        copy = _made(type(self), self.args)
        copy.__dict__.update(self.__dict__)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone, which most of those below do not take.
        state = {name: value if _can_pickle(value) else shortened(value) for name, value in self.__dict__.items()}
        return _made, (type(self), self.args), state


class ModelNotFoundError(HeadraceError):
    """No file and no known name fits the model reference; the message says what was tried."""


class ModelLoadError(HeadraceError):
    """The file was found but could not be made a running model."""


class InvalidRequestError(HeadraceError, ValueError):
    """A value that cannot be used.

    Attributes:
        field: the setting or argument that was wrong.
        value: what was given.
        allowed: what would have been right, in words.
    """

    def __init__(self, field: str, value: object, allowed: str, message: str | None = None) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(message or f"{field} is {shortened(value)}; allowed: {allowed}")


class ContextOverflowError(InvalidRequestError):
    """The prompt does not fit the context; raised before anything runs.

    Attributes:
        prompt_tokens: length of the prompt, in tokens; where it was far too long to be counted, the least it can be.
        n_ctx: the longest sequence that this model and engine can hold, in tokens.
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
    """As many streams run and wait as are allowed; nothing was queued.

    Attributes:
        max_queue: how many streams may wait.
        retry_after: seconds after which a place is likely to be free, an estimate from the streams seen so far.
    """

    def __init__(self, max_queue: int, retry_after: float) -> None:
        self.max_queue = max_queue
        self.retry_after = retry_after
        super().__init__(
            f"the queue is full: {max_queue} streams may wait, and so many do; "
            f"try again in about {retry_after:.0f} s, or load the model with a larger max_queue"
        )


class EngineClosedError(HeadraceError):
    """The engine was closed, or its thread died, before this call."""


class GenerationError(HeadraceError):
    """The engine failed this stream.

    Attributes:
        partial: what was generated until then, or None where that is not known.
    """

    def __init__(self, message: str, partial: GenerationResult | None = None) -> None:
        self.partial = partial
        super().__init__(message)


class StreamTimeoutError(GenerationError):
    """One of the stream's deadlines passed.

    Attributes:
        which: "total", "queue", "first_token" or "stall".
        partial: what was generated until then.
    """

    def __init__(self, message: str, which: str, partial: GenerationResult | None = None) -> None:
        self.which = which
        super().__init__(message, partial)


def shortened(value: object) -> str:
    """A value as an error's message shows it: its repr, cut to 80 characters; it never raises, whatever the value."""
    text = f"<{type(value).__name__} that cannot be shown>"
    with contextlib.suppress(Exception):  # a broken __repr__, or an int with more digits than Python writes
        text = _REPR.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _short_repr() -> reprlib.Repr:
    short = reprlib.Repr()
    # Enough of everything to fill 80 characters.
    short.maxstring = short.maxlong = short.maxother = 100
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdict = short.maxarray = 30
    return short


_REPR = _short_repr()


def _made(type_: type[_Error], args: tuple[Any, ...]) -> _Error:
    """An error without its attributes, for pickle and copy to put there."""
    return type_.__new__(type_, *args)


def _can_pickle(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # foreign code: what it raises is its own choice
        return False
    return True
