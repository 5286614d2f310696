"""Webhooks: where alerts of budgets are told, and what became of telling."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Control, Parts, requires
from meuse.billing.alerts import signing, thresholds
from meuse.billing.alerts.post import target_of
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.fields import known
from meuse.core.ids import new_id
from meuse.core.nouns import Delivery, Principal, Webhook

router = APIRouter(prefix="/api/webhooks", tags=["limits"])
Keys = Annotated[Principal, requires("keys")]

MOST = 16
"""Webhooks of one tenant."""


def _webhook(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "tenant": "*" if webhook.everyone else webhook.scope.tenant,
        "project": webhook.scope.project,
        "url": webhook.url,
        "disabled": webhook.disabled,
        "created": to_rfc3339(webhook.created_ms),
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    """`message` is what the receiver is told as webhook-id."""
    waits = delivery.status == "pending"
    return {
        "id": delivery.id,
        "message": delivery.alert,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "answer": delivery.answer or None,
        "next": to_rfc3339(delivery.next_ms) if waits else None,
        "created": to_rfc3339(delivery.created_ms),
        "updated": to_rfc3339(delivery.updated_ms),
    }


@router.post("", status_code=201)
def make_webhook(parts: Parts, caller: Keys, body: Body) -> JSONResponse:
    """Tell {url} (https, a public host) when a budget of the caller's tenant has reached 50, 80
    and 100 %; an administrator may say {tenant: "*"} for those of all. `secret` is shown this
    once: messages are signed with it as Standard Webhooks has it."""
    known(body, ("url", "tenant"))
    everyone = body.get("tenant") == "*"
    if body.get("tenant") not in (None, "*", caller.tenant):
        raise invalid("tenant", f"{body['tenant']!r} is not yours", 'Leave it out, or "*".')
    if everyone and "admin" not in caller.scopes:
        raise MeuseError(
            Code.FORBIDDEN, "only an administrator is told of all tenants", field="tenant"
        )
    target_of(body.get("url"), parts.webhook_hosts)
    secret, id = signing.new_secret(), new_id("webhook")
    sealed = parts.sealer.seal(secret, signing.purpose(id))
    webhook = Webhook(id, caller.scope, body["url"], sealed, everyone, now_ms())
    parts.webhooks.add(webhook, MOST)
    return JSONResponse({**_webhook(webhook), "secret": secret}, 201)


@router.get("")
def list_webhooks(parts: Parts, caller: Keys) -> dict[str, Any]:
    return {"items": [_webhook(one) for one in parts.webhooks.list() if _is_seen(caller, one)]}


@router.get("/{webhook_id}")
def get_webhook(parts: Parts, caller: Keys, webhook_id: str) -> dict[str, Any]:
    return _webhook(_find(parts, caller, webhook_id))


@router.patch("/{webhook_id}")
def change_webhook(parts: Parts, caller: Keys, webhook_id: str, body: Body) -> dict[str, Any]:
    """Another {url}, or {disabled}: nothing is sent to one that is. The secret stays."""
    known(body, ("url", "disabled"))
    webhook = _find(parts, caller, webhook_id)
    disabled = body.get("disabled", webhook.disabled)
    if not isinstance(disabled, bool):
        raise invalid("disabled", f"{disabled!r} is not true or false")
    url = body.get("url", webhook.url)
    target_of(url, parts.webhook_hosts)
    parts.webhooks.change(webhook_id, url, disabled)
    return _webhook(replace(webhook, url=url, disabled=disabled))


@router.delete("/{webhook_id}")
def delete_webhook(parts: Parts, caller: Keys, webhook_id: str) -> dict[str, Any]:
    """Gone, with all that was still to be sent."""
    parts.webhooks.delete(_find(parts, caller, webhook_id).id)
    return {"id": webhook_id}


@router.post("/{webhook_id}/test", status_code=202)
def try_webhook(parts: Parts, caller: Keys, webhook_id: str) -> JSONResponse:
    """Send it a message of the type `webhook.test`, soon; the deliveries tell what came of it."""
    webhook = _find(parts, caller, webhook_id)
    if webhook.disabled:
        raise MeuseError(Code.CONFLICT, "this webhook is disabled", field="webhook")
    now = now_ms()
    body = thresholds.body(thresholds.TEST, {"webhook": webhook.id}, now)
    return JSONResponse(_delivery(parts.webhooks.send(webhook, new_id("msg"), body, now)), 202)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    parts: Parts,
    caller: Keys,
    webhook_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The newest first; `answer` is what came of the last attempt."""
    webhook = _find(parts, caller, webhook_id)
    return {"items": [_delivery(one) for one in parts.webhooks.deliveries(webhook.id, limit)]}


def _find(parts: Control, caller: Principal, webhook_id: str) -> Webhook:
    webhook = parts.webhooks.get(webhook_id)
    if not _is_seen(caller, webhook):
        raise not_found("webhook", webhook_id)
    return webhook


def _is_seen(caller: Principal, webhook: Webhook) -> bool:
    return "admin" in caller.scopes or webhook.scope == caller.scope
