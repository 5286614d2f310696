"""The nursery of jobs (`meuse.jobs.nursery`): imports what most of them need, then forks them."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import setproctitle

from meuse.app import commands, job
from meuse.jobs import nursery
from meuse.runtime import lifeline
from meuse.settings import load

log = logging.getLogger(__name__)

FIRST = ("torch", "meuse.app.work.train")
"""What no job that comes here can do without."""
LATER = (
    "pandas",
    "pyarrow",
    "onnx",
    "torch.export",
    "torch._dynamo",
    "onnxscript",
    # What torch.onnx.export imports when it is called: half of what a training has to import.
    "torch.onnx._internal.exporter._core",
    "onnxscript.function_libs.torch_lib.ops",
    "meuse.app.work.compress",
)
"""What most of them need, in this order. One that is not there is left to the jobs that need it.
None may start threads that work goes on in, or touch an accelerator: neither lives through a fork.
ONNX Runtime starts one, and is quick to import."""


def main(argv: Sequence[str]) -> int:
    options = commands.parse("nursery", argv, numbers="link")
    commands.log_to_stderr("nursery")
    settings = load(options.home)
    link = socket.socket(fileno=options.link)
    for name in FIRST:
        if _is_closed(link):
            return 0
        _bring(name)

    def birth(folder: Path, events: int, life: int) -> int:
        lifeline.watch(life, lifeline.end_now)
        commands.log_to_stderr("job")
        setproctitle.setproctitle(" ".join(commands.job(settings, folder, events, life)))
        return job.live(settings, folder, events)

    nursery.serve(link, birth, (partial(_bring, name) for name in LATER))
    return 0


def _bring(name: str) -> None:
    try:
        import_module(name)
    except Exception as error:  # whatever an optional library may raise: the jobs will tell
        log.warning("%s is not there for all jobs: %s", name, error)


def _is_closed(link: socket.socket) -> bool:
    """Whether control has gone meanwhile; a job that waits to be read is no such thing."""
    poller = select.poll()
    poller.register(link, select.POLLRDHUP)
    return bool(poller.poll(0))
