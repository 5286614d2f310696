"""Looks at budgets, raises alerts, and tells webhooks of them: a loop in control.

An alert is kept with its deliveries in one transaction, once per budget, period and threshold;
a delivery is tried until it is taken or given up, also after a restart. Receivers may see one
twice (a death between their answer and our note of it) and know it by its id.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from meuse.access.sealing import Sealer, SealError
from meuse.billing.alerts import signing, thresholds
from meuse.billing.alerts.ports import WebhookStore
from meuse.billing.alerts.post import Allowed, post
from meuse.core.clock import Clock, now_ms
from meuse.core.errors import MeuseError
from meuse.core.nouns import Delivery, Limit, LimitRecord, Spent, Webhook

log = logging.getLogger(__name__)

EVERY_S = 1.0
SENDERS = 8
AT_ONCE = 100
KEPT_MS = 30 * 86_400_000
"""How long deliveries that have ended are shown."""
GONE = 410


@dataclass(slots=True)
class Alerter:
    """`records` say who made a budget; `budgets` are all, as hosts are told of them."""

    store: WebhookStore
    sealer: Sealer
    allowed: Allowed
    budgets: Callable[[], Iterable[Limit]]
    records: Callable[[], Iterable[LimitRecord]]
    spent: Callable[[Iterable[Limit]], dict[str, Spent]]
    clock: Clock = now_ms
    every_s: float = EVERY_S
    chance: random.Random = field(default_factory=random.Random)
    _raised: set[tuple[str, str, int]] | None = None
    _topped: dict[str, tuple[int, int]] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        forgot = 0.0
        with ThreadPoolExecutor(SENDERS, "webhooks") as senders:
            while True:
                try:
                    self.look()
                    self.send(senders)
                    if time.monotonic() - forgot > 3600:
                        forgot = time.monotonic()
                        self.store.forget(self.clock() - KEPT_MS)
                        self._raised = None
                except Exception:
                    log.exception("alerts of budgets failed")
                time.sleep(self.every_s)

    def look(self) -> None:
        """Raise what is due."""
        if self._raised is None:
            self._raised = self.store.raised()
        budgets = [limit for limit in self.budgets() if limit.kind == "budget"]
        if not budgets:
            return
        found, now = self.spent(budgets), self.clock()
        for limit in budgets:
            spent = found[limit.id]
            period = thresholds.period_of(limit, spent, now)
            for percent in thresholds.reached(limit, spent, self._before(limit, spent)):
                if (limit.id, period, percent) not in self._raised:
                    self._raise(limit, spent, percent, now)
                    self._raised.add((limit.id, period, percent))

    def _before(self, limit: Limit, spent: Spent) -> int:
        """What a prepaid budget had used when it was topped up last, as far as was seen."""
        if not limit.moves:
            return 0
        most, before = self._topped.get(limit.id, (-1, 0))
        if most != spent.most:
            before = spent.used
            self._topped[limit.id] = spent.most, before
        return min(before, max(spent.most - 1, 0))

    def _raise(self, limit: Limit, spent: Spent, percent: int, now: int) -> None:
        concerned = {limit.tenant, *(r.scope.tenant for r in self.records()
                                     if r.limit.id == limit.id)}  # fmt: skip
        tenants = tuple(sorted(tenant for tenant in concerned if tenant is not None))
        alert = thresholds.alert(limit, spent, percent, tenants, now)
        if self.store.raise_alert(alert):
            log.warning("budget %s has reached %d %%: %s", limit.id, percent, alert.body)

    def send(self, senders: ThreadPoolExecutor) -> None:
        """Try what is due, of each webhook one after the other."""
        with self._lock:
            busy = set(self._busy)
        due: dict[str, list[tuple[Delivery, str]]] = {}
        for delivery, body in self.store.due(self.clock(), busy, AT_ONCE):
            due.setdefault(delivery.webhook, []).append((delivery, body))
        for webhook, its in due.items():
            with self._lock:
                self._busy.add(webhook)
            senders.submit(self._send_all, webhook, its)

    def _send_all(self, webhook_id: str, its: list[tuple[Delivery, str]]) -> None:
        try:
            for delivery, body in its:
                if not self.attempt(self.store.get(webhook_id), delivery, body):
                    return
        except MeuseError:  # it was deleted meanwhile
            pass
        except Exception:
            log.exception("a webhook could not be told")
        finally:
            with self._lock:
                self._busy.discard(webhook_id)

    def attempt(self, webhook: Webhook, delivery: Delivery, body: str) -> bool:
        """Send it once, and keep what came of it; whether it was taken."""
        if webhook.disabled:
            self.store.tried(replace(delivery, status="failed", answer="the webhook is disabled"))
            return False
        taken, answer = self._post(webhook, delivery, body)
        now, attempts = self.clock(), delivery.attempts + 1
        wait = signing.wait_ms(attempts, self.chance)
        status = "delivered" if taken else "pending" if wait is not None else "failed"
        if answer == str(GONE):
            status = "failed"
            self.store.disable(webhook.id, webhook.url)
            log.warning("webhook %s is gone, as its server says: it is disabled", webhook.id)
        next_ms = now + (wait or 0) if status == "pending" else delivery.next_ms
        self.store.tried(
            replace(
                delivery, status=status, attempts=attempts, next_ms=next_ms, answer=answer,
                updated_ms=now,
            )
        )  # fmt: skip
        if not taken:
            log.warning("webhook %s did not take %s: %s", webhook.id, delivery.alert, answer)
        return taken

    def _post(self, webhook: Webhook, delivery: Delivery, body: str) -> tuple[bool, str]:
        try:
            secret = self.sealer.open(webhook.sealed, signing.purpose(webhook.id))
            raw = body.encode()
            headers = signing.headers(secret, delivery.alert, self.clock() // 1000, raw)
            status = post(webhook.url, raw, headers, self.allowed)
        except SealError as error:
            return False, f"its secret cannot be read: {error}"
        except MeuseError as error:
            return False, error.message
        return 200 <= status < 300, str(status)
