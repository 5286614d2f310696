"""The control process: management API, durable jobs, reconciler, snapshots."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from meuse.access.sealing import Sealer
from meuse.access.tenancy import Tenancy
from meuse.api.application import make_app
from meuse.api.bell import Bell
from meuse.api.context import Control
from meuse.api.ledger import LedgerClient
from meuse.app import commands, jobqueue
from meuse.app.alerter import Alerter
from meuse.app.fleet import Place, fleet
from meuse.app.inspector import Inspector
from meuse.app.stored import Stored
from meuse.app.sweeper import Sweeper
from meuse.app.up import write_secret
from meuse.billing.budgets.told import Told
from meuse.core.clock import now_ms
from meuse.data import hosts
from meuse.meter.limits import spent
from meuse.runtime import lifeline
from meuse.settings import load


def main(argv: Sequence[str]) -> int:
    options = commands.parse(
        "control", argv, "sockets host build", "lifeline ready pipe http-port grpc-port"
    )
    commands.log_to_stderr("control")
    lifeline.watch(options.lifeline, lifeline.end_now)
    settings = load(options.home)
    sockets = Path(options.sockets)
    http_url = f"http://{_netloc(options.host)}:{options.http_port}"
    grpc_url = f"grpc://{_netloc(options.host)}:{options.grpc_port}"

    bell = Bell()
    stored = Stored(settings, bell.ring)
    stored.tidy()
    pepper = settings.pepper.read_bytes()
    tenancy = Tenancy(stored.access, stored.plans, pepper, settings.environment, now_ms)
    tenancy.bootstrap(lambda key: write_secret(settings.admin_key, key.encode() + b"\n"))
    told = Told(stored.limits, stored.access, stored.plans, now_ms)
    sealer = Sealer(settings.sealing_key.read_bytes())
    external_hosts = hosts.parse(settings.external_hosts)

    place = Place(sockets=sockets, pipe=options.pipe, build=options.build)
    parts = fleet(settings, place, stored, told, sealer, external_hosts)
    kinds = jobqueue.kinds_of(settings, stored, parts.reconciler, told, tenancy, http_url)
    queue = jobqueue.queue(settings, stored, kinds)
    queue.launch()
    sweeper = Sweeper(
        stored.uploads, stored.jobs, stored.datasets, stored.blobs, stored.files,
        stored.file_blobs, stored.upload_folder, settings.upload_expiry_s,
    )  # fmt: skip
    alerter = Alerter(
        stored.webhooks,
        sealer,
        {(h.scheme, h.name, h.port): h.private for h in hosts.parse(settings.webhook_hosts)},
        told.limits,
        stored.limits.list,
        lambda budgets: spent(settings.limits, budgets, now_ms()),
    )
    _keep_running(
        reconciler=parts.reconciler.run,
        upstreams=parts.upstreams.run,
        sweeper=sweeper.run,
        alerter=alerter.run,
    )
    inspector = Inspector(settings)
    app = make_app(
        Control(
            tenancy=tenancy,
            datasets=stored.datasets,
            blobs=stored.blobs,
            registry=stored.registry,
            jobs=stored.jobs,
            queue=queue,
            bell=bell,
            kinds=kinds,
            deployments=stored.deployments,
            limits=stored.limits,
            spent=alerter.spent,
            budgets=told.limits,
            webhooks=alerter.store,
            webhook_hosts=alerter.allowed,
            reconciler=parts.reconciler,
            ledger=LedgerClient(sockets / "ledger.sock"),
            inspect=inspector.table,
            inspect_model=inspector.model,
            profile=inspector.profile,
            upload_store=stored.uploads,
            files=stored.files,
            file_blobs=stored.file_blobs,
            batches=stored.batches,
            uploads=stored.upload_folder,
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
            grpc_url=grpc_url,
        )
    )
    _serve(app, sockets / "control.sock", options.ready, queue.flush)
    # Jobs go on after a restart: their children see the end of file and keep a checkpoint.
    os._exit(0)


def _serve(app: FastAPI, socket: Path, ready: int, at_end: Callable[[], None]) -> None:
    socket.unlink(missing_ok=True)
    config = uvicorn.Config(
        app,
        uds=str(socket),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,  # longer than the workers keep an idle connection
    )
    _Server(config, ready, at_end).run()


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


def _netloc(host: str) -> str:
    return f"[{host}]" if ":" in host else host
