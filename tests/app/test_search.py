"""A search job's process and those of its trials, killed and paused for real."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_wine

from meuse.store.blobs import FolderBlobs

SPEC: dict[str, Any] = {
    "model_name": "m", "data": "wine:1", "recipe": "mlp", "target": "grower", "method": "tpe",
    "trials": 6,
    "parallel": 2, "metric": "log_loss", "seed": 5, "deploy": False,
    "space": {
        "learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
        "config.hidden": {"choices": [[32], [64, 32]]},
    },
    "base": {"epochs": 15, "batch_size": 2, "checkpoint_seconds": 0.3},
}  # fmt: skip


class Child:
    """`python -m meuse.app job` in a folder, and what it reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        events, write = os.pipe()
        life, self._lifeline = os.pipe()
        home = folder.parents[2]
        command = [sys.executable, "-m", "meuse.app", "job", "--home", str(home)]
        options = ["--folder", str(folder), "--events", str(write), "--lifeline", str(life)]
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options], pass_fds=(write, life), stderr=log, start_new_session=True
            )
        os.close(write)
        os.close(life)
        self._events = os.fdopen(events)
        self.told: list[tuple[str, dict[str, Any]]] = []

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for line in self._events:
            self.told.append(json.loads(line))
            yield self.told[-1]

    def until_trials(self, count: int) -> None:
        """Read on until so many trials have been reported."""
        for kind, data in self.events():
            if kind == "metrics" and "trial" in data:
                count -= 1
            if count == 0:
                return
        pytest.fail(f"it ended: {self.told[-3:]}\n{(self.folder / 'log.txt').read_text()[-2000:]}")

    def trials(self) -> list[int]:
        """Processes of trials in this folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"trial" in words and str(self.folder).encode() in words:
                found.append(int(path.parent.name))
        return found

    def outcome(self) -> tuple[str, dict[str, Any]]:
        """The last report; the process has ended."""
        last = list(self.events())[-1]
        self.process.wait()
        return last

    def close(self) -> None:
        """End what still runs: the job when its lifeline closes, its trials with it."""
        os.close(self._lifeline)
        self.process.wait()
        self._events.close()


Start = Callable[[Path], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a job's process in a folder; all of them end with the test."""
    made: list[Child] = []

    def make(folder: Path) -> Child:
        made.append(Child(folder))
        return made[-1]

    yield make
    for child in made:
        child.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "home"


def folder_of(home: Path, name: str, **changes: Any) -> Path:
    """The folder of a job, as control prepares it."""
    wine, file = load_wine(), io.BytesIO()
    np.savez(file, x=wine.data, grower=wine.target)
    file.seek(0)
    digest, _ = FolderBlobs(home / "blobs").put("default", file)
    folder = home / "jobs" / "default" / name
    folder.mkdir(parents=True)
    inputs = {"tenant": "default", "data": "wine:1", "dataset_digest": digest, "digest": digest,
              "format": "npz", "trial_bytes": 1 << 20}  # fmt: skip
    budgets = {"meter": "training_ms", "limits": [], "cells": str(home / "limits")}
    inputs |= {"budgets": budgets, "attempt": 1, "plan_version": None}
    spec = {**SPEC, **changes}
    document = {"job": name, "kind": "search", "spec": spec, "inputs": inputs}
    (folder / "job.json").write_text(json.dumps(document))
    return folder


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what the clock says."""
    report = {**result["report"]["search"], "seconds": 0}
    report["runs"] = [{**run, "seconds": 0} for run in report["runs"]]
    judged = {**result["evaluation"], "seconds": 0, "rows_per_s": 0}
    return {**result, "report": report, "evaluation": judged}


def gone(child: Child) -> None:
    deadline = time.monotonic() + 10
    while child.trials():
        assert time.monotonic() < deadline, "trials outlive their job"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_and_paused_search_ends_as_an_undisturbed_one(home: Path, start: Start) -> None:
    """SIGKILL for the job, then for a trial, then a pause: the same trials, figures and files,
    and no finished trial is made twice."""
    whole = start(folder_of(home, "whole"))
    kind, undisturbed = whole.outcome()
    assert kind == "result", (undisturbed, (whole.folder / "log.txt").read_text()[-3000:])
    report, said = undisturbed["report"]["search"], json.dumps(whole.told)
    assert report["counts"]["succeeded"] == 6
    # Trials have figures of validation rows alone, and the best of them is not trained again.
    assert not any(name.startswith("test") for run in report["runs"] for name in run["figures"])
    best = undisturbed["metrics"]["validation_log_loss"]
    assert best == pytest.approx(report["best"]["score"], rel=1e-6)
    assert "going on after epoch 15 of 15" in said
    assert "epoch 1/15" not in said

    folder = folder_of(home, "disturbed")
    first = start(folder)
    first.until_trials(2)
    first.process.send_signal(signal.SIGKILL)
    rest = [data for kind, data in first.events() if kind == "metrics" and "trial" in data]
    assert first.process.wait() == -signal.SIGKILL
    gone(first)
    finished = len(list(folder.glob("checkpoint-trial-*.json")))
    assert 2 <= finished < 5
    assert finished - (2 + len(rest)) in (0, 1)  # kept, and killed before it was told

    second = start(folder)
    next(kind for kind, _ in second.events() if kind == "progress")
    os.kill(second.trials()[0], signal.SIGKILL)  # both have a trial now
    second.until_trials(1)
    (folder / "pause").touch()
    kind, _ = second.outcome()
    assert kind == "paused"
    gone(second)
    (folder / "pause").unlink()
    assert f"{finished} of 6 trials are finished" in json.dumps(second.told)
    assert "once more" in json.dumps(second.told)

    third = start(folder)
    kind, result = third.outcome()
    assert kind == "result", result
    assert lasting(result) == lasting(undisturbed)
    made = [
        data["trial"]
        for child in (first, second, third)
        for kind, data in child.told
        if kind == "metrics" and "trial" in data
    ]
    assert len(made) == len(set(made))
