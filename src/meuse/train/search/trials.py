"""Inside a trial's process: takes runs from a pipe, one after another, and says what they found.

Commands come as JSON lines on one file, reports go as JSON lines to another. When commands end,
the parent is gone, and so does this process, at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Splits
from meuse.core.ports import Metric, Paused
from meuse.train import machine
from meuse.train.parts import checkpoint_of
from meuse.train.run import TrainResult, fit, learn
from meuse.train.search.outcomes import DIVERGED, FAILED, SUCCEEDED, Outcome, Proposal, trial_name
from meuse.train.search.spec import SearchSpec
from meuse.train.selection import Monitor

Finish = Callable[[Splits, TrainResult], dict[str, Any]]
"""Keeps the files of the best; what the job's result is."""


class TrialContext:
    """A job for one run: progress goes to the parent, lines only where they are asked for."""

    def __init__(self, folder: Path, checkpoint: Path, talk: Talk, quiet: bool) -> None:
        self._folder, self._checkpoint, self._talk, self._quiet = folder, checkpoint, talk, quiet

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def checkpoint(self) -> Path:
        return self._checkpoint

    def paused(self) -> bool:
        return self._talk.pausing.is_set()

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        self._talk.send("progress", {"fraction": fraction})

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        if not self._quiet:
            self._talk.send("metrics", {"figures": figures, "labels": labels})

    def log(self, message: str, level: str = "info") -> None:
        if not self._quiet or level != "info":
            self._talk.send("log", {"message": message, "level": level})


class Talk:
    """The two ends: a thread reads commands, because some must be heard during a run."""

    def __init__(self, commands: int, reports: int) -> None:
        self._reports = reports
        self.runs: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self.pausing = threading.Event()
        lines = os.fdopen(commands, "r")
        threading.Thread(target=self._listen, args=(lines,), daemon=True).start()

    def send(self, kind: str, data: dict[str, Any]) -> None:
        line = json.dumps([kind, data]).encode() + b"\n"
        while line:
            line = line[os.write(self._reports, line) :]

    def _listen(self, lines: Iterable[str]) -> None:
        for line in lines:
            kind, data = json.loads(line)
            if kind == "pause":
                self.pausing.set()
            else:
                self.runs.put((kind, data))
        os._exit(0)


def serve(
    talk: Talk,
    folder: Path,
    spec: SearchSpec,
    splits: Splits,
    metric: Metric,
    monitor: Monitor,
    finish: Finish,
    given: Mapping[str, Any],
) -> None:
    """Work until the parent ends. Trials never see the test rows; `finish` judges on them once.
    `given` is what the recipe needs besides the data."""
    machine.limit_threads(1)
    unseen = dataclasses.replace(splits, test=splits.validation)
    while True:
        kind, data = talk.runs.get()
        try:
            if kind == "finish":
                result = _finish(talk, folder, spec, splits, metric, monitor, data, given)
                talk.send("finished", finish(splits, result))
            else:
                proposal = Proposal(**data)
                found = _run(talk, folder, spec, unseen, metric, monitor, proposal, given)
                talk.send("outcome", found)
        except Paused:
            talk.send("paused", {})
        except MeuseError as error:
            talk.send("error", error.to_dict())


def _run(
    talk: Talk,
    folder: Path,
    spec: SearchSpec,
    splits: Splits,
    metric: Metric,
    monitor: Monitor,
    proposal: Proposal,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Train one proposal; whatever goes wrong with it is its outcome."""
    began = time.monotonic()
    context = TrialContext(
        folder, checkpoint_of(folder, trial_name(proposal.run)), talk, quiet=True
    )
    outcome = Outcome(proposal.run, proposal.trial, proposal.parameters, proposal.rung, FAILED)
    try:
        asked = spec.training(proposal.parameters, proposal.epochs, monitor.name)
        learned = learn(context, splits, asked, metric, given)
        figures = dict(learned.figures)
        outcome = dataclasses.replace(
            outcome,
            status=SUCCEEDED,
            epochs=learned.epochs,
            best_epoch=learned.best_epoch,
            score=monitor.score(figures),
            figures=figures,
        )
    except Paused:
        raise
    except MeuseError as error:
        status = DIVERGED if error.field == "learning_rate" else FAILED
        outcome = dataclasses.replace(outcome, status=status, error=error.to_dict())
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        told = MeuseError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        outcome = dataclasses.replace(outcome, error=told.to_dict())
    return dataclasses.replace(outcome, seconds=round(time.monotonic() - began, 3)).to_dict()


def _finish(
    talk: Talk,
    folder: Path,
    spec: SearchSpec,
    splits: Splits,
    metric: Metric,
    monitor: Monitor,
    best: dict[str, Any],
    given: Mapping[str, Any],
) -> TrainResult:
    """The best run's version: its checkpoint has the weights, so that nothing is trained again
    unless it was lost."""
    proposal = Proposal(**best)
    context = TrialContext(
        folder, checkpoint_of(folder, trial_name(proposal.run)), talk, quiet=False
    )
    asked = spec.training(proposal.parameters, proposal.epochs, monitor.name)
    return fit(context, splits, asked, metric, given)
