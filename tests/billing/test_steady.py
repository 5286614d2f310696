"""The time that usage counts as complete to, when the system's clock jumps."""

from __future__ import annotations

import time

from billing.make_usage import Directory, plan, usage_record
from meuse.billing.ingest import Ingester
from meuse.billing.invoices import make_invoice
from meuse.billing.steady import HOLD_MS, Steady, elapsed_ms
from meuse.core.plans import Price
from meuse.meter.journal import JournalWriter
from meuse.meter.segments import JournalReader
from meuse.store.money import MoneyStore

START = 1_793_534_400_000  # 2026-11-01T12:00:00Z
MONTH = 30 * 86_400_000


class Clocks:
    def __init__(self) -> None:
        self.wall, self.elapsed = START, 1_000
        self.told: list[tuple[str, str]] = []
        self.steady = Steady(
            lambda before, after: self.told.append((before, after)),
            lambda: self.wall,
            lambda: self.elapsed,
        )

    def wait(self, ms: int) -> int:
        self.wall += ms
        self.elapsed += ms
        return self.steady()


def test_a_jump_forward_is_held_back_and_then_followed() -> None:
    """Until the clock has kept to its new time for a while; told once."""
    clocks = Clocks()
    assert clocks.wait(1_000) == START + 1_000
    clocks.wall += MONTH
    assert clocks.steady() == START + 1_000
    assert clocks.wait(HOLD_MS - 1) == START + HOLD_MS + 999
    assert clocks.wait(1) == START + MONTH + HOLD_MS + 1_000
    assert clocks.wait(5) == clocks.wall
    assert clocks.told == [("2026-11-01T12:00:01.000Z", "2026-12-01T12:00:01.000Z")]


def test_a_jump_forward_and_back_claims_nothing() -> None:
    """And a second jump begins the wait anew."""
    clocks = Clocks()
    clocks.wall += MONTH
    clocks.wait(HOLD_MS // 2)
    clocks.wall -= MONTH
    assert clocks.wait(10) == clocks.wall
    clocks.wall += MONTH
    clocks.wait(HOLD_MS // 2)
    clocks.wall += MONTH
    assert clocks.wait(HOLD_MS // 2) < START + MONTH
    assert clocks.wait(HOLD_MS // 2 + 1) < START + MONTH
    assert clocks.wait(HOLD_MS // 2) == clocks.wall
    assert len(clocks.told) == 3


def test_a_jump_back_is_followed_at_once() -> None:
    """What is claimed is then less; small steps are no jumps."""
    clocks = Clocks()
    clocks.wall -= 3_600_000
    assert clocks.steady() == START - 3_600_000
    assert clocks.told == [("2026-11-01T12:00:00.000Z", "2026-11-01T11:00:00.000Z")]
    for step in (50_000, -50_000, 50_000):
        clocks.wall += step
        assert clocks.steady() == clocks.wall
    assert len(clocks.told) == 1


def test_the_machines_own_clocks() -> None:
    before = elapsed_ms()
    time.sleep(0.01)
    assert before < elapsed_ms()
    assert abs(Steady()() - time.time() * 1000) < 5_000


def test_no_invoice_is_issued_by_a_clock_that_jumped(database, journal) -> None:
    """The month looks over, and is a draft until usage is complete to its end."""
    clocks = Clocks()
    store = MoneyStore(database, lambda: clocks.wall)
    ingester = Ingester(store, JournalReader(journal), clocks.steady)
    writer = JournalWriter(journal, "h", 0, 1)
    directory = Directory(plan(Price("rows", "1")), acme="basic")

    def invoice() -> str:
        made, _ = make_invoice(
            store, directory, directory, tenant="acme", period="2026-11",
            complete_to_ms=ingester.run_once().complete_to_ms, clock=lambda: clocks.wall,
        )  # fmt: skip
        return made.status

    writer.append(usage_record(ts=clocks.wall))
    clocks.wall += MONTH
    assert invoice() == "draft"
    clocks.wall -= MONTH
    clocks.wait(10)
    writer.append(usage_record(ts=clocks.wall))
    assert invoice() == "draft"
    assert [row["quantity"] for row in store.usage(START, START + 900_000, ["meter"])] == [2, 16]
    clocks.wait(MONTH)
    assert invoice() == "issued"
    writer.close()
