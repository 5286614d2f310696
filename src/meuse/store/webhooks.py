"""Webhooks, alerts and deliveries in SQL: adapter of `billing.alerts.ports.WebhookStore`."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.ids import new_id
from meuse.core.nouns import DEFAULT_PROJECT, DEFAULT_TENANT, Alert, Delivery, Scope, Webhook
from meuse.store.database import Database
from meuse.store.tables import alert as alerts
from meuse.store.tables import webhook as webhooks
from meuse.store.tables import webhook_delivery as deliveries

_MONTH_MS = 31 * 86_400_000


class SqlWebhooks:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, webhook: Webhook, most: int) -> None:
        own = webhooks.c.tenant_id == webhook.scope.tenant
        with self._database.write_alone("webhook") as connection:
            count = sa.select(sa.func.count()).select_from(webhooks).where(own)
            if connection.execute(count).scalar_one() >= most:
                raise MeuseError(
                    Code.CONFLICT,
                    f"a tenant has at most {most} webhooks",
                    hint="Delete those that are not needed any more.",
                )
            connection.execute(
                webhooks.insert().values(
                    tenant_id=webhook.scope.tenant,
                    project_id=webhook.scope.project,
                    id=webhook.id,
                    url=webhook.url,
                    sealed=webhook.sealed,
                    everyone=webhook.everyone,
                    disabled=webhook.disabled,
                    created_ms=webhook.created_ms,
                )
            )

    def get(self, webhook_id: str) -> Webhook:
        with self._database.read() as connection:
            query = sa.select(webhooks).where(webhooks.c.id == webhook_id)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise not_found("webhook", webhook_id)
        return _webhook(row)

    def list(self) -> Sequence[Webhook]:
        query = sa.select(webhooks).order_by(webhooks.c.created_ms, webhooks.c.id)
        with self._database.read() as connection:
            return [_webhook(row) for row in connection.execute(query)]

    def change(self, webhook_id: str, url: str, disabled: bool) -> None:
        statement = webhooks.update().where(webhooks.c.id == webhook_id)
        with self._database.write() as connection:
            if connection.execute(statement.values(url=url, disabled=disabled)).rowcount == 0:
                raise not_found("webhook", webhook_id)

    def disable(self, webhook_id: str, url: str) -> None:
        same = (webhooks.c.id == webhook_id, webhooks.c.url == url)
        with self._database.write() as connection:
            connection.execute(webhooks.update().where(*same).values(disabled=True))

    def delete(self, webhook_id: str) -> None:
        with self._database.write() as connection:
            gone = connection.execute(webhooks.delete().where(webhooks.c.id == webhook_id))
            if gone.rowcount == 0:
                raise not_found("webhook", webhook_id)
            connection.execute(deliveries.delete().where(deliveries.c.webhook_id == webhook_id))

    def raise_alert(self, alert: Alert) -> bool:
        a = alerts.c
        same = (a.budget_id == alert.budget, a.period == alert.period)
        with self._database.write_alone("webhook") as connection:
            query = sa.select(a.id).where(*same, a.threshold == alert.threshold)
            if connection.execute(query).one_or_none() is not None:
                return False
            connection.execute(
                alerts.insert().values(
                    tenant_id=next(iter(alert.tenants), DEFAULT_TENANT),
                    project_id=DEFAULT_PROJECT,
                    budget_id=alert.budget,
                    period=alert.period,
                    threshold=alert.threshold,
                    id=alert.id,
                    tenants=json.dumps(alert.tenants),
                    body=alert.body,
                    created_ms=alert.created_ms,
                )
            )
            for row in connection.execute(sa.select(webhooks)):
                webhook = _webhook(row)
                told = webhook.everyone or webhook.scope.tenant in alert.tenants
                if told and not webhook.disabled:
                    _send(connection, webhook, alert.id, alert.body, alert.created_ms)
        return True

    def raised(self) -> set[tuple[str, str, int]]:
        query = sa.select(alerts.c.budget_id, alerts.c.period, alerts.c.threshold)
        with self._database.read() as connection:
            return {(row.budget_id, row.period, row.threshold) for row in connection.execute(query)}

    def send(self, webhook: Webhook, id: str, body: str, now_ms: int) -> Delivery:
        with self._database.write() as connection:
            return _send(connection, webhook, id, body, now_ms)

    def due(self, now_ms: int, but: Collection[str], most: int) -> Sequence[tuple[Delivery, str]]:
        d = deliveries.c
        query = sa.select(deliveries).where(d.status == "pending", d.next_ms <= now_ms)
        if but:
            query = query.where(d.webhook_id.not_in(but))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(d.next_ms, d.id).limit(most))
            return [(_delivery(row), row.body) for row in rows]

    def tried(self, delivery: Delivery) -> None:
        d = deliveries.c
        with self._database.write() as connection:
            connection.execute(
                deliveries.update()
                .where(d.id == delivery.id)
                .values(
                    status=delivery.status,
                    attempts=delivery.attempts,
                    next_ms=delivery.next_ms,
                    answer=delivery.answer,
                    updated_ms=delivery.updated_ms,
                )
            )

    def delivery(self, delivery_id: str) -> Delivery:
        query = sa.select(deliveries).where(deliveries.c.id == delivery_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise not_found("delivery", delivery_id)
        return _delivery(row)

    def deliveries(self, webhook_id: str, most: int) -> Sequence[Delivery]:
        d = deliveries.c
        query = sa.select(deliveries).where(d.webhook_id == webhook_id)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(d.created_ms.desc(), d.id.desc()).limit(most))
            return [_delivery(row) for row in rows]

    def forget(self, before_ms: int) -> None:
        d = deliveries.c
        with self._database.write() as connection:
            connection.execute(
                deliveries.delete().where(d.status != "pending", d.updated_ms < before_ms)
            )
            ended = alerts.c.period.like("____-__-__T%")  # the others never end
            connection.execute(
                alerts.delete().where(ended, alerts.c.created_ms < before_ms - _MONTH_MS)
            )


def _send(connection: sa.Connection, webhook: Webhook, id: str, body: str, now_ms: int) -> Delivery:
    made = Delivery(new_id("dlv"), webhook.id, id, "pending", 0, now_ms, "", now_ms, now_ms)
    connection.execute(
        deliveries.insert().values(
            tenant_id=webhook.scope.tenant,
            project_id=webhook.scope.project,
            id=made.id,
            webhook_id=made.webhook,
            alert_id=made.alert,
            body=body,
            status=made.status,
            attempts=made.attempts,
            next_ms=made.next_ms,
            answer=made.answer,
            created_ms=made.created_ms,
            updated_ms=made.updated_ms,
        )
    )
    return made


def _webhook(row: sa.Row[Any]) -> Webhook:
    scope = Scope(row.tenant_id, row.project_id)
    return Webhook(
        row.id, scope, row.url, bytes(row.sealed), row.everyone, row.created_ms, row.disabled
    )


def _delivery(row: sa.Row[Any]) -> Delivery:
    return Delivery(
        row.id, row.webhook_id, row.alert_id, row.status, row.attempts, row.next_ms, row.answer,
        row.created_ms, row.updated_ms,
    )  # fmt: skip
