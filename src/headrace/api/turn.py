"""`Turn`: a user's message that was sent, and the part of its reply that the reader was shown."""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable, Sequence

from headrace.api.job import Job
from headrace.api.messages import Message
from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.api.trimming import Budget
from headrace.chat.prompts import Prepared
from headrace.chat.respelling import respelled
from headrace.values.accumulator import Accumulator
from headrace.values.config import StreamConfig
from headrace.values.events import End, TokenEvent
from headrace.values.results import Token

__all__ = ["Turn"]


class Turn:
    """A user's message that was sent, and the part of its reply that the reader was shown. An `Observer` of the stream.

    Its methods wait for no lock, because a stream may end during a garbage collection, at any point of any thread.

    Args:
        message: the user's message.
        history: the messages before it.
        last_tokens: tokens of the last prompt and its reply, whose KV may be cached.

    Attributes:
        stream: the stream of the reply.
        num_trimmed: messages of the history that were left out of the prompt.
        prompt: the tokens of the prompt.
        room: tokens that fit behind the prompt, for the reply.
        is_over: whether the reader will be shown nothing more.
    """

    def __init__(self, message: Message, history: list[Message], last_tokens: tuple[int, ...]) -> None:
        self.message = message
        self.history = history
        self.last_tokens = last_tokens
        self.stream: weakref.ref[TokenStream | AsyncTokenStream] | None = None
        self.num_trimmed = 0
        self.prompt: tuple[int, ...] = ()
        self.room = 0
        self.is_over = False
        self._shown: list[Token] = []
        self._end: End | None = None
        self._unread: Sequence[TokenEvent] = ()
        self._first_end = _thread.allocate_lock()  # only the first call of `ended` acquires it; never waited for

    def prepare(
        self, budget: Budget, job: Job, job_of: Callable[[Sequence[Message]], Job], piece: Callable[[int], bytes]
    ) -> Prepared:
        """Make the prompt from as much of the history as fits. May run on another thread than `send`.

        Args:
            budget: how long the conversation may be.
            job: the job with the whole history.
            job_of: makes the job with a shorter history.
            piece: returns the bytes of a token.
        """
        prepared: dict[int, Prepared] = {}  # by the first message that stays

        def size_from(start: int) -> int:
            prompt, output_format = (job_of(self.history[start:]) if start else job).prepare()
            prepared[start] = Prepared(respelled(prompt, self.last_tokens, piece), output_format)
            return len(prepared[start].prompt)

        start = budget.first_kept(self.history, 2, job.config.max_tokens, size_from)
        self.num_trimmed = start
        self.prompt = prepared[start].prompt
        self.room = budget.window - len(self.prompt)
        return prepared[start]

    def fitted(self, config: StreamConfig) -> StreamConfig:
        """Return the settings, with `max_tokens` reduced to the room behind the prompt."""
        return config.replace(max_tokens=min(config.max_tokens, self.room))

    def shown(self, token: Token) -> None:
        """Record a token that was shown. If `tee` made several readers, the first that reads a token counts."""
        if token.index == len(self._shown):
            self._shown.append(token)

    def ended(self, end: End | None, unread: Sequence[TokenEvent]) -> None:
        """Record the end of the stream, and its unread tokens. Only the first call counts."""
        if self._first_end.acquire(blocking=False):
            self._end, self._unread = end, unread
            self.is_over = True

    @property
    def visible(self) -> list[Message]:
        """The conversation as `get_messages` shows it while this turn runs."""
        reply = self.reply()
        return [*self.history[self.num_trimmed :], self.message, *([] if reply is None else [reply])]

    def reply(self) -> Message | None:
        """Return the part of the reply that was shown; None if the reply is incomplete and no part was shown."""
        end = self._end
        output = Accumulator(part for token in self._shown.copy() for part in token.parts) if end is None else end
        text, thinking, calls = output.text, output.thinking, output.tool_calls
        is_incomplete = end is None or end.finish_reason in (None, "cancelled", "timeout")
        if is_incomplete and not (text or thinking or calls):
            return None
        reply: Message = {"role": "assistant", "content": text}
        if thinking:
            reply["thinking"] = thinking
        if calls:
            reply["tool_calls"] = [call.as_openai() for call in calls]
            if end is None or not calls[-1].is_complete:  # a reader that left early did not run the last call
                reply["tool_calls"][-1]["incomplete"] = True
        if is_incomplete:
            reply["incomplete"] = True
        return reply

    def tokens(self) -> tuple[int, ...]:
        """Return the ids of the prompt and of the reply, as they were sampled."""
        ids = [token.id for token in self._shown]
        ids += [event.id for event in self._unread if event.number >= len(ids)]
        return (*self.prompt, *ids)
