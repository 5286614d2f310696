"""runtime.supervisor and runtime.processes, with real processes"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class Platform:
    """A supervisor over toy children (see toy.py)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process = subprocess.Popen([sys.executable, str(HERE / "toy.py"), "up", str(home)])
        self.until(lambda: self.described().get("pid") == self.process.pid)

    def described(self) -> dict:
        try:
            return json.loads((self.home / "run.json").read_text())
        except (FileNotFoundError, ValueError):
            return {"processes": {}}

    def pid(self, name: str) -> int:
        return self.described()["processes"].get(name, {}).get("pid", 0)

    def kill(self, name: str) -> int:
        """SIGKILL; the pid that it had."""
        pid = self.pid(name)
        assert pid > 0, self.described()  # 0 would be all of us
        os.kill(pid, signal.SIGKILL)
        return pid

    def pids(self) -> dict[str, int]:
        return {name: child["pid"] for name, child in self.described()["processes"].items()}

    def hello(self) -> bytes:
        """What a worker says to a connection: its slot."""
        what = self.described()
        with socket.create_connection((what["host"], what["http_port"]), timeout=10) as connection:
            return connection.makefile("rb").readline()

    def until(self, condition: Callable[[], object], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.described()
            time.sleep(0.02)

    def alive(self) -> list[int]:
        """Processes whose command line names this home."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    if str(self.home).encode() in (path / "cmdline").read_bytes():
                        found.append(int(path.name))
                except (FileNotFoundError, ProcessLookupError):
                    continue
        return found


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    made = Platform(tmp_path / "home")
    yield made
    if made.process.poll() is None:
        made.process.terminate()
    made.process.wait(20)


@pytest.mark.parametrize("name", ["control", "ledger", "worker-0"])
def test_a_killed_role_is_started_again(platform: Platform, name: str) -> None:
    """SIGKILL of any role brings up another one, with a new epoch."""
    before = platform.described()["processes"][name]
    os.kill(before["pid"], signal.SIGKILL)
    platform.until(lambda: platform.pid(name) not in (0, before["pid"]))
    assert platform.described()["processes"][name]["epoch"] > before["epoch"]


@contextmanager
def impatient(home: Path, hung: str) -> Iterator[Platform]:
    """A platform whose workers have all been heard; `hung`: see toy.py."""
    home.mkdir()
    (home / "hung").write_text(hung)
    made = Platform(home)
    try:
        made.until(lambda: made.pid("replica-1"))
        # Who has answered has sent its first beat before; who was never heard is not judged.
        answered: set[bytes] = set()
        made.until(lambda: answered.add(made.hello()) or len(answered) == 2)
        yield made
    finally:  # whatever stands still would be waited for
        for pid in made.alive():
            os.kill(pid, signal.SIGCONT)
        made.process.terminate()
        made.process.wait(30)


def test_a_stopped_worker_is_replaced(tmp_path: Path) -> None:
    """One that is not heard for long is killed and started again; who stops for a moment, and
    who promised no beats (control, ledger, replicas), is left alone."""
    with impatient(tmp_path / "home", "2 60") as platform:
        before = platform.pids()
        for name in before:
            os.kill(before[name], signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(before["worker-1"], signal.SIGCONT)
        platform.until(lambda: platform.pid("worker-0") not in (0, before["worker-0"]), 20)
        time.sleep(2.5)
        now = platform.pids()
        assert {n: p for n, p in now.items() if p != before[n]}.keys() == {"worker-0"}
        assert not Path(f"/proc/{before['worker-0']}").exists()


def test_who_was_stopped_itself_blames_nobody(tmp_path: Path) -> None:
    """The supervisor and its workers stood still together, as on a machine that slept."""
    with impatient(tmp_path / "home", "2 1.5") as platform:
        before = platform.pids()
        for pid in before.values():
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)  # whatever they have said is heard
        platform.process.send_signal(signal.SIGSTOP)
        time.sleep(3.5)
        platform.process.send_signal(signal.SIGCONT)
        time.sleep(0.3)  # it looks before they get to say anything
        for pid in before.values():
            os.kill(pid, signal.SIGCONT)
        time.sleep(2.5)
        assert platform.pids() == before


def test_a_connection_waits_while_no_worker_lives(platform: Platform) -> None:
    """The supervisor owns the listening socket: a queued connection survives a dead worker."""
    for name in ("worker-0", "worker-1"):
        platform.kill(name)
    assert platform.hello().startswith(b"hello")


def test_replicas_outlive_control_and_are_told_to_the_next(platform: Platform) -> None:
    """Control starts a replica over its pipe, dies, and its successor sees the replica."""
    platform.until(lambda: platform.pid("replica-1"))
    replica, control = platform.pid("replica-1"), platform.pid("control")
    seen = platform.home / "seen"
    platform.until(lambda: seen.exists() and "replica-1" in seen.read_text())
    seen.unlink()
    platform.kill("control")
    platform.until(lambda: platform.pid("control") not in (0, control))
    platform.until(lambda: seen.exists() and "replica-1" in seen.read_text())
    assert replica == platform.pid("replica-1")
    assert json.loads(seen.read_text())["replica-1"] == {"model": "digits:1"}


def test_a_new_label_outlives_control(platform: Platform) -> None:
    """A replica that is given another label has it at once, and still when control is another."""
    seen = platform.home / "seen"

    def labels() -> dict:
        return json.loads(seen.read_text()) if seen.exists() else {}

    platform.until(lambda: labels().get("replica-1") == {"model": "digits:1"})
    platform.until(lambda: platform.pid("replica-1"))
    pid = platform.pid("replica-1")
    (platform.home / "label").touch()
    platform.until(lambda: labels().get("replica-1") == {"model": "digits:2"})
    (platform.home / "label").unlink()
    seen.unlink()
    control = platform.pid("control")
    os.kill(control, signal.SIGKILL)
    platform.until(lambda: platform.pid("control") not in (0, control))
    platform.until(lambda: labels().get("replica-1") == {"model": "digits:2"})
    assert platform.pid("replica-1") == pid


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_orphan_is_left(platform: Platform, how: signal.Signals) -> None:
    """However the supervisor ends, every process of its home ends too."""
    platform.until(lambda: platform.pid("replica-1"))
    assert len(platform.alive()) >= 5
    platform.process.send_signal(how)
    platform.process.wait(20)
    platform.until(lambda: not platform.alive())
    if how is not signal.SIGKILL:
        assert platform.process.returncode == 0
        assert not (platform.home / "run.json").exists()


def test_workers_with_long_answers_are_told_again(tmp_path: Path) -> None:
    """At the platform's end they have a moment, then a second SIGTERM, and are not killed."""
    (tmp_path / "hurry").write_text("0.5")
    (tmp_path / "streams").touch()
    platform = Platform(tmp_path)
    platform.until(lambda: len(platform.pids()) >= 4)
    platform.hello()
    platform.process.terminate()
    assert platform.process.wait(30) == 0
    assert (tmp_path / "hurried").exists()
    assert platform.alive() == []


def test_one_supervisor_per_home(platform: Platform) -> None:
    """A second one refuses, changes nothing, and may start once the first is gone."""
    second = subprocess.run(
        [sys.executable, str(HERE / "toy.py"), "up", str(platform.home)],
        capture_output=True,
        check=False,
        timeout=20,
    )
    assert b"AlreadyRunningError" in second.stderr
    assert platform.process.poll() is None
    sockets = platform.described()["sockets"]
    platform.process.kill()
    platform.process.wait()
    third = Platform(platform.home)
    assert not Path(sockets).exists()  # what the killed one left is swept
    third.process.terminate()
    assert third.process.wait(20) == 0


def test_a_role_that_cannot_start_is_not_hammered(tmp_path: Path) -> None:
    """A role that dies at once is started again with growing pauses."""
    home = tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "toy.py"), "up-broken", str(home)], stderr=subprocess.PIPE
    )
    time.sleep(2.5)
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert 3 <= said.count(b"ledger ended (exit 7)") <= 5


def test_a_start_that_the_system_refuses_ends_nothing(platform: Platform) -> None:
    """A replica whose program is not there is told to control as failed; all else goes on."""
    platform.until(lambda: platform.pid("replica-1"))
    before = platform.pids()
    (platform.home / "ask").write_text("/no/such/program")
    platform.until((platform.home / "failed").exists)
    assert platform.pids() == before
    assert "replica-2" not in json.loads((platform.home / "seen").read_text())


def test_a_run_file_that_cannot_be_written_ends_nothing(platform: Platform) -> None:
    """With its run file in the way, the supervisor still replaces a dead role."""
    (platform.home / "run.new").mkdir()
    platform.kill("worker-0")
    assert platform.hello().startswith(b"hello")
    assert platform.process.poll() is None
