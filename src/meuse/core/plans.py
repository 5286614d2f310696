"""Plans: what is paid for, as frozen records and as the JSON that they are kept and shown in.

Amounts and percentages are decimal text, quantities integers in the unit of their meter. What
they come to is `billing`'s; whether they make sense is checked where a plan is put (`access`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

ANY = "*"
SCHEMES = ("unit", "graduated", "volume", "package")
STACKING = ("stack", "best_of", "precedence")
SETTLE = ("credit_then_invoice", "credit_only")
TIERS = ("standard", "batch", "internal")
"""The tiers of usage: asked for and answered at once, in idle capacity, by the platform itself."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """A tier of a price: units above the step before, up to and with `up_to` (None: all others).

    `flat` is due once a period when the step is entered.
    """

    up_to: int | None
    amount: str
    flat: str = "0"


@dataclass(frozen=True, slots=True)
class Price:
    """`amount` of the plan's currency per `per` units of a meter.

    By `scheme`: `unit` each unit costs that; `graduated` each unit costs what its own step of
    `tiers` says; `volume` all units cost what the step says in which the whole quantity lies;
    `package` a started package of `per` units costs `amount`. Of the quantity of a period,
    rounded up to a multiple of `round_up_to`, the first `free` units cost nothing.
    """

    meter: str
    amount: str = "0"
    per: int = 1
    model: str = ANY  # "*", a deployment's bare name, or owner/name
    tier: str = ANY
    scheme: str = "unit"
    tiers: tuple[Step, ...] = ()
    free: int = 0
    round_up_to: int = 1

    @property
    def is_linear(self) -> bool:
        """Whether each unit costs the same, wherever and whenever it is used."""
        return self.scheme == "unit" and self.free == 0 and self.round_up_to == 1

    @property
    def counter(self) -> tuple[str, str, str]:
        """Quantities of a period are counted together under this, whatever the plan."""
        return self.meter, self.model, self.tier


@dataclass(frozen=True, slots=True)
class Fee:
    """`quantity` × `amount` a month or an hour, while the plan is in force, by the second."""

    name: str
    amount: str
    per: str = "month"
    quantity: int = 1
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Discount:
    """`percent` off the usage of a meter, a model and a tier."""

    name: str
    percent: str
    meter: str = ANY
    model: str = ANY
    tier: str = ANY


@dataclass(frozen=True, slots=True)
class Credits:
    """`amount` that a period is credited with, to be used in it.

    `settle` says what becomes of the rest: `credit_then_invoice`, it is invoiced; `credit_only`,
    there is none: what the tenant's wallet cannot pay for is not served.
    """

    amount: str = "0"
    settle: str = "credit_then_invoice"


@dataclass(frozen=True, slots=True)
class Tax:
    """`percent` of what is left to pay. `text` stands on the invoice beside it: why the rate is
    what it is, such as "Reverse charge"."""

    name: str
    percent: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """A plan at a moment. Immutable: a change makes the next version.

    `maximum` and `minimum` bound what a period comes to before credits and tax.
    """

    name: str
    version: int
    currency: str
    prices: tuple[Price, ...]
    created_ms: int
    fees: tuple[Fee, ...] = ()
    discounts: tuple[Discount, ...] = ()
    stacking: str = "stack"
    maximum: str | None = None
    minimum: str | None = None
    credits: Credits | None = None
    tax: Tax | None = None

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def is_prepaid(self) -> bool:
        """Whether usage is served only while there is credit for it."""
        return self.credits is not None and self.credits.settle == "credit_only"


def price_body(price: Price) -> dict[str, Any]:
    """The JSON of a price: meter, amount, per, model, and what else is not as by default."""
    body = _body(price, ("meter", "amount", "per", "model"))
    if price.scheme in ("graduated", "volume"):
        del body["amount"]
    if price.tiers:
        body["tiers"] = [_body(step, ("up_to", "amount")) for step in price.tiers]
    return body


def terms_body(plan: PlanVersion) -> dict[str, Any]:
    """The JSON of what a plan says beside currency and prices, as far as it is said."""
    terms: dict[str, Any] = {}
    if plan.fees:
        terms["fees"] = [_body(fee, ("name", "amount", "per")) for fee in plan.fees]
    if plan.discounts:
        terms["discounts"] = [_body(one, ("name", "percent")) for one in plan.discounts]
    if plan.stacking != "stack":
        terms["stacking"] = plan.stacking
    for name in ("maximum", "minimum"):
        if getattr(plan, name) is not None:
            terms[name] = getattr(plan, name)
    if plan.credits is not None:
        terms["credits"] = asdict(plan.credits)
    if plan.tax is not None:
        terms["tax"] = tax_body(plan.tax)
    return terms


def tax_body(tax: Tax) -> dict[str, Any]:
    """The JSON of a tax: name, percent, and text where there is some."""
    return _body(tax, ("name", "percent"))


def price_of(body: Mapping[str, Any]) -> Price:
    """The reverse of `price_body`; what is missing is as by default."""
    steps = tuple(
        Step(step.get("up_to"), step["amount"], step.get("flat", "0"))
        for step in body.get("tiers", ())
    )
    return Price(**{**body, "tiers": steps})


def plan_of(
    name: str,
    version: int,
    created_ms: int,
    currency: str,
    prices: Sequence[Mapping[str, Any]],
    terms: Mapping[str, Any],
) -> PlanVersion:
    """A plan of its parts in JSON (`price_body`, `terms_body`)."""
    return PlanVersion(
        name,
        version,
        currency,
        tuple(price_of(price) for price in prices),
        created_ms,
        fees=tuple(Fee(**fee) for fee in terms.get("fees", ())),
        discounts=tuple(Discount(**one) for one in terms.get("discounts", ())),
        stacking=terms.get("stacking", "stack"),
        maximum=terms.get("maximum"),
        minimum=terms.get("minimum"),
        credits=_some(Credits, terms.get("credits")),
        tax=_some(Tax, terms.get("tax")),
    )


def _some(kind: type[T], body: Mapping[str, Any] | None) -> T | None:
    return None if body is None else kind(**body)


def _body(record: Any, always: Sequence[str]) -> dict[str, Any]:
    """Its fields: those `always` shown, and those that differ from their default."""
    shown = {name: getattr(record, name) for name in always}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name not in shown and (field.default is MISSING or value != field.default):
            shown[field.name] = value
    return shown
