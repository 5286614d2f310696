"""The heavy part of each kind of job, as it runs in a job child: one module per kind.

`WORKS` names them without importing one: a child pays for its own kind alone.
"""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from typing import Any

from meuse.app.work.spending import timed
from meuse.app.work.worktime import worked
from meuse.core.ports import Blobs, JobContext
from meuse.jobs.child import Work

TIMED = ("train", "compress", "search")
FILED = ("train", "compress", "evaluate")
"""Those that read files of `/v1/files` too: their `work` takes the blobs of them as `files`."""
WORKS = ("train", "compress", "evaluate", "predict", "import", "ingest", "search", "batch", "tune")


def works(blobs: Blobs, files: Blobs) -> dict[str, Work]:
    """What to call for each kind; every module has `work(blobs, context, job) → result`. A batch
    is given the blobs of `files`."""

    def call(kind: str) -> Work:
        def run(context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
            name = f"{kind}_" if iskeyword(kind) else kind
            module = import_module(f"meuse.app.work.{name}")
            more = {"files": files} if kind in FILED else {}
            if kind in TIMED:
                inputs = job["inputs"]
                return timed(
                    lambda watched: module.work(blobs, watched, job, **more), context, inputs
                )
            held = files if kind == "batch" else blobs
            told = job["inputs"].get("worked")  # a release before had none
            if told is None:
                result: dict[str, Any] = module.work(held, context, job, **more)
                return result
            return worked(lambda watched: module.work(held, watched, job, **more), context, told)

        return run

    return {kind: call(kind) for kind in WORKS}
