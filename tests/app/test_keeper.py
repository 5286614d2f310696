"""app.keeper: budgets that are counted anew, over a real ledger and a real file of cells"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from billing.make_usage import usage_record
from meuse.app.keeper import Keeper
from meuse.billing.budgets.told import Told
from meuse.billing.ingest import Ingester
from meuse.core.clock import BUCKET_MS, bucket_start, now_ms
from meuse.core.errors import MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.core.nouns import Limit, LimitRecord, Scope
from meuse.core.plans import Credits, PlanVersion, Price
from meuse.core.prices import Prices
from meuse.meter.journal import JournalWriter
from meuse.meter.limits import Limits, spent
from meuse.meter.segments import JournalReader
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database
from meuse.store.limits import SqlLimits
from meuse.store.money import MoneyStore
from meuse.store.money_budgets import BudgetUsage


@dataclass(frozen=True)
class Wallet:
    available: int
    invoiced: tuple[tuple[int, int], ...] = ()


class World:
    """A home with a ledger, and a worker that opens and closes its limits."""

    def __init__(self, folder: Path) -> None:
        self.meuse = Database(f"sqlite:///{folder / 'meuse.db'}")
        self.meuse.migrate("meuse")
        self.money = Database(f"sqlite:///{folder / 'money.db'}")
        self.money.migrate("money")
        self.access, self.plans = SqlAccess(self.meuse), SqlPlans(self.meuse)
        self.limits = SqlLimits(self.meuse)
        self.told = Told(self.limits, self.access, self.plans, now_ms)
        self.path = folder / "limits" / "cells"
        self.wallet: Wallet | None = None
        self.journal = JournalWriter(folder / "journal", "here", 0, 1)
        ingester = Ingester(MoneyStore(self.money), JournalReader(folder / "journal"))
        self.keeper = Keeper(
            self.path, self.told, self.plans, lambda tenant: self.access.tenant(tenant).plan,
            BudgetUsage(self.money), lambda tenant, currency: self.wallet, ingester.run_once,
            lambda: ingester.complete_to_ms,
        )  # fmt: skip
        self.plan: PlanVersion

    def work(self) -> None:
        """A worker has been here."""
        Limits(self.path).close()

    def put_plan(self, **terms: Any) -> None:
        prices = (Price("rows", "0.5", 1000),)
        self.plan = self.plans.put_plan(PlanVersion("basic", 0, "EUR", prices, 0, **terms))
        self.access.put_tenant("acme", "basic")

    def budget(self, limit: Limit) -> None:
        self.limits.add(LimitRecord(limit, Scope("acme"), True, now_ms()), 9, 9)

    def record(self, rows: int) -> None:
        self.journal.append(
            usage_record(
                id=uuid7_bytes(), ts=now_ms(), plan_version=self.plan.ref,
                quantities={"requests": 1, "rows": rows},
            )
        )  # fmt: skip

    def ask(self, rows: int) -> None:
        """As a worker does, which then records it."""
        table = self.told.table(self.plan)
        prices = Prices(self.plan.ref, table, "acme/digits", "standard")
        limits = Limits(self.path)
        try:
            limits.load(self.told.limits(), 1)
            plan = limits.plan("acme", "default", "key-1", "acme/digits", lambda: prices)
            assert plan is not None
            needs = {"requests": 1, "rows": rows}
            limits.settle(limits.admit(plan, needs), needs)
            self.record(rows)
        finally:
            limits.close()

    def refused(self, rows: int) -> str:
        with pytest.raises(MeuseError) as caught:
            self.ask(rows)
        return str(caught.value.code)

    def used(self) -> dict[str, int]:
        budgets = self.told.limits()
        return {id: found.used for id, found in spent(self.path, budgets, now_ms()).items()}

    def lose(self) -> None:
        self.path.write_bytes(b"damaged")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "journal").mkdir()
    world = World(tmp_path)
    yield world
    world.journal.close()
    world.meuse.close()
    world.money.close()


def test_a_damaged_file_is_counted_anew(world: World) -> None:
    """Until it is, its budgets let nothing through; then they go on where they were."""
    world.put_plan()
    world.keeper.look()  # no worker has run yet
    assert not world.path.exists()
    world.work()
    world.budget(Limit("m", "budget", 20_000, "month", "cost", currency="EUR", tenant="acme"))
    world.budget(Limit("r", "budget", 50, "total", "rows", key="key-1"))
    world.ask(10)
    world.ask(20)
    world.keeper.look()
    assert world.used() == {"m": 15_000, "r": 30}
    world.lose()
    assert world.refused(1) == "unavailable"
    world.keeper.look()
    assert world.used() == {"m": 15_000, "r": 30}
    world.ask(10)
    world.keeper.look()
    assert world.used() == {"m": 20_000, "r": 40}
    assert world.refused(1) == "budget_exceeded"


def test_usage_that_cannot_be_read_is_no_credit(world: World) -> None:
    """A damaged segment from before the file was made: its budgets refuse until it is gone."""
    world.put_plan()
    world.work()
    world.budget(Limit("r", "budget", 50, "total", "rows", key="key-1"))
    world.ask(30)
    world.keeper.ingest()
    path = world.journal.path
    whole = path.stat().st_size
    world.record(5)
    world.record(5)
    data = bytearray(path.read_bytes())
    data[whole + 20] ^= 0xFF
    path.write_bytes(data)
    world.lose()
    for _ in range(2):
        world.work()
        world.keeper.look()
        assert world.refused(1) == "unavailable"
    path.unlink()
    world.keeper.look()
    assert world.used() == {"r": 30}


def test_a_budget_is_told_beside_its_records(world: World) -> None:
    """Usage that was journaled a moment ago is in it."""
    world.put_plan()
    world.work()
    world.budget(Limit("m", "budget", 20_000, "day", "cost", currency="EUR", tenant="acme"))
    world.ask(8)
    world.record(2)  # that no host has counted
    told = world.keeper.tell("m")
    assert (told["id"], told["used"], told["unrated"]) == ("m", 5000, {})
    assert told["complete_to_ms"] > told["start_ms"]
    assert world.used() == {"m": 4000}
    with pytest.raises(MeuseError, match="no budget 'x'"):
        world.keeper.tell("x")


def test_a_prepaid_tenant_uses_what_is_in_its_wallet(world: World) -> None:
    """Nothing without one; a top-up counts at the next look, an invoice changes nothing."""
    world.put_plan(credits=Credits("0", "credit_only"))
    assert world.refused(1) == "unavailable"
    world.keeper.look()
    assert world.refused(1) == "budget_exceeded"
    world.wallet = Wallet(5000)
    world.keeper.look()
    world.ask(6)
    assert world.refused(5) == "budget_exceeded"
    world.wallet = Wallet(6000)
    world.keeper.look()
    world.ask(6)
    assert world.refused(1) == "budget_exceeded"
    world.lose()
    assert world.refused(1) == "unavailable"
    world.wallet = Wallet(7000)
    world.keeper.look()
    world.ask(2)
    (id,) = world.used()
    assert world.used() == {id: 7000}
    world.wallet = None
    world.keeper.look()
    assert world.refused(1) == "budget_exceeded"


def test_what_no_host_counts_is_taken_off_a_prepaid_balance(world: World) -> None:
    """Once, before an invoice and after it; what is not in yet is not given back."""
    world.put_plan(credits=Credits("0", "credit_only"))
    world.work()
    world.wallet = Wallet(10_000)
    world.keeper.look()
    world.ask(4)
    world.record(6)
    world.keeper.ingest()
    world.keeper.look()
    (id,) = world.used()
    assert world.used() == {id: 5000}
    world.ask(2)  # that the ledger has not read
    world.keeper.look()
    assert world.used() == {id: 6000}
    world.keeper.ingest()
    world.keeper.look()
    assert world.used() == {id: 6000}
    until = bucket_start(now_ms()) + BUCKET_MS
    world.wallet = Wallet(4000, ((0, until),))
    world.keeper.look()
    assert world.refused(9) == "budget_exceeded"
    world.ask(8)
    assert world.refused(1) == "budget_exceeded"
