"""A gateway worker: one process, one loop, HTTP and gRPC, the links and the journal.

Lean on purpose: what it imports is what every worker keeps in memory. Knows how to start and
to end; what happens in between is the data plane's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from meuse.gateway import rpc
from meuse.gateway.control_proxy import ControlProxy
from meuse.gateway.cork import CorkedHttpProtocol
from meuse.gateway.counters import Counters
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.http import App
from meuse.gateway.links import Links
from meuse.gateway.snapshots import SnapshotClient
from meuse.meter.journal import JournalWriter
from meuse.meter.limits import Limits
from meuse.runtime import lifeline

logger = logging.getLogger(__name__)

DRAIN_S = 10.0
ORPHAN_S = 2.0
_SYNC_S = 0.05
_MAX_CONNECTIONS = 10_000  # beyond it HTTP requests are answered 503
_BACKLOG = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What the supervisor tells a worker. `http_fd` is a listening socket."""

    slot: int
    epoch: int
    host: str
    http_fd: int
    grpc_address: str
    sockets: Path
    snapshot: Path
    journal: Path
    limits: Path
    pepper: bytes
    max_body_bytes: int
    max_upload_bytes: int
    max_model_bytes: int
    lifeline_fd: int | None = None
    workers: int = 1
    """How many of them there are."""


def serve(config: WorkerConfig) -> None:
    """Serve until SIGTERM, finish what is in flight, return.

    Raises SystemExit(1), after the same, when a part of the worker has failed: a worker that
    hears of no snapshot or syncs no journal must not look well, and the next one is.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(_run(config)):
            raise SystemExit(1)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the worker decides when to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(config: WorkerConfig) -> bool:
    """Whether every part lasted until the worker was told to stop."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    if config.lifeline_fd is not None:

        def orphaned() -> None:
            loop.call_soon_threadsafe(stopping.set)
            time.sleep(ORPHAN_S)
            lifeline.end_now()

        lifeline.watch(config.lifeline_fd, orphaned)

    journal = JournalWriter(config.journal, config.host, config.slot, config.epoch)
    # `snapshots` is made below: it swaps what needs the links.
    links = Links(config.sockets, lambda name: snapshots.wake(name), config.workers)  # noqa: PLW0108
    counters = Counters(config.sockets, config.slot, config.epoch)
    limits = Limits(config.limits)
    plane = DataPlane(links, journal, limits, counters, config.pepper)
    snapshots = SnapshotClient(
        config.sockets / "publish.sock", config.snapshot, plane.swap, config.slot, config.epoch
    )
    try:
        snapshots.load()
    except (OSError, msgspec.MsgspecError) as error:
        logger.error("the snapshot cannot be read: %s; waiting for control", error)
    proxy = ControlProxy(
        config.sockets / "control.sock", config.max_upload_bytes, config.max_model_bytes
    )
    http = _http_server(App(plane, proxy, config.max_body_bytes))
    grpc = rpc.make_server(plane, config.grpc_address, config.max_body_bytes)
    await grpc.start()
    listening = asyncio.create_task(
        http.serve(sockets=[socket.socket(fileno=config.http_fd)]), name="http"
    )
    helpers = [
        asyncio.create_task(snapshots.follow(), name="snapshots"),
        asyncio.create_task(_sync(journal, plane), name="journal"),
        asyncio.create_task(links.sweep(), name="deadlines"),
        asyncio.create_task(counters.keep(), name="counters"),
    ]
    # What is loaded now stays: later collections need not walk it, forked pages stay shared.
    gc.collect()
    gc.freeze()
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({listening, stop, *helpers}, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in (listening, *helpers) if task.done()]
    for part in failed:
        logger.error("a part of the worker ended: %s", part.get_name(), exc_info=part.exception())
    plane.is_draining = True
    http.should_exit = True
    await asyncio.gather(listening, grpc.stop(DRAIN_S), return_exceptions=bool(failed))
    for task in (stop, *helpers):
        task.cancel()
    await asyncio.gather(stop, *helpers, return_exceptions=True)
    links.close()
    counters.write()
    await proxy.close()
    journal.close()
    return not failed


def _http_server(app: App) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=CorkedHttpProtocol,
            loop="uvloop",
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(DRAIN_S),
            backlog=_BACKLOG,
        )
    )


async def _sync(journal: JournalWriter, plane: DataPlane) -> None:
    synced = -1  # a new segment is brought to the disk before its first record
    while True:
        await asyncio.sleep(_SYNC_S)
        recorded = plane.recorded
        if recorded == synced:
            continue
        try:
            await asyncio.to_thread(journal.sync)
            synced = recorded
        except OSError as error:
            logger.error("the usage journal cannot be synced: %s", error)
