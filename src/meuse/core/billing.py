"""Who an invoice is from and for, as frozen records and as the JSON that they are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from meuse.core.plans import Tax, tax_body


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """As it stands on an invoice; `address` by line. What is not known is empty."""

    name: str
    address: tuple[str, ...] = ()
    tax_id: str = ""
    email: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"address": list(self.address)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingDetails:
    """How a tenant is invoiced.

    `tax` takes the place of its plan's: another rate, none (zero percent, named), or a reverse
    charge. `due_days` takes the place of the platform's.
    """

    party: Party
    tax: Tax | None = None
    due_days: int | None = None


def details_body(details: BillingDetails) -> dict[str, Any]:
    """The JSON of billing details: every field shown."""
    tax = None if details.tax is None else tax_body(details.tax)
    return {**details.party.to_dict(), "tax": tax, "due_days": details.due_days}


def details_of(body: Mapping[str, Any]) -> BillingDetails:
    """The reverse of `details_body`."""
    tax = body.get("tax")
    return BillingDetails(
        party=Party(
            name=body["name"],
            address=tuple(body.get("address", ())),
            tax_id=body.get("tax_id", ""),
            email=body.get("email", ""),
        ),
        tax=None if tax is None else Tax(**tax),
        due_days=body.get("due_days"),
    )
