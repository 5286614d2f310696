"""Trials on a given encoder: each trains on it, and the best is exported with it."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers_encoders import encoder, real_texts
from meuse.data.splits import load_splits
from meuse.evaluate.metrics import for_task
from meuse.train.search import trials
from meuse.train.search.spec import SearchSpec
from meuse.train.selection import monitor

pytest.importorskip("tokenizers")


class Quiet:
    """The trial's end of the pipes: nobody asks for a pause."""

    def __init__(self) -> None:
        self.pausing = threading.Event()

    def send(self, kind: str, data: dict[str, Any]) -> None:
        pass


def test_trials_start_from_the_encoder(tmp_path: Path) -> None:
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "kind"])
        for text in real_texts()[:80]:
            writer.writerow([text[:200], "marked" if "`" in text or "http" in text else "plain"])
    splits = load_splits(tmp_path / "texts.csv", "csv", target="kind", task=None, seed=0, raw=True)
    spec = SearchSpec.from_dict({
        "model_name": "m", "data": "d", "recipe": "text-classifier", "trials": 1,
        "space": {"learning_rate": {"choices": [0.001, 0.01]}},
        "base": {"epochs": 1, "prepare": {"text": {"length": 16}},
                 "config": {"encoder": "small:1", "frozen": True}},
    })  # fmt: skip
    metric, best = for_task(splits.task), monitor("auto", splits.task, "cross_entropy")
    proposal = trials.Proposal(0, 0, {"learning_rate": 0.01})
    given, talk = {"encoder": encoder()}, Quiet()
    told = trials._run(talk, tmp_path, spec, splits, metric, best, proposal, given)  # type: ignore[arg-type]
    assert told["status"] == "succeeded", told["error"]
