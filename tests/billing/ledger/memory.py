"""The ledger in memory: a second adapter of `Books`, for tests that need no database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from meuse.billing.ledger.books import reference_taken
from meuse.core.errors import not_found
from meuse.core.ledger import Entry, Grant, Posted, Wallet, class_of


class MemoryBooks:
    """`periods` are the periods that are, by tenant."""

    def __init__(self) -> None:
        self.entries: list[Posted] = []
        self.kept_wallets: list[Wallet] = []
        self.kept_grants: list[Grant] = []
        self.periods: dict[str, list[tuple[int, int]]] = {}

    def post(self, entry: Entry) -> Posted:
        kept = self.posted(entry.tenant, entry.reference)
        if kept is None:
            n = len(self.entries) + 1
            kept = Posted(f"entry-{n}", n, 1, entry.fingerprint, entry)
            self.entries.append(kept)
        elif kept.fingerprint != entry.fingerprint:
            raise reference_taken(kept)
        return kept

    def posted(self, tenant: str, reference: str) -> Posted | None:
        mine = (p for p in self.entries if p.entry.tenant == tenant)
        return next((p for p in mine if p.entry.reference == reference), None)

    def about(self, tenant: str, subject: str) -> list[Posted]:
        return [p for p in self.entries if p.entry.tenant == tenant and p.entry.subject == subject]

    def turnover(
        self, tenant: str, currency: str, classes: Sequence[str] = ()
    ) -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for posted in self.entries:
            entry = posted.entry
            if (entry.tenant, entry.currency) == (tenant, currency):
                for leg in entry.legs:
                    if not classes or class_of(leg.account) in classes:
                        found[entry.kind, leg.account] += leg.amount
        return dict(found)

    def balances(self, tenant: str, currency: str) -> dict[str, int]:
        found: Counter[str] = Counter()
        for (_kind, account), amount in self.turnover(tenant, currency).items():
            found[account] += amount
        return {account: amount for account, amount in found.items() if amount}

    def wallet(self, tenant: str, currency: str) -> Wallet | None:
        mine = (w for w in self.kept_wallets if (w.tenant, w.currency) == (tenant, currency))
        return next(mine, None)

    def wallet_by_id(self, wallet_id: str, tenant: str | None = None) -> Wallet:
        for wallet in self.kept_wallets:
            if wallet.id == wallet_id and tenant in (None, wallet.tenant):
                return wallet
        raise not_found("wallet", wallet_id)

    def add_wallet(self, wallet: Wallet) -> None:
        self.kept_wallets.append(wallet)

    def grants(self, wallet_id: str) -> list[Grant]:
        return [grant for grant in self.kept_grants if grant.wallet == wallet_id]

    def add_grant(self, grant: Grant) -> None:
        self.kept_grants.append(replace(grant, number=len(self.kept_grants) + 1))

    def lapsed(self, now_ms: int) -> list[Wallet]:
        def left(grant: Grant, wallet: Wallet) -> int:
            return self.balances(wallet.tenant, wallet.currency).get(f"credit:{grant.id}", 0)

        return [
            wallet
            for wallet in self.kept_wallets
            if any(g.has_expired(now_ms) and left(g, wallet) for g in self.grants(wallet.id))
        ]

    def invoiced(self, tenant: str) -> list[tuple[int, int]]:
        return sorted(self.periods.get(tenant, ()))

    def is_invoiced(self, tenant: str, moment_ms: int) -> bool:
        return any(start <= moment_ms < end for start, end in self.periods.get(tenant, ()))
