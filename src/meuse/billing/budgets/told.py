"""What hosts are told of budgets: prices by plan version, what is set aside, prepaid balances."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from itertools import takewhile

from meuse.billing.plans.budget import plan_base, price_table
from meuse.billing.plans.calendar import months, stints
from meuse.core.clock import Clock, bucket_start
from meuse.core.micros import UNIT
from meuse.core.nouns import COST, Limit, LimitRecord, PlanVersion, PriceTable, Tenant
from meuse.core.periods import period_at
from meuse.core.ports import AccessStore, LimitStore, PlanStore

PREPAID = "wallet-"
"""How the ids of budgets begin that are nobody's to make or delete: prepaid balances."""


class Told:
    """Keeps what it has computed: a plan version never changes, and who has which plan seldom.

    Its clock decides which period is the present one. Safe for threads.
    """

    def __init__(
        self, limits: LimitStore, access: AccessStore, plans: PlanStore, clock: Clock
    ) -> None:
        self._limits = limits
        self._access = access
        self._plans = plans
        self._clock = clock
        self._turn = threading.Lock()
        self._tables: dict[str, PriceTable] = {}
        self._asides: dict[tuple[str, str], tuple[object, int]] = {}  # by budget and tenant
        self._since: dict[str, tuple[object, int]] = {}  # by prepaid tenant
        self._owners: dict[str, str] = {}  # tenants, by key

    def limits(self) -> tuple[Limit, ...]:
        """Every limit, as hosts need it; those of prepaid balances at the end."""
        with self._turn:
            return self._all()

    def _all(self) -> tuple[Limit, ...]:
        records = self._limits.list()
        latest = {plan.name: plan for plan in self._plans.plans()}  # ascending: the last stays
        tenants = self._access.tenants()
        found = [self._limit(record, tenants, latest) for record in records]
        for tenant in tenants:
            plan = latest.get(tenant.plan or "")
            if plan is not None and plan.is_prepaid:
                found.append(self._prepaid(tenant, plan))
        return tuple(found)

    def prices(self, limits: Iterable[Limit], plans: Iterable[str | None]) -> dict[str, PriceTable]:
        """Of these plan versions ("basic:3"); none where no budget counts money."""
        if not any(limit.meter == COST for limit in limits):
            return {}
        found = {}
        for ref in sorted({ref for ref in plans if ref is not None}):
            if ref not in self._tables:
                name, _, version = ref.rpartition(":")
                self.table(self._plans.plan(name, int(version)))
            found[ref] = self._tables[ref]
        return found

    def table(self, plan: PlanVersion) -> PriceTable:
        if plan.ref not in self._tables:
            self._tables[plan.ref] = price_table(plan)
        return self._tables[plan.ref]

    def _limit(
        self, record: LimitRecord, tenants: Iterable[Tenant], latest: dict[str, PlanVersion]
    ) -> Limit:
        limit = replace(record.limit, since_ms=record.created_ms)
        if limit.meter != COST:
            return limit
        payers = [tenant for tenant in tenants if limit.tenant in (None, tenant.name)]
        if limit.tenant is None and limit.key is not None:
            owner = self._owner_of(limit.key)
            payers = [tenant for tenant in payers if tenant.name == owner]
        aside = sum(self._aside(limit, tenant, latest) for tenant in payers)
        return replace(limit, aside=min(aside, limit.amount))

    def _owner_of(self, key: str) -> str | None:
        """The tenant of a key, which never changes."""
        if key not in self._owners and (found := self._access.key(key)):
            self._owners[key] = found.scope.tenant
        return self._owners.get(key)

    def _aside(self, limit: Limit, tenant: Tenant, latest: dict[str, PlanVersion]) -> int:
        """What a tenant may owe beside the price of units, in the months of the present period:
        under each plan version that it had in them."""
        now = self._clock()
        start = max(period_at(limit.period, now * 1000)[1] // 1000, limit.since_ms)
        plan = latest.get(tenant.plan or "")
        spans = months(start, now + 1)
        state = (tenant.plan, plan and plan.ref, start, len(spans))
        known = self._asides.get((limit.id, tenant.name))
        if known is not None and known[0] == state:
            return known[1]
        changes = self._access.plan_changes(tenant.name)
        base = Decimal(0)
        for month in spans:
            low, high = max(month.start_ms, start), min(month.end_ms, now + 1)
            had = stints(changes, self._plans.versions, low, high)
            distinct = {stint.plan.ref: stint.plan for stint in had}
            base += sum(
                (
                    plan_base(one, limit.model)
                    for one in distinct.values()
                    if one.currency == limit.currency
                ),
                Decimal(0),
            )
        aside = int((base * UNIT).to_integral_value(rounding=ROUND_CEILING))
        self._asides[limit.id, tenant.name] = state, aside
        return aside

    def _prepaid(self, tenant: Tenant, plan: PlanVersion) -> Limit:
        state = (tenant.plan, plan.ref)
        known = self._since.get(tenant.name)
        if known is None or known[0] != state:
            versions = reversed(self._plans.versions(plan.name))
            first = min(one.created_ms for one in takewhile(lambda v: v.is_prepaid, versions))
            changes = self._access.plan_changes(tenant.name)
            since = max([first, *(at for at, _ in changes[-1:])])
            # On a bucket's border, from which on usage can be added up again exactly.
            known = self._since[tenant.name] = state, bucket_start(since)
        return Limit(
            id=f"{PREPAID}{tenant.name}-{known[1]}", kind="budget", amount=0, meter=COST,
            tenant=tenant.name, currency=plan.currency, since_ms=known[1], moves=True,
        )  # fmt: skip
