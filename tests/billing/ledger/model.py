"""What wallets and invoices come to, cent by cent: as slow and as plain as can be said.

It knows nothing of accounts and entries. A cent is in one place: left in its grant, in a hold,
captured, in an invoice, paid back, or expired.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Pot:
    """A grant, in cents."""

    name: str
    bought: bool
    priority: int
    expires: int | None
    left: int
    captured: int = 0

    def over(self, now: int) -> bool:
        return self.expires is not None and self.expires <= now


@dataclass
class Bill:
    """An invoice. `spent` has the pot of each cent that the wallet paid, in order."""

    total: int
    credited: int = 0
    paid: int = 0
    void: bool = False
    spent: list[Pot] = field(default_factory=list)

    @property
    def due(self) -> int:
        return self.total - self.credited - self.paid - len(self.spent)


@dataclass
class Model:
    """A tenant's wallet. `pots` are in the order in which they were made."""

    pots: list[Pot] = field(default_factory=list)
    holds: dict[str, list[Pot]] = field(default_factory=dict)
    bills: dict[str, Bill] = field(default_factory=dict)
    put_in: int = 0
    refunded: int = 0
    lapsed: int = 0
    invoiced: list[range] = field(default_factory=list)

    def best(self, at: int, bought_only: bool = False, last: bool = False) -> Pot | None:
        """The pot that the next cent comes from."""
        found: Pot | None = None
        for pot in self.pots:
            if pot.left == 0 or pot.over(at) or (bought_only and not pot.bought):
                continue
            if found is None or self.before(pot, found) != last:
                found = pot
        return found

    def before(self, one: Pot, other: Pot) -> bool:
        if one.priority != other.priority:
            return one.priority < other.priority
        if one.expires != other.expires:
            if one.expires is None or other.expires is None:
                return other.expires is None
            return one.expires < other.expires
        if one.bought != other.bought:
            return other.bought
        return self.pots.index(one) < self.pots.index(other)

    def spend(self, at: int) -> Pot | None:
        pot = self.best(at)
        if pot is not None:
            pot.left -= 1
        return pot

    def available(self, now: int) -> int:
        return sum(pot.left for pot in self.pots if not pot.over(now))

    def held(self) -> int:
        return sum(len(cents) for cents in self.holds.values())

    def spent(self) -> int:
        in_bills = sum(len(bill.spent) for bill in self.bills.values())
        return in_bills + sum(pot.captured for pot in self.pots)

    def expired(self, now: int) -> int:
        return self.lapsed + sum(pot.left for pot in self.pots if pot.over(now))

    def refundable(self, now: int) -> int:
        return sum(pot.left for pot in self.pots if pot.bought and not pot.over(now))

    def top_up(self, pot: Pot) -> None:
        self.pots.append(pot)
        self.put_in += pot.left

    def hold(self, name: str, cents: int, now: int) -> None:
        taken = [self.spend(now) for _ in range(cents)]
        self.holds[name] = [pot for pot in taken if pot is not None]
        assert len(self.holds[name]) == cents

    def capture(self, name: str, cents: int) -> None:
        for _ in range(cents):
            self.holds[name].pop(0).captured += 1

    def release(self, name: str) -> None:
        while self.holds[name]:
            self.holds[name].pop().left += 1

    def refund(self, cents: int, now: int, of: Pot | None = None) -> None:
        for _ in range(cents):
            pot = of or self.best(now, bought_only=True, last=True)
            assert pot is not None
            pot.left -= 1
        self.refunded += cents

    def issue(self, name: str, cents: int, start: int) -> None:
        self.bills[name] = Bill(cents)
        self.pay_from_wallet(name, start)

    def pay_from_wallet(self, name: str, start: int) -> None:
        bill = self.bills[name]
        while bill.due > 0:
            waiting = [pot for pot in self.pots if pot.captured]
            pot = next((p for p in waiting if not any(self.before(q, p) for q in waiting)), None)
            if pot is not None:
                pot.captured -= 1
            else:
                pot = self.spend(start)
            if pot is None:
                break
            bill.spent.append(pot)

    def give_back(self, name: str, now: int) -> None:
        bill = self.bills[name]
        anew: dict[str, Pot] = {}
        while bill.due < 0 and bill.spent:
            pot = bill.spent.pop()
            if pot.over(now):
                if pot.name not in anew:
                    anew[pot.name] = Pot("", pot.bought, pot.priority, None, 0)
                pot = anew[pot.name]
            pot.left += 1
        # In the order of the grants that they stand for.
        self.pots += [anew[pot.name] for pot in list(self.pots) if pot.name in anew]

    def expire(self, now: int, grace: int) -> None:
        for pot in self.pots:
            if pot.expires is None or not pot.over(now):
                continue
            if now >= pot.expires + grace or any(pot.expires - 1 in one for one in self.invoiced):
                self.lapsed += pot.left
                pot.left = 0
