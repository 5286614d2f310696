"""The chat template of a model as fine-tuning takes it: run in its sandbox, and words of users
are words, as in serving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from meuse.serve.generation.prompt import words_alone
from meuse.serve.generation.template import Template


class TemplateChat:
    """`special` are the words that the tokenizer takes for control tokens."""

    def __init__(self, template: Template, special: Collection[str]) -> None:
        self._template = template
        self._special = sorted(special, key=len, reverse=True)

    def turns(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
    ) -> tuple[Callable[[int, bool], str], str]:
        told, known, mark = words_alone(messages, tools, self._special)
        more = {"tools": known} if known else {}

        def text(count: int, answered: bool) -> str:
            return self._template.render(
                {"messages": told[:count], "add_generation_prompt": answered, **more}
            )

        return text, mark
