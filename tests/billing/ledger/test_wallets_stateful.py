"""Any sequence of what can be done with credit and invoices, beside a model that counts cents."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from billing.ledger.conftest import issue as spans
from billing.ledger.conftest import undone
from billing.ledger.memory import MemoryBooks
from billing.ledger.model import Model, Pot
from meuse.billing.ledger import postings, wallets
from meuse.billing.ledger.bookkeeper import BodyLine
from meuse.billing.ledger.credit import state_of
from meuse.billing.ledger.wallets import EXPIRY_GRACE_MS, Terms
from meuse.core.errors import Code, MeuseError
from meuse.core.micros import money_text

CENT = 10_000
DAY = 86_400_000
CENTS = st.integers(1, 40)


class Machine(RuleBasedStateMachine):
    """`opened` gives the books of an example, and undoes what it did."""

    opened: Callable[[], AbstractContextManager[Any]]
    holds = Bundle("holds")
    bills = Bundle("bills")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.books = self.stack.enter_context(type(self).opened())
        self.now = DAY
        self.n = 0
        self.wallet, _ = wallets.open_wallet(self.books, "acme", "EUR", self.now)
        self.model = Model()
        self.again: list = []
        self.rounding = 0

    def teardown(self) -> None:
        self.stack.close()

    def name(self, what: str) -> str:
        self.n += 1
        return f"{what}-{self.n}"

    def done(self, call) -> object:
        """Do it, and remember it to do it again."""
        self.again.append(call)
        return call()

    def pot(self, grant: str) -> Pot:
        """Pots and grants are in the same order."""
        ids = [one.id for one in self.books.grants(self.wallet.id)]
        return self.model.pots[ids.index(grant)]

    @rule(
        cents=CENTS, bought=st.booleans(), priority=st.integers(0, 2),
        days=st.none() | st.integers(1, 40),
    )  # fmt: skip
    def top_up(self, cents: int, bought: bool, priority: int, days: int | None) -> None:
        expires = None if days is None else self.now + days * DAY
        terms = Terms("purchased" if bought else "granted", priority, expires)
        reference, now = self.name("top-up"), self.now
        grant, new = self.done(
            lambda: wallets.top_up(self.books, self.wallet, cents * CENT, terms, reference, now)
        )
        assert new
        self.model.top_up(Pot(grant.id, bought, priority, expires, cents))

    @rule(target=holds, cents=CENTS)
    def hold(self, cents: int) -> str:
        reference, now = self.name("hold"), self.now
        if cents > self.model.available(self.now):
            with pytest.raises(MeuseError) as caught:
                wallets.hold(self.books, self.wallet, cents * CENT, reference, now)
            assert caught.value.code is Code.BUDGET_EXCEEDED
            return ""
        made = self.done(
            lambda: wallets.hold(self.books, self.wallet, cents * CENT, reference, now)
        )
        self.model.hold(made.id, cents, self.now)
        return made.id

    @rule(hold=holds, cents=CENTS)
    def capture(self, hold: str, cents: int) -> None:
        if not hold:
            return
        reference, now = self.name("capture"), self.now
        if cents > len(self.model.holds[hold]):
            with pytest.raises(MeuseError) as caught:
                wallets.capture(self.books, self.wallet, hold, cents * CENT, reference, now)
            assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
            return
        self.done(
            lambda: wallets.capture(self.books, self.wallet, hold, cents * CENT, reference, now)
        )
        self.model.capture(hold, cents)

    @rule(hold=consumes(holds))
    def release(self, hold: str) -> None:
        if hold:
            now = self.now
            self.done(lambda: wallets.release(self.books, self.wallet, hold, now))
            self.model.release(hold)

    @rule(cents=CENTS, one=st.none() | st.integers(0, 5))
    def refund(self, cents: int, one: int | None) -> None:
        grants = self.books.grants(self.wallet.id)
        grant = None if one is None or one >= len(grants) else grants[one].id
        pot = None if grant is None else self.pot(grant)
        most = self.model.refundable(self.now)
        if pot is not None:
            most = pot.left if pot.bought and not pot.over(self.now) else 0
        reference, now = self.name("refund"), self.now
        if cents > most:
            with pytest.raises(MeuseError) as caught:
                wallets.refund(self.books, self.wallet, cents * CENT, reference, now, grant=grant)
            assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
            assert f"than the {money_text(most * CENT, 'EUR')} that" in caught.value.message
            return
        self.done(
            lambda: wallets.refund(
                self.books, self.wallet, cents * CENT, reference, now, grant=grant
            )
        )
        self.model.refund(cents, self.now, pot)

    @rule(target=bills, cents=st.integers(0, 80), parts=st.integers(-CENT, CENT), days=CENTS)
    def issue(self, cents: int, parts: int, days: int) -> str:
        """Of the last days; its line came to a little more or less than it was rounded to."""
        name, start, now = self.name("inv"), max(self.now - days * DAY, 0), self.now
        exact = Decimal(cents * CENT + parts) / 1_000_000
        lines = [
            BodyLine("usage", money_text(cents * CENT, "EUR"), exact),
            BodyLine("tax", "0.05", Decimal("0.0499")),
        ]
        issue = postings.Issue(name, name, "acme", "EUR", lines, start, now)
        self.done(lambda: postings.post_invoice(self.books, issue, now))
        # Of a period that no other invoice has: the store keeps one for each.
        spans(self.books, start, now + self.n)
        self.model.invoiced.append(range(start, now + self.n))
        self.model.issue(name, cents + 5, start)
        self.rounding += parts
        return name

    @rule(bill=bills, cents=CENTS)
    def pay(self, bill: str, cents: int) -> None:
        reference, now = self.name("payment"), self.now

        def call():
            return postings.post_payment(
                self.books, tenant="acme", currency="EUR", invoice=bill, reference=reference,
                amount=money_text(cents * CENT, "EUR"), now_ms=now,
            )  # fmt: skip

        if cents > self.model.bills[bill].due:
            with pytest.raises(MeuseError) as caught:
                call()
            assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
            return
        self.done(call)
        self.model.bills[bill].paid += cents

    @rule(bill=bills, days=CENTS)
    def pay_from_wallet(self, bill: str, days: int) -> None:
        reference, start, now = self.name("wallet"), max(self.now - days * DAY, 0), self.now
        before = len(self.model.bills[bill].spent)

        def call():
            return postings.post_wallet_payment(
                self.books, tenant="acme", currency="EUR", invoice=bill, start_ms=start,
                reference=reference, now_ms=now,
            )  # fmt: skip

        call()
        self.model.pay_from_wallet(bill, start)
        if len(self.model.bills[bill].spent) > before:  # what paid nothing is not booked
            self.again.append(call)

    @rule(bill=bills, cents=CENTS)
    def pay_back(self, bill: str, cents: int) -> None:
        reference, now = self.name("repayment"), self.now
        its = self.model.bills[bill]

        def call():
            return postings.post_repayment(
                self.books, tenant="acme", currency="EUR", invoice=bill, reference=reference,
                amount=money_text(cents * CENT, "EUR"), now_ms=now,
            )  # fmt: skip

        if cents > min(-its.due, its.paid):
            with pytest.raises(MeuseError) as caught:
                call()
            assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
            return
        self.done(call)
        its.paid -= cents

    @rule(bill=bills, cents=CENTS)
    def credit_note(self, bill: str, cents: int) -> None:
        note, now = self.name("note"), self.now
        its = self.model.bills[bill]
        lines = [BodyLine("usage", money_text(cents * CENT, "EUR"), Decimal(0))]

        def call():
            return postings.post_credit_note(
                self.books, tenant="acme", currency="EUR", note=note, invoice=bill, lines=lines,
                now_ms=now,
            )  # fmt: skip

        if cents > its.total - its.credited:
            with pytest.raises(MeuseError) as caught:
                call()
            assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
            return
        self.done(call)
        its.credited += cents
        self.model.give_back(bill, self.now)

    @rule(bill=bills)
    def void(self, bill: str) -> None:
        its, now = self.model.bills[bill], self.now

        def call():
            return postings.post_void(
                self.books, tenant="acme", currency="EUR", invoice=bill, now_ms=now
            )

        if its.paid and not its.void:
            with pytest.raises(MeuseError) as caught:
                call()
            assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "invoice")
            return
        self.done(call)
        its.credited, its.void = its.total, True
        self.model.give_back(bill, self.now)

    @rule(days=st.sampled_from([1, 7, 30, 50]))
    def time_goes_by(self, days: int) -> None:
        self.now += days * DAY

    @rule()
    def expire(self) -> None:
        wallets.expire(self.books, self.wallet, self.now)
        self.model.expire(self.now, EXPIRY_GRACE_MS)

    @precondition(lambda self: self.again)
    @rule(data=st.data())
    def repeat(self, data) -> None:
        """What was done is done: again, it changes nothing (`agree` compares)."""
        data.draw(st.sampled_from(self.again))()

    @invariant()
    def agree(self) -> None:
        """Every figure is the model's, and all of them fit together."""
        state, model, now = state_of(self.books, self.wallet), self.model, self.now
        cents = {
            "available": model.available(now), "held": model.held(), "spent": model.spent(),
            "refunded": model.refunded, "expired": model.expired(now), "granted": model.put_in,
        }  # fmt: skip
        assert {
            "available": state.available(now), "held": state.in_holds, "spent": state.spent,
            "refunded": state.refunded, "expired": state.expired(now), "granted": state.granted,
        } == {name: n * CENT for name, n in cents.items()}  # fmt: skip
        assert cents["available"] == cents["granted"] - sum(
            cents[name] for name in ("spent", "held", "expired", "refunded")
        )
        assert [state.left[g.id] for g in state.grants] == [p.left * CENT for p in model.pots]
        for name, bill in model.bills.items():
            found = postings.standing(self.books, "acme", name)
            assert (found.total, found.credited, found.from_wallet, found.paid, found.due) == tuple(
                n * CENT for n in (bill.total, bill.credited, len(bill.spent), bill.paid, bill.due)
            )

    @invariant()
    def add_up(self) -> None:
        """All accounts come to zero together, and no credit is below zero."""
        balances = self.books.balances("acme", "EUR")
        assert sum(balances.values()) == 0
        booked = self.books.turnover("acme", "EUR", ("rounding",))
        assert booked.get(("invoice", "rounding"), 0) == self.rounding
        for account, amount in balances.items():
            if account.startswith(("credit:", "held:", "captured:")):
                assert amount < 0


def check(opened: Callable[[], AbstractContextManager[Any]], examples: int) -> None:
    found = type("Found", (Machine,), {"opened": staticmethod(opened)})
    found.TestCase.settings = settings(max_examples=examples, stateful_step_count=30)
    found.TestCase("runTest").debug()


def test_any_sequence_agrees_with_the_model():
    """Zero together, nothing below zero, available = granted − spent − held − expired − refunded,
    whatever is done in whatever order, and however often it is repeated."""
    check(lambda: nullcontext(MemoryBooks()), 60)


def test_any_sequence_agrees_with_the_model_in_the_database(sqlite_money):
    """As in memory."""
    check(lambda: undone(sqlite_money), 4)
