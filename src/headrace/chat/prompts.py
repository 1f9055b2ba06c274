"""`Prompts`: turns text and conversations into the tokens of a prompt, with the output format of the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from headrace.chat.options import NO_OPTIONS, ChatOptions
from headrace.chat.output_formats import OutputFormats
from headrace.chat.template import ChatTemplate, Segment
from headrace.chat.tool_messages import check_calls, for_tool_template, with_instructions
from headrace.values.config import StreamConfig
from headrace.values.errors import ContextOverflowError, InvalidRequestError
from headrace.values.output_format import OutputFormat, Tags
from headrace.values.vocabulary import Vocabulary

__all__ = ["Messages", "Prepared", "Prompt", "Prompts", "check_text"]

Prompt = str | Sequence[int]
Messages = Sequence[Any]

_TOOL_ROLES = ("tool", "function")
_USUAL_MAX_PIECE = 16  # bytes of the longest token in any usual text
_TAG_TOKENS = 16  # the last tokens of a prompt, in which a tag that opens a thought is looked for


class Prepared(NamedTuple):
    """A prompt's tokens, and the format of the answer."""

    prompt: tuple[int, ...]
    output_format: OutputFormat


class Prompts:
    """Makes the prompts of one model. Any thread may call any method, but no event loop should: the methods are slow.

    Args:
        vocabulary: turns text into tokens.
        max_length: the longest prompt that fits the context, in tokens.
        name: the model's name, for errors.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, name: str) -> None:
        self._vocabulary = vocabulary
        self._max_length = max_length
        self._name = name
        self._formats = OutputFormats(vocabulary, name)

    # Plain prompts.

    def prepare(self, prompt: Prompt, config: StreamConfig, schema: object = None) -> Prepared:
        """Make a plain prompt, which the model continues.

        Args:
            prompt: text, in which no control tokens are recognized, or token ids.
            config: the stream's settings.
            schema: the JSON schema that `config.json_schema` stands for.

        Raises:
            InvalidRequestError: the prompt is empty or blank, or holds text that is not Unicode or ids that the model
                does not have; or a schema, regular expression or grammar cannot be used.
            ContextOverflowError: the text is longer than any that fits.
        """
        tokens = self.encode(prompt)
        tags = self._formats.tags(config)
        if isinstance(prompt, str):
            end = prompt
        else:
            end = self._vocabulary.detokenize(tokens[-_TAG_TOKENS:], special=True).decode(errors="replace")
        is_thinking = tags is not None and end.rstrip().endswith(tags.opener)
        return Prepared(tokens, self._formats.of(config, tags, NO_OPTIONS, schema, is_thinking=is_thinking))

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Returns the tokens of a plain prompt; text begins with the model's beginning-of-text token. See `prepare`."""
        if isinstance(prompt, str):
            check_text("prompt", prompt)
            self._check_length(len(prompt.encode()))
            tokens = self.tokenize(prompt)
        else:
            tokens = list(prompt)
            self._vocabulary.check_tokens(tokens)
        if not tokens:
            raise InvalidRequestError("prompt", prompt, "text or token ids, at least one token")
        return tuple(tokens)

    def tokenize(self, text: str) -> list[int]:
        """Returns the tokens of a text as a prompt has them, without an end-of-text token."""
        vocabulary = self._vocabulary
        tokens = vocabulary.tokenize(text, add_special=True, parse_special=False)
        if vocabulary.add_eos and tokens and tokens[-1] == vocabulary.eos_token:
            tokens.pop()  # some models want it behind a document, but a prompt goes on
        return tokens

    def _check_length(self, size: int) -> None:
        """Refuse text of `size` bytes if it cannot fit, whatever it says: tokenizing it could take a minute."""
        limit = self._max_length
        # The longest piece is looked up only for a text that is very long: it takes a search of the vocabulary.
        if size > limit * _USUAL_MAX_PIECE and size > limit * self._vocabulary.longest_piece:
            raise ContextOverflowError(size // self._vocabulary.longest_piece, limit, is_counted=False)

    # Conversations.

    def prepare_chat(
        self, messages: Messages, config: StreamConfig, options: ChatOptions = NO_OPTIONS, schema: object = None
    ) -> Prepared:
        """Make the prompt of a conversation, which the model answers; see `prepare`.

        Args:
            messages: copies that `checked_messages` has made.
            config: the stream's settings.
            options: tools, and more.
            schema: the JSON schema that `config.json_schema` stands for.
        """
        self._check_length(sum(len((message["content"] or "").encode(errors="replace")) for message in messages))
        tags = self._formats.tags(config)
        segments = self.render(messages, options)
        is_thinking = tags is not None and self._opens_thought(tags, segments, messages, options)
        tokens = self._encode_segments(segments, self._max_length, messages)
        output_format = self._formats.of(config, tags, options, schema, is_thinking=is_thinking)
        if tags is not None and (options.continues or segments[-1].text.rstrip().endswith(tags.closer)):
            # The answer has begun in the prompt, so no thought may come before a constrained answer.
            output_format = dataclasses.replace(output_format, opening_tokens=())
        return Prepared(tokens, output_format)

    def count_chat(self, messages: Messages, options: ChatOptions = NO_OPTIONS) -> int:
        """Returns how many tokens the prompt of a conversation has.

        Args:
            messages: copies that `checked_messages` has made.
            options: tools, and more.
        """
        return len(self._encode_segments(self.render(messages, options), None, messages))

    def render(self, messages: Messages, options: ChatOptions = NO_OPTIONS) -> list[Segment]:
        """Render a conversation with the model's chat template.

        Raises:
            InvalidRequestError: the messages cannot be used, or the model has no chat template.
        """
        check_calls(messages)
        tools = [tool.as_openai() for tool in options.offered]
        if self._formats.tool_format is not None:
            return self._rendered([for_tool_template(message) for message in messages], options, tools)
        if not (tools or any(message["role"] in _TOOL_ROLES or "tool_calls" in message for message in messages)):
            return self._rendered(messages, options)
        try:
            return self._rendered(with_instructions(list(messages), tools), options)
        except InvalidRequestError:
            if not tools or messages[0]["role"] != "user":
                raise
            return self._rendered(with_instructions(list(messages), tools, has_system=False), options)

    def _rendered(
        self, messages: Messages, options: ChatOptions, tools: list[dict[str, Any]] | None = None
    ) -> list[Segment]:
        return self.template.render(
            messages,
            tools=tools or None,
            continue_final_message=options.continues,
            **options.template_kwargs,
        )

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template.

        Raises:
            InvalidRequestError: it has none.
        """
        vocabulary = self._vocabulary
        source = vocabulary.chat_template
        if source is None:
            raise InvalidRequestError(
                "messages",
                self._name,
                "a model with a chat template",
                f"the model {self._name!r} has no chat template, so it cannot chat; generate() with a plain prompt",
            )
        return ChatTemplate(
            source,
            bos_text=vocabulary.bos_text,
            eos_text=vocabulary.eos_text,
            special_texts=vocabulary.special_texts,
        )

    def _encode_segments(self, segments: list[Segment], limit: int | None, messages: Messages) -> tuple[int, ...]:
        vocabulary = self._vocabulary
        tokens: list[int] = []
        for text, special in segments:
            if limit is not None and len(tokens) > limit:
                raise ContextOverflowError(len(tokens), limit, is_counted=False)
            tokens += vocabulary.tokenize(text, add_special=False, parse_special=special)
        if vocabulary.add_bos and vocabulary.bos_token is not None and tokens[:1] != [vocabulary.bos_token]:
            tokens.insert(0, vocabulary.bos_token)  # the template did not write it
        if not tokens:
            raise InvalidRequestError("messages", messages, "messages that the chat template renders to some text")
        return tuple(tokens)

    def _opens_thought(self, tags: Tags, segments: list[Segment], messages: Messages, options: ChatOptions) -> bool:
        """Whether the answer begins inside a thought, which the template or the last message has opened."""
        *others, last = messages
        content = (last["content"] or "").strip()
        if options.continues:
            return content.startswith(tags.opener) and tags.closer not in content
        text = "".join(segment.text for segment in segments[-2:])
        if not text.rstrip().endswith(tags.opener):
            return False
        if not content.endswith(tags.opener):
            return True
        # The user's words end with the tag, too, so a rendering without them tells whether the template writes it.
        other = [*others, {**last, "content": "x"}]
        return self._opens_thought(tags, self.render(other, options), other, options)


def check_text(field: str, text: str) -> None:
    """Refuse text that no tokenizer can take.

    Raises:
        InvalidRequestError: the text is blank, or has a NUL character or a lone surrogate.
    """
    if not text.strip():
        raise InvalidRequestError(field, text, "text with more than white space")
    if "\0" in text:
        raise InvalidRequestError(field, text, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            field, text[error.start : error.end], "text without lone surrogates, which are no characters"
        ) from None
