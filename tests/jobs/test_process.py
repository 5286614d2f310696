"""jobs.process and jobs.child, with real children"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meuse.jobs import process
from meuse.jobs.nursery import Nursery

WORK = str(Path(__file__).parent / "work.py")


FRESH = process.fresh(lambda *where: [sys.executable, WORK, *map(str, where)])
start = FRESH
"""How `run` starts a child: `_either_way` says it for each test."""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """One that stays; what does not come out of it is an error."""

    def never(*_: object) -> process.Running:
        raise AssertionError("the nursery was not used")

    output = tmp_path_factory.mktemp("nursery") / "nursery.log"
    made = Nursery(
        lambda link: [sys.executable, WORK, "nursery", str(link)],
        never,
        output,
        60.0,
        {**process.CALM, **os.environ},
    )
    yield made
    made.close()
    assert not output.exists() or output.read_text() == ""


@pytest.fixture(autouse=True, params=["fresh", "forked"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "forked":
        monkeypatch.setitem(globals(), "start", request.getfixturevalue("nursery").start)


def run(folder: Path, do: str, stop: process.Stop | None = None, **spec: object):
    document = {"job": "job-1", "kind": "test", "spec": {"do": do, **spec}, "inputs": {}}
    (folder / "job.json").write_text(json.dumps(document))
    reports: list[tuple[str, dict]] = []
    outcome = process.run(
        folder,
        start,
        lambda kind, data: reports.append((kind, data)),
        stop or process.Stop(),
    )
    return outcome, reports


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_reports_arrive_in_order_and_the_result_last(tmp_path: Path) -> None:
    """Log, progress and metrics are streamed; the outcome is the work's result."""
    outcome, reports = run(tmp_path, "return")
    assert outcome == {"result": {"answer": 42, "resumed": False}}
    assert [kind for kind, _ in reports] == ["log", "progress", "metrics"]
    assert reports[2][1] == {"figures": {"loss": 0.25}, "epoch": 1}


def test_a_refusal_keeps_code_and_field(tmp_path: Path) -> None:
    """An error that the work raises reaches the parent as it was."""
    outcome, _ = run(tmp_path, "refuse")
    assert (outcome["error"]["code"], outcome["error"]["field"]) == ("invalid_field", "spec.do")


def test_an_unexpected_error_is_internal_and_logged(tmp_path: Path) -> None:
    """A bug in the work fails the job; the traceback stands in the job's log."""
    outcome, _ = run(tmp_path, "crash")
    assert outcome["error"]["code"] == "internal"
    assert "RuntimeError: boom" in (tmp_path / "log.txt").read_text()


def test_a_killed_child_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """SIGKILL is survived: the next child finds the checkpoint, and the log says so."""
    outcome, reports = run(tmp_path, "die-once")
    assert outcome == {"result": {"answer": 42, "resumed": True}}
    assert any("signal 9" in data.get("message", "") for _, data in reports)


def test_threads_of_a_child_do_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take the cores from who serves; nor does a library tell its makers who works
    here; unless the operator says otherwise."""
    monkeypatch.setitem(globals(), "start", FRESH)  # a nursery's is what it was started with
    for name in process.CALM:
        monkeypatch.delenv(name, raising=False)
    _, reports = run(tmp_path, "environment")
    assert reports[-1][1]["message"] == "PASSIVE 1"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    _, reports = run(tmp_path, "environment")
    assert reports[-1][1]["message"] == "ACTIVE 1"


def test_a_child_that_always_dies_fails_the_job(tmp_path: Path) -> None:
    """After a few deaths the job fails with the signal named."""
    outcome, _ = run(tmp_path, "always-die")
    assert "signal 9" in outcome["error"]["message"]


def test_cancel_ends_the_child_and_what_it_started(tmp_path: Path) -> None:
    """Within two seconds of a cancel neither the child nor its own child runs."""
    stop = process.Stop()
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run(tmp_path, "spawn-sleep", stop)[0]))
    thread.start()
    until((tmp_path / "pid").exists)
    until(lambda: (tmp_path / "pid").read_text() != "")
    pid = int((tmp_path / "pid").read_text())
    group = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and in_group(p, pid)]
    assert len(group) >= 2
    began = time.monotonic()
    stop.cancelled.set()
    thread.join(5)
    until(lambda: all(gone(member) for member in group), 2)
    assert time.monotonic() - began < 2
    assert outcomes == [{"cancelled": True}]


def in_group(path: Path, group: int) -> bool:
    try:
        return os.getpgid(int(path.name)) == group
    except ProcessLookupError:
        return False


def test_a_pause_lets_the_work_keep_its_checkpoint(tmp_path: Path) -> None:
    """Work that asks stops at its next safe point; another run goes on from there to the end."""
    stop = process.Stop()
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run(tmp_path, "count", stop)[0]))
    thread.start()
    until((tmp_path / "checkpoint.safetensors").exists)
    stop.paused.set()
    thread.join(5)
    assert outcomes == [{"paused": {}}]
    reached = int((tmp_path / "checkpoint.safetensors").read_text())
    assert 1 <= reached < 10
    outcome, reports = run(tmp_path, "count")
    assert outcome["result"]["resumed"]
    assert (tmp_path / "begun").read_text().split() == ["0", str(reached)]
    pace = [data for kind, data in reports if kind == "progress" and "note" in data]
    assert pace[-1] == {"fraction": 1.0, "rate": 20.0, "unit": "steps", "note": "step 10"}


def test_work_that_never_asks_is_paused_by_its_end(tmp_path: Path) -> None:
    """After the grace period the child is ended, and its last checkpoint stands."""
    stop = process.Stop(pause_grace_s=0.2)
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(run(tmp_path, "count", stop, asks=False, step_s=0.5)[0])
    )
    thread.start()
    until((tmp_path / "checkpoint.safetensors").exists)
    stop.paused.set()
    thread.join(5)
    assert outcomes == [{"paused": {}}]
    assert 1 <= int((tmp_path / "checkpoint.safetensors").read_text()) < 10


@pytest.mark.parametrize("do", ["exhaust", "abort"])
def test_out_of_memory_fails_once_and_says_so(tmp_path: Path, do: str) -> None:
    """Memory that is refused, or an abort for want of it, is the job's error: no second try."""
    outcome, reports = run(tmp_path, do)
    error = outcome["error"]
    assert (error["code"], error["field"]) == ("too_large", "memory")
    assert "out of memory" in error["message"]
    assert "job_memory_bytes" in error["hint"]
    assert [data["message"] for kind, data in reports if kind == "log"] == [f"doing {do}"]


def test_what_is_logged_stands_in_the_log_too(tmp_path: Path) -> None:
    """log.txt tells the whole story: lines of the work, and what control has to say."""
    run(tmp_path, "die-once")
    text = (tmp_path / "log.txt").read_text()
    assert text.count("info doing die-once") == 2
    assert "warning job process ended (signal 9); going on" in text


def test_a_child_leaves_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The lifeline closes with the parent, however it died."""
    script = (
        "import sys, threading; sys.path.insert(0, sys.argv[1]);"
        "import test_process as t; from pathlib import Path;"
        "t.run(Path(sys.argv[2]), 'sleep')"
    )
    import subprocess

    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    )
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    child = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(child), 5)


def test_two_children_never_work_in_one_folder(tmp_path: Path) -> None:
    """The second child waits for the folder's lock until the first is gone."""
    stop = process.Stop()
    first = threading.Thread(target=run, args=(tmp_path, "sleep", stop))
    first.start()
    until((tmp_path / "pid").exists)
    done: list[dict] = []
    second = threading.Thread(target=lambda: done.append(run(tmp_path, "return")[0]))
    second.start()
    second.join(1.5)
    assert second.is_alive()
    assert done == []
    stop.cancelled.set()
    first.join(5)
    second.join(10)
    assert [outcome["result"]["answer"] for outcome in done] == [42]
