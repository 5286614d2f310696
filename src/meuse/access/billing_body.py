"""The body of a tenant's billing details: which fields there are, and what each may hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import integer, known
from meuse.core.money import parse_amount
from meuse.core.nouns import BillingDetails, Party
from meuse.core.plans import Tax

FIELDS = ("name", "address", "tax_id", "email", "tax", "due_days")
_MAX_LINES = 8
_MAX_TEXT = 200
_MAX_DUE_DAYS = 365
# What stands between the two is the mail server's business.
_EMAIL = re.compile(r"[^@\s<>\"]+@[^@\s<>\"]+")


def read(body: Mapping[str, Any]) -> BillingDetails:
    """From {name, address?, tax_id?, email?, tax?: {name, percent, text?}, due_days?}.

    `address` is a list of lines. Raises `invalid_field` for the part at fault.
    """
    known(body, FIELDS)
    name = text(body.get("name"), "name")
    if not name:
        raise invalid("name", "the name is missing", "Say who the invoice is for.")
    email = text(body.get("email"), "email")
    if email and _EMAIL.fullmatch(email) is None:
        raise invalid("email", f"{email!r} is not an address", "Use name@example.com.")
    due = body.get("due_days")
    return BillingDetails(
        party=Party(
            name=name,
            address=_address(body.get("address")),
            tax_id=text(body.get("tax_id"), "tax_id"),
            email=email,
        ),
        tax=_tax(body.get("tax")),
        due_days=None if due is None else integer("due_days", due, 0, _MAX_DUE_DAYS),
    )


def text(value: object, field: str, most: int = _MAX_TEXT) -> str:
    """A line of text, or "" for None. Raises `invalid_field` for one that cannot be printed."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise invalid(field, f"{value!r} is not a line of text", f"Use up to {most} characters.")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value):
        raise invalid(field, f"{value!r} has control characters", "Leave them out.")
    return value.strip()


def _address(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_LINES:
        raise invalid(
            "address", f"{value!r} is not an address", f"Use a list of up to {_MAX_LINES} lines."
        )
    lines = [text(line, f"address[{i}]") for i, line in enumerate(value)]
    return tuple(line for line in lines if line)


def _tax(value: object) -> Tax | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise invalid("tax", f"{value!r} is not a tax", 'Use {"name": "VAT", "percent": "21"}.')
    known(value, ("name", "percent", "text"), "tax.")
    name = text(value.get("name"), "tax.name", 63)
    if not name:
        raise invalid("tax.name", "the tax has no name", 'Name it, such as "VAT".')
    percent = parse_amount(value.get("percent"), "tax.percent")
    if percent > Decimal(100):
        raise invalid("tax.percent", f"{percent} % is above 100", 'Use "0" to "100".')
    return Tax(name, str(value["percent"]), text(value.get("text"), "tax.text", 500))
