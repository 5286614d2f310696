"""A job child for tests: python work.py FOLDER EVENTS_FD LIFELINE_FD. Real process, tiny work.

`spec.do`: return, refuse, crash, die-once, sleep, spawn-sleep
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from meuse.core.errors import invalid
from meuse.jobs import child
from meuse.runtime import lifeline


def work(context, job):
    do = job["spec"]["do"]
    context.log(f"doing {do}")
    context.progress(0.5)
    context.metrics({"loss": 0.25}, epoch=1)
    if do == "refuse":
        raise invalid("spec.do", "no", "Do something else.")
    if do == "crash":
        raise RuntimeError("boom")
    if do == "die-once" and not context.checkpoint.exists():
        context.checkpoint.write_text("half-way")
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "always-die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "spawn-sleep":
        subprocess.Popen(["sleep", "300"])
    if do in ("sleep", "spawn-sleep"):
        (context.folder / "pid").write_text(str(os.getpid()))
        time.sleep(300)
    return {"answer": 42, "resumed": context.checkpoint.exists()}


folder, events, life = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
lifeline.watch(life, lifeline.end_now)
sys.exit(child.main(folder, events, {"test": work}))
