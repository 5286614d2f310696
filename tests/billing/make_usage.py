"""Usage records, plans and tenants for tests; every argument has a plain default."""

from __future__ import annotations

from typing import Any

from meuse.core.clock import BUCKET_MS
from meuse.core.errors import not_found
from meuse.core.ids import uuid7_bytes
from meuse.core.nouns import PlanVersion, Price, Tenant
from meuse.meter.record import UsageRecord

DAY = 1_793_491_200_000  # 2026-11-01T00:00:00Z, on a bucket's border
HOUR = 4 * BUCKET_MS


def usage_record(**fields: Any) -> UsageRecord:
    """A good record of one request of eight rows by tenant acme."""
    values: dict[str, Any] = {
        "id": uuid7_bytes(), "seq": 0, "final": True, "source": "gateway", "tenant": "acme",
        "owner": "acme", "project": "default", "key": "key-1", "deployment": "acme/digits",
        "version": "digits:1", "plan_version": "basic:1", "tier": "standard",
        "protocol": "simple", "status": "ok", "ts": DAY + 1, "lease": None,
        "quantities": {"requests": 1, "rows": 8},
    }  # fmt: skip
    return UsageRecord(**(values | fields))


def plan(
    *prices: Price, name: str = "basic", version: int = 1, currency: str = "EUR",
    made: int = DAY, **terms: Any,
) -> PlanVersion:  # fmt: skip
    return PlanVersion(name, version, currency, prices, made, **terms)


class Directory:
    """Plans and tenants in memory: the look-ups that billing makes."""

    def __init__(self, *plans: PlanVersion, **tenants: str | None) -> None:
        self._plans = plans
        self._tenants = tenants

    def plan(self, name: str, version: int | None = None) -> PlanVersion:
        found = [p for p in self._plans if p.name == name and version in (None, p.version)]
        if not found:
            raise not_found("plan", name)
        return max(found, key=lambda p: p.version)

    def versions(self, name: str) -> list[PlanVersion]:
        return sorted((p for p in self._plans if p.name == name), key=lambda p: p.version)

    def plan_changes(self, name: str) -> list[tuple[int, str | None]]:
        return [(0, self.tenant(name).plan)]

    def billing(self, name: str) -> dict[str, Any] | None:
        return None

    def tenant(self, name: str) -> Tenant:
        if name not in self._tenants:
            raise not_found("tenant", name)
        return Tenant(name, self._tenants[name], DAY)
