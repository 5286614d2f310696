"""A job child: the heavy part of one job. torch lives here (and in nothing but children)."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from meuse.app import commands
from meuse.app.work import works
from meuse.jobs import child
from meuse.runtime import lifeline
from meuse.settings import Settings, load
from meuse.store.blobs import FolderBlobs


def main(argv: Sequence[str]) -> int:
    options = commands.parse("job", argv, "folder", "events lifeline")
    lifeline.watch(options.lifeline, lifeline.end_now)  # before anything slow is imported
    commands.log_to_stderr("job")
    return live(load(options.home), Path(options.folder), options.events)


def live(settings: Settings, folder: Path, events: int) -> int:
    """The job's exit status; in a process of its own."""
    memory = settings.job_memory_bytes or _three_quarters()
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    blobs, files = FolderBlobs(settings.blobs), FolderBlobs(settings.files)
    return child.main(folder, events, works(blobs, files))


def _three_quarters() -> int:
    """Of the machine's memory: a job that wants more fails by itself, not its neighbours."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
