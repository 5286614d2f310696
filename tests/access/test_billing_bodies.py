"""How a tenant is invoiced: what may be said of it, and that it is kept as it was said."""

from __future__ import annotations

from typing import Any

import pytest

from meuse.access.billing_body import read
from meuse.core.billing import BillingDetails, Party, details_body, details_of
from meuse.core.errors import MeuseError
from meuse.core.plans import Tax
from meuse.store.access import SqlAccess
from meuse.store.database import Database

WHOLE = {
    "name": " Ærø & Łódź GmbH ", "address": ["Grüne Straße 7", " ", "10115 Berlin"],
    "tax_id": "DE123456789", "email": "ap@example.com", "due_days": 14,
    "tax": {"name": "VAT", "percent": "0", "text": "Reverse charge"},
}  # fmt: skip


def test_what_is_said_is_kept() -> None:
    """Trimmed, empty lines left out; the JSON of it reads the same."""
    details = read(WHOLE)
    assert details == BillingDetails(
        party=Party(name="Ærø & Łódź GmbH", address=("Grüne Straße 7", "10115 Berlin"),
                    tax_id="DE123456789", email="ap@example.com"),
        tax=Tax("VAT", "0", "Reverse charge"), due_days=14,
    )  # fmt: skip
    assert details_of(details_body(details)) == details
    assert details_of(details_body(read({"name": "x"}))) == read({"name": "x"})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"), ({"name": " "}, "name"), ({"name": 5}, "name"),
        ({"name": "x" * 201}, "name"), ({"name": "a\x1b[2J"}, "name"), ({"name": "\ud800"}, "name"),
        ({"address": "one line"}, "address"), ({"address": ["x"] * 9}, "address"),
        ({"address": ["ok", 5]}, "address[1]"), ({"email": "nobody"}, "email"),
        ({"email": "a b@example.com"}, "email"), ({"due_days": -1}, "due_days"),
        ({"due_days": 366}, "due_days"), ({"due_days": "soon"}, "due_days"),
        ({"tax": "21"}, "tax"), ({"tax": {"percent": "21"}}, "tax.name"),
        ({"tax": {"name": "VAT"}}, "tax.percent"),
        ({"tax": {"name": "VAT", "percent": 21}}, "tax.percent"),
        ({"tax": {"name": "VAT", "percent": "100.1"}}, "tax.percent"),
        ({"tax": {"name": "VAT", "percent": "-1"}}, "tax.percent"),
        ({"tax": {"name": "VAT", "percent": "1", "rate": "2"}}, "tax.rate"),
        ({"vat": "1"}, "vat"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(change: dict[str, Any], field: str) -> None:
    """The field at fault, and what it should be."""
    with pytest.raises(MeuseError) as caught:
        read(WHOLE | change)
    assert caught.value.field == field
    assert caught.value.hint


def test_details_are_kept_by_tenant(database_url: str) -> None:
    """What is put takes the place of what was there; nothing was said of others."""
    database = Database(database_url)
    database.migrate("meuse")
    access = SqlAccess(database)
    assert access.billing("acme") is None
    for name in ("first", "Łódź"):
        access.put_billing("acme", details_body(read({"name": name})))
    assert access.billing("acme") == details_body(read({"name": "Łódź"}))
    assert access.billing("other") is None
    database.close()
