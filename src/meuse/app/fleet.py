"""The parts of the control process that bring deployments to life: replicas, their spares, servers
elsewhere, and the snapshot that workers follow."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from meuse.access.sealing import Sealer
from meuse.app import commands
from meuse.app.stored import Stored
from meuse.billing.budgets.told import Told
from meuse.data.hosts import Host
from meuse.deploy import adapters
from meuse.deploy.canaries import Canaries
from meuse.deploy.elastic import Elastic
from meuse.deploy.footprint import Footprints, machine_budget, resident
from meuse.deploy.publisher import Publisher
from meuse.deploy.reconciler import Reconciler
from meuse.deploy.replicas import Replicas
from meuse.deploy.served import Served
from meuse.deploy.spares import Spares
from meuse.deploy.upstreams import Upstreams
from meuse.runtime.processes import LocalProcesses
from meuse.serve import snapshot
from meuse.settings import Settings


@dataclass(frozen=True, slots=True)
class Fleet:
    """Each has a `run` of its own, until the process ends."""

    reconciler: Reconciler
    upstreams: Upstreams


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the platform's processes meet: `pipe` is the supervisor's, `build` the code's."""

    sockets: Path
    pipe: int
    build: str


def fleet(
    settings: Settings,
    place: Place,
    stored: Stored,
    told: Told,
    sealer: Sealer,
    external_hosts: tuple[Host, ...],
) -> Fleet:
    """What is published already is gone on from."""
    wake = threading.Event()  # the pipe speaks before the reconciler exists
    processes = LocalProcesses(place.pipe, wake.set)
    published = snapshot.read(settings.snapshot).deployments
    elastic = Elastic(
        place.sockets,
        lambda: processes.workers().values(),
        settings.max_replicas,
        {name: entry.generation for name, entry in published.items()},
    )

    def on_wake(full_name: str) -> None:
        elastic.wake(full_name)
        wake.set()

    spares = Spares(
        processes,
        place.sockets,
        settings.spare_replicas,
        lambda name, engine: commands.spare(settings, name, engine),
        build=place.build,
    )
    upstreams = Upstreams(stored.blobs, sealer, external_hosts, wake.set)
    reconciler = Reconciler(
        deployments=stored.deployments,
        registry=stored.registry,
        access=stored.access,
        plans=stored.plans,
        limits=told,
        replicas=Replicas(processes, place.sockets, build=place.build, spares=spares),
        elastic=elastic,
        footprints=Footprints(
            settings.replica_memory_bytes or machine_budget(), processes.pids, resident
        ),
        publisher=Publisher(
            settings.snapshot, place.sockets / "publish.sock", processes.workers, on_wake
        ),
        canaries=Canaries(stored.rollouts, place.sockets),
        command=lambda name, spec, version: commands.replica(
            settings, name, spec, version, adapters.digests(stored.registry, spec, version)
        ),
        spare_for=lambda spec, version: commands.spare_for(settings, spec, version),
        wake=wake,
        upstreams=upstreams,
        served=Served(place.sockets, sealer),
    )
    return Fleet(reconciler, upstreams)
