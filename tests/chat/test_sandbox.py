"""Chat templates that are broken, hostile or too slow fail with an error, within bounds of time and memory."""

from __future__ import annotations

from time import thread_time

import pytest

from chat.templates import QWEN, one, template, user
from headrace.chat.template import Message
from headrace.values.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "line 1: Expected an expression"),
        ("\n\n{{ messages | nothing }}", "line 3: No filter named 'nothing'"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ messages[9].content }}", "list object has no element 9"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages | tojson(indent='x', separators=3) }}", "chat template failed"),
        ("{{ nothing | tojson }}", "not JSON serializable"),
        ("{% include 'file' %}", "no loader"),
        ("{{ strftime_now(3) }}", "strftime"),
        ("{{ bos_token" + "|trim" * 100_000 + " }}", "characters, more than"),
        ("{{ " + "(" * 5000, "recursion"),
        ("{% for a in [1] %}" * 50 + "{% endfor %}" * 50, "nested"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("", "wrote nothing"),
    ],
)
def test_a_template_that_fails(source: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match="the chat template failed") as caught:
        template(source).render([user("Hi")])
    assert message in str(caught.value)
    assert caught.value.field == "chat_template"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no traceback of Jinja's


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ ''.format.__self__.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ joiner.__init__.__globals__['os'] }}",
        "{{ namespace.__init__.__globals__.os }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ lipsum.__globals__.os }}",
        "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.x }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].content.encode() }}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_reach_outside(source: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"unsafe|undefined|no loader|has no attribute") as caught:
        template(source).render([user("Hi")])
    assert caught.value.field == "chat_template"


DOUBLING = "{% set ns = namespace(x='ab', y=[1]) %}{% for i in range(70) %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for n in [9] recursive %}{% if n < 60 %}{{ loop([n + 1, n + 1]) }}{% endif %}{% endfor %}",
        "{{ range(99999) | select('in', range(99999) | list) | list | length }}",
        DOUBLING + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        DOUBLING + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        DOUBLING + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
        DOUBLING + "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.y }}",
        DOUBLING + "{% set ns.y = (ns.y, ns.y) %}{% endfor %}{{ ns.y == 1 }}",
        DOUBLING + "{% set ns.y = {1: ns.y, 2: ns.y} %}{% endfor %}{{ ns.y | tojson }}",
        DOUBLING + "{% set ns.y = dict(a=ns.y, b=ns.y) %}{% endfor %}{{ ns.y | string }}",
        DOUBLING + "{% set ns.y = [namespace(a=ns.y, b=ns.y)] %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ [ns] }}",
        "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
        "{% macro f() %}"
        + "x" * 9999
        + "{% endmacro %}{% set x %}{% for i in range(99999) %}{{ f() }}{% endfor %}{% endset %}",
        "{{ range(10**9) }}",
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * [1] }}",
        "{{ 10 ** 10000000 }}",
        "{{ (10 ** 99) * (10 ** 99) * 9 }}",
        "{{ ('f' * 1000000) | int(base=16) // 3 }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.zfill(width=10**9) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a\n' | indent(10**9) }}",
        "{{ ('a\n' * 99999) | indent(99999) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
        "{{ ('b' * 99999).join(range(99999) | map('string')) }}",
        "{{ range(99999) | join('b' * 99999) }}",
        "{{ range(99999) | map('replace', '', 'x' * 9999) | list }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ ('%s' * 99999) % (('x' * 99999,) * 99999) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=10**9) }}",
        "{{ ('{0}' * 99999).format('x' * 99999) }}",
        "{{ {}.fromkeys(range(99999), 'x' * 99999) | string }}",
    ],
)
def test_a_template_cannot_run_for_long_or_grow_large(source: str) -> None:
    start = thread_time()
    with pytest.raises(InvalidRequestError) as caught:
        template(source).render([user("Hi")])
    assert caught.value.field == "chat_template"
    assert any(
        word in str(caught.value)
        for word in ("it makes more", "it takes more", "whole number", "to a power", "width", "MAX_RANGE", "No filter")
    ), str(caught.value)
    assert thread_time() - start < 2


def test_a_long_conversation_is_within_the_limits() -> None:
    messages = [user("question " * 100), Message("assistant", "answer <b> " * 100)] * 500 + [user("end")]
    text = one(template(QWEN).render(messages))
    assert text.count("<|im_start|>") == 1002
