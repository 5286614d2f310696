"""What alerts need of a store. Its whole size."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from meuse.core.nouns import Alert, Delivery, Webhook


class WebhookStore(Protocol):
    def add(self, webhook: Webhook, most: int) -> None:
        """Keep one. Raises `conflict` when its tenant has `most` already."""
        ...

    def get(self, webhook_id: str) -> Webhook:
        """Raises `not_found`."""
        ...

    def list(self) -> Sequence[Webhook]:
        """Of all tenants, oldest first."""
        ...

    def change(self, webhook_id: str, url: str, disabled: bool) -> None: ...

    def disable(self, webhook_id: str, url: str) -> None:
        """Unless it has another URL by now."""
        ...

    def delete(self, webhook_id: str) -> None:
        """With all that was on its way. Raises `not_found`."""
        ...

    def raise_alert(self, alert: Alert) -> bool:
        """Keep it, and a delivery to each webhook that it concerns; False when the same budget,
        period and threshold has one already, and then nothing happens."""
        ...

    def raised(self) -> set[tuple[str, str, int]]:
        """(budget, period, threshold) of every alert."""
        ...

    def send(self, webhook: Webhook, id: str, body: str, now_ms: int) -> Delivery:
        """Keep a delivery of its own, under the id that the receiver is told."""
        ...

    def due(self, now_ms: int, but: Collection[str], most: int) -> Sequence[tuple[Delivery, str]]:
        """Those that are to be tried now, with what is sent; none of these webhooks'."""
        ...

    def tried(self, delivery: Delivery) -> None:
        """Keep what came of an attempt."""
        ...

    def delivery(self, delivery_id: str) -> Delivery:
        """Raises `not_found`."""
        ...

    def deliveries(self, webhook_id: str, most: int) -> Sequence[Delivery]:
        """The newest of a webhook, newest first."""
        ...

    def forget(self, before_ms: int) -> None:
        """Deliveries that ended before then, and alerts of periods that did."""
        ...
