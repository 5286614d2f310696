"""The control process: management API, durable jobs, reconciler, snapshots."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from meuse.access.tenancy import Tenancy
from meuse.api.application import make_app
from meuse.api.context import Control
from meuse.api.ledger import LedgerClient
from meuse.app import commands
from meuse.app.kinds import JobKinds
from meuse.app.up import write_secret
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Signature
from meuse.deploy.canaries import Canaries
from meuse.deploy.elastic import Elastic
from meuse.deploy.footprint import Footprints, machine_budget, resident
from meuse.deploy.publisher import Publisher
from meuse.deploy.reconciler import Reconciler
from meuse.deploy.replicas import Replicas
from meuse.deploy.spares import Spares
from meuse.jobs.queue import DbosJobs
from meuse.meter.limits import spent
from meuse.runtime import lifeline
from meuse.runtime.processes import LocalProcesses
from meuse.serve import snapshot
from meuse.settings import Settings, load
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.jobs import SqlJobs
from meuse.store.limits import SqlLimits
from meuse.store.registry import SqlRegistry
from meuse.store.rollouts import SqlRollouts

log = logging.getLogger(__name__)

INSPECT_TIMEOUT_S = 120.0
INSPECT_WAIT_S = 10.0
INSPECTORS = 2  # each may take 4 GiB and a thread that other calls need


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
    deployments, jobs = SqlDeployments(database), SqlJobs(database)
    access, plans = SqlAccess(database), SqlPlans(database)
    limits = SqlLimits(database)
    tenancy = Tenancy(access, plans, settings.pepper.read_bytes(), settings.environment, now_ms)
    tenancy.bootstrap(lambda key: write_secret(settings.admin_key, key.encode() + b"\n"))
    uploads = settings.home / "uploads"
    for cut_off in uploads.glob("upload-*"):  # when a predecessor was killed
        cut_off.unlink()

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
    reconciler = Reconciler(
        deployments=deployments,
        registry=registry,
        access=access,
        plans=plans,
        limits=limits,
        replicas=Replicas(processes, sockets, build=options.build, spares=spares),
        elastic=elastic,
        footprints=Footprints(
            settings.replica_memory_bytes or machine_budget(), processes.pids, resident
        ),
        publisher=publisher,
        canaries=Canaries(SqlRollouts(database), sockets),
        command=lambda name, spec, version: commands.replica(settings, name, spec, version),
        spare_for=lambda spec, version: commands.spare_for(settings, spec, version),
        wake=wake,
    )
    kinds = JobKinds(datasets, registry, deployments, reconciler.wake).by_name()
    queue = DbosJobs(
        store=jobs,
        kinds=kinds,
        folder=settings.jobs,
        command=lambda folder, events, life: commands.job(settings, folder, events, life),
        database_url=settings.database("jobs"),
        concurrency=settings.job_concurrency,
    )
    queue.launch()
    threading.Thread(target=reconciler.run, name="reconciler", daemon=True).start()
    inspect = inspector(settings)
    app = make_app(
        Control(
            tenancy=tenancy,
            datasets=datasets,
            blobs=FolderBlobs(settings.blobs),
            registry=registry,
            jobs=jobs,
            queue=queue,
            kinds=kinds,
            deployments=deployments,
            limits=limits,
            spent=lambda budgets: spent(settings.limits, budgets, now_ms()),
            reconciler=reconciler,
            ledger=LedgerClient(sockets / "ledger.sock"),
            inspect=lambda path, format: _table(inspect(path, format)),
            inspect_model=lambda path, format: Signature.from_dict(
                inspect(path, format)["signature"]
            ),
            uploads=uploads,
            max_upload_bytes=settings.max_upload_bytes,
            max_model_bytes=settings.max_model_bytes,
            max_replicas=settings.max_replicas,
            http_url=f"http://{_netloc(options.host)}:{options.http_port}",
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


def inspector(settings: Settings) -> Callable[[Path, str], dict[str, Any]]:
    """Read uploads in a child: a hostile file costs a child process, not control."""

    places = threading.Semaphore(INSPECTORS)

    def inspect(path: Path, format: str) -> dict[str, Any]:
        if not places.acquire(timeout=INSPECT_WAIT_S):
            raise MeuseError(
                Code.OVERLOADED, "too many uploads are being read", hint="Try again later."
            )
        try:
            return read(path, format)
        finally:
            places.release()

    def read(path: Path, format: str) -> dict[str, Any]:
        life_read, life_write = os.pipe()
        try:
            done = subprocess.run(
                commands.inspect(settings, path, format, life_read),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=(life_read,),
                timeout=INSPECT_TIMEOUT_S,
                check=False,
            )
            answer: dict[str, Any] = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            log.warning("inspection of an upload failed")
            raise MeuseError(
                Code.INVALID_DATA,
                "the file could not be read",
                field="body",
                hint="It is damaged, or reading it takes too much time or memory.",
            ) from None
        finally:
            os.close(life_read)
            os.close(life_write)
        if "error" in answer:
            raise MeuseError.from_dict(answer["error"])
        return answer

    return inspect


def _table(answer: dict[str, Any]) -> tuple[int, tuple[Column, ...]]:
    return answer["rows"], tuple(Column(**column) for column in answer["columns"])


def _netloc(host: str) -> str:
    return f"[{host}]" if ":" in host else host
