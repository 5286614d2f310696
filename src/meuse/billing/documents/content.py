"""What a document says, in words: made once, and set as a page or as a PDF. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from meuse.core.clock import day_of, from_rfc3339, to_rfc3339

_DAY_MS = 86_400_000

METERS = {
    "requests": "Requests",
    "rows": "Rows",
    "prompt_tokens": "Prompt tokens",
    "cached_tokens": "Cached prompt tokens",
    "completion_tokens": "Completion tokens",
    "images": "Images",
    "audio_ms": "Audio, ms",
    "compute_ms": "Computing time, ms",
    "replica_ms": "Replica time, ms",
    "training_tokens": "Training tokens",
    "training_ms": "Training time, ms",
    "storage_byte_hours": "Storage, byte hours",
    "egress_bytes": "Data out, bytes",
    "cache_hits": "Cache hits",
}
KINDS = {"maximum": "Maximum of the plan", "minimum": "Minimum of the plan",
         "credit": "Credit of the plan"}  # fmt: skip
COLUMNS = ("Description", "Quantity", "Unit price", "Amount")


@dataclass(frozen=True, slots=True)
class Row:
    """A line: what it is, small print below it, and the figures."""

    what: str
    details: tuple[str, ...]
    quantity: str
    price: str
    amount: str


@dataclass(frozen=True, slots=True)
class Content:
    """`stamp` is what the document is not: a draft, or void. `facts`, `sums` are (label, value);
    the last of the sums is what counts."""

    title: str
    number: str
    stamp: str
    seller: tuple[str, ...]
    customer: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    sums: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def content(kind: str, view: Mapping[str, Any]) -> Content:
    """Of an "invoice" or a "credit_note", by its JSON."""
    return _credit_note(view) if kind == "credit_note" else _invoice(view)


def _invoice(view: Mapping[str, Any]) -> Content:
    number, status = view["number"], view["status"]
    currency = view["currency"]
    facts = [
        ("Invoice number", number or "none yet"),
        ("Date", _day(view.get("issued")) or "not issued"),
        ("Due", view.get("due_on") or "-"),
        ("Period", _period(view["period"])),
    ]
    lines = view["lines"]
    taxes = [_tax(one, currency) for one in view.get("taxes", ())]
    sums = [("Net", _money(view["net"], currency))] if taxes else []
    sums += taxes
    sums.append(("Total", _money(view["total"], currency)))
    for label, name in (("Paid", "paid"), ("From the wallet", "from_wallet"),
                        ("Credited", "credited")):  # fmt: skip
        if view.get(name, "0").strip("-0."):
            sums.append((label, _money(f"-{view[name]}", currency)))
    if status not in ("draft", "void"):
        sums.append(("Due", _money(view["due"], currency)))
    notes = [one["text"] for one in view.get("taxes", ()) if one.get("text")]
    if view.get("payment_terms") and status == "issued":
        notes.append(f"How to pay: {view['payment_terms']}")
    if view.get("void"):
        notes.append(f"Void: {view['void']['reason']}")
    if view.get("unrated"):
        notes.append("Some usage has no price yet and is not in this sum.")
    return Content(
        title="Invoice",
        number=number or "",
        stamp={"draft": "Draft, not an invoice", "void": "Void"}.get(status, ""),
        seller=_party(view.get("seller")),
        customer=_party(view.get("customer")) or (view["tenant"],),
        facts=tuple(facts),
        rows=tuple(_row(line, view["period"]) for line in lines if line["kind"] != "tax"),
        sums=tuple(sums),
        notes=tuple(notes),
    )


def _credit_note(view: Mapping[str, Any]) -> Content:
    currency, of = view["currency"], view["invoice"]
    taxes = ", ".join(f"{one['name']} {one['percent']} %" for one in view["taxes"])
    return Content(
        title="Credit note",
        number=view["number"],
        stamp="",
        seller=_party(view.get("seller")),
        customer=_party(view.get("customer")) or (view["tenant"],),
        facts=(
            ("Credit note number", view["number"]),
            ("Date", _day(view["issued"])),
            ("For invoice", f"{of['number']} of {_day(of['issued'])}"),
        ),
        rows=(Row(view["reason"], (), "", "", _number(view["net"])),),
        sums=(
            ("Net", _money(view["net"], currency)),
            (taxes or "Tax", _money(view["tax"], currency)),
            ("Total credited", _money(view["total"], currency)),
        ),
        notes=(),
    )


def _row(line: Mapping[str, Any], period: Mapping[str, str]) -> Row:
    details = []
    if line.get("period") not in (None, period):
        details.append(_period(line["period"]))
    if line["kind"] == "usage":
        what = METERS.get(line["meter"], line["meter"])
        details += _usage_details(line)
        price = _price(line["unit_price"], line["per"])
        return Row(
            f"{what}, {line['model']}" if line["model"] not in ("", "*") else what,
            tuple(details), _count(line["quantity"]), price, _number(line["amount"]),
        )  # fmt: skip
    if line["kind"] == "fee":
        span = "an hour" if line["per"] == 3600 else "a month"
        held = f"{line['model']}, " if line["model"] else ""
        details.append(f"{held}by the second, of plan {line['plan']}")
        price = f"{line['unit_price']} {span}"
        share = _share(line["quantity"], line["per"])
        return Row(line["name"], tuple(details), share, price, _number(line["amount"]))
    what = KINDS.get(line["kind"], line.get("name", line["kind"]))
    return Row(what, tuple(details), "", "", _number(line["amount"]))


def _usage_details(line: Mapping[str, Any]) -> list[str]:
    found = []
    if line["tier"] not in ("standard", "*", ""):
        found.append(f"tier {line['tier']}")
    for step in line.get("tiers", ()):
        upto = "all above" if step["up_to"] is None else f"up to {_count(step['up_to'])}"
        flat = f" + {step['flat']}" if step.get("flat") else ""
        price = _price(step["unit_price"], line["per"])
        found.append(f"{upto}: {_count(step['quantity'])} at {price}{flat}")
    if line.get("free"):
        found.append(f"{_count(line['free'])} are free")
    found += [f"{one['name']}: {one['percent']} % off" for one in line.get("discounts", ())]
    models = line.get("models") or {}
    found += [f"{name}: {_count(quantity)}" for name, quantity in models.items()]
    if line.get("before"):
        before = line["before"]
        found.append(
            f"invoiced before: {_count(before['quantity'])} for {_number(before['amount'])}"
        )
    return found


def _share(seconds: int, per: int) -> str:
    """How many months or hours, to four decimals."""
    places = f"{Decimal(seconds) / per:.4f}".rstrip("0").rstrip(".")
    return _number(places)


def _tax(tax: Mapping[str, Any], currency: str) -> tuple[str, str]:
    label = f"{tax['name']} {tax['percent']} % of {_number(tax['base'])}"
    return label, _money(tax["amount"], currency)


def _party(party: Mapping[str, Any] | None) -> tuple[str, ...]:
    if not party:
        return ()
    number = f"Tax number {party['tax_id']}" if party.get("tax_id") else ""
    lines = (party["name"], *party.get("address", ()), number, party.get("email", ""))
    return tuple(line for line in lines if line)


def _period(period: Mapping[str, str]) -> str:
    """Days where it begins and ends with one: the last day, not the one after it."""
    start, end = (from_rfc3339(period[name], name) for name in ("from", "to"))
    if start % _DAY_MS or end % _DAY_MS:
        return f"{_minute(start)} to {_minute(end)}, UTC"
    first, last = day_of(start), day_of(end - 1)
    return f"{first}, UTC" if first == last else f"{first} to {last}, UTC"


def _minute(ms: int) -> str:
    return to_rfc3339(ms)[:16].replace("T", " ")


def _day(text: str | None) -> str:
    return (text or "")[:10]


def _count(quantity: int) -> str:
    return f"{quantity:,}"


def _price(price: str | None, per: int) -> str:
    if price is None:
        return "by tier"
    return price if per == 1 else f"{price} per {per:,}"


def _number(amount: str) -> str:
    whole, point, rest = amount.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{point}{rest}"


def _money(amount: str, currency: str) -> str:
    return f"{_number(amount.replace('--', ''))} {currency}"
