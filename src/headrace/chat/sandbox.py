"""`compile_template` and `render_template`: run chat templates of unknown origin, with bounded time and memory.

Jinja's own sandbox keeps a template from Python's internals, but not from nested loops, exponential macros or
`"a" * 10**9`. So each rendering has a `_Meter`. Loops, calls, filters, tests, operators, literals and output charge the
meter for the size of their results. If a result can be much larger than its operands, they charge before they make it.
The meter also checks the clock. Filters and methods whose results cannot be bounded, such as those that pad, are left
out. The clock is the thread's CPU time, so a busy machine fails no template, and no signal or second thread is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache, wraps
from time import thread_time
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context, pass_eval_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

__all__ = ["LimitError", "RefusedError", "compile_template", "render_template"]

_MAX_SOURCE = 1 << 18  # characters; the longest templates in use have about 2**14
_MAX_SIZE = 1 << 26  # characters in the results of all operations of a rendering together
_MAX_SECONDS = 0.5  # of the thread's CPU time; a usual chat takes well under 0.001
_MAX_BITS = 256  # of an integer operand
_MAX_WIDTH = 1000  # of a field in a format string
_ITEM_SIZE = 64  # characters charged for an item of a list or dict

# Filters whose results are larger than their arguments, or random, or that use slow patterns.
_UNBOUNDED_FILTERS = frozenset(
    ("batch", "center", "filesizeformat", "format", "pprint", "random", "round")
) | frozenset(("slice", "striptags", "sum", "urlencode", "urlize", "wordwrap", "xmlattr"))
# Methods of strings and numbers of the same kinds, or that return values with such methods.
_UNBOUNDED_METHODS = frozenset(
    ("encode", "expandtabs", "from_bytes", "maketrans", "striptags", "to_bytes", "translate", "unescape")
)
_COMPARING_FILTERS = frozenset(("dictsort", "groupby", "max", "min", "sort", "unique"))
_FILTERS: dict[str, Callable[..., Any]] = dict(FILTERS)
_FORBIDDEN_FORMAT = re.compile(r"\d{4,}|:[^}]*\{|%[^a-zA-Z%]*\*")


class LimitError(TemplateError):
    """The template exceeded a limit."""


class RefusedError(TemplateError):
    """The template refused the messages: it called raise_exception()."""


class _Meter:
    """The size and time that one rendering, or compilation, has left."""

    def __init__(self) -> None:
        self._left = _MAX_SIZE
        self._deadline = thread_time() + _MAX_SECONDS
        self._num_charges = 0

    def charge(self, size: int = 0) -> None:
        """Charge one operation that makes `size` characters."""
        self._left -= size + 1
        self._num_charges += 1
        if self._left < 0:
            raise LimitError(f"it makes more than {_MAX_SIZE} characters, intermediate ones included")
        # Reading the clock is a system call, so small operations do it only every 16th time.
        if (size > 1000 or not self._num_charges & 15) and thread_time() > self._deadline:
            raise LimitError(f"it takes more than {_MAX_SECONDS} s of CPU time")

    def charge_value(self, value: object) -> None:
        """Charge a value by its size when written out, so that an item of several lists is charged for each."""
        self.charge(len(value) if isinstance(value, str) else self.written_size(value))

    def charge_each(self, values: Iterable[Any], extra: int = 0) -> Iterator[Any]:
        """Yield the values, charging each."""
        for value in values:
            self.charge(extra)
            self.charge_value(value)
            yield value

    def written_size(self, value: object) -> int:
        """Returns about how many characters a value has when written out. Counting stops when the budget is spent."""
        size = 0
        rest: list[Any] = [value]
        while rest and size <= self._left:
            item = rest.pop()
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, (list, tuple)):
                size += _ITEM_SIZE * len(item)  # pyright: ignore[reportUnknownArgumentType]
                rest.extend(item)  # pyright: ignore[reportUnknownArgumentType]
            elif isinstance(item, dict):
                size += _ITEM_SIZE * len(item)  # pyright: ignore[reportUnknownArgumentType]
                rest.extend(item.keys())  # pyright: ignore[reportUnknownArgumentType]
                rest.extend(item.values())  # pyright: ignore[reportUnknownArgumentType]
            elif isinstance(item, _Namespace):
                size += _ITEM_SIZE
                rest.append(object.__getattribute__(item, "_Namespace__attrs"))
        return size


_meter: ContextVar[_Meter] = ContextVar("_meter")


@contextmanager
def _metered() -> Generator[None]:
    token = _meter.set(_Meter())
    try:
        yield
    finally:
        _meter.reset(token)


def compile_template(source: str) -> Template:
    """Compile a chat template.

    Raises:
        LimitError: the template is longer than a chat template may be.
        Exception: whatever Jinja and Python's compiler raise for a bad template.
    """
    if len(source) > _MAX_SOURCE:
        raise LimitError(f"it has {len(source)} characters, more than {_MAX_SOURCE}")
    with _metered():
        return _environment().from_string(source)


def render_template(template: Template, variables: Mapping[str, Any]) -> str:
    """Render a template of `compile_template`. Any thread may call this.

    Raises:
        LimitError: the template takes too much time or memory.
        RefusedError: the template called raise_exception.
        Exception: whatever Jinja and the template's own expressions raise.
    """
    with _metered():
        return template.render(variables)


class _Namespace(Namespace):
    """Jinja's namespace, whose repr() leaves out its contents: they may include the namespace itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """Accepts `{% generation %}`, which marks the assistant's text for training and has no effect here."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Returns the block's body in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Metering(NodeTransformer):
    """Adds calls of the environment to a template's syntax tree, to charge the meter where Jinja has no hook."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """`a ~ b`"""
        self.generic_visit(node)
        return _call("concatenated", node.nodes, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """`[a, b]`"""
        self.generic_visit(node)
        return _call("made", [node], node.lineno) if _is_variable(node.items) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """`(a, b)`, unless it is the target of an assignment"""
        self.generic_visit(node)
        return _call("made", [node], node.lineno) if node.ctx == "load" and _is_variable(node.items) else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """`{a: b}`"""
        self.generic_visit(node)
        return _call("made", [node], node.lineno)

    def _visit_body(self, node: Any) -> nodes.Node:
        """Charge the meter each time that a body runs, with the size of the plain text in it."""
        self.generic_visit(node)
        size = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_call("entered", [nodes.Const(size)], node.lineno), lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = visit_Block = _visit_body


def _is_variable(items: list[nodes.Expr]) -> bool:
    return not all(isinstance(item, nodes.Const) for item in items)


def _call(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    call = nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)
    return call.set_lineno(line)  # pyright: ignore[reportReturnType] - it returns itself


class _ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment that Hugging Face transformers sets up, with a meter."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _Generation],
            finalize=_charge_output,
            optimized=False,  # so that constants are not computed while compiling
        )
        self.filters = {
            name: _charging(function, compares=name in _COMPARING_FILTERS)
            for name, function in {**_FILTERS, "indent": _indent, "join": _join, "replace": _replace}.items()
            if name not in _UNBOUNDED_FILTERS
        }
        self.filters["tojson"] = _charging(_to_json)
        self.tests = {name: _charging(function) for name, function in TESTS.items()}
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _refuse, "strftime_now": _strftime_now}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Metering().visit(source), *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _UNBOUNDED_METHODS and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = _meter.get()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            # A number may be a width, as in "".ljust(n).
            meter.charge(sum(abs(value) for value in (*args, *kwargs.values()) if isinstance(value, int)))
            if obj.__name__ == "replace" and len(args) > 1:
                meter.charge(owner.count(args[0]) * len(args[1]))
            elif obj.__name__ == "join":
                args = tuple(meter.charge_each(values, len(owner)) for values in args)
        result = super().call(context, obj, *args, **kwargs)
        meter.charge_value(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = _meter.get()
        if operator == "+" and isinstance(left, str):
            meter.charge_value(right)
        elif operator == "%" and isinstance(left, str):
            _charge_format(left, left.count("%"), right)
        else:
            _check_bits(left)
            _check_bits(right)
            if operator == "**" and not -_MAX_BITS <= right <= _MAX_BITS:
                raise LimitError(f"it raises to a power above {_MAX_BITS}")
            if operator == "*":
                for value, times in ((left, right), (right, left)):
                    if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                        meter.charge(max(times, 0) * meter.written_size(value))  # pyright: ignore[reportUnknownArgumentType]
        result = self.binop_table[operator](left, right)
        meter.charge_value(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text: str = value.__self__

        @wraps(wrapped)
        def metered(*args: Any, **kwargs: Any) -> str:
            _charge_format(text, text.count("{"), [args, kwargs])
            return wrapped(*args, **kwargs)

        return metered

    def made(self, value: Any) -> Any:
        """Called for each literal with variables in it, so that `call` charges it."""
        return value

    def concatenated(self, *parts: Any) -> str:
        """Called for `a ~ b`."""
        return "".join(map(str, parts))

    def entered(self, size: int) -> None:
        """Called each time that the body of a loop, macro or block runs; `size` is the length of its plain text."""
        _meter.get().charge(size)


@cache
def _environment() -> _ChatEnvironment:
    return _ChatEnvironment()


def _charging(function: Callable[..., Any], *, compares: bool = False) -> Callable[..., Any]:
    """Returns the filter or test with charges for its result and, before that, for each item that it iterates over."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)  # which also copies Jinja's mark for extra arguments
    def charging(*args: Any, **kwargs: Any) -> Any:
        meter = _meter.get()
        value = args[first]
        if isinstance(value, Iterator):
            args = (*args[:first], meter.charge_each(value), *args[first + 1 :])  # pyright: ignore[reportUnknownArgumentType]
        elif compares:
            meter.charge_value(value)
        result = function(*args, **kwargs)
        meter.charge_value(result)
        return result

    return charging


@pass_context  # which also keeps Jinja from calling it while compiling
def _charge_output(_context: Context, value: object) -> str:
    text = str(value)
    _meter.get().charge(len(text))
    return text


def _charge_format(text: str, num_fields: int, values: object) -> None:
    if _FORBIDDEN_FORMAT.search(text):
        raise LimitError(f"it has a format whose width is {_MAX_WIDTH} or more, or is not a plain number")
    meter = _meter.get()
    meter.charge(num_fields * (_MAX_WIDTH + meter.written_size(values)))


def _check_bits(value: object) -> None:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise LimitError(f"it calculates with a whole number of more than {_MAX_BITS} bits")


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _meter.get().charge((s.count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return _FILTERS["indent"](s, width, first, blank)


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    return _FILTERS["join"](eval_ctx, _meter.get().charge_each(value, len(d)), d, attribute)


@pass_eval_context
def _replace(eval_ctx: EvalContext, s: str, old: str, new: str, count: int | None = None) -> str:
    _meter.get().charge(str(s).count(str(old)) * len(str(new)))
    return _FILTERS["replace"](eval_ctx, s, old, new, count)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter of transformers: it neither escapes HTML nor, unlike Jinja's, characters outside of ASCII."""
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        _meter.get().charge_value(value)
        return encoder.encode(value)
    _meter.get().charge(indent if isinstance(indent, int) else len(indent))
    return "".join(_meter.get().charge_each(encoder.iterencode(value)))


def _refuse(message: object = "") -> NoReturn:
    raise RefusedError(str(message))


def _strftime_now(format: str) -> str:  # its name in transformers
    return datetime.now().strftime(format)
