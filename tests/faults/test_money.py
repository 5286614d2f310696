"""Metering under kill -9: what was answered is recorded once, and nothing is recorded twice."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from billing.test_alerts import Receiver
from faults.load import BROKEN, FULL, Load
from faults.rig import Platform, until
from meuse.client import Client
from meuse.core.errors import Code, MeuseError

CLIENTS = 16
SECONDS = 5.0
EVERY_S = 0.3
MOST_ROWS = 23

Bag = Counter[tuple[str, int]]
"""(status, rows) → how many."""


def kill_for_a_while(platform: Platform, load: Load, chance: random.Random) -> Counter[str]:
    """Kill one of {control, ledger, worker, replica} again and again; how many of each."""
    killed: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(EVERY_S)
        role = chance.choice(("control", "ledger", "worker", "replica"))
        there = sorted((n, p) for n, p in platform.processes().items() if n.startswith(role))
        if there and platform.kill(chance.choice(there)[1]):
            killed[role] += 1
    return killed


def settled_usage(platform: Platform, client: Client) -> dict[str, dict[str, int]]:
    """Usage by key and meter, once the journal is read and two looks agree."""
    before: list[dict[str, dict[str, int]]] = []

    def same_twice() -> bool:
        try:
            rows = client.usage(by="key,meter", tenant="acme", fresh=True)["rows"]
        except MeuseError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            return False
        now: dict[str, dict[str, int]] = {}
        for row in rows:
            now.setdefault(row["key"], {})[row["meter"]] = row["quantity"]
        before.append(now)
        segments = [path for path in (platform.home / "journal").iterdir() if path.is_file()]
        return len(segments) == 2 and len(before) > 1 and before[-2] == now

    until(same_twice, 30.0, 0.2)
    return before[-1]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Who is told of alerts."""
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture(scope="module")
def platform(make_platform: Callable[[str], Platform], receiver: Receiver) -> Platform:
    """One that may tell it."""
    return make_platform(f'webhook_hosts = "http://127.0.0.1:{receiver.port}@ipv4"')


PRICE = 500
"""Of a row, in millionths."""
LIMIT = 4_000_000


def test_a_budget_of_money_under_kill_9(platform: Platform, receiver: Receiver) -> None:
    """64 clients spend a hard budget while workers, control and ledger die at random: it is spent
    to the last millionth and no further, what the dead had reserved is free again, every answer
    has one record, and each alert comes once."""
    client = platform.client()
    client.put_plan("rows", "EUR", [{"meter": "rows", "per": 1000, "amount": "0.50"}])
    client.put_tenant("hooli", "rows")
    client.deploy("spent", "reference:1", scale={"min": 2}, access={"tenants": ["hooli"]})
    made = [client.make_key(f"client-{i}", ["infer"], tenant="hooli") for i in range(16)]
    client.wait_ready("spent")
    client.add_webhook(f"http://127.0.0.1:{receiver.port}/", tenant="*")
    budget = client.budget(tenant="hooli", meter="cost", limit="4", currency="EUR", period="month")
    assert (budget["limit"], budget["remaining"]) == ("4.00", "4.00")

    keys = [key["key"] for key in made for _ in range(4)]
    chance, killed = random.Random(7), Counter[str]()
    with Load(platform.port, keys, "default/spent", most_rows=MOST_ROWS, pause=0.02) as load:
        until(lambda: load.answered() > len(keys))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(EVERY_S)
            role = chance.choice(("worker", "worker", "control", "ledger"))
            there = sorted((n, p) for n, p in platform.processes().items() if n.startswith(role))
            if there and platform.kill(chance.choice(there)[1]):
                killed[role] += 1
        until(lambda: (FULL, 402) in load.counts(), 60.0)
    assert len(killed) == 3, killed
    counts = load.counts()
    assert counts.keys() <= {(FULL, 200), (FULL, 402), (FULL, 429), (FULL, 503), (BROKEN, 0)}
    until(platform.control_answers, 60.0)
    until(lambda: len(platform.processes()) >= 6, 60.0)

    def recounted() -> dict[str, Any]:
        found: dict[str, Any] = client.recount(budget["id"])
        return found

    # Small requests take what larger ones did not: nothing is blocked that is not spent.
    until(lambda: recounted()["in_flight"] == "0.00", 15.0, 0.2)
    with Load(platform.port, keys[:1], "default/spent", pause=0.005) as rest:
        until(lambda: (FULL, 402) in rest.counts(), 60.0)
    found = recounted()
    assert (found["used"], found["remaining"], found["in_flight"]) == ("4.00", "0.00", "0.00")

    cut = [o for mine in load.outcomes for o in mine if o.kind == BROKEN]
    assert Decimal(found["recounted"]["used"]) <= 4
    assert 0 <= Decimal(found["difference"]) * 10**6 <= PRICE * sum(o.rows for o in cut)
    assert found["recounted"]["unrated"] == {}
    assert_each_has_a_record(platform, made, load, rest)
    until(lambda: len(told(receiver, budget["id"])) == 3, 30.0, 0.1)
    time.sleep(1.5)  # another look
    alerts = told(receiver, budget["id"])
    assert sorted(data["threshold"] for data in alerts.values()) == [50, 80, 100]


def told(receiver: Receiver, budget: str) -> dict[str, dict[str, Any]]:
    """What was told of a budget, by message: one may come twice, under the same id."""
    found = {}
    for headers, body in list(receiver.got):
        data = json.loads(body)["data"]
        if data.get("budget") == budget:
            assert found.setdefault(headers["webhook-id"], data) == data
    return found


def assert_each_has_a_record(
    platform: Platform, made: list[dict[str, Any]], load: Load, rest: Load
) -> None:
    """One for each answer of 200, none for a refusal, at most one for what was cut off; and all
    together they are no more than the budget pays for."""
    path = f"file:{platform.home / 'money.db'}?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as money:
        records = money.execute(
            "SELECT id, key_id, quantities FROM usage_record WHERE tenant_id = 'hooli'"
        ).fetchall()
    assert len({record[0] for record in records}) == len(records)
    found: dict[str, Counter[int]] = {key["id"]: Counter() for key in made}
    for _, key, text in records:
        found[key][json.loads(text)["rows"]] += 1
    assert PRICE * sum(rows * n for mine in found.values() for rows, n in mine.items()) <= LIMIT
    for number, key in enumerate(made):
        outcomes = [o for mine in load.outcomes[4 * number : 4 * number + 4] for o in mine]
        outcomes += rest.all() if number == 0 else []
        answered = Counter(o.rows for o in outcomes if (o.kind, o.status) == (FULL, 200))
        cut = Counter(o.rows for o in outcomes if o.kind == BROKEN)
        assert not answered - found[key["id"]], "an answer has no record"
        assert not found[key["id"]] - answered - cut, "a record has no request"


def test_chaos(platform: Platform) -> None:
    """While anything dies at random, each answer has one record and only cut requests differ."""
    client = platform.client()
    client.put_plan("basic", "EUR", [{"meter": "rows", "per": 1000, "amount": "0.50"}])
    client.put_tenant("acme", "basic")
    client.deploy("points", "reference:1", scale={"min": 2}, access={"tenants": ["acme"]})
    made = [client.make_key(f"client-{i}", ["infer"], tenant="acme") for i in range(CLIENTS)]
    client.wait_ready("points")

    with Load(
        platform.port, [key["key"] for key in made], "default/points", most_rows=MOST_ROWS
    ) as load:
        until(lambda: load.answered() > CLIENTS)
        killed = kill_for_a_while(platform, load, random.Random(20))
    assert min(killed.values()) > 0, killed
    assert len(killed) == 4, killed
    counts = load.counts()
    # 422: a request that was under two replicas when they were killed is not tried a third time.
    assert counts.keys() <= {(FULL, 200), (FULL, 422), (BROKEN, 0)}, counts
    assert counts[FULL, 200] > 500, counts
    assert counts[BROKEN, 0] <= killed["worker"] * CLIENTS
    assert counts[FULL, 422] <= killed["replica"], counts

    usage = settled_usage(platform, client)
    for key, outcomes in zip(made, load.outcomes, strict=True):
        answered = [outcome for outcome in outcomes if outcome.kind == FULL]
        cut = [outcome for outcome in outcomes if outcome.kind == BROKEN]
        rows = sum(outcome.rows for outcome in answered if outcome.status == 200)
        mine = usage[key["id"]]
        assert len(answered) <= mine["requests"] <= len(answered) + len(cut)
        assert rows <= mine["rows"] <= rows + sum(outcome.rows for outcome in cut)

    assert platform.stop() == 0  # the ledger reads the rest before it ends
    assert_books_agree(platform, [key["id"] for key in made], load)


def assert_books_agree(platform: Platform, keys: list[str], load: Load) -> None:
    """money.db by itself: one row per id, each client's answers among them, sums that agree."""
    path = f"file:{platform.home / 'money.db'}?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as money:
        records = money.execute(
            "SELECT id, key_id, seq, final, status, quantities FROM usage_record "
            "WHERE tenant_id = 'acme'"
        ).fetchall()
        rollup = dict(
            money.execute(
                "SELECT meter, sum(quantity) FROM usage_rollup WHERE tenant_id = 'acme' "
                "GROUP BY meter"
            )
        )
        assert money.execute("SELECT count(*) FROM alarm").fetchone() == (0,)
        states = money.execute("SELECT DISTINCT state FROM journal_cursor").fetchall()
    assert ("quarantined",) not in states
    assert len({record[0] for record in records}) == len(records)
    assert all(seq == 0 and final for _, _, seq, final, _, _ in records)

    found: dict[str, Bag] = {key: Counter() for key in keys}
    sums: Counter[str] = Counter()
    for _, key, _, _, status, text in records:
        quantities = json.loads(text)
        found[key][status, quantities["rows"]] += 1
        sums.update(quantities)
    assert {meter: total for meter, total in sums.items() if total} == {
        meter: total for meter, total in rollup.items() if total
    }
    for key, outcomes in zip(keys, load.outcomes, strict=True):
        answered: Bag = Counter(
            ("ok", o.rows) if o.status == 200 else ("error", 0) for o in outcomes if o.kind == FULL
        )
        cut: Bag = Counter(("ok", o.rows) for o in outcomes if o.kind == BROKEN)
        assert not answered - found[key], "an answer has no record"
        assert not found[key] - answered - cut, "a record has no request"
    left = [path.name for path in (platform.home / "journal").iterdir()]
    assert left == [], "usage is still in the journal"
