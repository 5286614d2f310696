"""Chat templates: what models bring, and what a hostile one may not do."""

from __future__ import annotations

import resource
import signal

import pytest

import helpers_llm
from helpers_child import in_child
from meuse.core.errors import Code, MeuseError
from meuse.serve.generation import bounds
from meuse.serve.generation.template import Template

USER = [{"role": "user", "content": "Hi {{ 7 * 7 }}"}]


def test_renders_a_conversation() -> None:
    """The model's own template; what users write is not evaluated."""
    text = Template(helpers_llm.CHATML).render({"messages": USER})
    assert text.endswith("<|im_start|>user\nHi {{ 7 * 7 }}<|im_end|>\n<|im_start|>assistant\n")


def test_has_what_templates_use() -> None:
    """Control tokens, tools as JSON, loop controls, the date, generation marks."""
    source = (
        "{{ bos_token }}{% generation %}{% for t in tools %}{{ t | tojson }}{% break %}"
        "{% endfor %}{% endgeneration %}{{ strftime_now('%Y') | length }}{{ documents is none }}"
    )
    text = Template(source, {"bos_token": "<s>"}).render({"messages": [], "tools": [{"a": "é<"}]})
    assert text == '<s>{"a": "é<"}4True'


def test_json_as_templates_ask_for_it() -> None:
    """Their arguments are honoured: the prompt is what the model was trained on."""
    source = "{{ tools | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}"
    text = Template(source).render({"messages": [], "tools": [{"b": "é", "a": 1}]})
    assert text == '[{"a":1,"b":"\\u00e9"}]'


def test_says_why_it_refuses() -> None:
    """`raise_exception` of a template is the caller's mistake, with the template's words."""
    with pytest.raises(MeuseError, match="roles must alternate") as caught:
        Template("{{ raise_exception('roles must alternate') }}").render({"messages": USER})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "messages")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(1000000000) | list }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'x' * 9999999999 }}",
        "{{ 'x' | center(9999999999) }}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}"
        "{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__ }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0]['content'].nothing.nothing }}",
    ],
)
def test_hostile_templates_end_in_an_error(source: str) -> None:
    """No endless loop, no endless memory, no attribute of Python's own, nothing changed."""
    in_child(lambda: ends(source))


def test_what_nothing_interrupts_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """2⁶⁰ comparisons are one step of the interpreter."""
    monkeypatch.setattr(bounds, "HARD_S", 1.5)
    source = (
        "{% set n = namespace(x=[], y=[]) %}{% for i in range(60) %}"
        "{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}"
    )
    with pytest.raises(AssertionError, match="it ended with 1"):
        in_child(lambda: Template(source).render({"messages": USER}))


def ends(source: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MeuseError) as caught:
        Template(source).render({"messages": USER})
    assert caught.value.code in (Code.INVALID_FIELD, Code.INVALID_DATA)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


@pytest.mark.parametrize("source", ["{% for %}", "{{ unknown_call( }}", "{% nothing %}"])
def test_what_is_no_template_is_refused_at_once(source: str) -> None:
    """When the replica starts, and not at the first request."""
    with pytest.raises(MeuseError) as caught:
        Template(source)
    assert caught.value.code == Code.INVALID_DATA
