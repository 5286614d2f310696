"""The body of a plan: which fields there are, of what kind. `plan_checks` knows what they mean.

The JSON schema that the API shows is made of these types: what it allows is what is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, to_builtins

from meuse.core.errors import MeuseError, invalid
from meuse.core.money import AMOUNT_PATTERN
from meuse.core.nouns import METERS
from meuse.core.plans import SETTLE

_MOST = 10**18
_Amount = Annotated[
    str, Meta(pattern=f"^{AMOUNT_PATTERN}$", description="Decimal text, such as 0.50.")
]
_Count = Annotated[int, Meta(ge=1, le=_MOST)]
_Free = Annotated[int, Meta(ge=0, le=_MOST)]
_Name = Annotated[str, Meta(min_length=1, max_length=63)]
_Meter = Literal[METERS]  # type: ignore[valid-type]  # a tuple of words is what Literal takes
_MeterOrAny = Literal[("*", *METERS)]  # type: ignore[valid-type]
_Tier = Literal["*", "standard", "batch", "internal"]


class _Body(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Every object of a plan: no fields but its own."""


class StepBody(_Body):
    """Units above the step before, up to and with `up_to`; null: all others."""

    amount: _Amount
    up_to: _Count | None = None
    flat: _Amount = "0"


class PriceBody(_Body):
    """What a meter costs, for a deployment ("*", name or owner/name) and a tier of usage."""

    meter: _Meter
    amount: _Amount | None = None
    per: _Count = 1
    model: str = "*"
    tier: _Tier = "*"
    scheme: Literal["unit", "graduated", "volume", "package"] = "unit"
    tiers: Annotated[list[StepBody], Meta(max_length=100)] | None = None
    free: _Free = 0
    round_up_to: _Count = 1


class FeeBody(_Body):
    """`quantity` × `amount` a month or an hour, while the plan is in force, by the second."""

    name: _Name
    amount: _Amount
    per: Literal["month", "hour"] = "month"
    quantity: _Count = 1
    model: str | None = None


class DiscountBody(_Body):
    """`percent` off what usage of a meter, a model and a tier costs."""

    name: _Name
    percent: _Amount
    meter: _MeterOrAny = "*"
    model: str = "*"
    tier: _Tier = "*"


class CreditsBody(_Body):
    """What each period is credited with, and whether the rest is invoiced or not served."""

    amount: _Amount | None = None
    settle: Literal[SETTLE] = "credit_then_invoice"  # type: ignore[valid-type]


class TaxBody(_Body):
    """Added to what is left to pay; `text` says on the invoice why the rate is what it is."""

    name: _Name
    percent: _Amount
    text: Annotated[str, Meta(max_length=500)] = ""


class PlanBody(_Body):
    """What PUT /api/plans/{name} takes."""

    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$", description="ISO 4217.")]
    prices: Annotated[list[PriceBody], Meta(max_length=1000)]
    fees: Annotated[list[FeeBody], Meta(max_length=100)] = []
    discounts: Annotated[list[DiscountBody], Meta(max_length=100)] = []
    stacking: Literal["stack", "best_of", "precedence"] = "stack"
    maximum: _Amount | None = None
    minimum: _Amount | None = None
    credits: CreditsBody | None = None
    tax: TaxBody | None = None


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a plan's body."""
    return msgspec.json.schema(PlanBody)


def read(body: Mapping[str, Any]) -> PlanBody:
    """Raises `invalid_field` that names the part at fault (`prices[0].tiers[1].up_to`)."""
    try:
        return msgspec.convert(dict(body), PlanBody)
    except msgspec.ValidationError as error:
        raise _told(str(error), body) from None


def plain(part: Struct) -> dict[str, Any]:
    """An object as it is kept: what is as by default is left out."""
    shown: dict[str, Any] = to_builtins(part)
    return shown


# --- errors ---

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
AMOUNTS = ("amount", "flat", "percent", "maximum", "minimum")
"""The fields that hold decimal text."""
_DECIMAL = 'Use decimal text such as "0.50": a JSON number may be inexact.'
_WHOLE = "Use a whole number of the meter's units: usage is counted in whole units."
_HINTS = {
    "amount": _DECIMAL, "flat": _DECIMAL, "maximum": _DECIMAL, "minimum": _DECIMAL,
    "percent": 'Use decimal text from "0" to "100".',
    "up_to": f"{_WHOLE} null stands for all that are above.",
    "free": _WHOLE, "round_up_to": _WHOLE, "per": _WHOLE,
    "meter": f"Known: {', '.join(METERS)}.",
    "tier": 'Use "standard", "batch", "internal", or "*" for all.',
    "scheme": "Use unit, graduated, volume or package.",
    "stacking": "Use stack, best_of or precedence.",
    "settle": "Use credit_then_invoice, or credit_only: nothing is served without credit.",
    "currency": "Use an ISO 4217 code such as EUR.",
}  # fmt: skip
_NAMES = {
    "prices": PriceBody, "tiers": StepBody, "fees": FeeBody, "discounts": DiscountBody,
    "credits": CreditsBody, "tax": TaxBody, "": PlanBody,
}  # fmt: skip


def _told(message: str, body: Mapping[str, Any]) -> MeuseError:
    at = _AT.search(message)
    path = at["path"] if at else ""
    parts = re.findall(r"[^.\[\]]+", path)
    words = [part for part in parts if not part.isdecimal()]
    last = words[-1] if words else ""
    lone = _UNKNOWN.match(message) or _MISSING.match(message)
    if lone is not None:
        name = lone["name"]
        where = f"{path}.{name}".strip(".")
        if _MISSING.match(message):
            return invalid(where, f"{name} is missing", _HINTS.get(name))
        known = ", ".join(_NAMES[last].__struct_fields__)
        return invalid(where, f"there is no field {name!r} here", f"The fields are: {known}.")
    told = _AT.sub("", message).replace("`", "")
    if "matching regex" in told and last != "currency":
        told = f"{_value(body, parts)!r} is not an amount"
    elif last in _HINTS:
        told = f"{_value(body, parts)!r} cannot be: {told[:1].lower()}{told[1:]}"
    hint = _HINTS.get(last) or f"The fields are: {_fields(last)}."
    return invalid(path or "prices", told, hint)


def _fields(last: str) -> str:
    return ", ".join(_NAMES.get(last, PlanBody).__struct_fields__)


def _value(body: Any, parts: list[str]) -> Any:
    """What stands at a path that was found to be wrong."""
    for part in parts:
        body = body[int(part)] if part.isdecimal() else body[part]
    return body
