"""store.webhooks on SQLite and Postgres"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Alert, Scope, Webhook
from meuse.store.database import Database
from meuse.store.webhooks import SqlWebhooks


@pytest.fixture
def store(database_url: str) -> Iterator[SqlWebhooks]:
    database = Database(database_url)
    database.migrate("meuse")
    yield SqlWebhooks(database)
    database.close()


def webhook(id: str, tenant: str = "acme", everyone: bool = False, at: int = 1) -> Webhook:
    return Webhook(id, Scope(tenant), f"https://{id}.example.org/", b"\x00\x01", everyone, at)


def alert(threshold: int = 50, period: str = "2026-11", id: str = "") -> Alert:
    id = id or f"msg-{period}-{threshold}"
    return Alert(id, "b", period, threshold, ("acme", "lab"), "{}", 1000 + threshold)


def test_webhooks_are_kept_changed_and_gone(store: SqlWebhooks) -> None:
    """And a tenant has so many at most."""
    first, other = webhook("w1"), webhook("w2", "blue", at=2)
    for one in (first, other):
        store.add(one, 1)
    with pytest.raises(MeuseError) as caught:
        store.add(webhook("w3"), 1)
    assert caught.value.code is Code.CONFLICT
    assert store.list() == [first, other]
    store.change("w1", "https://new.example.org/", True)
    assert store.get("w1") == replace(first, url="https://new.example.org/", disabled=True)
    store.delete("w1")
    for call in (store.get, store.delete):
        with pytest.raises(MeuseError, match="no webhook 'w1'"):
            call("w1")
    with pytest.raises(MeuseError, match="no webhook 'w1'"):
        store.change("w1", "x", False)


def test_an_alert_is_raised_once_with_its_deliveries(store: SqlWebhooks) -> None:
    """To the webhooks of those that it concerns and to who is told of all, if they are not
    disabled; the second time nothing happens, whatever it says."""
    for one in (
        webhook("mine"), webhook("lab", "lab", at=2), webhook("other", "blue", at=3),
        webhook("all", "ops", True, at=4), replace(webhook("off", at=5), disabled=True),
    ):  # fmt: skip
        store.add(one, 9)
    assert store.raise_alert(alert())
    assert not store.raise_alert(alert(id="again"))
    due = store.due(2000, (), 9)
    assert sorted(delivery.webhook for delivery, _ in due) == ["all", "lab", "mine"]
    assert {(delivery.alert, body) for delivery, body in due} == {("msg-2026-11-50", "{}")}
    assert store.raise_alert(alert(80))
    assert store.raise_alert(alert(50, "2026-12"))
    assert store.raised() == {("b", "2026-11", 50), ("b", "2026-11", 80), ("b", "2026-12", 50)}


def test_alerts_of_periods_that_ended_are_forgotten(store: SqlWebhooks) -> None:
    """Those of a total never are: it has no other period."""
    for period in ("2026-11-01T00:00:00.000Z", "total", "up to 77"):
        assert store.raise_alert(alert(period=period))
    month = 31 * 86_400_000
    store.forget(month + 1050)
    assert len(store.raised()) == 3
    store.forget(month + 1051)
    assert store.raised() == {("b", "total", 50), ("b", "up to 77", 50)}


def test_deliveries_are_due_until_they_end(store: SqlWebhooks) -> None:
    mine = webhook("mine")
    store.add(mine, 9)
    sent = store.send(mine, "msg-t", '{"t":1}', 500)
    assert (sent.status, sent.attempts, sent.next_ms) == ("pending", 0, 500)
    assert store.due(499, (), 9) == []
    assert store.due(500, ("mine",), 9) == []
    assert store.due(500, ("other",), 9) == [(sent, '{"t":1}')]
    later = replace(sent, attempts=1, next_ms=900, answer="503", updated_ms=600)
    store.tried(later)
    assert store.due(899, (), 9) == []
    assert store.delivery(sent.id) == later
    store.tried(replace(later, status="delivered", attempts=2, answer="200", updated_ms=950))
    assert store.due(10**9, (), 9) == []
    store.send(mine, "msg-u", "{}", 700)
    assert [d.alert for d in store.deliveries("mine", 9)] == ["msg-u", "msg-t"]
    assert [d.alert for d in store.deliveries("mine", 1)] == ["msg-u"]
    store.forget(950)
    assert len(store.deliveries("mine", 9)) == 2
    store.forget(951)  # what is still to be sent stays
    assert [d.alert for d in store.deliveries("mine", 9)] == ["msg-u"]
    store.delete("mine")
    assert store.due(10**9, (), 9) == []
    with pytest.raises(MeuseError, match="no delivery"):
        store.delivery(sent.id)
