"""How the settings for Fashion-MNIST were chosen: by validation rows alone.

    python benchmarks/training_choice.py [--name mlp|lenet|lenet-caffe|cnn …] [--seeds N]

Every candidate trains on 54,000 of the 60,000 training images and is scored on the other 6,000;
every seed cuts, shuffles and draws weights anew. No test image is looked at. The best
over the seeds in common goes to `training_data.SETTINGS`, which `training.py` judges once on the
test images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report
import torch
from torch import nn
from training_data import SETTINGS, Fashion, Setting, fashion

from meuse.evaluate.metrics import for_task
from meuse.jobs.child import ChildContext
from meuse.train import recipes
from meuse.train.loop import Trained, run
from meuse.train.seeds import derive

NAME = "training-choice"

_MLP: dict[str, Any] = {**SETTINGS["mlp"].options, "epochs": 20}
_FLIP = {"augment": {"flip": True}}

CANDIDATES: tuple[tuple[str, Setting], ...] = (
    ("mlp", Setting("mlp", {"hidden": [300, 100], "dropout": 0.3}, {**_MLP, "augment": None})),
    ("mlp", Setting("mlp", {"hidden": [300, 100], "dropout": 0.1}, _MLP)),
    ("mlp", Setting("mlp", {"hidden": [300, 100], "dropout": 0.2}, _MLP)),
    ("mlp", Setting("mlp", {"hidden": [300, 100], "dropout": 0.2}, {**_MLP, "epochs": 30})),
    ("lenet", Setting("lenet", {}, {**_FLIP, "epochs": 12, "batch_size": 256})),
    ("lenet", SETTINGS["lenet"]),
    ("lenet-caffe", SETTINGS["lenet-caffe"]),
    (
        "lenet-caffe",
        Setting(
            "lenet",
            {"channels": [20, 50], "hidden": [500, 100]},
            SETTINGS["lenet-caffe"].options,
        ),
    ),
    ("cnn", SETTINGS["cnn"]),
)


@dataclass(frozen=True, slots=True)
class Done:
    """A trained network (of its best epoch on validation), and what that cost."""

    network: nn.Module
    trained: Trained
    seconds: float
    cpu_seconds: float

    @property
    def accuracy(self) -> float:
        """On the validation rows."""
        return self.trained.figures["accuracy"]


def train(setting: Setting, data: Fashion, seed: int = 0, *, quiet: bool = False) -> Done:
    """Train one setting; the test rows are not looked at."""
    recipe = recipes.find(setting.recipe)
    options = recipe.options({**setting.options, "seed": seed})
    torch.manual_seed(derive(seed, "weights"))
    network: nn.Module = recipe.builder()((28, 28, 1), 10, recipe.configure(setting.config))
    metric = for_task("classification")
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        trained = run(
            Told(Path(folder), quiet=quiet),
            network,
            data.train,
            data.validation,
            "classification",
            options,
            metric,
            setting.recipe,
        )
    return Done(network, trained, time.perf_counter() - began, time.process_time() - cpu)


class Told(ChildContext):
    """The context of a job's child whose reports nobody waits for; says epochs aloud."""

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        super().__init__(folder, os.open(os.devnull, os.O_WRONLY))
        self._quiet = quiet

    def log(self, message: str, level: str = "info") -> None:
        super().log(message, level)
        if not self._quiet:
            print(f"  {message}", flush=True)


def row(name: str, setting: Setting, runs: Mapping[int, Done]) -> dict[str, Any]:
    """What the report keeps of a candidate; `runs` by seed."""
    return {
        "name": name,
        "config": setting.config,
        "options": setting.options,
        "validation": {str(seed): done.accuracy for seed, done in runs.items()},
        "cpu_seconds": statistics.mean(done.cpu_seconds for done in runs.values()),
    }


def latest(folder: Path = report.REPORTS) -> list[dict[str, Any]]:
    """The candidates of the newest report, or none."""
    found = sorted(folder.glob(f"*-{NAME}.json"))
    if not found:
        return []
    rows: list[dict[str, Any]] = json.loads(found[-1].read_text())["figures"]["candidates"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--name", action="append", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    names = asked.name or list(SETTINGS)
    rows = [kept for kept in latest() if kept["name"] not in names]
    for name, setting in CANDIDATES:
        if name in names:
            runs = {}
            for seed in range(asked.seeds):
                data = fashion(seed)
                if data is None:
                    raise SystemExit("the Debian package dataset-fashion-mnist is absent")
                runs[seed] = train(setting, data, seed)
            rows.append(row(name, setting, runs))
            print(json.dumps(rows[-1]), flush=True)
    print(f"report: {report.write(NAME, {'candidates': rows})}")


if __name__ == "__main__":
    main()
