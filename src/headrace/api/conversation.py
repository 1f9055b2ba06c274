"""Conversations of several turns: a history within its budget, and replies remembered as far as they were read."""

from __future__ import annotations

import copy
import json
import os
import threading
import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from headrace.api.caller import Caller
from headrace.api.job import Job
from headrace.api.model import AnyModel, caller_of
from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.api.turns import Message, Turn, checked_fields, checked_message, checked_text, spoken, turn_starts
from headrace.chat.prompts import Prepared
from headrace.chat.respelling import respelled
from headrace.values.checks import as_int
from headrace.values.config import StreamConfig
from headrace.values.errors import ContextOverflowError, InvalidRequestError

if TYPE_CHECKING:
    from headrace.api.sessions import Session

__all__ = ["ConversationManager"]

_VERSION = 1
_CHARACTERS_PER_TOKEN = 4  # where there is no tokenizer to ask
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}

_Face = TypeVar("_Face", TokenStream, AsyncTokenStream)


class ConversationManager:
    """A conversation: who said what, kept within a budget. Everything may be called from any thread.

    With a model, `send` and `asend` stream a reply to the whole history, and remember it when the stream ends, however
    it ends: what its reader has been shown is what is remembered. A reply that somebody cut off, or that failed, is
    marked as incomplete. Where nothing had been shown, the message is taken back, as if it had not been sent.

    Whole turns, a user's message and all that answers it, are trimmed from the beginning when a user's message would
    not fit; never the system prompt, and never the newest message of the user. A prompt and its reply together have
    `max_context_tokens` tokens at most, and never more than the model's context. Room is kept for a reply of
    `max_tokens`, but for that no more than half of the budget; a reply that reaches the budget ends as "length". With a
    model at least half of the turns go at once, because after each trimming the model has to read everything anew.

    Args:
        model: a Model, an AsyncModel or a Context, to generate replies and to count tokens; None to do neither.
        max_messages: messages that are kept at most, the system prompt not counted, at least 2.
        max_context_tokens: tokens that a prompt and its reply have together at most, at least 2.
        system_prompt: what every prompt begins with; None for the context's own, if it has one.

    Raises:
        InvalidRequestError: a value that cannot be used.
    """

    def __init__(
        self,
        model: AnyModel | None = None,
        *,
        max_messages: int = 20,
        max_context_tokens: int = 2048,
        system_prompt: str | None = None,
    ) -> None:
        self._caller = None if model is None else caller_of(model)
        self._max_messages = as_int("max_messages", max_messages, 2)
        self._max_context_tokens = as_int("max_context_tokens", max_context_tokens, 2)
        self._system_prompt = None if system_prompt is None else checked_text("system_prompt", system_prompt)
        # Never held while something waits; the end of a stream takes no lock at all, and is looked at later.
        self._lock = threading.RLock()
        self._messages: list[Message] = []
        self._num_trimmed = 0
        self._turn: Turn | None = None
        self._known: tuple[int, ...] = ()  # the tokens of the last prompt and its reply, whose KV may be cached

    @property
    def system_prompt(self) -> str | None:
        """What every prompt begins with."""
        return self._system_prompt

    # The history.

    def add_user_message(self, content: str) -> None:
        """Add what the user says, and trim what does not fit beside it.

        Raises:
            InvalidRequestError: no text, or nothing but white space; a reply is being read.
            ContextOverflowError: it is too long, alone and with the system prompt. The history is as it was.
        """
        message = {"role": "user", "content": checked_text("content", content)}
        with self._lock:
            history = self._idle_history()
            settings = StreamConfig() if self._caller is None else self._caller.defaults
            size_from = partial(self._size_from, history, message)
            start = self._first_kept(history, 1, settings.max_tokens, size_from)
            self._messages = [*history[start:], message]
            self._num_trimmed += start

    def add_assistant_message(self, content: str) -> None:
        """Add what was answered; where that makes too many messages, the oldest turns go.

        Raises:
            InvalidRequestError: no text; a reply is being read.
        """
        message = checked_message("message", {"role": "assistant", "content": content})
        with self._lock:
            history = self._idle_history()
            starts = turn_starts(history) or [0]
            # The last turn stays: it is what this message answers.
            start = next((at for at in starts if len(history) - at < self._max_messages), starts[-1])
            self._messages = [*history[start:], message]
            self._num_trimmed += start

    def get_messages(self) -> list[Message]:
        """Copies of all messages, oldest first, without the system prompt.

        Each has "role" and "content". A reply may have "thinking", the thought that came before it; "tool_calls", as
        OpenAI has them, of which one that was cut off has "incomplete"; and "incomplete", True, where it was cut off
        or failed. While a reply is being read, it is the last message, as far as it was shown.
        """
        with self._lock:
            return copy.deepcopy(self._visible())

    def clear_history(self) -> None:
        """Forget all messages, and a reply that is being read, but not the system prompt."""
        with self._lock:
            self._turn = None
            self._messages = []
            self._num_trimmed = 0

    def reset(self) -> None:
        """Forget everything, the system prompt too."""
        with self._lock:
            self.clear_history()
            self._system_prompt = None

    def get_stats(self) -> dict[str, Any]:
        """Figures of the conversation as it is now.

        Returns:
            `total_messages`, `user_messages`, `assistant_messages`: what `get_messages` has; `estimated_tokens`: see
            `estimate_token_count`; `has_system_prompt`; `trimmed_messages`: how many messages were dropped to keep
            within the budget, since the history was last cleared.
        """
        with self._lock:
            messages = self._visible()
            num_trimmed = self._num_trimmed + (self._turn.num_trimmed if self._turn is not None else 0)
        roles = [message["role"] for message in messages]
        return {
            "total_messages": len(roles),
            "user_messages": roles.count("user"),
            "assistant_messages": roles.count("assistant"),
            "estimated_tokens": self._count(messages),
            "has_system_prompt": self._system_prompt is not None,
            "trimmed_messages": num_trimmed,
        }

    def estimate_token_count(self) -> int:
        """Tokens of the conversation as a prompt.

        With a model this is exact: what its chat template and its tokenizer make of it. Without one it is a quarter of
        the characters of `build_prompt`, rounded up. A conversation without any message has only its system prompt.
        """
        return self._count(self._visible())

    def build_prompt(self) -> str:
        """The conversation as a prompt that is to be answered; "" where there is none.

        With a model it is what its chat template writes. Without one, each message is a paragraph that begins with
        "System: ", "User: " or "Assistant: ", and the end is "Assistant:".

        Raises:
            InvalidRequestError: the chat template refuses the conversation, or the model has none.
        """
        messages = _rendered(self._visible(), self._system_prompt)
        if not messages:
            return ""
        if self._caller is None:
            return _plain(messages)
        return "".join(part.text for part in self._caller.core.prompts.render(self._caller.conversation(messages)))

    # To keep it.

    def to_json(self) -> str:
        """The conversation as JSON, all that `from_json` needs to go on with it.

        A reply that is being read is in it as if its reader left now: as far as it was shown, marked as incomplete.
        """
        with self._lock:
            messages, turn = self._visible(), self._turn
            num_trimmed = self._num_trimmed
            if turn is not None and len(messages) and messages[-1] is turn.message:  # nothing was shown yet
                messages = turn.history
            elif turn is not None:
                num_trimmed += turn.num_trimmed
            saved = {
                "version": _VERSION,
                "max_messages": self._max_messages,
                "max_context_tokens": self._max_context_tokens,
                "system_prompt": self._system_prompt,
                "trimmed_messages": num_trimmed,
                "messages": messages,
            }
            return json.dumps(saved, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, model: AnyModel | None = None) -> ConversationManager:
        """A conversation as `to_json` wrote it.

        Args:
            text: the JSON.
            model: as for a new conversation; it need not be the model that the replies are from.

        Raises:
            InvalidRequestError: it is no such JSON; the field names the place, as `messages[2].content`.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequestError("text", text, "JSON, as to_json() writes it")
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"text is no JSON: {error}; allowed: what to_json() writes"
            raise InvalidRequestError("text", text, "JSON, as to_json() writes it", message) from None
        names = ("version", "max_messages", "max_context_tokens", "system_prompt", "trimmed_messages", "messages")
        saved = checked_fields("text", value, names)
        as_int("version", saved["version"], _VERSION, _VERSION)
        if not isinstance(saved["messages"], list):
            raise InvalidRequestError("messages", saved["messages"], "a list of messages")
        conversation = cls(model, **{name: saved[name] for name in names[1:4]})
        conversation._num_trimmed = as_int("trimmed_messages", saved["trimmed_messages"], 0)
        messages = enumerate(cast("list[object]", saved["messages"]))
        conversation._messages = [checked_message(f"messages[{number}]", message) for number, message in messages]
        return conversation

    def save(self, path: str | os.PathLike[str]) -> Session:
        """Write the conversation to a file, and with it the KV of its last prompt and reply, as far as it is cached.

        A reply that is being read is saved as `to_json` has it, without its KV. Running streams go on meanwhile.

        Args:
            path: the file; one that is there is replaced, as a whole or not at all.

        Raises:
            InvalidRequestError: there is no model; the file cannot be written.
            EngineClosedError: the model was closed.
        """
        from headrace.api.sessions import save_session

        if self._caller is None:
            raise InvalidRequestError("model", None, "a conversation with a model; to_json() does without")
        with self._lock:
            text, known = self.to_json(), self._known
        return save_session(self._caller, path, known, text)

    @classmethod
    def load(cls, model: AnyModel, path: str | os.PathLike[str]) -> ConversationManager:
        """A conversation as `save` left it, whose next prompt does not compute again what was saved.

        Args:
            model: the same model as then, in the same kv_type, or a context on it.
            path: the file.

        Raises:
            InvalidRequestError: the file cannot be read, is damaged, is of another model or kv_type, or holds no
                conversation.
            EngineClosedError: the model was closed.
        """
        from headrace.api.sessions import load_session

        session, header = load_session(caller_of(model).core, path)
        if not isinstance(header["conversation"], str):
            allowed = "a file that ConversationManager.save wrote"
            message = f"{session.path} holds no conversation; allowed: {allowed}"
            raise InvalidRequestError("path", str(session.path), allowed, message)
        conversation = cls.from_json(header["conversation"], model)
        conversation._known = session.tokens
        if conversation._system_prompt is None and caller_of(model).system_prompt is None:
            conversation._system_prompt = header["system_prompt"]  # that of the context which it was held on
        return conversation

    def fork(self) -> ConversationManager:
        """Another conversation with the same history, which goes its own way from here on; the KV until here is shared.

        A reply that is being read is in it as `to_json` has it.
        """
        with self._lock:
            fork = self.from_json(self.to_json())
            fork._caller, fork._known = self._caller, self._known
        return fork

    # Replies.

    def send(self, text: str, config: StreamConfig | None = None, **overrides: Any) -> TokenStream:
        """Say something, and stream the reply.

        Only one reply at a time can be on its way. One that was cancelled, but not yet read to its end, is closed here.

        Args:
            text: what the user says.
            config: the settings; None takes the model's or the context's.
            overrides: what `chat_stream` takes, fields of StreamConfig and `tools` among it.

        Raises:
            InvalidRequestError: there is no model; a value that cannot be used; a reply is being read.
            ContextOverflowError: the text is too long, alone and with the system prompt. The history is as it was.
            QueueFullError: too many streams wait already. The history is as it was.
            EngineClosedError: the model or the context was closed.
            TypeError: an unknown setting.
        """
        return self._start(text, config, overrides, Caller.start)

    def asend(self, text: str, config: StreamConfig | None = None, **overrides: Any) -> AsyncTokenStream:
        """The same for a task, without blocking; no `await` is needed. See `send`.

        What only the model can tell, as that the text is too long, comes with the first token.
        """
        return self._start(text, config, overrides, Caller.start_async)

    def _start(
        self, text: str, config: StreamConfig | None, overrides: Mapping[str, Any], start: Callable[..., _Face]
    ) -> _Face:
        caller = self._caller
        if caller is None:
            raise InvalidRequestError("model", None, "a Model, an AsyncModel or a Context, given to the conversation")
        message = {"role": "user", "content": checked_text("text", text)}
        with self._lock:
            turn = self._turn = Turn(message, self._idle_history(), self._known)
            system_prompt = None if "system_prompt" in overrides else self._system_prompt

        def job_of(history: Sequence[Message]) -> Job:
            return caller.chat_job(_rendered([*history, turn.message], system_prompt), config, overrides)

        try:
            job = job_of(turn.history)
            stream = start(caller, job._replace(prepare=partial(self._prepare, turn, job, job_of)), observer=turn)
            turn.stream = weakref.ref(stream)
        except BaseException:
            with self._lock:
                if self._turn is turn:
                    self._turn = None
            raise
        return stream

    def _prepare(self, turn: Turn, job: Job, job_of: Callable[[Sequence[Message]], Job]) -> Prepared:
        """Make the prompt, of as much of the history as fits. This may run on another thread than `send`."""
        assert self._caller is not None
        piece = self._caller.core.vocabulary.piece
        made: dict[int, Prepared] = {}

        def size_from(start: int) -> int:
            prompt, output_format = (job_of(turn.history[start:]) if start else job).prepare()
            made[start] = Prepared(respelled(prompt, turn.known, piece), output_format)
            return len(made[start].prompt)

        start = self._first_kept(turn.history, 2, job.config.max_tokens, size_from)
        turn.num_trimmed = start
        turn.prompt = made[start].prompt
        turn.room = self._window - len(turn.prompt)
        return made[start]

    @property
    def _window(self) -> int:
        """Tokens that a prompt and its reply have together at most."""
        budget = self._max_context_tokens
        return budget if self._caller is None else min(budget, self._caller.core.engine.max_length)

    def _first_kept(
        self, history: Sequence[Message], num_new: int, max_tokens: int, size_from: Callable[[int], int]
    ) -> int:
        """The first message that can stay.

        Args:
            history: the messages before the new ones.
            num_new: how many messages are to be added.
            max_tokens: how long the reply may be.
            size_from: tokens of the prompt where this is the first message that stays.
        """
        window = self._window
        starts = [*turn_starts(history), len(history)]
        num_turns = len(starts) - 1
        fewest = next(turn for turn, at in enumerate(starts) if len(history) - at + num_new <= self._max_messages)

        def fits(turn: int) -> bool:
            is_last = turn == num_turns  # nothing is left to be trimmed: then any room will do
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
        step = 0 if self._caller is None else num_turns // 2
        turn = bisect_left(range(num_turns), True, lo=max(fewest, step, 1), key=fits)
        if turn == num_turns:
            fits(turn)
        return starts[turn]

    def _too_long(self, size: int) -> ContextOverflowError:
        limit = self._window - 1  # a reply has at least one token
        if self._window < self._max_context_tokens:
            return ContextOverflowError(size, limit)
        return ContextOverflowError(size, limit, remedy="give the conversation a larger max_context_tokens")

    def _size_from(self, history: Sequence[Message], message: Message, start: int) -> int:
        messages = [*history[start:], message]
        if self._caller is None:
            return self._count(messages)
        # Unlike counting, this gives up early where there is far too much text.
        return len(self._caller.chat_job(_rendered(messages, self._system_prompt), None, {}).prepare().prompt)

    def _idle_history(self) -> list[Message]:
        """The history, to be continued; the lock is held."""
        self._settle()
        stream = self._turn.stream() if self._turn is not None and self._turn.stream is not None else None
        if stream is not None and stream._is_cancelled:  # pyright: ignore[reportPrivateUsage]
            stream._close()  # pyright: ignore[reportPrivateUsage]
            self._settle()
        if self._turn is not None:
            message = "the reply to the last message is being read; read it to its end, or cancel() or close() it"
            # The error may outlive the stream, so it has its name only.
            raise InvalidRequestError(
                "conversation", None if stream is None else stream.id, "one reply at a time", message
            )
        return self._messages

    def _settle(self) -> None:
        """Take in a reply whose stream has ended meanwhile; the lock is held."""
        turn = self._turn
        if turn is None or not turn.is_over:
            return
        self._turn = None
        reply = turn.reply()
        if reply is not None:
            self._messages = [*turn.history[turn.num_trimmed :], turn.message, reply]
            self._num_trimmed += turn.num_trimmed
            self._known = turn.tokens()

    def _visible(self) -> list[Message]:
        with self._lock:
            self._settle()
            return self._messages if self._turn is None else self._turn.visible

    def _count(self, messages: Sequence[Message]) -> int:
        rendered = _rendered(messages, self._system_prompt)
        if self._caller is None:
            return -(-len(_plain(rendered)) // _CHARACTERS_PER_TOKEN) if rendered else 0
        prompts = self._caller.core.prompts
        if not messages:  # which a template may refuse
            return len(prompts.tokenize(rendered[0]["content"])) if rendered else 0
        return prompts.count_chat(self._caller.conversation(rendered))


def _rendered(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """The messages as the model is to see them."""
    said = [spoken(message) for message in messages]
    return said if system_prompt is None else [{"role": "system", "content": system_prompt}, *said]


def _plain(messages: Sequence[Message]) -> str:
    """A conversation as a prompt for no model in particular."""
    lines = [f"{_NAMES[message['role']]}: {message['content']}" for message in messages]
    return "\n\n".join([*lines, "Assistant:"])
