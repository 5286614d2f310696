"""deploy.publisher, over a real unix socket"""

import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meuse.deploy.publisher import Publisher
from meuse.serve import snapshot
from meuse.serve.snapshot import KeyEntry, Snapshot, TenantEntry


class Worker:
    """What a gateway worker says; `deaf` never acknowledges."""

    def __init__(self, address: Path, epoch: int, loaded: int = 0, deaf: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(address))
        self.told: list[int] = []
        self.say({"slot": 0, "epoch": epoch, "pid": 1, "loaded": loaded})
        self.thread = threading.Thread(target=self.listen, args=(deaf,), daemon=True)
        self.thread.start()

    def say(self, message: dict) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def listen(self, deaf: bool) -> None:
        with self.socket.makefile("rb") as lines:
            for line in lines:
                number = json.loads(line)["snapshot"]
                self.told.append(number)
                if not deaf:
                    self.say({"ack": number})

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)
        self.socket.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="meuse-") as name:
        yield Path(name)


def with_tenant(name: str) -> Snapshot:
    return Snapshot(tenants={name: TenantEntry("basic:1")})


def test_published_means_every_live_worker_has_it(folder: Path) -> None:
    """publish is True once all have acknowledged; the file holds what they were told."""
    live = {"worker-0": 1, "worker-1": 2}
    publisher = Publisher(folder / "s.msgpack", folder / "p.sock", lambda: live)
    workers = [Worker(folder / "p.sock", epoch) for epoch in live.values()]
    assert publisher.publish(lambda: with_tenant("acme"))
    assert [worker.told for worker in workers] == [[1], [1]]
    assert with_tenant("acme").tenants == snapshot.read(folder / "s.msgpack").tenants
    for worker in workers:
        worker.close()


def test_a_worker_that_does_not_answer_makes_it_unpublished(folder: Path) -> None:
    """After a second without an acknowledgement the answer is False; the file stands."""
    publisher = Publisher(folder / "s.msgpack", folder / "p.sock", lambda: {"worker-0": 1})
    worker = Worker(folder / "p.sock", 1, deaf=True)
    began = time.monotonic()
    assert not publisher.publish(lambda: with_tenant("acme"))
    assert 0.9 < time.monotonic() - began < 3
    assert snapshot.read(folder / "s.msgpack").number == 1
    worker.close()


def test_a_dead_worker_is_not_waited_for(folder: Path) -> None:
    """Who lives is the supervisor's word: a worker that died does not hold up a write."""
    live = {"worker-0": 1}
    publisher = Publisher(folder / "s.msgpack", folder / "p.sock", lambda: live)
    Worker(folder / "p.sock", 1).close()
    live.clear()
    assert publisher.publish(lambda: with_tenant("acme"))


def test_the_same_content_is_not_published_again(folder: Path) -> None:
    """Numbers rise only when something changed, across a restart too."""
    path = folder / "s.msgpack"
    publisher = Publisher(path, folder / "p.sock", dict)
    publisher.publish(lambda: with_tenant("acme"))
    publisher.publish(lambda: with_tenant("acme"))
    assert publisher.current.number == 1
    again = Publisher(path, folder / "p2.sock", dict)
    again.publish(lambda: with_tenant("other"))
    assert again.current.number == 2


def test_a_worker_that_comes_late_is_told(folder: Path) -> None:
    """A worker that connects with an old snapshot is told the current number at once."""
    publisher = Publisher(folder / "s.msgpack", folder / "p.sock", dict)
    publisher.publish(lambda: with_tenant("acme"))
    worker = Worker(folder / "p.sock", 9, loaded=0)
    deadline = time.monotonic() + 5
    while not worker.told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.told == [1]
    worker.close()


def test_a_snapshot_file_is_private_and_whole(tmp_path: Path) -> None:
    """Key hashes stand in it: only the owner reads it, and no half-written file is left."""
    key = KeyEntry(b"h" * 32, "acme", "default", frozenset({"infer"}))
    snapshot.write(tmp_path / "x" / "s", Snapshot(number=3, keys={"k": key}))
    assert (tmp_path / "x" / "s").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["s"]
    assert key == snapshot.read(tmp_path / "x" / "s").keys["k"]
    assert snapshot.read(tmp_path / "none").number == 0
