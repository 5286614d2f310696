"""How invoices are made here: the operator's settings, as billing needs them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from meuse.core.billing import Party

NOBODY = Party(name="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """`payment` is the text that says how to pay. `grace_ms` after its end a period may be
    invoiced: until then records that come late are waited for."""

    seller: Party = NOBODY
    payment: str = ""
    due_days: int = 30
    grace_ms: int = 0
    invoice_series: str = "INV"
    credit_note_series: str = "CN"


def series(name: str, now_ms: int) -> str:
    """`INV`, in 2026 → `INV-2026`: numbers begin anew each year of UTC."""
    return f"{name}-{datetime.fromtimestamp(now_ms / 1000, UTC).year}"


def date_of(ms: int, days: int = 0) -> str:
    """The UTC date of a moment, `days` later: `2026-11-30`."""
    return (datetime.fromtimestamp(ms / 1000, UTC) + timedelta(days=days)).strftime("%Y-%m-%d")
