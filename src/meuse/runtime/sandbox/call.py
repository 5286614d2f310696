"""Call a program that is written with `inside.main`, and read what it says of its outcome."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.runtime.sandbox import inside
from meuse.runtime.sandbox.harvest import FileRefusedError, take
from meuse.runtime.sandbox.order import NoSandboxError, Order
from meuse.runtime.sandbox.run import run

MAX_OUTCOME = 16 << 20


def call(
    order: Order,
    payload: dict[str, Any],
    *,
    what: str,
    field: str,
    least: int,
    listener: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], int]:
    """(result, tier). The result is foreign: the caller checks what it uses of it.

    `what` names the program and `field` the part of the request it comes from, for errors:
    `invalid_data` when it fails or breaks a limit, `unavailable` when no tier is good enough.
    """
    (order.folder / inside.ORDER).write_text(json.dumps(payload))
    try:
        ended = run(order, least, listener)
    except NoSandboxError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"this machine has no sandbox good enough for {what}: {error}",
            field=field,
            hint="Install bubblewrap, or allow less: the setting sandbox_tier.",
        ) from None
    outcome = _outcome(order) if ended.ok else None
    if outcome is None:
        raise MeuseError(
            Code.INVALID_DATA,
            f"{what} was stopped: {ended.why(order.limits)}",
            field=field,
            hint=_last_words(ended.output),
        )
    if isinstance(outcome.get("error"), dict):
        raise MeuseError.from_dict(outcome["error"])
    result = outcome.get("result")
    if not isinstance(result, dict):
        raise MeuseError(
            Code.INVALID_DATA,
            f"{what} failed: {str(outcome.get('failed', 'no result'))[:1000]}",
            field=field,
            hint=str(outcome.get("hint") or "The traceback is in the job's log.")[:500],
        )
    return result, ended.tier


def _outcome(order: Order) -> dict[str, Any] | None:
    try:
        text = take(order.folder, inside.OUTCOME, MAX_OUTCOME)
        outcome = json.loads(text) if text is not None else None
    except (FileRefusedError, ValueError, RecursionError):
        return None
    return outcome if isinstance(outcome, dict) else None


def _last_words(output: str) -> str | None:
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return f"Its last words: {lines[-1][-300:]}" if lines else None
