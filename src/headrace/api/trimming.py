"""`Budget`: how long a conversation may be. It finds the messages that have to be trimmed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.api.messages import Message, turn_starts
from headrace.values.errors import ContextOverflowError

__all__ = ["Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a conversation may be.

    Attributes:
        max_messages: messages at most, without the system prompt.
        max_context_tokens: tokens of a prompt and its reply at most.
        max_length: tokens that the model's context holds of one sequence; None without a model.
    """

    max_messages: int
    max_context_tokens: int
    max_length: int | None

    @property
    def window(self) -> int:
        """Tokens that a prompt and its reply may have together."""
        return self.max_context_tokens if self.max_length is None else min(self.max_context_tokens, self.max_length)

    def first_kept(
        self, history: Sequence[Message], num_new: int, max_tokens: int, size_from: Callable[[int], int]
    ) -> int:
        """Return the index of the first message that stays; the turns before it are trimmed.

        Args:
            history: the messages before the new ones.
            num_new: how many messages will be added.
            max_tokens: tokens that the reply may have.
            size_from: returns the tokens of the prompt if the history begins at this index.

        Raises:
            ContextOverflowError: the new message does not fit even without any history.
        """
        window = self.window
        starts = [*turn_starts(history), len(history)]
        num_turns = len(starts) - 1
        fewest = next(turn for turn, at in enumerate(starts) if len(history) - at + num_new <= self.max_messages)

        def fits(turn: int) -> bool:
            is_last = turn == num_turns  # no history is left to trim, so room for one token of a reply is enough
            try:
                size = size_from(starts[turn])
            except ContextOverflowError:
                if is_last:
                    raise
                return False
            if size + (1 if is_last else min(max_tokens, window // 2)) <= window:
                return True
            if is_last:
                raise self._too_long(size)
            return False

        if fewest == 0 and fits(0):
            return 0
        step = 0 if self.max_length is None else num_turns // 2
        turn = bisect_left(range(num_turns), True, lo=max(fewest, step, 1), key=fits)
        if turn == num_turns:
            fits(turn)
        return starts[turn]

    def _too_long(self, size: int) -> ContextOverflowError:
        limit = self.window - 1  # a reply has at least one token
        if self.window < self.max_context_tokens:
            return ContextOverflowError(size, limit)
        return ContextOverflowError(size, limit, remedy="give the conversation a larger max_context_tokens")
