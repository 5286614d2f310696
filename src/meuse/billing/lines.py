"""A line of an invoice: what was used or is due, at what price, and the rounded amount."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, localcontext
from typing import Any, Literal

from meuse.billing.plans.curve import PRECISION, Slice
from meuse.core.clock import to_rfc3339
from meuse.core.money import round_money

Kind = Literal["usage", "fee", "maximum", "minimum", "credit", "tax"]

_SHOWN = Decimal(1).scaleb(-18)


@dataclass(frozen=True, slots=True)
class Before:
    """What earlier invoices of the period have of a line."""

    quantity: int
    amount: str


@dataclass(frozen=True, slots=True)
class Line:
    """Quantity of one meter priced by one plan version, or an amount that is due besides.

    `unit_price` is for `per` units; it and `amount` are decimal text in the plan's currency.
    `exact` is the amount before it is rounded. `model` and `tier` are those of the usage, or of
    the price where it counts several together; `models` then has the quantities. `tiers` are
    the steps of a price that has some. Of a line that goes on from an earlier invoice, all is
    what is added to it: `amount` is the rounded sum less what was rounded `before`.
    """

    meter: str
    model: str
    plan: str
    quantity: int
    per: int
    unit_price: str | None
    amount: str
    kind: Kind = "usage"
    name: str = ""
    tier: str = ""
    exact: Decimal = Decimal(0)
    scheme: str = "unit"
    tiers: tuple[Slice, ...] = ()
    free: int = 0
    discounts: tuple[tuple[str, str], ...] = ()
    models: tuple[tuple[str, int], ...] = ()
    period: tuple[int, int] | None = None
    before: Before | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The same on every invoice of a period."""
        if self.kind in ("usage", "fee"):
            return self.kind, self.plan, self.name, self.meter, self.model, self.tier
        return (self.kind,)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: what a line of its kind always has, and the rest where there is some."""
        body: dict[str, Any] = {
            "meter": self.meter,
            "model": self.model,
            "plan": self.plan,
            "quantity": self.quantity,
            "per": self.per,
            "unit_price": self.unit_price,
            "amount": self.amount,
            "kind": self.kind,
            "tier": self.tier,
            "exact": decimal_text(self.exact),
        }
        optional = {
            "name": self.name,
            "scheme": self.scheme if self.scheme != "unit" else "",
            "tiers": [_tier(part, self.per) for part in self.tiers],
            "free": self.free,
            "discounts": [{"name": name, "percent": off} for name, off in self.discounts],
            "models": dict(self.models),
            "period": _period(self.period) if self.period else None,
            "before": asdict(self.before) if self.before else None,
        }
        return body | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Quantity without an amount: included in the plan, or unrated for a `reason`."""

    meter: str
    model: str
    plan: str | None
    quantity: int
    reason: str = ""
    tier: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def amount_text(amount: Decimal, currency: str) -> str:
    """`0.125`, EUR → `"0.12"`: rounded to the minor unit, without an exponent."""
    with localcontext(prec=PRECISION):
        return f"{round_money(amount, currency):f}"


def decimal_text(value: Decimal) -> str:
    """At most eighteen places, as few as it needs."""
    with localcontext(prec=PRECISION):
        text = f"{value.quantize(_SHOWN):f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def total_of(lines: Iterable[Line]) -> Decimal:
    """The sum of the rounded amounts."""
    with localcontext(prec=PRECISION):
        return sum((Decimal(line.amount) for line in lines), Decimal(0))


def difference(after: Iterable[Line], before: Iterable[Line], currency: str) -> tuple[Line, ...]:
    """The lines that lead from `before` to `after`: their amounts are those of `after` less
    those of `before`, to the last digit. A line that stayed as it was is left out."""
    known = {line.key: line for line in before}
    found: list[Line] = []
    for line in after:
        old = known.pop(line.key, None)
        if old is None:
            found.append(line)
        elif (line.quantity, line.exact, line.amount) != (old.quantity, old.exact, old.amount):
            found.append(_less(line, old))
    for old in known.values():
        nothing = replace(
            old, quantity=0, exact=Decimal(0), amount=amount_text(Decimal(0), currency),
            free=0, tiers=(), models=(),
        )  # fmt: skip
        found.append(_less(nothing, old))
    return tuple(found)


def _less(line: Line, old: Line) -> Line:
    with localcontext(prec=PRECISION):
        return replace(
            line,
            quantity=line.quantity - old.quantity,
            amount=f"{Decimal(line.amount) - Decimal(old.amount):f}",
            exact=line.exact - old.exact,
            free=line.free - old.free,
            tiers=_less_tiers(line.tiers, old.tiers),
            models=_less_models(dict(line.models), dict(old.models)),
            before=Before(old.quantity, old.amount),
        )


def _less_tiers(now: Sequence[Slice], then: Sequence[Slice]) -> tuple[Slice, ...]:
    """The steps with what each has more (or, of a volume price, less) than it had."""
    steps = {(part.up_to, part.unit_price): part for part in now}
    for old in then:
        key = (old.up_to, old.unit_price)
        part = steps.get(key) or replace(old, quantity=0, cost=Decimal(0), flat=Decimal(0))
        steps[key] = replace(
            part,
            quantity=part.quantity - old.quantity,
            cost=part.cost - old.cost,
            flat=part.flat - old.flat,
        )
    return tuple(part for part in steps.values() if part.quantity or part.cost)


def _less_models(now: Mapping[str, int], then: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    more = {name: now.get(name, 0) - then.get(name, 0) for name in {**now, **then}}
    return tuple((name, quantity) for name, quantity in more.items() if quantity)


def _tier(part: Slice, per: int) -> dict[str, Any]:
    with localcontext(prec=PRECISION):
        amount = part.cost / per
    body: dict[str, Any] = {
        "up_to": part.up_to,
        "quantity": part.quantity,
        "unit_price": part.unit_price,
        "exact": decimal_text(amount),
    }
    return body | ({"flat": decimal_text(part.flat)} if part.flat else {})


def _period(period: tuple[int, int]) -> dict[str, str]:
    return {"from": to_rfc3339(period[0]), "to": to_rfc3339(period[1])}
