"""jobs.nursery, with a real nursery and real children (what they do: see test_process)"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meuse.jobs import process
from meuse.jobs.nursery import Nursery

WORK = str(Path(__file__).parent / "work.py")


class Ward:
    """A nursery, and jobs in it."""

    def __init__(self, folder: Path, idle_s: float = 60.0) -> None:
        self.folder = folder
        self.pids: list[int] = []
        self.nursery = Nursery(
            self._command,
            process.fresh(lambda *where: [sys.executable, WORK, *map(str, where)]),
            folder / "nursery.log",
            idle_s,
            os.environ,
        )
        self.argv = [sys.executable, WORK, "nursery"]

    def _command(self, link: int) -> list[str]:
        return [*self.argv, str(link)]

    def is_really(self, script: str) -> None:
        (self.folder / "stub.py").write_text(script)
        self.argv = [sys.executable, str(self.folder / "stub.py"), "nursery"]

    def job(self, name: str, do: str, stop: process.Stop | None = None, **spec: Any) -> Any:
        """Its outcome."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        document = {"job": name, "kind": "test", "spec": {"do": do, **spec}, "inputs": {}}
        (folder / "job.json").write_text(json.dumps(document))
        return process.run(folder, self.nursery.start, lambda *_: None, stop or process.Stop())

    def running(self) -> list[int]:
        """Nurseries that live: our own children, so that none can be a stranger's. Not by the lists
        of our threads' children: a child moves to another's when the thread that had it ends."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # one that has just ended
                status, words = (path / "status").read_text(), (path / "cmdline").read_bytes()
                if f"\nPPid:\t{os.getpid()}\n" in status and b"nursery" in words.split(b"\0")[2:3]:
                    found.append(int(path.name))
        return found


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = Ward(tmp_path)
    yield made
    made.nursery.close()
    until(lambda: not made.running())


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(work()))
    thread.start()
    return thread, outcomes


def pid_of(folder: Path) -> int:
    until(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    return int((folder / "pid").read_text())


def test_one_nursery_bears_all_jobs(ward: Ward) -> None:
    """Each child in a session of its own, forked from the same process."""
    stops = [process.Stop() for _ in range(3)]
    threads = [in_thread(lambda i=i: ward.job(f"job{i}", "sleep", stops[i]))[0] for i in range(3)]
    pids = [pid_of(ward.folder / f"job{i}") for i in range(3)]
    [nursery] = ward.running()
    for pid in pids:
        assert os.getsid(pid) == pid
        assert f"PPid:\t{nursery}\n" in Path(f"/proc/{pid}/status").read_text()
    stops[1].cancelled.set()
    threads[1].join(5)
    until(lambda: not Path(f"/proc/{pids[1]}").exists())
    assert all(Path(f"/proc/{pid}").exists() for pid in (pids[0], pids[2]))
    for stop, thread in zip(stops, threads, strict=True):
        stop.cancelled.set()
        thread.join(5)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_children_share_neither_descriptors_nor_random_numbers(ward: Ward) -> None:
    """A sibling's socket in a child would keep its end from being seen."""
    stop = process.Stop()
    thread, _ = in_thread(lambda: ward.job("other", "sleep", stop))
    pid_of(ward.folder / "other")
    seen = []
    for name in ("a", "b"):
        assert "result" in ward.job(name, "look")
        seen.append(json.loads((ward.folder / name / "seen").read_text()))
    stop.cancelled.set()
    thread.join(5)
    (first, descriptors), (second, same) = seen
    assert first != second
    # Standard streams, reports, lifeline, the folder's lock, and the look itself.
    assert len(descriptors) == len(same) == 7


def test_a_nursery_that_is_killed_takes_no_job_with_it(ward: Ward) -> None:
    """Who works goes on to the outcome; the next job has a new nursery."""
    thread, outcomes = in_thread(lambda: ward.job("long", "count", step_s=0.1))
    until((ward.folder / "long" / "begun").exists)
    [old] = ward.running()
    os.kill(old, signal.SIGKILL)
    assert ward.job("next", "return")["result"]["answer"] == 42
    assert old not in ward.running()
    thread.join(10)
    assert outcomes[0]["result"]["answer"] == 42
    assert (ward.folder / "long" / "begun").read_text() == "0\n"


def test_a_job_whose_nursery_is_killed_can_be_cancelled(ward: Ward) -> None:
    stop = process.Stop()
    thread, outcomes = in_thread(lambda: ward.job("long", "sleep", stop))
    pid = pid_of(ward.folder / "long")
    [nursery] = ward.running()
    os.kill(nursery, signal.SIGKILL)
    stop.cancelled.set()
    thread.join(5)
    assert outcomes == [{"cancelled": True}]
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_it_ends_when_no_job_has_come_for_a_while(tmp_path: Path) -> None:
    """And not while one runs; the next job starts another."""
    ward = Ward(tmp_path, idle_s=0.2)
    thread, _ = in_thread(lambda: ward.job("long", "count", step_s=0.1))
    until((tmp_path / "long" / "begun").exists)
    assert "result" in ward.job("short", "return")
    [nursery] = ward.running()
    thread.join(10)
    until(lambda: not ward.running())
    assert "result" in ward.job("later", "return")
    assert nursery not in ward.running()
    until(lambda: not ward.running())
    assert (tmp_path / "nursery.log").read_text() == ""


def test_a_job_needs_no_nursery(ward: Ward, caplog: pytest.LogCaptureFixture) -> None:
    """One that cannot be started is told of, and the job has a process of its own."""
    ward.argv = [str(ward.folder / "no-such-program")]
    with caplog.at_level(logging.WARNING):
        assert ward.job("alone", "return")["result"]["answer"] == 42
    assert "no-such-program" in caplog.text


def test_a_nursery_that_breaks_is_left(ward: Ward) -> None:
    """A job that was never born is started again: the last try is not the nursery's."""
    ward.is_really("raise SystemExit(3)")
    assert ward.job("alone", "return")["result"]["answer"] == 42


def test_a_cancel_does_not_wait_for_the_birth(ward: Ward) -> None:
    """Nor for the nursery's imports."""
    ward.is_really("import select; select.select([], [], [], 60)")
    stop = process.Stop()
    thread, outcomes = in_thread(lambda: ward.job("early", "return", stop))
    until(ward.running)
    stop.cancelled.set()
    thread.join(5)
    assert outcomes == [{"cancelled": True}]
    for pid in ward.running():
        os.kill(pid, signal.SIGKILL)  # this one does not look at its link
