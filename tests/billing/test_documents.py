"""Documents: what stands on them, that nothing escapes, and that they hold whatever is in them."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.billing.documents import content as content_module
from meuse.billing.documents import render
from meuse.billing.documents.content import content
from meuse.billing.documents.layout import BOTTOM, LEFT, RIGHT, layout, wrapped
from meuse.core.errors import Code, MeuseError

PERIOD = {"from": "2026-11-01T00:00:00.000Z", "to": "2026-12-01T00:00:00.000Z"}
LINE = {
    "kind": "usage", "meter": "rows", "model": "acme/digits", "tier": "standard",
    "plan": "basic:1", "quantity": 15000, "per": 1000, "unit_price": "0.50", "exact": "7.5",
    "amount": "7.50", "period": PERIOD,
}  # fmt: skip
VIEW: dict[str, Any] = {
    "id": "inv-1", "number": "INV-2026-000001", "status": "issued", "tenant": "acme",
    "currency": "EUR", "period": PERIOD, "issued": "2026-12-04T10:00:00.000Z",
    "due_on": "2026-12-18", "lines": [LINE], "net": "7.50", "tax": "1.58", "total": "9.08",
    "taxes": [{"name": "VAT", "percent": "21", "base": "7.50", "amount": "1.58",
               "text": "Of the Netherlands"}],
    "paid": "0.00", "credited": "0.00", "due": "9.08", "unrated": [], "payment_terms": "IBAN 1",
    "seller": {"name": "Meuse", "address": ["Kade 1"], "tax_id": "NL1", "email": "x@y.z"},
    "customer": {"name": "Łódź & <Sons>", "address": [], "tax_id": "", "email": ""},
}  # fmt: skip
NOTE = {
    "id": "crn-1", "number": "CN-2026-000001", "tenant": "acme", "currency": "EUR",
    "reason": "=cmd|' /C calc'!A0", "issued": "2026-12-05T00:00:00.000Z", "net": "1.00",
    "tax": "0.21", "total": "1.21", "taxes": [{"name": "VAT", "percent": "21"}],
    "invoice": {"id": "inv-1", "number": "INV-2026-000001", "issued": "2026-12-04T10:00:00.000Z"},
}  # fmt: skip
EVIL = "<script>alert(1)</script>\"'&"


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, set[str | None]] = {}
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def with_lines(*lines: dict[str, Any], **more: Any) -> dict[str, Any]:
    return VIEW | {"lines": [LINE | line for line in lines]} | more


def page(view: dict[str, Any], kind: str = "invoice") -> str:
    return render(kind, view, "html").content.decode()


def test_the_page_says_who_what_and_how_much() -> None:
    """Both parties, every line, tax with its reason, and how to pay by when."""
    text = " ".join(Seen(page(VIEW)).words)
    for said in ("Invoice INV-2026-000001", "Meuse", "Kade 1", "Tax number NL1", "Łódź & <Sons>",
                 "2026-11-01 to 2026-11-30, UTC", "Rows, acme/digits", "15,000", "0.50 per 1,000",
                 "VAT 21 % of 7.50", "1.58 EUR", "9.08 EUR", "Of the Netherlands",
                 "How to pay: IBAN 1", "2026-12-18"):  # fmt: skip
        assert said in text


def test_nothing_on_the_page_runs_or_loads() -> None:
    """Whatever a tenant, a plan or a reason says is text; no script, no link, no handler."""
    evil = json.loads(json.dumps(VIEW).replace("acme/digits", json.dumps(EVIL)[1:-1]))
    evil |= {"customer": {"name": EVIL, "address": [EVIL]}, "payment_terms": EVIL,
             "seller": {"name": EVIL}, "void": {"reason": EVIL}}  # fmt: skip
    for made in (page(evil), page(NOTE | {"reason": EVIL}, "credit_note")):
        seen = Seen(made)
        assert "script" not in seen.tags
        assert EVIL in " ".join(seen.words)
        assert set(seen.attributes) <= {"lang", "charset", "name", "content", "class", "scope"}
        assert "url(" not in made


def test_the_page_can_be_read_out_and_printed() -> None:
    """Language, one main heading, tables with captions and heads; heads again on each page."""
    made = page(VIEW)
    seen = Seen(made)
    assert seen.attributes["lang"] == {"en"}
    assert seen.attributes["scope"] == {"col", "row"}
    assert (seen.tags.count("h1"), seen.tags.count("main"), seen.tags.count("title")) == (1, 1, 1)
    assert seen.tags.count("table") == seen.tags.count("caption") == 2
    assert "@page" in made
    assert "table-header-group" in made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "draft", "number": None, "issued": None, "due_on": None}, "Draft, not an"),
        ({"status": "void", "void": {"reason": "wrong tenant"}}, "Void: wrong tenant"),
        ({"paid": "3.00", "due": "6.08"}, "-3.00 EUR"),
        ({"from_wallet": "9.08", "due": "0.00"}, "From the wallet"),
        ({"unrated": [{}]}, "has no price yet"),
        ({"lines": []}, "Nothing was used"),
        ({"customer": None}, "acme"),
    ],
)  # fmt: skip
def test_the_page_says_what_became_of_it(change: dict[str, Any], said: str) -> None:
    """Draft, void, paid in part, from a wallet: in words."""
    assert said in " ".join(Seen(page(VIEW | change)).words)


def test_lines_of_every_kind_have_words() -> None:
    """Tiers, free units, discounts, models, what was invoiced before; fees, bounds, credits."""
    steps = [{"up_to": 1000, "quantity": 1000, "unit_price": "0.010", "exact": "10", "flat": "5"},
             {"up_to": None, "quantity": 14000, "unit_price": "0.005", "exact": "70"}]  # fmt: skip
    rows = content("invoice", with_lines(
        {"model": "*", "tier": "batch", "tiers": steps, "unit_price": None, "free": 50, "per": 1,
         "discounts": [{"name": "deal", "percent": "10"}], "models": {"acme/a": 9},
         "before": {"quantity": 3, "amount": "0.10"},
         "period": PERIOD | {"to": "2026-11-15T12:00:00.000Z"}},
        {"kind": "fee", "name": "base", "meter": "", "model": "", "unit_price": "49",
         "quantity": 1296000, "per": 2592000},
        {"kind": "fee", "name": "held", "model": "digits", "quantity": 7200, "per": 3600},
        {"kind": "maximum", "name": "maximum", "amount": "-5.00"},
        {"kind": "minimum"}, {"kind": "credit"}, {"kind": "tax"},
    )).rows  # fmt: skip
    assert [row.what for row in rows] == [
        "Rows", "base", "held", "Maximum of the plan", "Minimum of the plan", "Credit of the plan",
    ]  # fmt: skip
    assert rows[0].details == (
        "2026-11-01 00:00 to 2026-11-15 12:00, UTC", "tier batch",
        "up to 1,000: 1,000 at 0.010 + 5", "all above: 14,000 at 0.005", "50 are free",
        "deal: 10 % off", "acme/a: 9", "invoiced before: 3 for 0.10",
    )  # fmt: skip
    assert [(row.quantity, row.price) for row in rows[:3]] == [
        ("15,000", "by tier"), ("0.5", "49 a month"), ("2", "0.50 an hour"),
    ]  # fmt: skip
    assert rows[3].amount == "-5.00"
    assert set(content_module.METERS) == set(__import__("meuse.core.nouns").core.nouns.METERS)


def cells(view: dict[str, Any], kind: str = "invoice") -> list[dict[str, str]]:
    made = render(kind, view, "csv")
    assert made.media.startswith("text/csv")
    return list(csv.DictReader(io.StringIO(made.content.decode(), newline="")))


def test_the_sheet_has_each_line_as_it_is_kept() -> None:
    """Figures without thousands marks, the exact amount, the number on each row."""
    (row,) = cells(VIEW)
    text = render("invoice", VIEW, "csv").content
    assert text.count(b"\r\n") == text.count(b"\n") == 2
    assert (row["quantity"], row["unit_price"], row["exact"], row["amount"], row["from"]) == (
        "15000", "0.50", "7.5", "7.50", PERIOD["from"],
    )  # fmt: skip
    assert (row["number"], row["model"], row["tenant"]) == (
        "INV-2026-000001",
        "acme/digits",
        "acme",
    )
    (note,) = cells(NOTE, "credit_note")
    assert (note["invoice"], note["amount"], note["reason"]) == (
        "INV-2026-000001", "1.21", "'=cmd|' /C calc'!A0",
    )  # fmt: skip


@given(st.text(max_size=30))
def test_no_cell_is_a_formula(name: str) -> None:
    """What people chose never begins as one, whatever it has, and is read back whole."""
    (row,) = cells(with_lines({"name": name, "amount": "-5.00"}))
    assert not row["name"].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert row["name"].removeprefix("'") == name.removeprefix("'")
    assert row["amount"] == "-5.00"


def measure(text: str, _style: str = "plain") -> float:
    return 5.0 * len(text)


@given(st.text(st.characters(exclude_categories=["C"]), max_size=80), st.floats(10, 400))
def test_text_is_broken_and_never_lost(text: str, width: float) -> None:
    """No line is wider than it may be, and all letters are there in order."""
    lines = wrapped(text, measure, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(measure(line) <= width or len(line) == 1 for line in lines)


@pytest.mark.parametrize("lines", [0, 1, 40, 400])
def test_pages_hold_all_lines(lines: int) -> None:
    """On as many pages as it takes, inside of the margins, each under its heads."""
    long = {"model": "acme/" + "x" * 70, "discounts": [{"name": "d", "percent": "1"}] * 5}
    view = VIEW | {"lines": [LINE | long | {"amount": f"{n}.00"} for n in range(lines)]}
    pages = layout(content("invoice", view), measure)
    words = [word for p in pages for word in p.words]
    assert all(LEFT <= word.x <= RIGHT and (word.y >= BOTTOM or word.y == 36.0) for word in words)
    assert {f"{n:,}.00" for n in range(lines)} <= {word.text for word in words}
    assert [p.words[-1].text for p in pages] == [
        f"Page {n} of {len(pages)}" for n in range(1, len(pages) + 1)
    ]
    heads = [any(word.text == "Quantity" for word in p.words) for p in pages[:-1]]
    assert all(heads)
    assert (len(pages) > 1) == (lines >= 40)


def test_one_line_may_fill_pages() -> None:
    """A price of a hundred tiers is longer than a page."""
    steps = [{"up_to": n, "quantity": 1, "unit_price": "1", "exact": "1"} for n in range(200)]
    pages = layout(content("invoice", with_lines({"tiers": steps})), measure)
    assert len(pages) >= 3
    assert all(word.y >= 36.0 for p in pages for word in p.words)


@pytest.mark.parametrize("kind", ["invoice", "credit_note"])
def test_pdf_is_one_document_of_the_same_words(kind: str) -> None:
    """A PDF with title and language; the same bytes each time."""
    pytest.importorskip("reportlab")
    view = VIEW if kind == "invoice" else NOTE
    made = render(kind, view, "pdf")
    assert made.content.startswith(b"%PDF-1.")
    assert (made.media, made.name) == ("application/pdf", f"{view['number']}.pdf")
    assert made.content == render(kind, view, "pdf").content
    assert re.search(rb"/Title \(.*2026-000001", made.content)
    assert b"/Lang" in made.content
    assert b"/JavaScript" not in made.content


def test_a_font_without_the_letters_is_said_to_lack_them() -> None:
    """Rather than boxes on an invoice: which letters, and what the operator does."""
    pytest.importorskip("reportlab")
    view = VIEW | {"customer": {"name": "株式会社"}}
    with pytest.raises(MeuseError, match="lacks") as caught:
        render("invoice", view, "pdf")
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "format")
    assert "invoice_font" in str(caught.value.hint)
    with pytest.raises(MeuseError, match="cannot be read") as caught:
        render("invoice", VIEW, "pdf", "/nowhere/font.ttf")
    assert caught.value.code is Code.UNAVAILABLE
    with pytest.raises(MeuseError, match="株"):
        render("invoice", view, "pdf", "Vera.ttf")


def test_without_the_library_pdf_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with the name of the extra; the page needs nothing."""
    import sys

    for name in [n for n in sys.modules if n.partition(".")[0] == "reportlab"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reportlab", None)
    with pytest.raises(MeuseError, match="reportlab") as caught:
        render("invoice", VIEW, "pdf")
    assert (caught.value.code, "meuse[pdf]" in str(caught.value.hint)) == (Code.UNAVAILABLE, True)
    assert zlib.crc32(render("invoice", VIEW, "html").content)
