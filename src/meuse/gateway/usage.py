"""One usage record per admitted request: settled against its limits, then journaled.

Lines of a batch are asked again until they are answered: the answer is recorded, and nothing of
those that failed before it.

Knows the journal's port and what a record says; no price and no protocol.
"""

from __future__ import annotations

from typing import Literal, Protocol

from meuse.core.clock import now_ms
from meuse.gateway.batches import TIER
from meuse.gateway.durability import Durability
from meuse.gateway.routes import Caller, Target
from meuse.meter.checks import Grant
from meuse.meter.limits import Limits
from meuse.meter.record import RecordError, Template

Status = Literal["ok", "error"]


class Journal(Protocol):
    """Where usage goes (`meter.journal.JournalWriter`)."""

    is_refusing: bool

    def append_payload(self, payload: bytes) -> None: ...
    def sync(self) -> None: ...
    def probe(self) -> bool: ...


class Usage:
    """The records of one worker. `recorded`: how many, so whether there is anything to sync."""

    def __init__(
        self, journal: Journal, limits: Limits, durability: Durability | None = None
    ) -> None:
        self._journal = journal
        self._limits = limits
        self.durability = durability or Durability(journal)
        self.recorded = 0

    def request(
        self,
        caller: Caller,
        target: Target,
        protocol: str,
        id: bytes,
        status: Status,
        quantities: dict[str, int],
        grant: Grant | None,
        estimated: bool = False,
    ) -> None:
        """What a caller's request used. Raises `unavailable` when it cannot be recorded."""
        is_free = caller.tier == TIER and status != "ok"  # such a line is asked for again
        if grant is not None:
            # First: a death in between must not give back what a record says was used.
            self._limits.settle(grant, {} if is_free else quantities)
        if is_free:
            return
        try:
            template = caller.templates.get((target, protocol))
            if template is None:
                template = self._template(caller, target, protocol)
            self._append(template, id, status, quantities, estimated)
        except (OSError, RecordError, ValueError) as error:
            self.durability.failed(error, caller.limits.get(target.route))

    def stream(
        self,
        caller: Caller,
        target: Target,
        protocol: str,
        id: bytes,
        seq: int,
        status: Status | None,
        quantities: dict[str, int],
        estimated: bool = False,
    ) -> None:
        """What a request came to so far, `status` only when that is all. Raises `unavailable`
        when it cannot be recorded. Its limits are settled by whoever counts."""
        if caller.tier == TIER:
            if status == "ok":
                self.request(caller, target, protocol, id, status, quantities, None, estimated)
            return
        try:
            template = self._template(caller, target, protocol)
            payload = template.checkpoint(
                id, seq, status is not None, status or "ok", now_ms(), quantities, estimated
            )
            self._journal.append_payload(payload)
        except (OSError, RecordError, ValueError) as error:
            is_last = status is not None  # else a later one says it all
            self.durability.failed(error, caller.limits.get(target.route), is_last=is_last)
            return
        self.recorded += 1

    def internal(
        self,
        shadow: Target,
        plan_version: str | None,
        protocol: str,
        id: bytes,
        status: Status,
        quantities: dict[str, int],
    ) -> None:
        """What a shadow cost: its owner pays, and no key asked for it. Raises `unavailable`."""
        deployment = shadow.route.deployment
        try:
            template = Template(
                source="gateway",
                tenant=deployment.tenant,
                owner=deployment.tenant,
                project=deployment.project,
                key="",
                deployment=shadow.route.full_name,
                version=shadow.entry.version,
                plan_version=plan_version,
                tier="internal",
                protocol=protocol,
                lease=None,
            )
            self._append(template, id, status, quantities)
        except (OSError, RecordError, ValueError) as error:
            self.durability.failed(error, None)

    @staticmethod
    def _template(caller: Caller, target: Target, protocol: str) -> Template:
        template = caller.templates.get((target, protocol))
        if template is None:
            template = caller.templates[target, protocol] = Template(
                source="gateway",
                tenant=caller.tenant,
                owner=target.route.deployment.tenant,
                project=caller.project,
                key=caller.key,
                deployment=target.route.full_name,
                version=target.entry.version,
                plan_version=caller.plan_version,
                tier=caller.tier,
                protocol=protocol,
                lease=None,
            )
        return template

    def _append(
        self,
        template: Template,
        id: bytes,
        status: Status,
        quantities: dict[str, int],
        estimated: bool = False,
    ) -> None:
        payload = template.payload(id, status, now_ms(), quantities, estimated)
        self._journal.append_payload(payload)
        self.recorded += 1


def work_of(rows: int, compute_us: int) -> dict[str, int]:
    """The quantities of a request that a replica answered."""
    return {"requests": 1, "rows": rows, "compute_ms": -(-compute_us // 1000)}
