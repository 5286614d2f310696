"""Do records, invoices, ledger and wallets say the same? Pure comparison, to the last digit.

records = rollup: every quantity. records × price = lines: each issued invoice, rated again with
the plans and the tax that it keeps. lines = total: each invoice in itself. invoice = ledger: total,
credited, paid and due. A difference says what is compared, where, and both numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal, localcontext
from typing import Any

from meuse.billing.invoice_ports import Account, Alarm, Invoice
from meuse.billing.lines import Line, amount_text
from meuse.billing.plans.curve import PRECISION
from meuse.billing.settling import figures
from meuse.core.nouns import DEFAULT_TENANT

MOST = 100
"""So many differences are told one by one; all are counted."""
WHERE = ("tenant", "meter", "model", "version", "tier", "plan")


@dataclass(frozen=True, slots=True)
class Difference:
    """`check` compared two numbers that should be one: `found` and `expected`."""

    check: str
    tenant: str
    where: Mapping[str, str]
    found: str
    expected: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"where": dict(self.where)}

    def alarm(self) -> Alarm:
        told = f"{json.dumps(dict(self.where), sort_keys=True)}:{self.found}:{self.expected}"
        dedup = f"reconciliation:{self.check}:{self.tenant}:{told}"
        return Alarm("reconciliation_difference", self.to_dict(), dedup, self.tenant)


def records_and_rollup(
    records: Mapping[tuple[str, ...], int], rollup: Mapping[tuple[str, ...], int]
) -> list[Difference]:
    """Every quantity that records have is in the rollup, and no other."""
    keys = sorted({*records, *rollup})
    return counted_again((key, rollup.get(key, 0), records.get(key, 0)) for key in keys)


def counted_again(counts: Iterable[tuple[tuple[str, ...], int, int]]) -> list[Difference]:
    """As `ports.Recount` says them: where, what the rollup has, what records have."""
    found = []
    for key, kept, mine in counts:
        if mine != kept:
            where = dict(zip(WHERE, key, strict=True))
            tenant = where.pop("tenant")
            found.append(Difference("records = rollup", tenant, where, str(kept), str(mine)))
    return found


def invoice_and_lines(invoice: Invoice) -> list[Difference]:
    """An invoice's total is the sum of its lines, and of its net and tax."""
    body = json.loads(invoice.body)
    with localcontext(prec=PRECISION):
        lines = sum((Decimal(line["amount"]) for line in body["lines"]), Decimal(0))
        parts = Decimal(body["net"]) + Decimal(body["tax"]) if "net" in body else lines
    found = []
    for what, amount in (("lines", lines), ("net + tax", parts)):
        if amount != Decimal(invoice.total):
            found.append(_of(invoice, "lines = total", {"what": what}, invoice.total, amount))
    return found


def lines_and_records(
    invoice: Invoice, rated: Iterable[Line], unrated: Sequence[Any] = ()
) -> list[Difference]:
    """What an invoice says of each line is what its records come to by its own prices."""
    body = json.loads(invoice.body)
    said = {_key(line): Decimal(line["amount"]) for line in body["lines"]}
    owed = {_key(line.to_dict()): Decimal(line.amount) for line in rated}
    found = [
        _of(invoice, "records × price = lines", {"line": key},
            amount_text(said.get(key, Decimal(0)), invoice.currency), owed.get(key, Decimal(0)))
        for key in sorted({*said, *owed})
        if said.get(key, Decimal(0)) != owed.get(key, Decimal(0))
    ]  # fmt: skip
    if unrated:
        where = {"line": f"{len(unrated)} quantities without a price"}
        found.append(_of(invoice, "records × price = lines", where, "0", Decimal(len(unrated))))
    return found


def invoice_and_books(account: Account, standing: Mapping[str, Decimal] | None) -> list[Difference]:
    """What is owed, credited, paid and due is what the ledger has."""
    invoice, mine = account.invoice, figures(account)
    if standing is None:
        if not mine.total:
            return []  # an invoice of nothing books nothing
        return [_of(invoice, "invoice = ledger", {"what": "total"}, "not booked", mine.total)]
    if invoice.status == "void":
        pairs = {"due": Decimal(0)}
    else:
        pairs = {"total": mine.total, "credited": mine.credited, "paid": mine.paid,
                 "from_wallet": mine.wallet, "due": mine.due}  # fmt: skip
    return [
        _of(invoice, "invoice = ledger", {"what": name}, f"{standing[name]:f}", amount)
        for name, amount in pairs.items()
        if standing[name] != amount
    ]


def books_alone(unbalanced: Iterable[Mapping[str, str]]) -> list[Difference]:
    """What the ledger itself finds: legs that do not add up, wallets that show something else."""
    found = []
    for one in unbalanced:
        where = {k: str(v) for k, v in one.items() if k not in ("tenant", "found", "expected")}
        tenant = one.get("tenant", DEFAULT_TENANT)
        numbers = (str(one.get("found", "")), str(one.get("expected", "")))
        found.append(Difference("ledger = wallet", tenant, where, *numbers))
    return found


def _of(
    invoice: Invoice, check: str, where: Mapping[str, str], found: str, expected: Decimal
) -> Difference:
    named = {"invoice": invoice.number or "", **where}
    return Difference(check, invoice.tenant, named, found, f"{expected:f}")


def _key(line: Mapping[str, Any]) -> str:
    period = (line.get("period") or {}).get("from", "")
    names = ("kind", "plan", "name", "meter", "model", "tier")
    return " ".join([*(str(line.get(name) or "") for name in names), period]).strip()
