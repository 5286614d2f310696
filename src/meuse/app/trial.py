"""A trial's process: trains what a search job gives it. torch lives here."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

from meuse.app import commands
from meuse.app.work.search import trials
from meuse.settings import load
from meuse.store.blobs import FolderBlobs


def main(argv: Sequence[str]) -> int:
    options = commands.parse("trial", argv, "folder", "commands reports memory")
    commands.log_to_stderr("trial")
    limit = (options.memory, resource.getrlimit(resource.RLIMIT_DATA)[1])
    resource.setrlimit(resource.RLIMIT_DATA, limit)
    blobs = FolderBlobs(load(options.home).blobs)
    trials(blobs, Path(options.folder), options.commands, options.reports)
    return 0
