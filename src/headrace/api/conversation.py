"""`ConversationManager`: a chat history within a budget, and the streams of its replies."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.api.caller import Caller
from headrace.api.context import AnyModel, caller_of
from headrace.api.job import Job
from headrace.api.messages import Message, checked_message, checked_text, plain_prompt, prompt_messages, turn_starts
from headrace.api.saved_conversation import SavedConversation
from headrace.api.stream import AsyncTokenStream, TokenStream
from headrace.api.trimming import Budget
from headrace.api.turn import Turn
from headrace.values.checks import as_int
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError

if TYPE_CHECKING:
    from headrace.api.sessions import Session

__all__ = ["ConversationManager"]

_CHARACTERS_PER_TOKEN = 4  # the estimate without a tokenizer

_Stream = TypeVar("_Stream", TokenStream, AsyncTokenStream)


class ConversationManager:
    """A chat history that is kept within a budget, and the streams of its replies. Any thread may call any method.

    With a model, `send` and `asend` send the whole history and stream the reply. When the stream ends, for whatever
    reason, the part of the reply that its reader was shown joins the history. A reply that was cancelled or that failed
    is marked as incomplete. If no part of it was shown, the user's message is removed, too, as if it had not been sent.

    When a user's message does not fit, the oldest turns are trimmed. A turn is a user's message and all that answers
    it. The system prompt and the user's newest message always stay. A prompt and its reply together have at most
    `max_context_tokens` tokens, and never more than the model's context. Trimming keeps room for a reply of
    `max_tokens`, but not more than half of the budget; a reply that reaches the budget ends as "length". With a model,
    at least half of the turns are trimmed at once, because the model has to prefill everything again after trimming.

    Args:
        model: a Model, an AsyncModel or a Context, which generates the replies and counts tokens; None for a history
            only.
        max_messages: messages at most, without the system prompt; at least 2.
        max_context_tokens: tokens of a prompt and its reply at most; at least 2.
        system_prompt: the start of every prompt; None takes the context's own, if it has one.

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
        # Nothing waits while holding this lock. The end of a stream takes no lock: `_settle` looks for it later.
        self._lock = threading.RLock()
        self._messages: list[Message] = []
        self._num_trimmed = 0
        self._turn: Turn | None = None
        self._last_tokens: tuple[int, ...] = ()  # of the last prompt and its reply, whose KV may be cached

    @property
    def system_prompt(self) -> str | None:
        """The start of every prompt."""
        return self._system_prompt

    # The history.

    def add_user_message(self, content: str) -> None:
        """Add a user's message, and trim the turns that do not fit beside it.

        Raises:
            InvalidRequestError: the content is no text, or blank; a reply is being read.
            ContextOverflowError: the message does not fit even with the system prompt alone. The history is unchanged.
        """
        message = {"role": "user", "content": checked_text("content", content)}
        with self._lock:
            history = self._idle_history()
            settings = StreamConfig() if self._caller is None else self._caller.defaults
            size_from = partial(self._size_from, history, message)
            start = self._budget.first_kept(history, 1, settings.max_tokens, size_from)
            self._messages = [*history[start:], message]
            self._num_trimmed += start

    def add_assistant_message(self, content: str) -> None:
        """Add an assistant's message; if there are too many messages then, the oldest turns are trimmed.

        Raises:
            InvalidRequestError: the content is no text; a reply is being read.
        """
        message = checked_message("message", {"role": "assistant", "content": content})
        with self._lock:
            history = self._idle_history()
            starts = turn_starts(history) or [0]
            # The last turn stays, because this message answers it.
            start = next((at for at in starts if len(history) - at < self._max_messages), starts[-1])
            self._messages = [*history[start:], message]
            self._num_trimmed += start

    def get_messages(self) -> list[Message]:
        """Return copies of all messages, oldest first, without the system prompt.

        Each has "role" and "content". A reply may also have:

        - "thinking": the thinking before it,
        - "tool_calls", in OpenAI's form; a call that was cut off has "incomplete": True,
        - "incomplete": True, if it was cut off or failed.

        While a reply is being read, the last message is the part of it that was shown so far.
        """
        with self._lock:
            return copy.deepcopy(self._visible())

    def clear_history(self) -> None:
        """Forget all messages, and a reply that is being read, but keep the system prompt."""
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
        """Return counts of the conversation as it is now.

        Returns:
            `total_messages`, `user_messages`, `assistant_messages`: counts of what `get_messages` returns.
            `estimated_tokens`: see `estimate_token_count`.
            `has_system_prompt`: a bool.
            `trimmed_messages`: messages trimmed since the history was last cleared.
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
        """Return the number of tokens of the conversation as a prompt.

        With a model it is exact: counted with the model's chat template and tokenizer. Without one it is a quarter of
        the characters of `build_prompt`, rounded up. Before the first message, the system prompt alone is counted.
        """
        return self._count(self._visible())

    def build_prompt(self) -> str:
        """Return the conversation as a prompt for the next reply; "" if it is empty.

        With a model, its chat template writes the prompt. Without one, each message is a paragraph that begins with
        "System: ", "User: " or "Assistant: ", and the last line is "Assistant:".

        Raises:
            InvalidRequestError: the chat template refuses the conversation, or the model has none.
        """
        messages = prompt_messages(self._visible(), self._system_prompt)
        if not messages:
            return ""
        if self._caller is None:
            return plain_prompt(messages)
        return "".join(part.text for part in self._caller.core.prompts.render(self._caller.conversation(messages)))

    # Saving and loading.

    def to_json(self) -> str:
        """Return the conversation as JSON, from which `from_json` continues it.

        If a reply is being read, the part that was shown so far is included, marked as incomplete.
        """
        with self._lock:
            messages, turn = self._visible(), self._turn
            num_trimmed = self._num_trimmed
            if turn is not None and len(messages) and messages[-1] is turn.message:  # nothing was shown yet
                messages = turn.history
            elif turn is not None:
                num_trimmed += turn.num_trimmed
            saved = SavedConversation(
                self._max_messages, self._max_context_tokens, self._system_prompt, num_trimmed, messages
            )
            return saved.to_json()

    @classmethod
    def from_json(cls, text: str, model: AnyModel | None = None) -> ConversationManager:
        """Return the conversation that `to_json` wrote.

        Args:
            text: the JSON.
            model: as for a new conversation; another model than the one that wrote the replies will do.

        Raises:
            InvalidRequestError: it is no such JSON; the field names the place, as `messages[2].content`.
        """
        saved = SavedConversation.from_json(text)
        conversation = cls(
            model,
            max_messages=saved.max_messages,
            max_context_tokens=saved.max_context_tokens,
            system_prompt=saved.system_prompt,
        )
        conversation._num_trimmed = saved.trimmed_messages
        conversation._messages = saved.messages
        return conversation

    def save(self, path: str | os.PathLike[str]) -> Session:
        """Write the conversation to a session file, with the KV of its last prompt and reply as far as it is cached.

        A reply that is being read is saved as in `to_json`, without its KV. Running streams go on meanwhile.

        Args:
            path: the file; an existing one is replaced, as a whole or not at all.

        Raises:
            InvalidRequestError: the conversation has no model; the file cannot be written.
            EngineClosedError: the model was closed.
        """
        from headrace.api.sessions import save_session

        if self._caller is None:
            raise InvalidRequestError("model", None, "a conversation with a model; to_json() needs none")
        with self._lock:
            text, last_tokens = self.to_json(), self._last_tokens
        return save_session(self._caller, path, last_tokens, text)

    @classmethod
    def load(cls, model: AnyModel, path: str | os.PathLike[str]) -> ConversationManager:
        """Return the conversation that `save` wrote; its next prompt reuses the saved KV.

        Args:
            model: the same model as when it was saved, with the same kv_type, or a context on it.
            path: the file.

        Raises:
            InvalidRequestError: the file cannot be read, is damaged, is from another model or kv_type, or holds no
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
        conversation._last_tokens = session.tokens
        if conversation._system_prompt is None and caller_of(model).system_prompt is None:
            conversation._system_prompt = header["system_prompt"]  # the system prompt of the context it was saved from
        return conversation

    def fork(self) -> ConversationManager:
        """Return a copy that goes on independently; the KV of the common history is shared.

        A reply that is being read is included as in `to_json`.
        """
        with self._lock:
            fork = self.from_json(self.to_json())
            fork._caller, fork._last_tokens = self._caller, self._last_tokens
        return fork

    # Replies.

    def send(self, text: str, config: StreamConfig | None = None, **overrides: Any) -> TokenStream:
        """Send a user's message, and stream the reply.

        Only one reply can be streamed at a time. A reply that was cancelled but not read to its end is closed here.

        Args:
            text: the user's message.
            config: the settings; None takes the model's or the context's.
            overrides: as for `chat_stream`, among them fields of StreamConfig, and `tools`.

        Raises:
            InvalidRequestError: the conversation has no model; a value that cannot be used; a reply is being read.
            ContextOverflowError: the message does not fit even with the system prompt alone. The history is unchanged.
            QueueFullError: too many streams are waiting already. The history is unchanged.
            EngineClosedError: the model or the context was closed.
            TypeError: an unknown setting.
        """
        return self._start(text, config, overrides, Caller.start)

    def asend(self, text: str, config: StreamConfig | None = None, **overrides: Any) -> AsyncTokenStream:
        """Send a user's message, and stream the reply to a task, without blocking; needs no `await`. See `send`.

        Errors that only the model can find, such as a message that is too long, are raised with the first token.
        """
        return self._start(text, config, overrides, Caller.start_async)

    def _start(
        self, text: str, config: StreamConfig | None, overrides: Mapping[str, Any], start: Callable[..., _Stream]
    ) -> _Stream:
        caller = self._caller
        if caller is None:
            raise InvalidRequestError("model", None, "a Model, an AsyncModel or a Context, given to the conversation")
        message = {"role": "user", "content": checked_text("text", text)}
        with self._lock:
            turn = self._turn = Turn(message, self._idle_history(), self._last_tokens)
            system_prompt = None if "system_prompt" in overrides else self._system_prompt

        def job_of(history: Sequence[Message]) -> Job:
            return caller.chat_job(prompt_messages([*history, turn.message], system_prompt), config, overrides)

        piece = caller.core.vocabulary.piece
        try:
            job = job_of(turn.history)
            stream = start(
                caller, job._replace(prepare=partial(turn.prepare, self._budget, job, job_of, piece)), observer=turn
            )
            turn.stream = weakref.ref(stream)
        except BaseException:
            with self._lock:
                if self._turn is turn:
                    self._turn = None
            raise
        return stream

    @property
    def _budget(self) -> Budget:
        max_length = None if self._caller is None else self._caller.core.engine.max_length
        return Budget(self._max_messages, self._max_context_tokens, max_length)

    def _size_from(self, history: Sequence[Message], message: Message, start: int) -> int:
        """Count the tokens of the prompt if the history begins at `start`."""
        messages = [*history[start:], message]
        if self._caller is None:
            return self._count(messages)
        # Unlike `_count`, preparing a prompt gives up early if there is far too much text.
        chat = prompt_messages(messages, self._system_prompt)
        return len(self._caller.chat_job(chat, None, {}).prepare().prompt)

    def _idle_history(self) -> list[Message]:
        """Return the history if no reply is being read; the lock is held."""
        self._settle()
        stream = self._turn.stream() if self._turn is not None and self._turn.stream is not None else None
        if stream is not None and stream._is_cancelled:  # pyright: ignore[reportPrivateUsage]
            stream._close()  # pyright: ignore[reportPrivateUsage]
            self._settle()
        if self._turn is not None:
            message = "the reply to the last message is being read; read it to its end, or cancel() or close() it"
            # The id instead of the stream, because the error may outlive the stream.
            raise InvalidRequestError(
                "conversation", None if stream is None else stream.id, "one reply at a time", message
            )
        return self._messages

    def _settle(self) -> None:
        """Add the reply to the history if its stream has ended; the lock is held."""
        turn = self._turn
        if turn is None or not turn.is_over:
            return
        self._turn = None
        reply = turn.reply()
        if reply is not None:
            self._messages = [*turn.history[turn.num_trimmed :], turn.message, reply]
            self._num_trimmed += turn.num_trimmed
            self._last_tokens = turn.tokens()

    def _visible(self) -> list[Message]:
        with self._lock:
            self._settle()
            return self._messages if self._turn is None else self._turn.visible

    def _count(self, messages: Sequence[Message]) -> int:
        chat = prompt_messages(messages, self._system_prompt)
        if self._caller is None:
            return -(-len(plain_prompt(chat)) // _CHARACTERS_PER_TOKEN) if chat else 0
        prompts = self._caller.core.prompts
        if not messages:  # a template may refuse a chat without messages
            return len(prompts.tokenize(chat[0]["content"])) if chat else 0
        return prompts.count_chat(self._caller.conversation(chat))
