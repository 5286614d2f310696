"""What work costs under budgets of money: integers alone, ready for the hot path. Pure.

Prices are in atoms, 10⁻¹⁸ of the currency, so that the price of one token is a whole number of
them; sums are exact. Budgets count micros, 10⁻⁶ of the currency, in cells of 64 bits. Where atoms
become micros they are rounded up: a sum that is rounded up is never less than what it stands for,
and never more than whole reservations that are each at least what they stand for.

Knows no plan: `core.nouns.PriceTable` has what a plan version says.
"""

from __future__ import annotations

from collections.abc import Mapping

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import PriceTable

ATOMS = 10**12
"""Of a micro."""

_EITHER = (("prompt_tokens", "cached_tokens"), ("rows", "cache_hits"))
"""What is reserved as the first may be used as the second."""


class Prices:
    """The prices of a plan version at a deployment ("owner/name") for a tier of usage.

    `unit` has the atoms of one unit by meter, of those that cost something; `most` what one unit
    may come to that is reserved under a meter. `unpriced` are meters that the plan prices, but
    not for this deployment: what they cost is not known, and never zero.
    """

    __slots__ = ("currency", "model", "most", "plan", "unit", "unpriced")

    def __init__(self, plan: str, table: PriceTable, model: str, tier: str) -> None:
        self.plan, self.model, self.currency = plan, model, table.currency
        unit, unpriced = {}, set()
        names = (model, model.partition("/")[2] or model, "*")
        for meter, prices in table.prices.items():
            name = next((name for name in names if name in prices), None)
            if name is None or [tier, meter, name] in table.unrated:
                unpriced.add(meter)
            elif atoms := int(prices[name]):
                unit[meter] = atoms
        self.unit: dict[str, int] = unit
        self.unpriced = frozenset(unpriced)
        self.most = dict(unit)
        for reserved, used in _EITHER:
            if unit.get(used, 0) > unit.get(reserved, 0):
                self.most[reserved] = unit[used]

    def mentions(self, meter: str) -> bool:
        return meter in self.unit or meter in self.unpriced

    def cost(self, quantities: Mapping[str, int]) -> int:
        """What was used comes to, in atoms."""
        unit, atoms = self.unit, 0
        for meter, quantity in quantities.items():
            if meter in unit:
                atoms += quantity * unit[meter]
        return atoms

    def bound(self, needs: Mapping[str, int]) -> int:
        """What these needs may come to at most, in micros."""
        most, atoms = self.most, 0
        for meter, quantity in needs.items():
            if meter in most:
                atoms += quantity * most[meter]
        return -(-atoms // ATOMS)

    def fitting(self, needs: Mapping[str, int], meter: str, micros: int) -> int:
        """How many units of a meter so many micros pay for beside the other needs."""
        each = self.most.get(meter, 0)
        if not each:
            return 0
        others = sum(n * self.most.get(m, 0) for m, n in needs.items() if m != meter)
        return max((micros * ATOMS - others) // each, 0)

    def check(self, meters: Mapping[str, int]) -> MeuseError | None:
        """The refusal of work that uses a meter whose price is not known."""
        missing = sorted(self.unpriced.intersection(meters))
        if not missing:
            return None
        return unrated(
            f"plan {self.plan} has no price for {', '.join(missing)} of {self.model}",
            "Ask an administrator to put one into the plan.",
        )


def unrated(why: str, hint: str) -> MeuseError:
    """Work that a hard budget of money would have to pay, at no known price."""
    return MeuseError(
        Code.UNRATED, f"a hard budget counts money, and {why}", field="budget", hint=hint
    )


def no_plan() -> MeuseError:
    return unrated("its payer has no plan", "Ask an administrator to give the tenant a plan.")


def other_currency(budget: str, counted: str, prices: Prices) -> MeuseError:
    return unrated(
        f"{budget} is in {counted}, plan {prices.plan} in {prices.currency}",
        f"Ask an administrator for a budget in {prices.currency}.",
    )
