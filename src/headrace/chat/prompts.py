"""Makes the prompts of one model: text and conversations to tokens, and with them the output_format of the answer."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from headrace.chat.template import ChatTemplate, Segment
from headrace.chat.thinking import tags_of
from headrace.chat.tool_formats import HERMES, check_calls, format_of, instructed
from headrace.values.config import StreamConfig
from headrace.values.errors import ContextOverflowError, InvalidRequestError
from headrace.values.output_format import PLAIN, Grammar, OutputFormat, Tags, ToolFormat
from headrace.values.vocabulary import Vocabulary

if TYPE_CHECKING:
    from headrace.chat.tool import Tool
    from headrace.structured.compiler import Grammars

__all__ = ["ChatOptions", "Messages", "Prepared", "Prompt", "Prompts", "check_text"]

Prompt = str | Sequence[int]
Messages = Sequence[Any]

_OF_TOOLS = ("tool", "function")
# Bytes that tokens of text have at most in any text that is one.
_USUAL_PIECE = 16
# At the end of a prompt of token ids, so many are looked at for a tag that opens a thought.
_LONGEST_TAG = 16


class Prepared(NamedTuple):
    """A prompt, and what is to follow it."""

    prompt: tuple[int, ...]
    output_format: OutputFormat


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a chat may have besides messages and settings.

    Attributes:
        tools: what the model may call.
        choice: "auto" (as the model likes), "none", "required", or, as `named`, one of the tools.
        named: name of the tool that has to be called.
        is_parallel: whether there may be several calls in one turn.
        continues: whether the answer continues the last message, an assistant's.
        template_kwargs: more variables for the chat template.
    """

    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    named: str | None = None
    is_parallel: bool = True
    continues: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that may be called."""
        if self.named is not None:
            return tuple(tool for tool in self.tools if tool.name == self.named)
        return () if self.choice == "none" else self.tools


_NO_OPTIONS = ChatOptions()


class Prompts:
    """Makes prompts; every method may be called from any thread, and none should be on an event loop.

    Args:
        vocabulary: turns text into tokens.
        max_length: tokens that fit the context.
        name: what the model is called.
    """

    def __init__(self, vocabulary: Vocabulary, max_length: int, name: str) -> None:
        self._vocabulary = vocabulary
        self._max_length = max_length
        self._name = name
        self._lock = threading.Lock()
        self._grammars: Grammars | None = None

    # Text.

    def prepare(self, prompt: Prompt, config: StreamConfig, schema: object = None) -> Prepared:
        """A prompt that is to be continued.

        Args:
            prompt: text, in which nothing is read as control tokens, or token ids.
            config: the stream's settings.
            schema: what `config.json_schema` stands for.

        Raises:
            InvalidRequestError: an empty or blank prompt, text that is not text, ids that are none of the model's; a
                schema, regular expression or grammar that cannot be used.
            ContextOverflowError: the text is longer than any that fits.
        """
        tokens = self.encode(prompt)
        tags = self._tags(config)
        if isinstance(prompt, str):
            end = prompt
        else:
            end = self._vocabulary.detokenize(tokens[-_LONGEST_TAG:], special=True).decode(errors="replace")
        is_thinking = tags is not None and end.rstrip().endswith(tags.opener)
        return Prepared(tokens, self._output_format(config, tags, _NO_OPTIONS, schema, is_thinking=is_thinking))

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt: text with the model's beginning-of-text token; see `prepare`."""
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
        """The tokens of a text as a prompt has them."""
        vocabulary = self._vocabulary
        tokens = vocabulary.tokenize(text, add_special=True, parse_special=False)
        if vocabulary.add_eos and tokens and tokens[-1] == vocabulary.eos_token:
            tokens.pop()  # some models want one after a document, but a prompt is not finished
        return tokens

    def _check_length(self, size: int) -> None:
        """Refuse so many bytes of text, if they cannot fit whatever they are: reading them could take a minute."""
        limit = self._max_length
        # Most texts are far from it, and then the vocabulary need not be looked through for its longest token.
        if size > limit * _USUAL_PIECE and size > limit * self._vocabulary.longest_piece:
            raise ContextOverflowError(size // self._vocabulary.longest_piece, limit, is_counted=False)

    # Conversations.

    def prepare_chat(
        self, messages: Messages, config: StreamConfig, options: ChatOptions = _NO_OPTIONS, schema: object = None
    ) -> Prepared:
        """A conversation that is to be answered; see `prepare`.

        Args:
            messages: checked copies.
            config: the stream's settings.
            options: tools, and more.
            schema: what `config.json_schema` stands for.
        """
        self._check_length(sum(len((message["content"] or "").encode(errors="replace")) for message in messages))
        tags = self._tags(config)
        segments = self.render(messages, options)
        is_thinking = tags is not None and self._opens_thought(tags, segments, messages, options)
        tokens = self._encode_segments(segments, self._max_length, messages)
        output_format = self._output_format(config, tags, options, schema, is_thinking=is_thinking)
        if tags is not None and (options.continues or segments[-1].text.rstrip().endswith(tags.closer)):
            # The answer has begun already: where it is restricted, no thought may come before it.
            output_format = dataclasses.replace(output_format, opening=())
        return Prepared(tokens, output_format)

    def count_chat(self, messages: Messages, options: ChatOptions = _NO_OPTIONS) -> int:
        """How many tokens a conversation has as a prompt.

        Args:
            messages: checked copies.
            options: tools, and more.
        """
        return len(self._encode_segments(self.render(messages, options), None, messages))

    def render(self, messages: Messages, options: ChatOptions = _NO_OPTIONS) -> list[Segment]:
        """The conversation in the model's own form.

        Raises:
            InvalidRequestError: messages that are none, or a model that has no chat template.
        """
        check_calls(messages)
        tools = [tool.as_openai() for tool in options.offered]
        if self.tool_format is not None:
            return self._rendered([_as_templates_want(message) for message in messages], options, tools)
        if not (tools or any(message["role"] in _OF_TOOLS or "tool_calls" in message for message in messages)):
            return self._rendered(messages, options)
        try:
            return self._rendered(instructed(list(messages), tools), options)
        except InvalidRequestError:
            if not tools or messages[0]["role"] != "user":
                raise
            return self._rendered(instructed(list(messages), tools, has_system=False), options)

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

    @property
    def grammars(self) -> Grammars:
        """What compiles grammars for the model."""
        from headrace.structured.compiler import Grammars

        with self._lock:  # there must be but one: it makes a large table of the vocabulary
            if self._grammars is None:
                self._grammars = Grammars.of(self._vocabulary)
            return self._grammars

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How the model's own template has it write calls; None where that is not known."""
        return format_of(self._vocabulary.chat_template or "")

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

    # What follows.

    def _tags(self, config: StreamConfig) -> Tags | None:
        if config.thinking_tags is not None:
            return Tags(*config.thinking_tags)
        return tags_of(self._vocabulary.chat_template or "")

    def _opens_thought(self, tags: Tags, segments: list[Segment], messages: Messages, options: ChatOptions) -> bool:
        """Whether the answer begins inside a thought: the template has opened one, or the last message has."""
        *others, last = messages
        content = (last["content"] or "").strip()
        if options.continues:
            return content.startswith(tags.opener) and tags.closer not in content
        text = "".join(segment.text for segment in segments[-2:])
        if not text.rstrip().endswith(tags.opener):
            return False
        if not content.endswith(tags.opener):
            return True
        # Is it the template's tag, or are these the last words of the user, behind which it writes nothing?
        other = [*others, {**last, "content": "x"}]
        return self._opens_thought(tags, self.render(other, options), other, options)

    def _output_format(
        self, config: StreamConfig, tags: Tags | None, options: ChatOptions, schema: object, *, is_thinking: bool
    ) -> OutputFormat:
        if tags is None and config.thinking_budget is not None:
            raise InvalidRequestError(
                "thinking_budget",
                config.thinking_budget,
                f"None, as the chat template of {self._name!r} shows no thoughts; or say thinking_tags, too",
            )
        tools = options.offered
        answer = self._answer_grammar(config, schema)
        if tags is None and not tools and answer is None:
            return PLAIN
        format = (self.tool_format or HERMES) if tools else None
        first, following = self._call_grammars(options, format) if format is not None else (None, None)
        after, going_on, finishing = self._around_calls(format) if format is not None else ((), (), ())
        return OutputFormat(
            tags=tags,
            thinking=config.thinking,
            is_thinking=is_thinking,
            budget=config.thinking_budget,
            opening=self._ids(tags.opener) if tags is not None else (),
            closing=self._ids(tags.closer) if tags is not None else (),
            answer=answer,
            tools=format,
            call=first,
            next_call=following,
            is_required=options.named is not None or options.choice == "required",
            is_parallel=options.is_parallel
            and options.named is None
            and (format is None or format.separator is not None),
            calling=self._ids(format.trigger) if format is not None else (),
            after_call=after,
            going_on=going_on,
            finishing=finishing,
            texts=self._texts(tags, format),
        )

    def _answer_grammar(self, config: StreamConfig, schema: object) -> Grammar | None:
        if config.json_schema is not None:
            return self.grammars.json_schema(schema)
        if config.regex is not None:
            return self.grammars.regex(config.regex)
        return self.grammars.grammar(config.grammar) if config.grammar is not None else None

    def _call_grammars(self, options: ChatOptions, format: ToolFormat) -> tuple[Grammar, Grammar]:
        """What the first call of a turn has to fit, and what any other."""
        grammars = self.grammars
        numbered = [(number, tool) for number, tool in enumerate(options.tools) if tool in options.offered]
        rules = [f"call: {' | '.join(f'call_{number}' for number, _ in numbered)}"]
        for number, tool in numbered:
            begin = f"{self._in_lark(format.head + tool.name)} {self._in_lark(format.middle)}"
            rules.append(f"call_{number}: {begin} arguments_{number} {self._in_lark(format.tail)}")
            schema = grammars.json_schema_in_lark(tool.parameters, f"tools[{number}].function.parameters")
            rules.append(f"arguments_{number}: {schema}")
        calls = "\n".join(rules)
        lead = self._in_lark(format.lead)
        # Inside quotes, white space would be part of the name.
        space = "" if format.trigger.endswith('"') else r"/[ \n]{0,2}/"
        try:
            first = grammars.lark(f"start: {space} {lead} call\n{calls}", "tools")
        except InvalidRequestError:
            for number, tool in numbered:  # which of them is it?
                grammars.json_schema(tool.parameters, f"tools[{number}].function.parameters")
            raise
        return first, grammars.lark(f"start: {space} call\n{calls}", "tools")

    def _in_lark(self, text: str) -> str:
        ids = self._ids(text)
        if len(ids) == 1 and not self._vocabulary.piece(ids[0]):  # a control token
            return f"<[{ids[0]}]>"
        return json.dumps(text) if text else ""

    def _around_calls(self, format: ToolFormat) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The tokens that always follow a call, those before another one, and those behind the last."""
        separator, closer = format.separator, format.closer
        if separator is None:
            return self._ids(closer), (), ()
        if separator.startswith(closer):
            return self._ids(closer), self._ids(separator[len(closer) :]), ()
        return (), self._ids(separator), self._ids(closer)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._vocabulary.tokenize(text, add_special=False, parse_special=True)) if text else ()

    def _texts(self, tags: Tags | None, format: ToolFormat | None) -> dict[int, bytes]:
        """The texts of tags and triggers that are control tokens, which otherwise show as nothing."""
        texts: dict[int, bytes] = {}
        marks = ((tags.opener, tags.closer) if tags else ()) + ((format.trigger, format.middle) if format else ())
        for mark in marks:
            ids = self._ids(mark)
            if len(ids) == 1 and not self._vocabulary.piece(ids[0]):
                texts[ids[0]] = mark.encode()
        return texts


def check_text(field: str, text: str) -> None:
    """Refuse what no tokenizer can take.

    Raises:
        InvalidRequestError: nothing but white space, a NUL character, or half a surrogate pair.
    """
    if not text.strip():
        raise InvalidRequestError(field, text, "text with something in it besides white space")
    if "\0" in text:
        raise InvalidRequestError(field, text, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            field, text[error.start : error.end], "text without lone surrogates, which are no characters"
        ) from None


def _as_templates_want(message: dict[str, Any]) -> dict[str, Any]:
    """A message with calls: OpenAI has their arguments as a string of JSON, which would be quoted once more.

    And where there is nothing but calls, OpenAI has no content, which many templates fail at.
    """
    calls: object = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    parsed = [_parsed_call(call) for call in cast("list[object]", calls)]
    return {**message, "content": message["content"] or "", "tool_calls": parsed}


def _parsed_call(call: object) -> object:
    fields, called = _as_dict(call), _as_dict(_as_dict(call).get("function"))
    arguments = called.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        return {**fields, "function": {**called, "arguments": json.loads(arguments)}}
    except (ValueError, RecursionError):  # a call that was cut off, or is no sensible one
        return call


def _as_dict(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
