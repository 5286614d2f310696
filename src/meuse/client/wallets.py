"""The client's calls about prepaid credit. Amounts are decimal text in the wallet's currency."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from meuse.client.link import JSON, Link


class WalletCalls(Link):
    """What `Client` has of wallets."""

    def open_wallet(self, tenant: str, currency: str) -> JSON:
        """A tenant's wallet in a currency, made if there is none."""
        body = {"tenant": tenant, "currency": currency}
        answer: JSON = self.call("POST", "/api/wallets", json=body)
        return answer

    def wallets(self, tenant: str | None = None) -> list[JSON]:
        """Those of one's tenant; for an administrator of another one, or "*", of all."""
        query = {} if tenant is None else {"tenant": tenant}
        items: list[JSON] = self.call("GET", "/api/wallets", params=query)["items"]
        return items

    def wallet(self, wallet_id: str) -> JSON:
        """What is available, held, granted, spent, expired and refunded, with the grants."""
        answer: JSON = self.call("GET", f"/api/wallets/{quote(wallet_id)}")
        return answer

    def top_up(self, wallet_id: str, amount: str, reference: str, **terms: Any) -> JSON:
        """Put credit into a wallet, once per `reference`. `terms`: kind (purchased, granted),
        priority (lower is spent earlier), expires (RFC 3339)."""
        body = {"amount": amount, "reference": reference, **terms}
        answer: JSON = self.call("POST", f"/api/wallets/{quote(wallet_id)}/grants", json=body)
        return answer

    def refund(self, wallet_id: str, amount: str, reference: str, grant: str | None = None) -> JSON:
        """Pay purchased credit back that is not spent, once per `reference`."""
        body = {"amount": amount, "reference": reference}
        if grant is not None:
            body["grant"] = grant
        answer: JSON = self.call("POST", f"/api/wallets/{quote(wallet_id)}/refunds", json=body)
        return answer

    def hold(self, wallet_id: str, amount: str, reference: str) -> JSON:
        """Set credit aside for work under way, once per `reference`; it stays until it is
        captured or released."""
        body = {"amount": amount, "reference": reference}
        answer: JSON = self.call("POST", f"/api/wallets/{quote(wallet_id)}/holds", json=body)
        return answer

    def capture(self, wallet_id: str, hold_id: str, amount: str, reference: str) -> JSON:
        """Take a part of a hold for good: it pays for the next invoice."""
        path = f"/api/wallets/{quote(wallet_id)}/holds/{quote(hold_id)}/captures"
        body = {"amount": amount, "reference": reference}
        answer: JSON = self.call("POST", path, json=body)
        return answer

    def release(self, wallet_id: str, hold_id: str) -> JSON:
        """Give back what a hold still holds."""
        path = f"/api/wallets/{quote(wallet_id)}/holds/{quote(hold_id)}/release"
        answer: JSON = self.call("POST", path)
        return answer

    def wallet_entries(self, wallet_id: str, **query: Any) -> JSON:
        """{items, next}: what was booked, newest first. `query`: cursor, limit."""
        path = f"/api/wallets/{quote(wallet_id)}/entries"
        answer: JSON = self.call("GET", path, params=query)
        return answer
