"""The control process: management API, durable jobs, reconciler, snapshots."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from meuse.access import keys
from meuse.access.sealing import Sealer
from meuse.access.tenancy import Tenancy
from meuse.api.application import make_app
from meuse.api.bell import Bell
from meuse.api.context import Control
from meuse.api.ledger import LedgerClient
from meuse.app import commands
from meuse.app.alerter import Alerter
from meuse.app.inspector import Inspector
from meuse.app.kinds import kinds as job_kinds
from meuse.app.kinds.batch import Batches
from meuse.app.kinds.budgets import Budgets
from meuse.app.kinds.fine_tuning_api import FineTunings
from meuse.app.kinds.finetune import Finetune
from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.ingest import Intake
from meuse.app.kinds.pull import Sources
from meuse.app.kinds.shared import Stores
from meuse.app.sweeper import Sweeper
from meuse.app.up import write_secret
from meuse.billing.budgets.told import Told
from meuse.core.clock import now_ms
from meuse.core.nouns import PriceTable
from meuse.data import hosts
from meuse.deploy import adapters
from meuse.deploy.canaries import Canaries
from meuse.deploy.elastic import Elastic
from meuse.deploy.footprint import Footprints, machine_budget, resident
from meuse.deploy.picture import tenants as tenant_entries
from meuse.deploy.publisher import Publisher
from meuse.deploy.reconciler import Reconciler
from meuse.deploy.replicas import Replicas
from meuse.deploy.served import Served
from meuse.deploy.spares import Spares
from meuse.deploy.upstreams import Upstreams
from meuse.jobs import process
from meuse.jobs.admission import Limits
from meuse.jobs.nursery import Nursery
from meuse.jobs.process import Start
from meuse.jobs.queue import Config, DbosJobs
from meuse.meter.jobs import JobJournal
from meuse.meter.limits import spent
from meuse.runtime import lifeline
from meuse.runtime.processes import LocalProcesses
from meuse.serve import snapshot
from meuse.settings import Settings, load
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.batches import SqlBatches
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.files import SqlFiles
from meuse.store.jobs import SqlJobs
from meuse.store.limits import SqlLimits
from meuse.store.registry import SqlRegistry
from meuse.store.rollouts import SqlRollouts
from meuse.store.uploads import SqlUploads
from meuse.store.webhooks import SqlWebhooks

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    options = commands.parse(
        "control", argv, "sockets host build", "lifeline ready pipe http-port grpc-port"
    )
    commands.log_to_stderr("control")
    lifeline.watch(options.lifeline, lifeline.end_now)
    settings = load(options.home)
    sockets = Path(options.sockets)

    database = Database(settings.database("meuse"))
    database.migrate("meuse")
    datasets, registry = SqlDatasets(database), SqlRegistry(database)
    bell = Bell()
    deployments, jobs = SqlDeployments(database), SqlJobs(database, bell.ring)
    access, plans = SqlAccess(database), SqlPlans(database)
    limits = SqlLimits(database)
    told = Told(limits, access, plans, now_ms)
    pepper = settings.pepper.read_bytes()
    tenancy = Tenancy(access, plans, pepper, settings.environment, now_ms)
    tenancy.bootstrap(lambda key: write_secret(settings.admin_key, key.encode() + b"\n"))
    uploads = settings.home / "uploads"
    for cut_off in uploads.glob("upload-*"):  # when a predecessor was killed
        cut_off.unlink()
    for cut_off in uploads.glob("table-*"):
        shutil.rmtree(cut_off)

    wake = threading.Event()  # the pipe speaks before the reconciler exists
    processes = LocalProcesses(options.pipe, wake.set)
    published = snapshot.read(settings.snapshot).deployments
    elastic = Elastic(
        sockets,
        lambda: processes.workers().values(),
        settings.max_replicas,
        {name: entry.generation for name, entry in published.items()},
    )

    def on_wake(full_name: str) -> None:
        elastic.wake(full_name)
        wake.set()

    publisher = Publisher(settings.snapshot, sockets / "publish.sock", processes.workers, on_wake)
    spares = Spares(
        processes,
        sockets,
        settings.spare_replicas,
        lambda name, engine: commands.spare(settings, name, engine),
        build=options.build,
    )
    blobs = FolderBlobs(settings.blobs)
    sealer = Sealer(settings.sealing_key.read_bytes())
    external_hosts = hosts.parse(settings.external_hosts)
    upstreams = Upstreams(blobs, sealer, external_hosts, wake.set)
    reconciler = Reconciler(
        deployments=deployments,
        registry=registry,
        access=access,
        plans=plans,
        limits=told,
        replicas=Replicas(processes, sockets, build=options.build, spares=spares),
        elastic=elastic,
        footprints=Footprints(
            settings.replica_memory_bytes or machine_budget(), processes.pids, resident
        ),
        publisher=publisher,
        canaries=Canaries(SqlRollouts(database), sockets),
        command=lambda name, spec, version: commands.replica(
            settings, name, spec, version, adapters.digests(registry, spec, version)
        ),
        spare_for=lambda spec, version: commands.spare_for(settings, spec, version),
        wake=wake,
        upstreams=upstreams,
        served=Served(sockets, sealer),
    )
    upload_store = SqlUploads(database)
    files, file_blobs, batches = (
        SqlFiles(database),
        FolderBlobs(settings.files),
        SqlBatches(database),
    )
    http_url = f"http://{_netloc(options.host)}:{options.http_port}"
    intake = Intake(
        upload_store,
        uploads,
        settings.data_allowed_hosts,
        settings.max_dataset_bytes,
        settings.data_fetch_seconds,
    )
    stores = Stores(datasets, registry, deployments, reconciler.wake)
    kinds = job_kinds(
        stores,
        JobJournal(settings.journal, commands.host_name(), now_ms),
        lambda tenant: tenant_entries(access, plans)[tenant].plan_version,
        Foreign(
            settings.sandbox_tier,
            settings.sandbox_wall_s,
            settings.import_folders,
            str(settings.toolchains),
        ),
        intake,
        Sources(
            settings.pull_index,
            settings.pull_allowed_hosts,
            settings.import_folders,
            settings.max_pull_bytes,
            settings.pull_seconds,
        ),
        Budgets(told.limits, settings.limits, lambda tenant: _table(told, tenancy, tenant)),
        Batches(
            batches, files, lambda key, until_ms: keys.mint_pass(pepper, key, until_ms), http_url
        ),
        FineTunings(stores, jobs, files, file_blobs, lambda: reconciler.budget),
        Finetune(stores, files, file_blobs, tenancy.plan_of),
        settings.replica_threads,
    )
    queue = DbosJobs(
        store=jobs,
        kinds=kinds,
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
    queue.launch()
    sweeper = Sweeper(
        upload_store, jobs, datasets, blobs, files, file_blobs, uploads, settings.upload_expiry_s
    )
    alerter = Alerter(
        SqlWebhooks(database),
        sealer,
        {(h.scheme, h.name, h.port): h.private for h in hosts.parse(settings.webhook_hosts)},
        told.limits,
        limits.list,
        lambda budgets: spent(settings.limits, budgets, now_ms()),
    )
    _keep_running(
        reconciler=reconciler.run,
        upstreams=upstreams.run,
        sweeper=sweeper.run,
        alerter=alerter.run,
    )
    inspector = Inspector(settings)
    app = make_app(
        Control(
            tenancy=tenancy,
            datasets=datasets,
            blobs=blobs,
            registry=registry,
            jobs=jobs,
            queue=queue,
            bell=bell,
            kinds=kinds,
            deployments=deployments,
            limits=limits,
            spent=alerter.spent,
            budgets=told.limits,
            webhooks=alerter.store,
            webhook_hosts=alerter.allowed,
            reconciler=reconciler,
            ledger=LedgerClient(sockets / "ledger.sock"),
            inspect=inspector.table,
            inspect_model=inspector.model,
            profile=inspector.profile,
            upload_store=upload_store,
            files=files,
            file_blobs=file_blobs,
            batches=batches,
            uploads=uploads,
            max_upload_bytes=settings.max_upload_bytes,
            max_dataset_bytes=settings.max_dataset_bytes,
            max_open_uploads=settings.max_open_uploads,
            max_model_bytes=settings.max_model_bytes,
            max_file_bytes=settings.max_file_bytes,
            max_tenant_file_bytes=settings.max_tenant_file_bytes,
            max_replicas=settings.max_replicas,
            sealer=sealer,
            external_hosts=external_hosts,
            vllm_python=settings.vllm_python,
            http_url=http_url,
            grpc_url=f"grpc://{_netloc(options.host)}:{options.grpc_port}",
        )
    )
    socket = sockets / "control.sock"
    socket.unlink(missing_ok=True)
    _Server(
        uvicorn.Config(
            app,
            uds=str(socket),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=3,
            timeout_keep_alive=75,  # longer than the workers keep an idle connection
        ),
        options.ready,
        queue.flush,
    ).run()
    # Jobs go on after a restart: their children see the end of file and keep a checkpoint.
    os._exit(0)


_FORKED = ("train", "compress", "evaluate", "search")
"""Kinds of jobs that need torch: others would wait for more than they need."""


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


class _Server(uvicorn.Server):
    """uvicorn that tells the supervisor when it answers. `at_end` is called when it has ended:
    on SIGTERM nothing behind `run` is reached, for uvicorn raises the signal again."""

    def __init__(self, config: uvicorn.Config, ready: int, at_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._at_end = at_end

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        lifeline.tell_ready(self._ready)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        await super().shutdown(sockets)
        self._at_end()


def _keep_running(**loops: Callable[[], None]) -> None:
    """Each in a thread of its name, until the process ends."""
    for name, loop in loops.items():
        threading.Thread(target=loop, name=name, daemon=True).start()


def _table(told: Told, tenancy: Tenancy, tenant: str) -> tuple[str, PriceTable] | None:
    plan = tenancy.plan_of(tenant)
    return None if plan is None else (plan.ref, told.table(plan))


def _netloc(host: str) -> str:
    return f"[{host}]" if ":" in host else host
