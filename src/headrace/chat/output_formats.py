"""`OutputFormats`: makes the `OutputFormat` of an answer, from the settings, the tools and the chat template."""

from __future__ import annotations

import json
import threading
from functools import cached_property
from typing import TYPE_CHECKING

from headrace.chat.options import ChatOptions
from headrace.chat.thinking import tags_of
from headrace.chat.tool_formats import HERMES, format_of
from headrace.values.config import StreamConfig
from headrace.values.errors import InvalidRequestError
from headrace.values.output_format import PLAIN, Grammar, OutputFormat, Tags, ToolFormat
from headrace.values.vocabulary import Vocabulary

if TYPE_CHECKING:
    from headrace.structured.compiler import Grammars

__all__ = ["OutputFormats"]


class OutputFormats:
    """Makes the output formats of one model. Any thread may call any method.

    Args:
        vocabulary: the model's.
        name: the model's name, for errors.
    """

    def __init__(self, vocabulary: Vocabulary, name: str) -> None:
        self._vocabulary = vocabulary
        self._name = name
        self._lock = threading.Lock()
        self._grammars: Grammars | None = None

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """The form of tool calls that the model's chat template asks for; None if the template names no known form."""
        return format_of(self._vocabulary.chat_template or "")

    def tags(self, config: StreamConfig) -> Tags | None:
        """Returns the tags around a thought; None where the model does not think."""
        if config.thinking_tags is not None:
            return Tags(*config.thinking_tags)
        return tags_of(self._vocabulary.chat_template or "")

    def of(
        self, config: StreamConfig, tags: Tags | None, options: ChatOptions, schema: object, *, is_thinking: bool
    ) -> OutputFormat:
        """Returns the format of one answer.

        Args:
            config: the stream's settings.
            tags: what `tags` returns for these settings.
            options: the chat's tools and more.
            schema: the JSON schema that `config.json_schema` stands for.
            is_thinking: whether the prompt has opened a thought.

        Raises:
            InvalidRequestError: a schema, regular expression or grammar that cannot be used, or a thinking budget for
                a model that does not think.
        """
        if tags is None and config.thinking_budget is not None:
            raise InvalidRequestError(
                "thinking_budget",
                config.thinking_budget,
                f"None, as the chat template of {self._name!r} shows no thoughts; or give thinking_tags, too",
            )
        tools = options.offered
        answer = self._answer_grammar(config, schema)
        if tags is None and not tools and answer is None:
            return PLAIN
        format = (self.tool_format or HERMES) if tools else None
        first, following = self._call_grammars(options, format) if format is not None else (None, None)
        after, going_on, finishing = self._tokens_around_calls(format) if format is not None else ((), (), ())
        return OutputFormat(
            tags=tags,
            thinking=config.thinking,
            is_thinking=is_thinking,
            budget=config.thinking_budget,
            opening_tokens=self._ids(tags.opener) if tags is not None else (),
            closing_tokens=self._ids(tags.closer) if tags is not None else (),
            answer_grammar=answer,
            tools=format,
            call_grammar=first,
            next_call_grammar=following,
            is_required=options.named is not None or options.choice == "required",
            is_parallel=options.is_parallel
            and options.named is None
            and (format is None or format.separator is not None),
            trigger_tokens=self._ids(format.trigger) if format is not None else (),
            after_call_tokens=after,
            separator_tokens=going_on,
            closer_tokens=finishing,
            control_texts=self._control_texts(tags, format),
        )

    @property
    def _compiler(self) -> Grammars:
        from headrace.structured.compiler import Grammars

        with self._lock:  # one per model, because it makes a large table of the vocabulary
            if self._grammars is None:
                self._grammars = Grammars.of(self._vocabulary)
            return self._grammars

    def _answer_grammar(self, config: StreamConfig, schema: object) -> Grammar | None:
        if config.json_schema is not None:
            return self._compiler.json_schema(schema)
        if config.regex is not None:
            return self._compiler.regex(config.regex)
        return self._compiler.grammar(config.grammar) if config.grammar is not None else None

    def _call_grammars(self, options: ChatOptions, format: ToolFormat) -> tuple[Grammar, Grammar]:
        """Returns the grammar of the first call of an answer, and the grammar of the others."""
        grammars = self._compiler
        numbered = [(number, tool) for number, tool in enumerate(options.tools) if tool in options.offered]
        rules = [f"call: {' | '.join(f'call_{number}' for number, _ in numbered)}"]
        for number, tool in numbered:
            begin = f"{self._in_lark(format.head + tool.name)} {self._in_lark(format.middle)}"
            rules.append(f"call_{number}: {begin} arguments_{number} {self._in_lark(format.tail)}")
            schema = grammars.json_schema_in_lark(tool.parameters, f"tools[{number}].function.parameters")
            rules.append(f"arguments_{number}: {schema}")
        calls = "\n".join(rules)
        lead = self._in_lark(format.lead)
        # Behind a quote, white space would be part of the tool's name.
        space = "" if format.trigger.endswith('"') else r"/[ \n]{0,2}/"
        try:
            first = grammars.lark(f"start: {space} {lead} call\n{calls}", "tools")
        except InvalidRequestError:
            for number, tool in numbered:  # raise the error of the tool that causes it, if it is a single one
                grammars.json_schema(tool.parameters, f"tools[{number}].function.parameters")
            raise
        return first, grammars.lark(f"start: {space} call\n{calls}", "tools")

    def _in_lark(self, text: str) -> str:
        token = self._control_token(text)
        if token is not None:
            return f"<[{token}]>"
        return json.dumps(text) if text else ""

    def _tokens_around_calls(self, format: ToolFormat) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Returns the tokens that follow every call, those before another call, and those behind the last call."""
        separator, closer = format.separator, format.closer
        if separator is None:
            return self._ids(closer), (), ()
        if separator.startswith(closer):
            return self._ids(closer), self._ids(separator[len(closer) :]), ()
        return (), self._ids(separator), self._ids(closer)

    def _control_texts(self, tags: Tags | None, format: ToolFormat | None) -> dict[int, bytes]:
        """Returns the texts of those tags and triggers that are control tokens, which have no text otherwise."""
        texts: dict[int, bytes] = {}
        marks = ((tags.opener, tags.closer) if tags else ()) + ((format.trigger, format.middle) if format else ())
        for mark in marks:
            token = self._control_token(mark)
            if token is not None:
                texts[token] = mark.encode()
        return texts

    def _control_token(self, text: str) -> int | None:
        ids = self._ids(text)
        return ids[0] if len(ids) == 1 and not self._vocabulary.piece(ids[0]) else None

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._vocabulary.tokenize(text, add_special=False, parse_special=True)) if text else ()
