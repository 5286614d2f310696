"""What is done with prepaid credit: top up, hold, capture, release, refund, expire.

Each call books one entry, or returns the one that it booked before under the same reference.
Amounts are millionths of the wallet's currency, above zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from meuse.billing.ledger.books import (
    CASH,
    PROMOTIONS,
    Books,
    book,
    credit,
    replayed,
)
from meuse.billing.ledger.credit import (
    Part,
    State,
    against,
    in_order,
    moves,
    parts_on,
    state_of,
    total,
)
from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.ids import new_id
from meuse.core.ledger import Grant, GrantKind, Posted, Wallet, own_reference, sums
from meuse.core.micros import MOST, minor_micros, money_text

EXPIRY_GRACE_MS = 45 * 86_400_000
"""So long the invoice is waited for whose usage an expired grant may still have to pay."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How credit is granted: spent in the order of `priority`, until `expires_ms` (None: ever)."""

    kind: GrantKind = "purchased"
    priority: int = 0
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Credit that is set aside; `parts` are what of which grant is held still."""

    id: str
    amount: int
    parts: tuple[Part, ...]


def open_wallet(books: Books, tenant: str, currency: str, now_ms: int) -> tuple[Wallet, bool]:
    """(the tenant's wallet in a currency, whether it is new)."""
    found = books.wallet(tenant, currency)
    if found is not None:
        return found, False
    made = Wallet(new_id("wallet"), tenant, currency, now_ms)
    books.add_wallet(made)
    return made, True


def top_up(
    books: Books, wallet: Wallet, amount: int, terms: Terms, reference: str, now_ms: int
) -> tuple[Grant, bool]:
    """(the grant, whether it is new). Purchased credit was paid for: cash came in.

    Raises `conflict` for a reference that booked something else, `invalid_field` for an expiry
    that is past.
    """
    asked = {
        "amount": amount,
        "kind": terms.kind,
        "priority": terms.priority,
        "expires_ms": terms.expires_ms,
    }
    name = own_reference(wallet, reference)
    found = replayed(books, wallet.tenant, name, "grant", wallet.currency, asked)
    if found is not None:
        return _grant(books, wallet, found.entry.detail["grant"]), False
    if terms.expires_ms is not None and terms.expires_ms <= now_ms:
        raise invalid(
            "expires",
            f"{to_rfc3339(terms.expires_ms)} is past: the credit would have expired already",
            "Use a later moment, or leave it out for credit that never expires.",
        )
    _check_room(state_of(books, wallet), amount)
    grant = Grant(
        new_id("grant"),
        wallet.id,
        terms.kind,
        amount,
        terms.priority,
        terms.expires_ms,
        reference,
        now_ms,
    )
    books.add_grant(grant)
    source = CASH if terms.kind == "purchased" else PROMOTIONS
    legs = {source: amount, credit(grant.id): -amount}
    book(books, wallet, "grant", name, wallet.id, legs, now_ms, asked, {"grant": grant.id})
    return grant, True


def hold(books: Books, wallet: Wallet, amount: int, reference: str, now_ms: int) -> Hold:
    """Set credit aside for work under way, in the order of spending. Raises `budget_exceeded`
    when there is not enough."""
    asked, name = {"amount": amount}, own_reference(wallet, reference)
    found = replayed(books, wallet.tenant, name, "hold", wallet.currency, asked)
    if found is not None:
        return get_hold(books, wallet, found.entry.subject)
    state = state_of(books, wallet)
    left = state.available(now_ms)
    if amount > left:
        raise too_little(wallet, amount, left)
    parts = state.take(state.left, now_ms, amount)
    hold_id = new_id("hold")
    legs = moves(parts, "credit", "held")
    book(books, wallet, "hold", name, hold_id, legs, now_ms, asked)
    return Hold(hold_id, amount, parts)


def get_hold(books: Books, wallet: Wallet, hold_id: str) -> Hold:
    """A hold with what is held of it still. Raises `not_found`."""
    entries = books.about(wallet.tenant, hold_id) if hold_id.isprintable() else ()
    if not entries or entries[0].entry.kind != "hold":
        raise not_found("hold", hold_id)
    if entries[0].entry.currency != wallet.currency:  # of another wallet of this tenant
        raise not_found("hold", hold_id)
    first = sums(entries[0].entry.legs)
    remains = dict(parts_on(first, "held"))
    whole = total(tuple(remains.items()))
    for later in entries[1:]:
        for grant, amount in parts_on(sums(later.entry.legs), "held"):
            remains[grant] += amount
    return Hold(hold_id, whole, tuple((g, n) for g, n in remains.items() if n))


def capture(
    books: Books, wallet: Wallet, hold_id: str, amount: int, reference: str, now_ms: int
) -> Posted:
    """Take a part of a hold for good, in the order in which it was held; what is not taken stays
    held until it is released. What was taken pays for the next invoice. A grant that has expired
    since pays all the same: it was set aside in time. Raises `invalid_field` beyond what is held.
    """
    asked, name = {"hold": hold_id, "amount": amount}, own_reference(wallet, reference)
    found = replayed(books, wallet.tenant, name, "capture", wallet.currency, asked)
    if found is not None:
        return found
    here = get_hold(books, wallet, hold_id)
    if amount > total(here.parts):
        shown, most = _shown(wallet, amount, total(here.parts))
        raise invalid(
            "amount",
            f"{shown} is more than the {most} that {hold_id} holds",
            f"Take at most {most}.",
        )
    legs = moves(first_of(here.parts, amount), "held", "captured")
    return book(books, wallet, "capture", name, hold_id, legs, now_ms, asked)


def release(books: Books, wallet: Wallet, hold_id: str, now_ms: int) -> Posted | None:
    """Give back to their grants what a hold still holds; None when that is nothing."""
    here = get_hold(books, wallet, hold_id)
    if not here.parts:
        return books.posted(wallet.tenant, f"release/{hold_id}")
    legs = moves(here.parts, "held", "credit")
    name = f"release/{hold_id}"
    return book(books, wallet, "release", name, hold_id, legs, now_ms, {"hold": hold_id})


def refund(
    books: Books,
    wallet: Wallet,
    amount: int,
    reference: str,
    now_ms: int,
    *,
    grant: str | None = None,
) -> tuple[Posted, bool]:
    """(the entry, whether it is new): pay purchased credit back that is neither spent, held nor
    expired; of one grant, or of those that would be spent last.

    Raises `invalid_field` when it is more than that.
    """
    asked = {"amount": amount, "grant": grant}
    name = own_reference(wallet, reference)
    found = replayed(books, wallet.tenant, name, "refund", wallet.currency, asked)
    if found is not None:
        return found, False
    state = state_of(books, wallet)
    of = "" if grant is None else f" of {grant}"
    left = state.left
    if grant is not None:
        _grant(books, wallet, grant)
        left = {grant: left[grant]}
    parts = state.take(left, now_ms, kind="purchased")
    most = total(parts)
    most -= most % minor_micros(wallet.currency)
    if amount > most:
        raise _too_much(state, amount, most, of, now_ms)
    parts = first_of(tuple(reversed(parts)), amount)
    legs = {CASH: -amount, **moves(parts, "credit")}
    return book(books, wallet, "refund", name, wallet.id, legs, now_ms, asked), True


def expire(books: Books, wallet: Wallet, now_ms: int) -> list[Posted]:
    """Book what has expired unused, at the moment when it did: purchased credit is breakage,
    granted credit was none of it.

    What a grant has left waits until the usage from before its expiry is invoiced, which it may
    have to pay, at most `EXPIRY_GRACE_MS`. It cannot be spent otherwise meanwhile.
    """
    state = state_of(books, wallet)
    made = []
    for grant in in_order(state.grants):
        left, end = state.left[grant.id], grant.expires_ms
        if end is None or not left or not grant.has_expired(now_ms):
            continue
        # `end` itself is the first moment at which it was no more.
        if now_ms < end + EXPIRY_GRACE_MS and not books.is_invoiced(wallet.tenant, end - 1):
            continue
        # Credit that was held comes back: a grant may expire in parts.
        before = sum(
            posted.entry.kind == "expiry" for posted in books.about(wallet.tenant, grant.id)
        )
        name = f"expiry/{grant.id}/{before}"
        legs = {credit(grant.id): left, against(grant.kind): -left}
        made.append(book(books, wallet, "expiry", name, grant.id, legs, end, {"left": left}))
    return made


def too_little(wallet: Wallet, amount: int, left: int) -> MeuseError:
    shown, most = _shown(wallet, amount, left)
    return MeuseError(
        Code.BUDGET_EXCEEDED,
        f"{wallet.id} has {most} left; this needs {shown}",
        field="amount",
        hint="Top the wallet up.",
    )


def first_of(parts: tuple[Part, ...], amount: int) -> tuple[Part, ...]:
    """The first of them, up to an amount."""
    found: list[Part] = []
    for grant, some in parts:
        if amount > 0:
            found.append((grant, min(some, amount)))
            amount -= some
    return tuple(found)


def _grant(books: Books, wallet: Wallet, grant_id: str) -> Grant:
    for grant in books.grants(wallet.id):
        if grant.id == grant_id:
            return grant
    raise not_found("grant", grant_id, f"See the grants of {wallet.id}.")


def _check_room(state: State, amount: int) -> None:
    """Sums of what a wallet was ever given must fit the ledger's integers."""
    if state.granted + amount > MOST:
        raise invalid(
            "amount",
            f"{state.wallet.id} was given {_shown(state.wallet, state.granted)[0]} so far",
            f"All together may be {_shown(state.wallet, MOST)[0]}.",
        )


def _too_much(state: State, amount: int, most: int, of: str, now_ms: int) -> MeuseError:
    currency = state.wallet.currency
    shown, can, paid, back, spent, inside, gone = (
        money_text(n, currency)
        for n in (
            amount,
            most,
            state.paid_in,
            state.refunded,
            state.spent,
            state.in_holds,
            state.expired(now_ms),
        )
    )
    return invalid(
        "amount",
        f"{shown} {currency} is more than the {can} that can be refunded{of}: {paid} were paid "
        f"in and {back} refunded; of all credit {spent} are spent, {inside} held, {gone} expired",
        f"Refund at most {can}." if most else "There is nothing to refund.",
    )


def _shown(wallet: Wallet, *amounts: int) -> tuple[str, ...]:
    return tuple(f"{money_text(one, wallet.currency)} {wallet.currency}" for one in amounts)
