"""What a chat template adds to a conversation, found by asking it. It came with a file: it has
little time, and what it does not take is not counted."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.pull.facts import refused
from meuse.runtime import sigstack

LEAST = 64
PATIENCE_S = 10.0
_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object"}},
}


def _said(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": ""} for role in roles]


PROBES: tuple[dict[str, Any], ...] = (
    {"messages": _said("user")},
    {"messages": _said("system", "user")},
    {"messages": _said("system", "user", "assistant", "user")},
    {"messages": _said("user"), "tools": [_TOOL]},
    {"messages": _said("system", "user"), "tools": [_TOOL]},
)


def most_tokens(source: str) -> int:
    """The tokens that it adds at most, beyond one for each byte of the conversation as JSON.

    Raises `invalid_data` for what is no template, takes no conversation, or does not end.
    """
    if not source:
        return LEAST
    try:
        from meuse.serve.generation.template import Template
    except ModuleNotFoundError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"chat templates need the package {error.name!r}, which is not installed",
            field="model",
            hint="pip install 'meuse[llm]'",
        ) from None
    added, why = [], ""
    with _within(PATIENCE_S):
        template = Template(source)
        for probe in PROBES:
            try:
                text = template.render(probe)
            except MeuseError as error:
                why = error.message
            else:
                given = sum(len(json.dumps(part, separators=(",", ":"))) for part in probe.values())
                added.append(len(text.encode()) - given)
    if not added:
        raise refused(f"the chat template takes no conversation: {why}")
    return max(LEAST, *added)


class _LateError(BaseException):
    """Of no kind that a template's failure is taken for."""


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises `invalid_data` when the block takes longer. In the main thread alone."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _LateError

    sigstack.take_back()
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _LateError:
        raise refused(f"the chat template does not end within {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
