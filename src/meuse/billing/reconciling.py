"""The nightly comparison: reads what is to be compared, keeps what was found, raises alarms."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meuse.billing import reconcile
from meuse.billing.invoice_ports import Account, Alarm, Invoice, RollupRow
from meuse.billing.invoices import cuts_of, known_plan, plan_versions, remedied, unrated_alarm
from meuse.billing.issued import issued_in
from meuse.billing.plans.calendar import Month, months, stints, windows
from meuse.billing.ports import BookReader, LedgerStore, Plans, Recount, Tenants
from meuse.billing.rating import Rating, is_unrated, rate
from meuse.billing.reconcile import Difference
from meuse.billing.snapshot import taxed, taxed_stints
from meuse.billing.statement import assess
from meuse.core.billing import BillingDetails, Party
from meuse.core.clock import BUCKET_MS, Clock, bucket_start, from_rfc3339, now_ms, to_rfc3339
from meuse.core.errors import MeuseError, invalid
from meuse.core.plans import Tax
from meuse.core.states import InvoiceStatus

_log = logging.getLogger(__name__)

_HOUR_MS = 3_600_000
_DAY_MS = 86_400_000
_LOOK_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """`books` None: there is no ledger, and what it has is not compared. `recount` None: all
    records are in the database, and are counted there as a whole."""

    store: LedgerStore
    plans: Plans
    tenants: Tenants
    books: BookReader | None = None
    recount: Recount | None = None
    clock: Clock = now_ms

    def run(self, start_ms: int | None = None, end_ms: int | None = None) -> dict[str, Any]:
        """Compare all records and all that was issued for periods that end in [start, end), by
        default from last month on. Kept, and an alarm for each difference and for usage
        without a price. {id, at, period, compared, count, differences, late, unrated, skipped}.

        Raises `invalid_field` for bounds inside a quarter of an hour.
        """
        now = self.clock()
        end = bucket_start(now) if end_ms is None else end_ms
        start = _last_month(now) if start_ms is None else start_ms
        if start % BUCKET_MS or end % BUCKET_MS:
            raise invalid(
                "period", "it begins or ends inside a quarter of an hour",
                "Usage is kept per quarter of an hour: use :00, :15, :30 or :45.",
            )  # fmt: skip
        skipped = [] if self.books is not None else ["ledger", "wallets"]
        found, alarms = self._of_records(start, end)
        if alarms:
            skipped.append("records")
        late: list[str] = []
        compared = {"invoices": 0, "tenants": 0}
        for account in self._issued(start, end):
            compared["invoices"] += 1
            found += self._of_invoice(account, late)
        if self.books is not None:
            found += reconcile.books_alone(self.books.unbalanced())
        unrated, more = self._unrated(start, end, compared)
        alarms += more
        body = {
            "period": {"from": to_rfc3339(start), "to": to_rfc3339(end)},
            "compared": compared,
            "count": len(found),
            "differences": [one.to_dict() for one in found[: reconcile.MOST]],
            "late": late,
            "unrated": unrated,
            "skipped": skipped,
        }
        alarms += [one.alarm() for one in found[: reconcile.MOST]]
        self.store.raise_alarms(alarms)
        return self.store.keep_reconciliation(len(found), body)

    def _of_records(self, start: int, end: int) -> tuple[list[Difference], list[Alarm]]:
        """Raw records beside the rollup; an alarm where they cannot be counted (in time): the rest
        is compared all the same."""
        if self.recount is None:
            return reconcile.records_and_rollup(*self.store.sums()), []
        try:
            return reconcile.counted_again(self.recount(start, end)), []
        except MeuseError as error:
            _log.error("raw records were not compared: %s", error)
            detail = {"what": "records", "why": str(error)}
            return [], [Alarm("reconciliation_incomplete", detail, f"records:{to_rfc3339(end)}")]

    def _issued(self, start: int, end: int) -> list[Account]:
        return [
            account
            for account in self.store.accounts(None)
            if account.invoice.status != "draft" and start <= account.invoice.end_ms <= end
        ]

    def _of_invoice(self, account: Account, late: list[str]) -> list[Difference]:
        invoice = account.invoice
        found = reconcile.invoice_and_lines(invoice)
        if InvoiceStatus(invoice.status).is_final:
            rated = self._again(invoice)
            if rated is None:
                late.append(invoice.number or "")
            else:
                found += reconcile.lines_and_records(invoice, rated.lines, rated.unrated)
        if self.books is not None:
            standing = self.books.standing(invoice.tenant, str(invoice.id))
            found += reconcile.invoice_and_books(account, standing)
        return found

    def _again(self, invoice: Invoice) -> Rating | None:
        """An issued invoice rated again as of when it was issued, by the plans and the tax of
        then; None when usage came in after it, or after what it goes on from."""
        start, end, moment = invoice.start_ms, invoice.end_ms, invoice.issued_ms or 0
        touched = months(start, end)
        begin, after = touched[0].start_ms, touched[-1].end_ms
        earlier = [
            one
            for one in self.store.list_invoices(invoice.tenant)
            if one.id != invoice.id and (one.issued_ms or 0) <= moment
        ]
        here = {one.id for one in earlier if begin < one.end_ms <= start} | {invoice.id}
        if here & self.store.invoiced_late():
            return None
        issued = issued_in(earlier, begin, start) if begin < start else ()
        body = json.loads(invoice.body)
        customer = _taxed_as(body)
        changes = [one for one in self.tenants.plan_changes(invoice.tenant) if one[0] <= moment]
        calendar = taxed_stints(
            stints(
                changes,
                lambda name: [v for v in self.plans.versions(name) if v.created_ms <= moment],
                begin,
                after,
            ),
            customer,
        )
        rows = self.store.rollup_rows(
            invoice.tenant, start, end, windows=windows(start, end, cuts_of(issued))
        )
        remedy = body.get("unrated_as")
        plan = None if remedy is None else known_plan(remedy, self.plans)
        again, named = remedied(rows, self.plans, issued, start, plan)
        known = {ref: taxed(version, customer) for ref, version in named.items()}
        return assess(again, known, calendar, start, end, issued)

    def _unrated(
        self, start: int, end: int, compared: dict[str, int]
    ) -> tuple[list[dict[str, Any]], list[Alarm]]:
        found: list[dict[str, Any]] = []
        alarms: list[Alarm] = []
        for month in months(start, max(end, start + 1)):
            for tenant in self.store.payers(month.start_ms, month.end_ms):
                compared["tenants"] += 1
                rows = self.store.rollup_rows(tenant, month.start_ms, month.end_ms)
                for missing in _without_price(rows, self.plans):
                    found.append({"tenant": tenant, **missing.to_dict()})
                    alarms.append(unrated_alarm(tenant, *_bounds(month), missing))
        return found, alarms


def nightly(
    reconciler: Reconciler, hour: int, stop: threading.Event, look_s: float = _LOOK_S
) -> None:
    """Run each day at an hour of UTC until `stop`; a night that was missed is made up for.

    A failure is logged, and tried again the next night.
    """
    began, failed = reconciler.clock(), 0
    while not stop.wait(look_s):
        try:
            kept = reconciler.store.reconciliations(1)
        except Exception:
            _log.exception("when books were compared last is not known")
            continue
        last = max(from_rfc3339(kept[0]["at"], "at") if kept else began, failed)
        now = reconciler.clock()
        due = now - now % _DAY_MS + hour * _HOUR_MS
        if not last < due <= now:
            continue
        try:
            told = reconciler.run()
        except Exception:
            failed = now
            _log.exception("the comparison of records, invoices and ledger failed")
        else:
            _log.info("compared records, invoices and ledger: %d differences", told["count"])


def _without_price(rows: Sequence[RollupRow], plans: Plans) -> list[Any]:
    known = plan_versions(rows, plans)
    return list(rate([row for row in rows if is_unrated(row, known)], known).unrated)


def _taxed_as(body: dict[str, Any]) -> BillingDetails:
    """The customer as an invoice had them taxed."""
    taxes = body.get("taxes")
    tax = Tax(taxes[-1]["name"], taxes[-1]["percent"]) if taxes else None
    return BillingDetails(party=Party(name=body["tenant"]), tax=tax)


def _bounds(month: Month) -> tuple[int, int]:
    return month.start_ms, month.end_ms


def _last_month(now: int) -> int:
    (this,) = months(now, now + 1)
    return months(this.start_ms - 1, this.start_ms)[0].start_ms
