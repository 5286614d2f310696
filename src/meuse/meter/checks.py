"""Limits made ready for the hot path, what a caller meets of them, and what a request holds.

Records of `limits`, which alone fills them in and reads the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from meuse.core import prices as money
from meuse.core.errors import MeuseError
from meuse.core.nouns import COST, Limit
from meuse.core.periods import ALWAYS_US, RATE_US, period_at
from meuse.core.prices import ATOMS, Prices

TOKENS = "tokens"
"""What a rate may count beside requests: tokens of prompt and answer together."""
TOKEN_METERS = ("prompt_tokens", "cached_tokens", "completion_tokens")

_ORDER = {"budget": 0, "concurrency": 1, "rate": 2}


class Check:
    """A limit made ready: where its cells are and what its numbers mean in microseconds."""

    __slots__ = (
        "at", "burst_us", "debt_us", "end_us", "generation", "is_money", "limit", "meter", "most",
        "moves", "number", "rate_us", "spare", "spare_of", "start_us", "word",
    )  # fmt: skip

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.word = self.at = self.generation = 0  # not looked up yet; no entry has generation 0
        self.rate_us = self.burst_us = 0
        self.debt_us = 0  # more than was reserved; the next that this process admits pays it
        self.spare = self.spare_of = 0  # atoms that were counted too much, under this stamp
        self.most = limit.amount - limit.aside if limit.hard else None
        self.moves = limit.moves
        self.is_money = limit.meter == COST
        self.meter = limit.meter if limit.kind != "concurrency" else None
        self.number, self.start_us, self.end_us = 0, 0, 0
        if limit.kind == "rate":
            self.rate_us = RATE_US[limit.period]
            burst = limit.burst or limit.amount
            # Of requests each is rounded by itself, so that a burst of them fits exactly.
            whole = self.meter == TOKENS
            self.burst_us = self.span(burst) if whole else burst * self.span(1)
        elif limit.kind == "concurrency":
            self.start_us, self.end_us = -ALWAYS_US, ALWAYS_US

    def roll(self, now_us: int) -> None:
        self.number, self.start_us, self.end_us = period_at(self.limit.period, now_us)

    def span(self, units: int) -> int:
        """How long a rate takes for so many units, in microseconds."""
        return -(-units * self.rate_us // self.limit.amount)

    def rounded(self, stamp: int, atoms: int) -> int:
        """What to count for a part of a micro: 0 or 1. Each process rounds its sum up, not each
        request: of a million requests at a tenth of a micro none would be counted for less than a
        whole."""
        spare = self.spare if self.spare_of == stamp else 0
        if atoms <= spare:  # what was counted before is enough
            self.spare = spare - atoms
            return 0
        self.spare, self.spare_of = spare + ATOMS - atoms, stamp
        return 1


class Plan:
    """Every limit that a caller meets at a deployment, and what its work costs there.

    `prices` are None where nothing counts money. Without a plan, or in another currency, a soft
    budget of money counts nothing, and a hard one refuses (`refuse`).
    """

    __slots__ = ("checks", "counts_time", "counts_tokens", "is_strict", "prices", "refuse")

    def __init__(self, checks: Iterable[Check], prices: Prices | None = None) -> None:
        found = sorted(checks, key=lambda check: _ORDER[check.limit.kind])
        lost = [c for c in found if c.meter == COST and not _is_in(c.limit.currency, prices)]
        self.checks = tuple(check for check in found if check not in lost)
        paid = [check for check in self.checks if check.meter == COST]
        self.prices = prices if paid else None
        self.is_strict = any(check.limit.hard for check in paid)
        self.counts_tokens = any(check.meter == TOKENS for check in found)
        self.counts_time = self.prices is not None and self.prices.mentions("compute_ms")
        self.refuse: Callable[[], MeuseError] | None = None
        if wrong := next((check.limit for check in lost if check.limit.hard), None):
            self.refuse = money.no_plan
            if prices is not None:
                self.refuse = partial(money.other_currency, wrong.id, wrong.currency, prices)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __bool__(self) -> bool:
        return bool(self.checks) or self.refuse is not None

    def refusal(self, given: Mapping[str, int]) -> MeuseError | None:
        """Why these meters cannot be counted, if they cannot."""
        if self.refuse is not None:
            return self.refuse()
        if self.is_strict and self.prices is not None and self.prices.unpriced:
            return self.prices.check(given)
        return None

    def needs(self, given: Mapping[str, int]) -> Mapping[str, int]:
        """What is given by meter, and what follows from it: tokens together, and their cost."""
        if self.prices is None and not self.counts_tokens:
            return given
        needs = dict(given)
        if self.counts_tokens:
            needs[TOKENS] = tokens_of(given)
        if self.prices is not None:
            needs[COST] = self.prices.bound(given)
        return needs


def _is_in(currency: str, prices: Prices | None) -> bool:
    return prices is not None and prices.currency == currency


def tokens_of(quantities: Mapping[str, int]) -> int:
    return sum(quantities.get(meter, 0) for meter in TOKEN_METERS)


class Grant:
    """What a request has reserved until it is settled or released."""

    __slots__ = ("held", "needs", "prices", "rates", "short", "tokens")

    def __init__(self, prices: Prices | None, needs: Mapping[str, int]) -> None:
        self.prices = prices
        self.needs = needs  # by meter, what it still holds
        self.short = 0  # how much of the elastic meter would have fitted
        # (word of the slot's stamp, stamp, reserved, whose)
        self.held: list[tuple[int, int, int, Check]] = []
        # (word of the slot's stamp, stamp, span, whose, shared cell)
        self.rates: list[tuple[int, int, int, Check, int]] = []
        self.tokens = 0  # used so far

    def held_of(self, meter: str) -> int | None:
        """How much of a meter it was given; None for one that was not asked for."""
        return self.needs.get(meter)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a rate limit or budget stands: `left` of `most`, all of it again after `reset_us`
    (0: it never resets, or nothing is used)."""

    limit: Limit
    most: int
    left: int
    reset_us: int
