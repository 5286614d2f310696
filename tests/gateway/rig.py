"""Real workers and replicas as processes, a real snapshot file, a small stand-in for control.

The stand-in only publishes snapshots: control's side of that protocol in thirty lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meuse
from meuse.access import keys
from meuse.core.nouns import Limit, PriceTable
from meuse.meter import segments
from meuse.meter.record import UsageRecord
from meuse.serve import engines, snapshot, stats
from meuse.serve.page import PageReader
from meuse.serve.snapshot import (
    DeploymentEntry,
    KeyEntry,
    ReplicaEntry,
    Snapshot,
    TargetEntry,
    TenantEntry,
    TensorEntry,
)
from meuse.serve.stats import RouteStats

TESTS = Path(__file__).resolve().parent.parent
PEPPER = b"pepper" * 6


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Wait for a condition; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return value


def target(version: str, model: bytes, replicas: list[str], **more: Any) -> TargetEntry:
    """A target with the signature that the engine reads from the model."""
    signature = engines.load("onnx", model).signature

    def entries(specs: Any) -> tuple[TensorEntry, ...]:
        return tuple(TensorEntry(s.name, s.datatype, s.shape) for s in specs)

    return TargetEntry(
        version=version,
        weight=more.pop("weight", 100),
        inputs=entries(signature.inputs),
        outputs=entries(signature.outputs),
        replicas=tuple(ReplicaEntry(replica) for replica in replicas),
        **more,
    )


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(path: Path) -> bool:
    """A socket is there before it listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class Rig:
    """A folder with sockets, a snapshot and a journal, and the processes that use them."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mz-"))
        self.sockets = self.home / "s"
        self.sockets.mkdir(mode=0o700)
        self.journal = self.home / "journal"
        self.limits_file = self.home / "limits" / "cells"
        self.snapshot_file = self.home / "snapshot" / "current.msgpack"
        self.life_read, self.life_write = os.pipe()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.workers: list[Worker] = []
        self.state = Snapshot(tenants={"acme": TenantEntry("basic:3"), "blue": TenantEntry()})
        self.control: Control | None = None

    # what control would know

    def key(self, tenant: str = "acme", scopes: tuple[str, ...] = ("infer",), **more: Any) -> str:
        """A new key in the next snapshot."""
        key_id, key = keys.mint()
        entry = KeyEntry(keys.digest(PEPPER, key), tenant, "default", frozenset(scopes), **more)
        self.state = _with(self.state, keys=self.state.keys | {key_id: entry})
        return key

    def deploy(self, name: str, *targets: TargetEntry, **more: Any) -> None:
        """A deployment "tenant/name" in the next snapshot."""
        tenant, bare = name.split("/")
        entry = DeploymentEntry(
            tenant=tenant,
            project="default",
            name=bare,
            generation=more.get("generation", 1),
            access=frozenset(more.get("access", ())),
            timeout_ms=more.get("timeout_ms", 10_000),
            targets=targets,
            sticky=more.get("sticky"),
            shadow=more.get("shadow"),
            cache=more.get("cache"),
        )
        self.state = _with(self.state, deployments=self.state.deployments | {name: entry})

    def limit(self, *limits: Limit) -> None:
        """The limits of the next snapshot."""
        self.state = _with(self.state, limits=limits)

    def price(self, plan: str, table: PriceTable) -> None:
        """What a plan version says, in the next snapshot."""
        self.state = _with(self.state, prices=self.state.prices | {plan: table})

    def publish(self) -> int:
        """Write the next snapshot; when the stand-in for control runs, wait for every ack."""
        self.state = _with(self.state, number=self.state.number + 1)
        snapshot.write(self.snapshot_file, self.state)
        if self.control is not None:
            self.control.publish(self.state.number)
        return self.state.number

    def listen(self) -> Control:
        """Start the stand-in for control and wait for the workers to connect."""
        alive = [p for p in self.processes if "run_worker" in str(p.args) and p.poll() is None]
        self.control = control = Control(self.sockets)
        until(lambda: len(control.workers) == len(alive))
        return control

    # processes

    def replica(self, replica: str, version: str, model: bytes, **more: Any) -> Any:
        """Start a replica and wait until it listens."""
        file = self.home / f"{replica}.onnx"
        file.write_bytes(model)
        ready = more.pop("wait", True)
        given = {
            "id": replica,
            "version": version,
            "model": str(file),
            "socket": str(self.sockets / f"{replica}.sock"),
            "page": str(self.sockets / f"{replica}.page"),
            **more,
        }
        process = self._start(TESTS / "serve" / "run_replica.py", given, [])
        if ready:
            until(lambda: _listens(self.sockets / f"{replica}.sock"), 60)
        return process

    def worker(self, send_buffer: int = 0, **more: Any) -> Worker:
        """Start a worker and wait until it is ready. `send_buffer`: bytes that the kernel takes
        of each connection before its client does; 0: as many as it likes."""
        http = socket.create_server(("127.0.0.1", 0), backlog=512)
        if send_buffer:  # connections inherit it
            http.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        grpc = socket.socket()
        grpc.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        grpc.bind(("127.0.0.1", 0))  # held, not listening: the port stays ours
        given = {
            "slot": 0,
            "epoch": time.time_ns() // 1_000_000,
            "host": "rig",
            "http_fd": http.fileno(),
            "grpc_address": f"127.0.0.1:{grpc.getsockname()[1]}",
            "sockets": str(self.sockets),
            "snapshot": str(self.snapshot_file),
            "journal": str(self.journal),
            "limits": str(self.limits_file),
            "pepper": PEPPER.hex(),
            "max_body_bytes": 1024 * 1024,
            "max_upload_bytes": 2 * 1024 * 1024,
            "max_model_bytes": 4 * 1024 * 1024,
            "lifeline_fd": self.life_read,
            **more,
        }
        fds = [self.life_read, http.fileno(), *filter(None, [more.get("ready_fd")])]
        process = self._start(TESTS / "gateway" / "run_worker.py", given, fds)
        worker = Worker(process, http, grpc)
        self.workers.append(worker)
        until(lambda: worker.status("/health/live") == 200, 60)
        return worker

    def _start(self, script: Path, given: dict[str, Any], fds: list[int]) -> Any:
        source = Path(meuse.__file__).parent.parent
        process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(given)],
            env={**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{TESTS}"},
            pass_fds=fds,
            cwd=self.home,
        )
        self.processes.append(process)
        return process

    def started(self, replica: str) -> frozenset[bytes]:
        """What a replica has begun to execute last."""
        page = PageReader(self.sockets / f"{replica}.page")
        try:
            return page.started()
        finally:
            page.close()

    def counted(self, name: str) -> RouteStats:
        """What workers have counted of a deployment, as of their last writing."""
        for worker in stats.read_all(self.sockets):
            if name in worker.routes:
                return worker.routes[name]
        return RouteStats()

    def records(self) -> list[UsageRecord]:
        """Everything in the journal, in the order of writing."""
        found = []
        for path in segments.list_segments(self.journal):
            batch = segments.read(path, 0, 1 << 26)
            assert batch.state is segments.State.END
            found += [record for record, _ in batch.records]
        once = Counter((r.id, r.seq) for r in found if r.tier != "batch")
        assert max(once.values(), default=1) == 1
        return found

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for worker in self.workers:
            worker.close()
        if self.control is not None:
            self.control.close()
        os.close(self.life_read)
        with contextlib.suppress(OSError):
            os.close(self.life_write)
        shutil.rmtree(self.home)


class Worker:
    """A running worker and its two ports."""

    def __init__(self, process: Any, http: socket.socket, grpc: socket.socket) -> None:
        self.process = process
        self.port = http.getsockname()[1]
        self.grpc = f"127.0.0.1:{grpc.getsockname()[1]}"
        self._grpc = grpc
        http.close()  # the worker has it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str) -> int:
        """Of a GET by a fresh connection; 0 when nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.settimeout(5)
                connection.sendall(
                    f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
                )
                return int(connection.recv(64).split(b" ")[1])
        except (OSError, IndexError):
            return 0

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self, seconds: float = 15) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return int(self.process.wait(seconds))

    def close(self) -> None:
        """Let go of the gRPC port."""
        self._grpc.close()


class Control:
    """Control's side of `publish.sock`: hello lines in, numbers out, acknowledgements in."""

    def __init__(self, sockets: Path) -> None:
        self._path = sockets / "publish.sock"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self._path))
        self._server.listen()
        self.workers: list[Any] = []
        self.hellos: list[dict[str, int]] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            connection.settimeout(10)
            stream = connection.makefile("rwb")
            connection.close()
            hello = json.loads(stream.readline())
            self.workers.append(stream)
            self.hellos.append(hello)

    def publish(self, number: int) -> None:
        for stream in self.workers:
            stream.write(json.dumps({"snapshot": number}).encode() + b"\n")
            stream.flush()
        for stream in self.workers:
            while "wake" in (said := json.loads(stream.readline())):
                pass  # a request waits where nothing runs
            assert said == {"ack": number}

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for stream in self.workers:
            with contextlib.suppress(OSError):
                stream.close()
        self._path.unlink()


def _with(state: Snapshot, **changes: Any) -> Snapshot:
    fields = {name: getattr(state, name) for name in state.__struct_fields__}
    return Snapshot(**{**fields, **changes})
