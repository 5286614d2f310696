"""Toy roles for the supervisor's tests: real processes, no platform.

toy.py up HOME | up-broken HOME | <role> HOME LIFELINE [FD]
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from meuse.runtime import lifeline
from meuse.runtime.processes import LocalProcesses
from meuse.runtime.supervisor import Plan, Supervisor

THIS = [sys.executable, str(Path(__file__).absolute())]


def up(home: Path, broken: bool) -> None:
    def role(name: str, *more: str) -> list[str]:
        return [*THIS, name, str(home), "{lifeline}", *more]

    roles = {
        "control": role("control", "{control}"),
        "ledger": role("broken" if broken else "ledger"),
        "worker-0": role("worker", "{http}"),
    }
    plan = Plan(
        home=home, host="127.0.0.1", http_port=0, grpc_port=0, roles=roles,
        run_file=home / "run.json", logs=home / "logs",
    )  # fmt: skip
    Supervisor(plan, lambda _: None).run()


def control(home: Path, fd: int) -> None:
    changed = threading.Event()
    processes = LocalProcesses(fd, changed.set)
    if not processes.running():
        argv = [*THIS, "replica", str(home), "{lifeline}"]
        processes.start("replica-1", argv, {"model": "digits:1"})
    asked = labelled = False
    while True:
        changed.wait(0.1)
        changed.clear()
        fresh = home / "seen.new"
        fresh.write_text(json.dumps(processes.running()))
        fresh.replace(home / "seen")
        if asked and "replica-2" not in processes.running():
            (home / "failed").touch()
        if (home / "label").exists() and not labelled:
            labelled = True
            processes.label("replica-1", {"model": "digits:2"})
        if (home / "ask").exists() and not asked:
            asked = True
            processes.start("replica-2", [(home / "ask").read_text()], {})


def worker(fd: int) -> None:
    with socket.socket(fileno=fd) as listener:
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"hello\n")
            connection.close()


role, home = sys.argv[1], Path(sys.argv[2])
if role in ("up", "up-broken"):
    up(home, role == "up-broken")
    sys.exit(0)
if role == "broken":
    sys.exit(7)
lifeline.watch(int(sys.argv[3]), lambda: os._exit(0))
if role == "control":
    control(home, int(sys.argv[4]))
elif role == "worker":
    worker(int(sys.argv[4]))
else:
    time.sleep(300)
