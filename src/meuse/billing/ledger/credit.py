"""A wallet at a moment: what is left of its grants, and which are spent first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meuse.billing.ledger.books import BREAKAGE, PROMOTIONS, WALLET_CLASSES, Books, credit, held
from meuse.core.ledger import Grant, GrantKind, Wallet, class_of

Part = tuple[str, int]
"""A grant's id, and how much of it."""

_NEVER = 2**63


@dataclass(frozen=True, slots=True)
class State:
    """A wallet with its grants, by what is `left` to spend and `held` of each (millionths).

    `granted`, `spent`, `refunded` and `lapsed` are what entries have moved so far; what has
    expired and is not booked yet is in `left`.
    """

    wallet: Wallet
    grants: tuple[Grant, ...]
    left: Mapping[str, int]
    held: Mapping[str, int]
    granted: int = 0
    paid_in: int = 0
    spent: int = 0
    refunded: int = 0
    lapsed: int = 0

    def available(self, at_ms: int) -> int:
        """What may be spent: of grants that have not expired, what is neither spent nor held."""
        return sum(self.left.get(g.id, 0) for g in self.grants if not g.has_expired(at_ms))

    def lapsing(self, at_ms: int) -> int:
        """What has expired and is not booked as such yet."""
        return sum(self.left.get(g.id, 0) for g in self.grants if g.has_expired(at_ms))

    def expired(self, at_ms: int) -> int:
        """What nobody may spend any more, booked or not."""
        return self.lapsed + self.lapsing(at_ms)

    @property
    def in_holds(self) -> int:
        return sum(self.held.values())

    def refundable(self, at_ms: int) -> int:
        """What of the purchased credit may be paid back."""
        return sum(part[1] for part in self.take(self.left, at_ms, kind="purchased"))

    def take(
        self,
        left: Mapping[str, int],
        at_ms: int,
        most: int | None = None,
        *,
        kind: GrantKind | None = None,
    ) -> tuple[Part, ...]:
        """Up to `most` (None: all) of grants that have not expired, in the order of spending."""
        found: list[Part] = []
        for grant in in_order(self.grants):
            some = left.get(grant.id, 0)
            if most is not None:
                some = min(some, most)
            if some > 0 and not grant.has_expired(at_ms) and kind in (None, grant.kind):
                found.append((grant.id, some))
                most = None if most is None else most - some
        return tuple(found)


def in_order(grants: Iterable[Grant]) -> list[Grant]:
    """The order of spending: the lowest priority, then the soonest expiry, then granted before
    purchased, then the oldest."""

    def key(grant: Grant) -> tuple[int, int, bool, int, int]:
        expires = _NEVER if grant.expires_ms is None else grant.expires_ms
        return (
            grant.priority, expires, grant.kind == "purchased", grant.created_ms, grant.number,
        )  # fmt: skip

    return sorted(grants, key=key)


def state_of(books: Books, wallet: Wallet) -> State:
    """A wallet as it is now, from the ledger's sums."""
    moved = books.turnover(wallet.tenant, wallet.currency, WALLET_CLASSES)
    grants = tuple(books.grants(wallet.id))
    kinds: Counter[str] = Counter()
    accounts: Counter[str] = Counter()
    for (kind, account), amount in moved.items():
        kinds[kind] -= amount
        accounts[account] -= amount
    bought = (credit(grant.id) for grant in grants if grant.kind == "purchased")
    return State(
        wallet,
        grants,
        {grant.id: accounts[credit(grant.id)] for grant in grants},
        {grant.id: accounts[held(grant.id)] for grant in grants},
        granted=kinds["grant"],
        paid_in=-sum(moved.get(("grant", account), 0) for account in bought),
        spent=-sum(kinds[kind] for kind in ("settle", "capture", "return")),
        refunded=-kinds["refund"],
        lapsed=-kinds["expiry"],
    )


def moves(parts: Sequence[Part], source: str, target: str | None = None) -> dict[str, int]:
    """Legs that take parts of grants off `source` (a class of accounts), and put them on
    `target` (one too) if it is given: by account."""
    found: dict[str, int] = {}
    for grant, amount in parts:
        found[f"{source}:{grant}"] = amount
    if target is not None:
        for grant, amount in parts:
            found[f"{target}:{grant}"] = -amount
    return found


def total(parts: Iterable[Part]) -> int:
    return sum(amount for _, amount in parts)


def parts_on(amounts: Mapping[str, int], name: str) -> tuple[Part, ...]:
    """What stands on accounts of a class, by grant, as positive amounts; in the order given."""
    return tuple(
        (account.partition(":")[2], -amount)
        for account, amount in amounts.items()
        if class_of(account) == name and amount
    )


def against(kind: GrantKind) -> str:
    """Where credit of a kind goes that expires."""
    return BREAKAGE if kind == "purchased" else PROMOTIONS
