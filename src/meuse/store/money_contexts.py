"""Numbers for what usage records have in common: payer, key, deployment, plan and so on.

Knows the table `usage_context`, whose rows are added and never changed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from meuse.store import money_tables as t
from meuse.store.money_tables import Record

_KEPT = 20_000
"""Numbers that are remembered: some 20 MB."""


class Contexts:
    """The context and payer of each record, in one transaction.

    The payer is the number of a tenant and source: with a record's id it is unique. Whoever
    holds the turn to write may make new numbers; `remembered`, those of earlier transactions,
    spares the look-up. `keep` adds the new ones to it, to be called once they are committed.
    """

    def __init__(self, remembered: dict[tuple[Any, ...], tuple[int, int]]) -> None:
        self._remembered = remembered
        self._found: dict[tuple[Any, ...], tuple[int, int]] = {}

    def number(self, connection: sa.Connection, r: Record) -> tuple[int, int]:
        """(context, payer) of a record."""
        # The columns of `usage_context` from the third on.
        head = (
            r.tenant, r.source, r.owner, r.project, r.key, r.deployment, r.version,
            r.plan_version, r.tier, r.protocol, r.status, r.lease, r.final,
            r.estimated,
        )  # fmt: skip
        known = self._remembered.get(head) or self._found.get(head)
        if known is None:
            known = self._found[head] = _find(connection, head) or _add(connection, head)
        return known

    def keep(self) -> None:
        """Remember what was found or made."""
        if self._found:
            if len(self._remembered) + len(self._found) > _KEPT:
                self._remembered.clear()
            self._remembered.update(self._found)


def _find(connection: sa.Connection, head: tuple[Any, ...]) -> tuple[int, int] | None:
    columns = list(t.contexts.c)[2:]
    query = sa.select(t.contexts.c.context, t.contexts.c.payer).where(
        *(
            column.is_(None) if value is None else column == value
            for column, value in zip(columns, head, strict=True)
        )
    )
    row = connection.execute(query).first()
    return None if row is None else (row.context, row.payer)


def _add(connection: sa.Connection, head: tuple[Any, ...]) -> tuple[int, int]:
    c = t.contexts.c
    highest = connection.execute(sa.select(sa.func.max(c.context))).scalar_one()
    context = 1 if highest is None else highest + 1
    payers = sa.select(sa.func.min(c.payer)).where(c.tenant_id == head[0], c.source == head[1])
    payer = connection.execute(payers).scalar_one() or context
    connection.execute(sa.insert(t.contexts).values((context, payer, *head)))
    return context, payer
