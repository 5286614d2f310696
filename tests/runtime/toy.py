"""Toy roles for the supervisor's tests: real processes, no platform.

toy.py up HOME [STATE] | up-broken HOME | <role> HOME LIFELINE …

Files in the home turn what comes next: `slow` (seconds until a worker is ready), `bad-worker`
(a worker that dies before), `bad-check` (code that cannot start), `count` (of workers), `hung`
(seconds until a silent child hangs, and until a pause is one), `hurry` (seconds until workers are
told again to end), `streams` (a worker ends only when it is told again, and says so in `hurried`).
New images are executed by way of `env`, a link.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from meuse.runtime import children, crew, lifeline, takeover
from meuse.runtime.plan import Plan
from meuse.runtime.processes import LocalProcesses
from meuse.runtime.supervisor import Supervisor

THIS = [sys.executable, str(Path(__file__).absolute())]


def up(home: Path, broken: bool, memory: int | None) -> None:
    def role(name: str, *more: str) -> list[str]:
        return [*THIS, name, str(home), "{lifeline}", *more]

    roles = {
        "control": role("control", "{control}", "{build}"),
        "ledger": role("broken" if broken else "ledger"),
    }
    count = int((home / "count").read_text()) if (home / "count").exists() else 2
    home.mkdir(exist_ok=True)
    if (home / "hung").exists():
        children.HUNG_S, crew.PAUSED_S = map(float, (home / "hung").read_text().split())
    if (home / "hurry").exists():
        crew.HURRY_S = float((home / "hurry").read_text())
    if not (home / "env").exists():
        (home / "env").symlink_to("/usr/bin/env")
    plan = Plan(
        home=home, host="127.0.0.1", http_port=0, grpc_port=0, roles=roles,
        worker=role("worker", "{http}", "{ready}", "{slot}"), workers=count,
        again=[str(home / "env"), *THIS, "up", str(home), "{state}"], check=role("check"),
        version="1.0",
        run_file=home / "run.json", logs=home / "logs",
    )  # fmt: skip
    Supervisor(plan, lambda _: None, memory).run()


def control(home: Path, fd: int, build: str) -> None:
    changed = threading.Event()
    processes = LocalProcesses(fd, changed.set)
    if not processes.running():
        argv = [*THIS, "replica", str(home), "{lifeline}"]
        processes.start("replica-1", argv, {"model": "digits:1"})
    asked = labelled = False
    while True:
        changed.wait(0.1)
        changed.clear()
        write(home / "seen", json.dumps(processes.running()))
        write(home / "workers", json.dumps(processes.workers()))
        write(home / "build", build)
        if asked and "replica-2" not in processes.running():
            (home / "failed").touch()
        if (home / "label").exists() and not labelled:
            labelled = True
            processes.label("replica-1", {"model": "digits:2"})
        if (home / "ask").exists() and not asked:
            asked = True
            processes.start("replica-2", [(home / "ask").read_text()], {})


def write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def worker(home: Path, fd: int, ready: int, slot: str) -> None:
    """Answers its slot. SIGTERM: no more connections, a moment for the open one, the end."""
    if (home / "bad-worker").exists():
        sys.exit(7)
    if (home / "slow").exists():
        time.sleep(float((home / "slow").read_text()))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with socket.socket(fileno=fd) as listener:
        listener.setblocking(False)  # shared with the others: another may be first
        os.set_blocking(ready, False)
        beat_at = 0.0
        while not stopping.is_set():
            if time.monotonic() >= beat_at:
                lifeline.beat(ready)
                beat_at = time.monotonic() + lifeline.BEAT_S
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                time.sleep(0.005)
                continue
            connection.sendall(f"hello from {slot}\n".encode())
            connection.close()
    if (home / "streams").exists():
        hurried = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: hurried.set())
        hurried.wait(60)
        (home / "hurried").touch()


role, home = sys.argv[1], Path(sys.argv[2])
if role in ("up", "up-broken"):
    up(home, role == "up-broken", int(sys.argv[3]) if len(sys.argv) > 3 else None)
    sys.exit(0)
if role == "broken":
    sys.exit(7)
lifeline.watch(int(sys.argv[3]), lambda: os._exit(0))
if role == "control":
    control(home, int(sys.argv[4]), sys.argv[5])
elif role == "worker":
    worker(home, int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
elif role == "check":
    assert takeover.FORMAT
    if (home / "bad-check").exists():
        sys.exit("no module named digits")
else:
    time.sleep(300)
