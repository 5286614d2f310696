"""Chat templates: a conversation → the text of the prompt, by the model's own Jinja template.

A template is a program that came with a file: it runs in Jinja's sandbox, within bounds of time,
memory and output. It sees what it is given and nothing else. Knows jinja2.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from meuse.core.errors import Code, MeuseError, invalid
from meuse.serve.generation.bounds import TooSlowError, bounded

MAX_TEMPLATE = 256 * 1024
MAX_PROMPT = 16 * 1024 * 1024
"""Characters."""
MAX_SECONDS = 0.5
MAX_MEMORY = 256 * 1024 * 1024


class RefusedError(Exception):
    """Raised by the template itself: it does not take such a conversation."""


class Template:
    """Compiled once. Raises `invalid_data` for what is no template."""

    def __init__(self, source: str, tokens: dict[str, str] | None = None) -> None:
        """`tokens`: the names that templates know control tokens by, such as `bos_token`."""
        if len(source) > MAX_TEMPLATE:
            raise MeuseError(Code.INVALID_DATA, "the chat template is too long")
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            with bounded(MAX_SECONDS, MAX_MEMORY):
                self._template = environment.from_string(source)
        except (jinja2.TemplateError, TooSlowError, MemoryError, RecursionError) as error:
            raise MeuseError(
                Code.INVALID_DATA, f"the chat template is not understood: {_name(error)}"
            ) from error
        self._tokens = dict(tokens or {})

    def render(self, given: dict[str, Any]) -> str:
        """To be called in the main thread.

        Raises `invalid_field` at `messages` where the template refuses them, or fails on them.
        """
        values = {"tools": None, "documents": None, "add_generation_prompt": True}
        try:
            with bounded(MAX_SECONDS, MAX_MEMORY):
                return self._joined(values | self._tokens | given)
        except RefusedError as error:
            raise invalid("messages", f"the chat template refuses them: {error}") from None
        except TooSlowError:
            raise invalid(
                "messages", f"the chat template did not end within {MAX_SECONDS:g} s"
            ) from None
        except Exception as error:  # whatever a program may raise
            raise invalid("messages", f"the chat template fails on them: {_name(error)}") from None

    def _joined(self, values: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self._template.generate(**values):
            size += len(part)
            if size > MAX_PROMPT:
                raise RefusedError(f"the prompt would have more than {MAX_PROMPT} characters")
            parts.append(part)
        return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    """Powers of integers are the one operation that may take for ever without a pause."""

    intercepted_binops = frozenset({"**"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        raise RefusedError(f"it uses {operator}")


class _Generation(Extension):
    """`{% generation %}`, by which templates mark what a model is trained on: its body."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}".removesuffix(": ")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As templates know it: unlike Jinja's own, nothing is written in the way of HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=None if separators is None else (separators[0], separators[1]),
        sort_keys=sort_keys,
    )


def _refuse(message: object = "") -> NoReturn:
    raise RefusedError(str(message)[:300])


def _now(format: str) -> str:
    return datetime.now().astimezone().strftime(format)
