"""A gateway worker: one process, one loop, HTTP and gRPC, the links and the journal.

Lean on purpose: what it imports is what every worker keeps in memory. Knows how to start and
to end; what happens in between is the data plane's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc.aio
import msgspec
import uvicorn
import uvloop

from meuse.access.sealing import Sealer
from meuse.core.errors import MeuseError
from meuse.data import hosts
from meuse.gateway import goaway, rpc, vitals
from meuse.gateway.control_proxy import ControlProxy
from meuse.gateway.cork import CorkedHttpProtocol, DrainState
from meuse.gateway.counters import Counters, clock_ms
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.durability import Commits, Durability
from meuse.gateway.http import App
from meuse.gateway.links import Links
from meuse.gateway.repository import ControlScaler, Repository
from meuse.gateway.snapshots import SnapshotClient
from meuse.gateway.upstream.pool import RemotePool
from meuse.meter.journal import JournalWriter
from meuse.meter.limits import Limits
from meuse.runtime import lifeline

if TYPE_CHECKING:
    from meuse.gateway.observe import Application, Observer

logger = logging.getLogger(__name__)

DRAIN_S = 10.0
STREAMS_S = 120.0
"""How long texts that are being produced may go on after SIGTERM, unless a second one comes."""
IDLE_S = 2.0
"""How long a connection without a request stays open after SIGTERM: one may be on its way."""
ORPHAN_S = 2.0
_TEXT_END_S = 2.0
_SYNC_S = 0.05
_PROBE_S = 0.5
"""How often a disk that refused a record is tried again."""
_LOOK_S = 0.02
GC_THRESHOLDS = (20_000, 20, 50)
"""Requests make garbage that reference counts free; looking for cycles each 700 objects, as is
Python's way, was a twentieth of a worker's time."""
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
    log_requests: bool = False
    otlp_endpoint: str = ""
    trace_ratio: float = 1.0
    external_hosts: str = ""
    sealing_key: bytes = b""
    journal_mode: str = "group"
    """When a usage record is on the disk: within 50 ms (group), or before the answer (strict)."""
    journal_full: str = "refuse"
    """Where the disk takes no record: refuse, or serve those whom no hard budget holds."""
    ready_fd: int | None = None
    """A pipe that is told once the worker takes connections, and then that its loop turns."""


def serve(config: WorkerConfig) -> None:
    """Serve until SIGTERM, finish what is in flight, return.

    Raises SystemExit(1), after the same, when a part of the worker has failed: a worker that
    hears of no snapshot or syncs no journal must not look well, and the next one is.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if not runner.run(_run(config)):
            raise SystemExit(1)


class _Server(uvicorn.Server):
    """uvicorn with the worker's start and end: no signal handlers, no request lost."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None],
        plane: DataPlane,
        hurrying: asyncio.Event,
    ) -> None:
        super().__init__(config)
        self.server_state = DrainState()
        self._on_started = on_started
        self._plane = plane
        self._hurrying = hurrying

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more; answer what is in flight or arrives on an open connection.

        Connections without a request are closed after `IDLE_S`, all others after `DRAIN_S`;
        texts have `STREAMS_S`, and are then told to end, or as soon as there is a hurry.
        """
        loop, state = asyncio.get_running_loop(), self.server_state
        assert isinstance(state, DrainState)
        state.draining = True
        for part in (*self.servers, *(sockets or ())):
            part.close()  # the queue of the listening socket is the other workers'
        begun = loop.time()
        for connection in list(state.connections):
            cast("CorkedHttpProtocol", connection).drain()
        while state.connections and loop.time() < begun + IDLE_S:  # noqa: ASYNC110  no event
            await asyncio.sleep(_LOOK_S)
        for connection in list(state.connections):
            connection.shutdown()
        end = begun + DRAIN_S
        while state.connections or state.tasks:
            now, texts = loop.time(), self._plane.texts
            if texts and (self._hurrying.is_set() or now > begun + STREAMS_S):
                self._plane.end_texts()
                end = min(end, now + _TEXT_END_S)
            elif now > end and not texts:
                break
            if now > begun + STREAMS_S + _TEXT_END_S:
                break
            await asyncio.sleep(_LOOK_S)
        if state.tasks:
            logger.error("%d requests are given up", len(state.tasks))
            for task in state.tasks:
                task.cancel()


async def _run(config: WorkerConfig) -> bool:
    """Whether every part lasted until the worker was told to stop."""
    stopping, hurrying = _stopping(config.lifeline_fd)
    journal = JournalWriter(config.journal, config.host, config.slot, config.epoch)
    # `snapshots` is made below: it swaps what needs the links.
    links = Links(
        config.sockets,
        lambda name: snapshots.wake(name),  # noqa: PLW0108
        config.workers,
        _remote(config),
    )
    counters = Counters(config.sockets, config.slot, config.epoch)
    limits = Limits(config.limits)
    durability = Durability(
        journal,
        commits=Commits(journal.sync, lambda began, ok: counters.synced(began, ok=ok))
        if config.journal_mode == "strict"
        else None,
        serves_when_full=config.journal_full == "serve",
    )
    plane = DataPlane(links, journal, limits, counters, config.pepper, durability)
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
    repository = Repository(plane, ControlScaler(snapshots.wake, proxy.post))
    app: Application = App(plane, proxy, repository, config.max_body_bytes)
    interceptors = []
    plane.observer = observer = _observer(config)
    if observer is not None:
        app = observer.http(app)
        interceptors = [observer.rpc()]

    started = asyncio.Event()
    http = _http_server(app, started.set, plane, hurrying)
    counters.look = vitals.watch(
        counters.stats.vitals, plane, snapshots, journal, lambda: len(http.server_state.connections)
    )
    rpcs = rpc.make_server(
        plane, repository, config.grpc_address, config.max_body_bytes, interceptors
    )
    await rpcs.start()
    listening = asyncio.create_task(
        http.serve(sockets=[socket.socket(fileno=config.http_fd)]), name="http"
    )
    helpers = [
        asyncio.create_task(snapshots.follow(), name="snapshots"),
        asyncio.create_task(_sync(journal, plane), name="journal"),
        asyncio.create_task(links.sweep(), name="deadlines"),
        asyncio.create_task(counters.keep(), name="counters"),
        asyncio.create_task(_beat(config.ready_fd, started), name="beats"),
    ]
    # What is loaded now stays: later collections need not walk it, forked pages stay shared.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({listening, stop, *helpers}, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in (listening, *helpers) if task.done()]
    for part in failed:
        logger.error("a part of the worker ended: %s", part.get_name(), exc_info=part.exception())
    plane.is_ending = True
    http.should_exit = True
    await asyncio.gather(
        listening, _end_grpc(rpcs, config.grpc_address), return_exceptions=bool(failed)
    )
    for task in (stop, *helpers):
        task.cancel()
    await asyncio.gather(stop, *helpers, return_exceptions=True)
    links.close()
    counters.write()
    if observer is not None:
        await observer.close()
    await proxy.close()
    journal.close()
    return not failed


def _remote(config: WorkerConfig) -> Callable[[str], RemotePool]:
    """How targets that other servers answer for are asked."""
    sealer = Sealer(config.sealing_key) if config.sealing_key else None
    allowed = hosts.parse(config.external_hosts)
    return lambda name: RemotePool(name, sealer, allowed)


def _stopping(lifeline_fd: int | None) -> tuple[asyncio.Event, asyncio.Event]:
    """The first is set on SIGTERM, and when the parent has gone: then the end is near in any
    case. The second is set when SIGTERM comes again."""
    loop = asyncio.get_running_loop()
    stopping, hurrying = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurrying if stopping.is_set() else stopping).set()

    loop.add_signal_handler(signal.SIGTERM, told)
    if lifeline_fd is not None:

        def orphaned() -> None:
            loop.call_soon_threadsafe(stopping.set)
            time.sleep(ORPHAN_S)
            lifeline.end_now()

        lifeline.watch(lifeline_fd, orphaned)
    return stopping, hurrying


def _observer(config: WorkerConfig) -> Observer | None:
    """None, and nothing loaded, unless requests are to be logged or traced."""
    if not (config.log_requests or config.otlp_endpoint):
        return None
    from meuse.gateway.observe import Observer

    spans = None
    if config.otlp_endpoint:
        from meuse.gateway.otlp import Spans

        instance = f"{config.host}-{config.slot}-{config.epoch}"
        spans = Spans(config.otlp_endpoint, config.trace_ratio, instance)
    return Observer(config.slot, log=config.log_requests, spans=spans)


async def _end_grpc(server: grpc.aio.Server, address: str) -> None:
    await goaway.drain(int(address.rpartition(":")[2]), IDLE_S)
    await server.stop(DRAIN_S - IDLE_S)


def _http_server(
    app: Application, on_started: Callable[[], None], plane: DataPlane, hurrying: asyncio.Event
) -> _Server:
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
            backlog=_BACKLOG,
        ),
        on_started,
        plane,
        hurrying,
    )


async def _beat(fd: int | None, started: asyncio.Event) -> None:
    await started.wait()
    if fd is not None:
        os.set_blocking(fd, False)
    while True:
        if fd is not None:
            lifeline.beat(fd)
        await asyncio.sleep(lifeline.BEAT_S)


async def _sync(journal: JournalWriter, plane: DataPlane) -> None:
    synced = -1  # a new segment is brought to the disk before its first record
    probed = 0.0

    def failed(failure: MeuseError | None) -> None:
        nonlocal synced
        synced = synced if failure is None else -1  # again, and until it succeeds

    while True:
        await asyncio.sleep(_SYNC_S)
        if journal.is_refusing and time.monotonic() - probed > _PROBE_S:
            probed = time.monotonic()
            if await asyncio.to_thread(journal.probe):
                logger.info("the disk takes usage records again")
        recorded = plane.recorded
        if recorded == synced:
            continue
        commits = plane.commits
        if commits is not None:
            # By the one that requests wait for: who syncs beside it may be told in its place that
            # their records were lost.
            synced = recorded
            commits.after(failed)
            continue
        began, ok = clock_ms(), False
        try:
            await asyncio.to_thread(journal.sync)
            synced, ok = recorded, True
        except OSError as error:
            logger.error("the usage journal cannot be synced: %s", error)
        plane.counters.synced(began, ok=ok)
