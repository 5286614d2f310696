"""runtime.rolling and runtime.takeover under a real supervisor, with toy children (toy.py)"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meuse.runtime import children
from runtime.test_supervisor import Platform

WORKERS = {"worker-0", "worker-1"}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path / "home")
    made.until(lambda: made.pid("replica-1") and all_ready(made))
    yield made
    if made.process.poll() is None:
        made.process.terminate()
    made.process.wait(30)


def all_ready(platform: Platform) -> bool:
    return all(child["ready"] for child in platform.described()["processes"].values())


class Callers:
    """Connections one after the other, from three threads; each must be greeted."""

    def __init__(self, platform: Platform) -> None:
        what = platform.described()
        self.address = what["host"], what["http_port"]
        self.said: list[bytes] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(3)]

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(self.address, timeout=20) as connection:
                    self.said.append(connection.makefile("rb").readline())
            except OSError as error:
                self.said.append(repr(error).encode())

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def slots(self) -> set[bytes]:
        assert {line[:11] for line in self.said} == {b"hello from "}, set(self.said)
        return {line.split()[-1] for line in self.said}


def restarted(platform: Platform, number: int, how: signal.Signals) -> dict[str, Any]:
    """Send the signal and wait; what run.json says of this restart."""
    platform.process.send_signal(how)

    def ended() -> bool:
        work = platform.described().get("restart", {})
        return work.get("number") == number and work["state"] != "running"

    platform.until(ended, 60.0)
    return dict(platform.described()["restart"])


def test_workers_are_replaced_one_by_one(platform: Platform) -> None:
    """SIGHUP: new workers on free slots, no connection lost, never fewer than there were."""
    before = platform.described()["processes"]
    with Callers(platform) as callers:
        work = restarted(platform, 1, signal.SIGHUP)
    assert (work["state"], work["what"], work["error"]) == ("done", "workers", None)
    after = platform.described()["processes"]
    # 2 replaces 0, whose slot is then free for the one that replaces 1.
    assert {name for name in after if name.startswith("worker-")} == {"worker-0", "worker-2"}
    assert not {after[n]["pid"] for n in ("worker-0", "worker-2")} & {
        before[n]["pid"] for n in WORKERS
    }
    assert {n: after[n] for n in ("control", "ledger", "replica-1")} == {
        n: before[n] for n in ("control", "ledger", "replica-1")
    }
    assert callers.slots == {b"0", b"1", b"2"}
    epochs = {name: after[name]["epoch"] for name in ("worker-0", "worker-2")}
    platform.until(lambda: json.loads((platform.home / "workers").read_text()) == epochs)


def test_a_successor_counts_from_its_first_moment(platform: Platform) -> None:
    """While it starts, control sees it beside those it may replace, under a slot of its own."""
    (platform.home / "slow").write_text("3")
    platform.process.send_signal(signal.SIGHUP)
    seen = platform.home / "workers"
    platform.until(lambda: json.loads(seen.read_text()).keys() == {*WORKERS, "worker-2"})
    platform.until(lambda: platform.described()["restart"]["step"] == "worker-2 starts")
    (platform.home / "slow").unlink()


def test_a_successor_that_dies_changes_nothing(platform: Platform) -> None:
    """The old workers stay, the failed one is not tried again, and the next restart works."""
    before = platform.described()["processes"]
    (platform.home / "bad-worker").touch()
    work = restarted(platform, 1, signal.SIGHUP)
    assert work["state"] == "failed"
    assert "worker-2 ended (exit 7) before it was ready" in work["error"]
    assert platform.described()["processes"] == before
    (platform.home / "bad-worker").unlink()
    assert restarted(platform, 2, signal.SIGHUP)["state"] == "done"


def test_a_worker_that_dies_in_the_middle_is_replaced_all_the_same(platform: Platform) -> None:
    """An old worker killed while its successor starts: two workers in the end, both new."""
    old = {platform.pid(name) for name in WORKERS}
    (platform.home / "slow").write_text("1")
    platform.process.send_signal(signal.SIGHUP)
    platform.until(lambda: platform.pid("worker-2"))
    platform.kill("worker-0")
    platform.until(lambda: platform.described()["restart"]["state"] == "done", 30.0)
    after = platform.described()["processes"]
    fresh = {child["pid"] for name, child in after.items() if name.startswith("worker-")}
    assert len(fresh) == 2
    assert not fresh & old


def test_the_supervisor_becomes_new_code(platform: Platform) -> None:
    """SIGUSR2: same pid, same sockets, no connection lost; replicas stay, all else is new."""
    before = platform.described()
    with Callers(platform) as callers:
        work = restarted(platform, 1, signal.SIGUSR2)
    assert (work["state"], work["what"], work["error"]) == ("done", "platform", None)
    after = platform.described()
    for same in ("pid", "http_port", "grpc_port", "sockets"):
        assert after[same] == before[same]
    assert after["build"] != before["build"]
    olds, news = before["processes"], after["processes"]
    assert news["replica-1"] == olds["replica-1"]
    assert news["replica-1"]["label"] == {"model": "digits:1"}
    for name in ("control", "ledger"):
        assert news[name]["pid"] != olds[name]["pid"]
    assert {name for name in news if name.startswith("worker-")} == {"worker-0", "worker-2"}
    assert callers.slots == {b"0", b"1", b"2"}
    # The new control hears of what its predecessors started, and of the new build.
    platform.until(lambda: (platform.home / "build").read_text() == after["build"])
    assert json.loads((platform.home / "seen").read_text())["replica-1"] == {"model": "digits:1"}


def test_new_settings_change_the_number_of_workers(platform: Platform) -> None:
    """The new image starts as many successors as it is told, and the old ones all end."""
    for number, count in ((1, 3), (2, 1)):
        before = set(platform.pids().values())
        (platform.home / "count").write_text(str(count))
        assert restarted(platform, number, signal.SIGUSR2)["state"] == "done"
        workers = {pid for name, pid in platform.pids().items() if name.startswith("worker-")}
        assert len(workers) == count
        assert not workers & before


def test_an_adopted_child_is_reaped_and_started_again(platform: Platform) -> None:
    """After a takeover the death of an older child is seen like any other, twice over."""
    replica = platform.pid("replica-1")
    for number in (1, 2):
        assert restarted(platform, number, signal.SIGUSR2)["state"] == "done"
    assert platform.kill("replica-1") == replica
    platform.until(lambda: platform.pid("replica-1") != replica)
    assert not Path(f"/proc/{replica}").exists()  # no zombie
    worker = platform.kill("worker-0")
    platform.until(lambda: platform.pid("worker-0") not in (0, worker))


def test_code_that_cannot_start_is_refused(platform: Platform) -> None:
    """The check fails: nothing is touched, and run.json says why."""
    before = platform.described()
    (platform.home / "bad-check").touch()
    work = restarted(platform, 1, signal.SIGUSR2)
    assert work["state"] == "failed"
    assert work["error"] == "the new code cannot start: no module named digits"
    after = platform.described()
    assert after["processes"] == before["processes"]
    assert after["build"] == before["build"]


def test_an_execution_that_fails_leaves_all_as_it_was(platform: Platform) -> None:
    """The old image goes on: it keeps its children, hears signals and leaks no descriptor."""
    before = platform.described()
    env = (platform.home / "env").readlink()
    (platform.home / "env").unlink()
    work = restarted(platform, 1, signal.SIGUSR2)
    assert work["state"] == "failed"
    assert "the new code cannot be executed" in work["error"]
    assert platform.described()["processes"] == before["processes"]
    (platform.home / "env").symlink_to(env)
    assert restarted(platform, 2, signal.SIGHUP)["state"] == "done"
    open_ = Path(f"/proc/{platform.pid('worker-2')}/fd")
    assert not any("supervisor.lock" in os.readlink(entry) for entry in open_.iterdir())
    assert restarted(platform, 3, signal.SIGUSR2)["state"] == "done"


def test_a_second_restart_waits_for_nobody(platform: Platform) -> None:
    """A signal in the middle of a restart is ignored; the restart ends as it would have."""
    (platform.home / "slow").write_text("0.5")
    platform.process.send_signal(signal.SIGHUP)
    platform.until(lambda: platform.described().get("restart", {}).get("state") == "running")
    platform.process.send_signal(signal.SIGHUP)
    platform.until(lambda: platform.described()["restart"]["state"] == "done", 30.0)
    assert platform.described()["restart"]["number"] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_orphan_is_left_after_a_takeover(platform: Platform, how: signal.Signals) -> None:
    """The lifelines pass on: however the new image ends, adopted and new children end too."""
    replica = platform.pid("replica-1")
    assert restarted(platform, 1, signal.SIGUSR2)["state"] == "done"
    assert replica in platform.alive()
    platform.process.send_signal(how)
    platform.process.wait(30)
    platform.until(lambda: not platform.alive())
    if how is signal.SIGTERM:
        assert platform.process.returncode == 0
        assert not (platform.home / "run.json").exists()


def test_the_end_in_the_middle_of_a_restart(platform: Platform) -> None:
    """SIGTERM while a successor starts: both generations end, nothing is left."""
    (platform.home / "slow").write_text("30")
    platform.process.send_signal(signal.SIGUSR2)
    platform.until(lambda: platform.pid("worker-2"), 30.0)
    platform.process.terminate()
    assert platform.process.wait(30) == 0
    platform.until(lambda: not platform.alive())


def test_descriptors_do_not_leak_into_children(platform: Platform) -> None:
    """A child started after a takeover holds no lifeline, no lock and no pipe of another."""
    assert restarted(platform, 1, signal.SIGUSR2)["state"] == "done"
    open_ = Path(f"/proc/{platform.pid('ledger')}/fd")
    held = {os.readlink(entry) for entry in open_.iterdir()}
    assert sum(link.startswith("pipe:") for link in held) == 1  # the lifeline
    assert not any("supervisor.lock" in link or "socket:" in link for link in held), held


def test_an_adopted_child_is_known_by_its_pid() -> None:
    """`Adopted` sends no signal to a process that was waited for, and tells its status once."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {})
    adopted = children.Adopted(pid)
    assert adopted.wait(10) == 3
    adopted.kill()
    assert children.Adopted(pid).poll() == 0  # not ours any more: gone is all that is known
