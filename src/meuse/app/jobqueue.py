"""The queue of jobs of the control process: which kinds there are, and how each is started."""

from __future__ import annotations

import os
from collections.abc import Callable

from meuse.access import keys
from meuse.access.tenancy import Tenancy
from meuse.app import commands
from meuse.app.kinds import kinds
from meuse.app.kinds.batch import Batches
from meuse.app.kinds.budgets import Budgets
from meuse.app.kinds.fine_tuning_api import FineTunings
from meuse.app.kinds.finetune import Finetune
from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.ingest import Intake
from meuse.app.kinds.pull import Sources
from meuse.app.kinds.shared import Stores
from meuse.app.stored import Stored
from meuse.billing.budgets.told import Told
from meuse.core.clock import now_ms
from meuse.core.nouns import PriceTable
from meuse.deploy.footprint import machine_budget
from meuse.deploy.picture import tenants
from meuse.deploy.reconciler import Reconciler
from meuse.jobs import process
from meuse.jobs.admission import Limits
from meuse.jobs.kinds import JobKind
from meuse.jobs.nursery import Nursery
from meuse.jobs.process import Start
from meuse.jobs.queue import Config, DbosJobs
from meuse.meter.jobs import JobJournal
from meuse.settings import Settings

_FORKED = ("train", "compress", "evaluate", "search")
"""Kinds of jobs that need torch: others would wait for more than they need."""


def kinds_of(
    settings: Settings,
    stored: Stored,
    reconciler: Reconciler,
    told: Told,
    tenancy: Tenancy,
    http_url: str,
) -> dict[str, JobKind]:
    """By name. `http_url` is what batches ask, with keys of their own."""
    files, file_blobs = stored.files, stored.file_blobs
    pepper = settings.pepper.read_bytes()
    stores = Stores(stored.datasets, stored.registry, stored.deployments, reconciler.wake)
    return kinds(
        stores,
        JobJournal(settings.journal, commands.host_name(), now_ms),
        lambda tenant: tenants(stored.access, stored.plans)[tenant].plan_version,
        Foreign(
            settings.sandbox_tier,
            settings.sandbox_wall_s,
            settings.import_folders,
            str(settings.toolchains),
        ),
        Intake(
            stored.uploads,
            stored.upload_folder,
            settings.data_allowed_hosts,
            settings.max_dataset_bytes,
            settings.data_fetch_seconds,
        ),
        Sources(
            settings.pull_index,
            settings.pull_allowed_hosts,
            settings.import_folders,
            settings.max_pull_bytes,
            settings.pull_seconds,
        ),
        Budgets(told.limits, settings.limits, lambda tenant: _table(told, tenancy, tenant)),
        Batches(
            stored.batches,
            files,
            lambda key, until_ms: keys.mint_pass(pepper, key, until_ms),
            http_url,
        ),
        FineTunings(stores, stored.jobs, files, file_blobs, lambda: reconciler.budget),
        Finetune(stores, files, file_blobs, tenancy.plan_of),
        settings.replica_threads,
    )


def queue(settings: Settings, stored: Stored, known: dict[str, JobKind]) -> DbosJobs:
    """Not launched."""
    return DbosJobs(
        store=stored.jobs,
        kinds=known,
        folder=settings.jobs,
        start=_start_of_jobs(settings),
        database_url=settings.database("jobs"),
        config=Config(
            limits=Limits(
                settings.jobs_at_once,
                settings.jobs_memory_bytes or machine_budget(),
                settings.jobs_running_per_tenant,
            ),
            job_memory_bytes=settings.job_memory_bytes or machine_budget(),
            queued_per_tenant=settings.jobs_queued_per_tenant,
            pause_grace_s=settings.job_pause_grace_s,
        ),
    )


def _start_of_jobs(settings: Settings) -> Callable[[str], Start]:
    """How a job is started, by its kind."""
    fresh = process.fresh(lambda *where: commands.job(settings, *where))
    if not settings.job_nursery_s:
        return lambda _: fresh
    nursery = Nursery(
        lambda link: commands.nursery(settings, link),
        fresh,
        settings.home / "logs" / "nursery.log",
        settings.job_nursery_s,
        # A question for a GPU must not make it unusable in what is forked afterwards.
        {**process.CALM, "PYTORCH_NVML_BASED_CUDA_CHECK": "1", **os.environ},
    )
    return lambda kind: nursery.start if kind in _FORKED else fresh


def _table(told: Told, tenancy: Tenancy, tenant: str) -> tuple[str, PriceTable] | None:
    plan = tenancy.plan_of(tenant)
    return None if plan is None else (plan.ref, told.table(plan))
