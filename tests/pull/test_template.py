"""What a template adds, and what is no template."""

from __future__ import annotations

import json

import pytest

from helpers_child import in_child
from meuse.core.errors import Code, MeuseError
from meuse.pull import template
from meuse.pull.template import LEAST, most_tokens

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def test_a_short_template_adds_little() -> None:
    def body() -> None:
        assert most_tokens("") == LEAST
        assert most_tokens(CHATML) == LEAST

    in_child(body)


@pytest.mark.parametrize(
    "condition", ["true", "messages[0].role == 'system'", "tools", "messages[0].role == 'user'"]
)
def test_its_longest_words_count(condition: str) -> None:
    """Wherever they are said: always, to a system's message, with tools."""
    words = "Be good. " * 50

    def body() -> None:
        found = most_tokens(f"{{% if {condition} %}}{words}{{% endif %}}{CHATML}")
        given = max(len(json.dumps(probe)) for probe in template.PROBES)
        assert len(words) - given <= found <= len(words) + 200

    in_child(body)


def test_conversations_that_it_does_not_take_do_not_count() -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"

    def body() -> None:
        assert most_tokens(source + CHATML) == LEAST

    in_child(body)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{% for %}", "not understood"),
        ("{{ raise_exception('never') }}", "takes no conversation: .*never"),
        ("{{ messages.__class__.__mro__ }}", "takes no conversation"),
        ("{% for i in range(10**9) %}{% endfor %}", "takes no conversation"),
    ],
)
def test_what_is_no_template_is_refused(source: str, told: str) -> None:
    in_child(lambda: refused(source, told))


def refused(source: str, told: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        most_tokens(source)
    assert caught.value.code is Code.INVALID_DATA


def test_one_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "PATIENCE_S", 0.3)
    loops = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    in_child(lambda: refused(loops + CHATML, r"does not end within 0\.3 s"))
