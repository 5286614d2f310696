"""The client's calls about keys, tenants, limits, plans and usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from meuse.client.billing import Billing
from meuse.client.link import JSON
from meuse.client.wallets import WalletCalls


class MoneyCalls(WalletCalls):
    """What `Client` has of callers and of what they owe."""

    @property
    def billing(self) -> Billing:
        """Invoices, payments and reports."""
        return Billing(self._send)

    def make_key(self, name: str, scopes: Sequence[str], **more: Any) -> JSON:
        """A new key, shown this once. `more`: tenant, project, expires."""
        body = {"name": name, "scopes": list(scopes), **more}
        answer: JSON = self.call("POST", "/api/keys", json=body)
        return answer

    def keys(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/keys")["items"]
        return items

    def revoke_key(self, key_id: str) -> JSON:
        answer: JSON = self.call("DELETE", f"/api/keys/{quote(key_id)}")
        return answer

    def limit(self, **terms: Any) -> JSON:
        """A new limit: any of tenant, project, key, model, and requests or tokens, per (second,
        minute, hour), burst; or concurrency."""
        answer: JSON = self.call("POST", "/api/limits", json=terms)
        return answer

    def limits(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/limits")["items"]
        return items

    def budget(self, **terms: Any) -> JSON:
        """A new budget: any of tenant, project, key, model, and meter (requests, rows, tokens,
        …), limit, period (minute, day, month, total), hard. Of money: meter "cost", limit as
        decimal text, currency."""
        answer: JSON = self.call("POST", "/api/budgets", json=terms)
        return answer

    def budgets(self) -> list[JSON]:
        """With what is used and left, and when they reset."""
        items: list[JSON] = self.call("GET", "/api/budgets")["items"]
        return items

    def recount(self, budget_id: str) -> JSON:
        """A budget, and beside it what it comes to by the ledger's records."""
        answer: JSON = self.call("GET", f"/api/budgets/{quote(budget_id)}/recount")
        return answer

    def webhooks(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/webhooks")["items"]
        return items

    def add_webhook(self, url: str, **more: Any) -> JSON:
        """Tell a URL when budgets near their end; `secret` is shown this once."""
        answer: JSON = self.call("POST", "/api/webhooks", json={"url": url, **more})
        return answer

    def remove_webhook(self, webhook_id: str) -> JSON:
        answer: JSON = self.call("DELETE", f"/api/webhooks/{quote(webhook_id)}")
        return answer

    def test_webhook(self, webhook_id: str) -> JSON:
        """Send it a message of the type `webhook.test`."""
        answer: JSON = self.call("POST", f"/api/webhooks/{quote(webhook_id)}/test")
        return answer

    def deliveries(self, webhook_id: str) -> list[JSON]:
        """What a webhook was sent, the newest first."""
        path = f"/api/webhooks/{quote(webhook_id)}/deliveries"
        items: list[JSON] = self.call("GET", path)["items"]
        return items

    def remove_limit(self, limit_id: str) -> JSON:
        """Take a limit or a budget away, by its id."""
        kind = "budgets" if limit_id.startswith("budget-") else "limits"
        answer: JSON = self.call("DELETE", f"/api/{kind}/{quote(limit_id)}")
        return answer

    def put_tenant(self, name: str, plan: str | None = None) -> JSON:
        answer: JSON = self.call("PUT", f"/api/tenants/{quote(name)}", json={"plan": plan})
        return answer

    def put_plan(self, name: str, currency: str, prices: Sequence[JSON], **terms: Any) -> JSON:
        """A plan's next version. `terms`: fees, discounts, stacking, maximum, minimum, credits,
        tax."""
        body = {"currency": currency, "prices": list(prices), **terms}
        answer: JSON = self.call("PUT", f"/api/plans/{quote(name)}", json=body)
        return answer

    def plans(self) -> list[JSON]:
        """Every version of the plans that one may see."""
        items: list[JSON] = self.call("GET", "/api/plans")["items"]
        return items

    def plan(self, name: str, version: int | None = None) -> JSON:
        """The latest version, or the one asked for."""
        query = {} if version is None else {"version": version}
        answer: JSON = self.call("GET", f"/api/plans/{quote(name)}", params=query)
        return answer

    def what_if(self, plan: str, period: Any, **given: Any) -> JSON:
        """What a period would have come to under a plan: {actual, what_if, difference, …}.
        `given`: tenant, version."""
        path = f"/api/plans/{quote(plan)}/what-if"
        answer: JSON = self.call("POST", path, json={"period": period, **given})
        return answer

    def usage(self, **query: Any) -> JSON:
        """{rows, complete_to, …}. `query`: from, to, by, tenant, fresh, cost."""
        if "start" in query:  # `from` is a word of the language
            query["from"] = query.pop("start")
        answer: JSON = self.call("GET", "/api/usage", params=query)
        return answer

    def push_usage(self, events: Sequence[JSON]) -> JSON:
        """Report usage of a service elsewhere as CloudEvents, in as many requests as it takes:
        {accepted, duplicates, late}. After an error it may be called again with the same."""
        from meuse.client.events import push

        return push(self, events)

    def recount_usage(self, start: str, to: str) -> JSON:
        """Raw records of a time counted again, beside what the books say: `differences` must be
        empty (administrator)."""
        asked = {"from": start, "to": to}
        answer: JSON = self.call("POST", "/api/usage/recount", json=asked, timeout=900.0)
        return answer

    def journal(self) -> JSON:
        """How usage stands on its way into the books (administrator)."""
        answer: JSON = self.call("GET", "/api/usage/journal")
        return answer

    def invoice(self, tenant: str, period: Any, unrated_as: str | None = None) -> JSON:
        """The invoice (or draft) of a tenant for "2026-11" or {from, to}; usage that has no price
        is rated by the plan version `unrated_as`."""
        asked = {"tenant": tenant, "period": period}
        if unrated_as is not None:
            asked["unrated_as"] = unrated_as
        answer: JSON = self.call("POST", "/api/invoices", json=asked)
        return answer
