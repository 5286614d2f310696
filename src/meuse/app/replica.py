"""A replica: one engine that runs one version behind one unix socket."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from meuse.app import commands
from meuse.core.errors import MeuseError
from meuse.runtime import lifeline
from meuse.serve import engines
from meuse.serve.replica import ReplicaConfig, serve
from meuse.settings import load
from meuse.store.blobs import FolderBlobs

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    commands.log_to_stderr(options.id)
    lifeline.watch(options.lifeline, lifeline.end_now)
    return run(argv)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    return commands.parse(
        "replica",
        argv,
        "sockets id tenant version format digest",
        "lifeline max-rows max-queue objective-ms",
    )


def run(argv: Sequence[str]) -> int:
    """Load, serve, return when told to end; the process has its log and its lifeline."""
    options = parse(argv)
    settings, sockets = load(options.home), Path(options.sockets)
    try:
        data = FolderBlobs(settings.blobs).read(options.tenant, options.digest)
        serve(
            engines.load(options.format, data, settings.replica_threads),
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
