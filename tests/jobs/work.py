"""A job child for tests: python work.py FOLDER EVENTS_FD LIFELINE_FD. Real process, tiny work.
As `python work.py nursery LINK_FD` a nursery of such children.

`spec.do`: return, refuse, fall-short, crash, die-once, always-die, sleep, spawn-sleep, look, count
(in steps of `spec.step_s`, keeping a checkpoint and asking whether it is paused), exhaust, abort
"""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from meuse.core.errors import RefusedError, invalid
from meuse.core.ports import Paused
from meuse.jobs import child, nursery
from meuse.runtime import lifeline


def count(context, spec):
    """To 10, one at a time; the child says where it begins in `begun`."""
    done = int(context.checkpoint.read_text()) if context.checkpoint.exists() else 0
    with (context.folder / "begun").open("a") as begun:
        begun.write(f"{done}\n")
    for number in range(done + 1, 11):
        time.sleep(spec.get("step_s", 0.05))
        fresh = context.checkpoint.with_suffix(".new")
        fresh.write_text(str(number))
        fresh.replace(context.checkpoint)
        context.progress(number / 10, rate=1 / 0.05, unit="steps", note=f"step {number}")
        context.metrics({"count": number}, epoch=number)
        if spec.get("fail_at") == number and not (context.folder / "checkpoint.failed").exists():
            (context.folder / "checkpoint.failed").touch()
            raise invalid("spec.fail_at", "as asked")
        if spec.get("asks", True) and context.paused():
            raise Paused


def work(context, job):
    do = job["spec"]["do"]
    context.log(f"doing {do}")
    context.progress(0.5)
    context.metrics({"loss": 0.25}, epoch=1)
    if do == "refuse":
        raise invalid("spec.do", "no", "Do something else.")
    if do == "fall-short" and not context.checkpoint.exists():
        context.checkpoint.write_text("measured")
        report = {"measured": 0.4}
        raise RefusedError("not good enough", report=report, field="goal", hint="Allow more.")
    if do == "crash":
        raise RuntimeError("boom")
    if do == "die-once" and not context.checkpoint.exists():
        context.checkpoint.write_text("half-way")
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "always-die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "environment":
        names = ("OMP_WAIT_POLICY", "HF_HUB_DISABLE_TELEMETRY")
        context.log(" ".join(os.environ[name] for name in names))
    if do == "spawn-sleep":
        subprocess.Popen(["sleep", "300"])
    if do == "look":
        descriptors = sorted(map(int, os.listdir("/proc/self/fd")))
        (context.folder / "seen").write_text(json.dumps([random.random(), descriptors]))
    if do == "count":
        count(context, job["spec"])
    if do == "exhaust":
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28))
        bytearray(1 << 30)
    if do == "abort":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    if do in ("sleep", "spawn-sleep"):
        (context.folder / "pid").write_text(str(os.getpid()))
        time.sleep(300)
    return {"answer": 42, "resumed": context.checkpoint.exists()}


def live(folder: Path, events: int, life: int) -> int:
    lifeline.watch(life, lifeline.end_now)
    return child.main(folder, events, {"test": work})


if sys.argv[1] == "nursery":
    nursery.serve(socket.socket(fileno=int(sys.argv[2])), live)
else:
    sys.exit(live(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
