"""What the ledger's server has at hand to make invoices and to settle them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meuse.billing.ingest import Ingester
from meuse.billing.invoice_ports import Account, CreditNote, Invoice, Payment, Step
from meuse.billing.invoices import DEFAULT, make_invoice
from meuse.billing.manual import ManualPayments
from meuse.billing.ports import BookReader, LedgerStore, Payments, Plans, Postings, Recount, Tenants
from meuse.billing.reconciling import Reconciler
from meuse.billing.terms import Terms
from meuse.core.clock import Clock, now_ms, to_rfc3339
from meuse.core.errors import Code, MeuseError

_MANUAL = ManualPayments()


@dataclass(frozen=True, slots=True)
class Preview:
    """The account of an invoice that is not kept."""

    invoice: Invoice
    payments: Sequence[Payment] = ()
    credit_notes: Sequence[CreditNote] = ()
    next_start_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    store: LedgerStore
    ingester: Ingester
    plans: Plans
    tenants: Tenants
    terms: Terms = DEFAULT
    postings: Postings | None = None
    books: BookReader | None = None
    recount: Recount | None = None
    payments: Payments = _MANUAL
    font: str = ""
    """A TrueType file for PDF; empty: one that is found."""
    clock: Clock = now_ms

    @property
    def reconciler(self) -> Reconciler:
        return Reconciler(
            store=self.store, plans=self.plans, tenants=self.tenants, books=self.books,
            recount=self.recount, clock=self.clock,
        )  # fmt: skip

    def invoice(
        self,
        tenant: str,
        period: object,
        *,
        issue: bool = True,
        issue_now: bool = False,
        unrated_as: str | None = None,
    ) -> tuple[Account, bool]:
        """(the invoice of a period, whether it is new), after the journal is read to its end.
        As `make_invoice`."""
        progress = self.ingester.run_once()
        made, new = make_invoice(
            self.store,
            self.plans,
            self.tenants,
            tenant=tenant,
            period=period,
            complete_to_ms=progress.complete_to_ms,
            issue=issue,
            issue_now=issue_now,
            unrated_as=unrated_as,
            terms=self.terms,
            postings=self.postings,
            clock=self.clock,
        )
        if made.id is None:
            return Preview(made), new
        return self.store.account(None, made.id), new

    def issue(
        self, tenant: str | None, invoice_id: str, *, issue_now: bool, unrated_as: str | None
    ) -> Account:
        """Issue a draft. Raises `conflict` for what is no draft, and when it has to stay one."""
        draft = self.store.get_invoice(tenant, invoice_id)
        if draft.status != "draft":
            raise MeuseError(
                Code.CONFLICT,
                f"invoice {draft.number} is {draft.status}: a period is issued once",
                field="status",
                hint="What it has too much is credited, what it lacks is on the next part.",
            )
        bounds = {"from": to_rfc3339(draft.start_ms), "to": to_rfc3339(draft.end_ms)}
        account, _ = self.invoice(draft.tenant, bounds, issue_now=issue_now, unrated_as=unrated_as)
        if account.invoice.status == "draft":
            because = json.loads(account.invoice.body)["draft_because"]
            raise MeuseError(
                Code.CONFLICT,
                f"the invoice stays a draft: {'; '.join(because)}",
                field="status",
                hint="With issue_now neither the grace nor ingestion is waited for; with "
                "unrated_as usage without a price is rated.",
            )
        return account

    def settle(
        self, tenant: str | None, invoice_id: str, decide: Callable[[Account], Step | None]
    ) -> tuple[Account, bool]:
        """(the account afterwards, whether anything was done)."""
        before, after = self.store.settle(tenant, invoice_id, decide)
        return after, after is not before
