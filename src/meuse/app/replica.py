"""A replica: one engine that runs one version behind one unix socket."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.core.errors import MeuseError
from meuse.core.nouns import Signature
from meuse.runtime import lifeline
from meuse.settings import load
from meuse.store.blobs import FolderBlobs

log = logging.getLogger(__name__)

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    commands.log_to_stderr(options.id)
    lifeline.watch(options.lifeline, lifeline.end_now)
    return run(argv)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    return commands.parse(
        "replica",
        argv,
        "sockets id tenant version format digest engine",
        "lifeline cores max-rows max-queue objective-ms",
    )


def run(argv: Sequence[str]) -> int:
    """Load, serve, return when told to end; the process has its log and its lifeline."""
    options = parse(argv)
    set_pools(options.cores)
    from meuse.serve import engines
    from meuse.serve.replica import ReplicaConfig, serve

    settings, sockets = load(options.home), Path(options.sockets)
    try:
        blobs = FolderBlobs(settings.blobs)
        engine = engines.load(
            options.format,
            blobs.read(options.tenant, options.digest),  # held by nobody once it is loaded
            options.cores,
            engine=options.engine,
            build=build,
        )
        _give_back_memory()
        serve(
            engine,
            ReplicaConfig(
                id=options.id,
                version=options.version,
                socket=sockets / f"{options.id}.sock",
                page=sockets / f"{options.id}.page",
                max_rows=options.max_rows,
                max_queue=options.max_queue,
                objective_ms=options.objective_ms or None,
            ),
        )
    except MeuseError as error:
        # The reconciler reads why, and shows it on the deployment.
        (sockets / f"{options.id}.error").write_text(str(error))
        log.error("%s cannot be served: %s", options.version, error)
        return 1
    return 0


def set_pools(cores: int) -> None:
    """Read when numpy, torch and their libraries are loaded: nothing before imports them."""
    os.environ.update({name: str(cores) for name in POOLS})


def _give_back_memory() -> None:
    """Return what loading has freed to the system: a third of the file's size, as measured."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def build(described: Mapping[str, Any]) -> tuple[Any, Signature]:
    """The network of a recipe: the one thing of training that serving needs."""
    from meuse.train.weights import build

    return build(described)
