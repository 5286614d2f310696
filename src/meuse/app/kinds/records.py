"""The record of an attempt of a job. Pure: of the same attempt it is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meuse.core.nouns import Job
from meuse.meter.jobs import SOURCE, TIER, record_id
from meuse.meter.record import UsageRecord


def attempt_record(
    job: Job, part: str, about: str, used: Mapping[str, Any], meters: tuple[str, ...], ok: bool
) -> UsageRecord:
    """`about`: a version ("digits:2") or name under whose name it is priced; `used` is what the
    process has left: `ts`, `plan_version`, and by meter what it counted."""
    tenant = job.scope.tenant
    return UsageRecord(
        id=record_id(job.id, f"{part}:{job.attempt}"),
        seq=0,
        final=True,
        source=SOURCE,
        tenant=tenant,
        owner=tenant,
        project=job.scope.project,
        key="",
        deployment=f"{tenant}/{about.partition(':')[0]}",
        version=about,
        plan_version=used["plan_version"],
        tier=TIER,
        protocol="job",
        status="ok" if ok else "error",
        ts=used["ts"],
        lease=None,
        quantities={meter: used[meter] for meter in meters if meter in used},
    )
