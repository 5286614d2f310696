"""app.alerter over a real store and a real receiver"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from billing.test_alerts import Receiver
from meuse.access.sealing import Sealer
from meuse.app.alerter import Alerter
from meuse.billing.alerts import signing
from meuse.core.nouns import Limit, LimitRecord, Scope, Spent, Webhook
from meuse.store.database import Database
from meuse.store.webhooks import SqlWebhooks

NOW = 1_793_491_200_000
BUDGET = Limit("b", "budget", 1000, "month", "rows", model="blue/m")
SECRET = signing.new_secret()


class World:
    """A budget that acme made for a deployment of blue's, and webhooks that may be told of it."""

    def __init__(self, database: Database, receiver: Receiver) -> None:
        self.store = SqlWebhooks(database)
        self.receiver = receiver
        self.sealer = Sealer(bytes(32))
        self.now, self.used = NOW, 0
        self.budget = BUDGET
        self.most = 0
        self.alerter = self.fresh()

    def fresh(self) -> Alerter:
        """As after a restart of control."""
        return Alerter(
            self.store, self.sealer, self.receiver.allowed(), lambda: [self.budget],
            lambda: [LimitRecord(self.budget, Scope("acme"), False, NOW)], self.spent,
            lambda: self.now, chance=random.Random(1),
        )  # fmt: skip

    def spent(self, budgets: Iterable[Limit]) -> dict[str, Spent]:
        return {limit.id: Spent(self.used, 0, None, self.most) for limit in budgets}

    def webhook(self, id: str = "w", tenant: str = "acme") -> Webhook:
        sealed = self.sealer.seal(SECRET, signing.purpose(id))
        url = f"http://127.0.0.1:{self.receiver.port}/{id}"
        made = Webhook(id, Scope(tenant), url, sealed, False, NOW)
        self.store.add(made, 9)
        return made

    def look(self, used: int) -> None:
        self.used = used
        self.alerter.look()
        self.send()

    def send(self) -> None:
        with ThreadPoolExecutor(4) as senders:
            self.alerter.send(senders)

    def told(self) -> list[int]:
        return [json.loads(body)["data"]["threshold"] for _, body in self.receiver.got]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'meuse.db'}")
    database.migrate("meuse")
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, args=(0.01,), daemon=True).start()
    yield World(database, receiver)
    receiver.shutdown()
    receiver.server_close()
    database.close()


def test_each_threshold_is_told_once_a_period(world: World) -> None:
    """Signed, whoever looks how often, also after a restart; the next period begins anew."""
    world.webhook()
    world.webhook("stranger", "other")
    for used in (0, 499, 500, 500, 700):
        world.look(used)
    assert world.told() == [50]
    world.alerter = world.fresh()
    for used in (790, 1000, 1000):
        world.look(used)
    assert world.told() == [50, 80, 100]
    world.now += 31 * 86_400_000
    world.look(10)
    world.look(900)
    assert world.told() == [50, 80, 100, 50, 80]
    headers, body = world.receiver.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert {d.status for d in world.store.deliveries("w", 9)} == {"delivered"}
    assert world.store.deliveries("stranger", 9) == []


def test_what_is_not_taken_is_tried_again(world: World) -> None:
    """Later and later, under the same id and with the same bytes; then it is given up."""
    world.webhook()
    world.receiver.status = 503
    world.look(500)
    world.send()  # not before its time
    (delivery,) = world.store.deliveries("w", 9)
    assert (delivery.status, delivery.attempts, delivery.answer) == ("pending", 1, "503")
    assert 4000 <= delivery.next_ms - world.now <= 6000
    for _ in range(len(signing.WAITS_S) - 1):
        world.now = delivery.next_ms
        world.send()
        (delivery,) = world.store.deliveries("w", 9)
        assert delivery.status == "pending"
    world.alerter = world.fresh()
    world.now = delivery.next_ms
    world.receiver.status = 302
    world.send()
    (delivery,) = world.store.deliveries("w", 9)
    assert (delivery.status, delivery.attempts, delivery.answer) == ("failed", 11, "302")
    assert len({body for _, body in world.receiver.got}) == 1
    assert len({headers["webhook-id"] for headers, _ in world.receiver.got}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in world.receiver.got}) == 11


def test_the_first_that_fails_holds_up_those_behind_it(world: World) -> None:
    """Of one webhook, so that alerts come in their order; others go on."""
    world.webhook()
    world.webhook("blue", "blue")
    world.store.change("blue", "https://127.0.0.2/", False)
    world.look(1000)
    assert world.told() == [50, 80, 100]
    attempts = sorted(d.attempts for d in world.store.deliveries("blue", 9))
    assert attempts == []  # the budget concerns acme, who made it
    world.budget = Limit("c", "budget", 1000, "month", "rows", tenant="blue")
    world.look(1000)
    attempts = sorted(d.attempts for d in world.store.deliveries("blue", 9))
    assert attempts == [0, 0, 1]
    (tried,) = (d for d in world.store.deliveries("blue", 9) if d.attempts)
    assert "inside the network" in tried.answer


def test_one_that_is_gone_is_disabled(world: World) -> None:
    world.webhook()
    world.receiver.status = 410
    world.look(500)
    assert world.store.get("w").disabled
    (delivery,) = world.store.deliveries("w", 9)
    assert (delivery.status, delivery.answer) == ("failed", "410")
    world.look(900)
    assert len(world.receiver.got) == 1


def test_a_secret_of_another_home_sends_nothing(world: World) -> None:
    """A row that was copied or tampered with."""
    mine = world.webhook()
    sealed = world.sealer.seal(SECRET, signing.purpose("other"))
    world.store.delete("w")
    world.store.add(Webhook("w", mine.scope, mine.url, sealed, False, NOW), 9)
    world.look(500)
    (delivery,) = world.store.deliveries("w", 9)
    assert delivery.answer.startswith("its secret cannot be read")
    assert world.receiver.got == []


def test_a_prepaid_balance_is_told_of_after_each_top_up(world: World) -> None:
    """Of what was left then, not of all that was ever paid."""
    world.webhook()
    world.budget = Limit("wallet-acme", "budget", 0, meter="cost", tenant="acme",
                         currency="EUR", moves=True)  # fmt: skip
    world.most = 100
    world.look(0)
    world.look(60)
    world.look(100)
    assert world.told() == [50, 80, 100]
    world.most = 200
    world.look(100)
    world.look(149)
    assert len(world.told()) == 3
    world.look(150)
    assert world.told() == [50, 80, 100, 50]
