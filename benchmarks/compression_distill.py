"""A student of at most a tenth of its teacher's parameters, taught and untaught, on Fashion-MNIST.

    python benchmarks/compression_distill.py [--seeds 3] [--cache FOLDER] [--choose]

The teacher is the base of the part cnn, trained for as many epochs as the student is: a share of
its accuracy is then a share of what it can do. The untaught student is the same job with alpha
0: same network, same first weights, same order of rows, same mirroring, same epochs and rates,
labels alone. `--choose` tries the settings of teaching on seed 0 and tells validation figures
alone; the test rows are read once, by the reports of the jobs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import compression_base as bases
import compression_plots
import side_by_side
import training_data
from compression_cnn import base_of, trained
from safetensors import safe_open
from scipy import stats  # type: ignore[import-untyped]

from meuse.compress.pipeline import Pipeline
from meuse.compress.spec import steps_from
from meuse.evaluate.metrics import for_task

Figures = dict[str, Any]

ABSENT = "skipped: the Debian package dataset-fashion-mnist is absent"

TEACHER = training_data.SETTINGS["cnn"]
STUDENT: Figures = {
    "recipe": "cnn",
    "config": {"widths": [8, 16, 32]},
    "options": {"epochs": TEACHER.options["epochs"], "learning_rate": 0.1},
}
TAUGHT: Figures = {"temperature": 4.0, "alpha": 0.9}
UNTAUGHT: Figures = {"alpha": 0.0}
CHOICES: list[Figures] = [
    UNTAUGHT,
    TAUGHT,
    {"temperature": 2.0, "alpha": 0.7},
    {"temperature": 2.0, "alpha": 0.9},
    {"temperature": 8.0, "alpha": 0.9},
]


def distill(asked: argparse.Namespace) -> Figures | str:
    """Teacher, student and untaught student, for every seed."""
    trained(asked)
    one = partial(_seed, asked.cache, asked.at_once == 1)
    made = side_by_side.each(one, range(asked.seeds), asked.at_once)
    rows = [row for row in made if row is not None]
    if not rows:
        return ABSENT
    names = ("teacher", "student", "untaught", "share", "kept", "gain")
    means = {name: statistics.mean(row[name] for row in rows) for name in names}
    means["gain_low"] = _low([row["gain"] for row in rows])
    settings = {"teacher": asdict(TEACHER), "student": STUDENT, "distill": TAUGHT}
    return {"means": means, "seeds": rows, "settings": settings}


def _seed(cache: str, timed: bool, seed: int) -> Figures | None:
    """The figures of one; None where the data is absent."""
    splits = bases.fashion_splits(seed)
    if splits is None:
        return None
    base = base_of(splits, cache, seed)
    folder = Path(cache) / f"distill-{seed}"
    row: Figures = {"seed": seed, "teacher_seconds": base.seconds}
    for name, how in (("student", TAUGHT), ("untaught", UNTAUGHT)):
        done = bases.compress(base, splits, [_step(how)], folder / name, seed)
        row[name] = done.metrics["test_accuracy"]
        row[f"{name}_validation"] = done.metrics["validation_accuracy"]
        row[f"{name}_seconds"] = done.report["steps"][0]["seconds"]
        row["teacher"] = done.report["before"]["metric"]
        # The student's, who comes first.
        row.setdefault("report", compression_plots.sides(done.report, timed=timed))
        row["student_parameters"] = _parameters(folder / name)
    row["teacher_parameters"] = _parameters(_at(cache, seed))
    row |= _derived(row)
    print(json.dumps({k: v for k, v in row.items() if k != "report"}), flush=True)
    return row


def choose(cache: str) -> Figures | str:
    """Validation accuracy of the student by setting, for seed 0; no test row is read."""
    splits = bases.fashion_splits(0)
    if splits is None:
        return ABSENT
    base = base_of(splits, cache, 0)
    found: Figures = {"teacher": base.metrics["validation_accuracy"]}
    for number, how in enumerate(CHOICES):
        job = bases.Told(Path(cache) / f"distill-choice-{number}")
        pipeline = Pipeline(job, base.parent, splits, 0, for_task(splits.task), bases.engine)
        made = pipeline.apply(steps_from([_step(how)]), lambda step, outputs: None)
        figures = for_task(splits.task)(made.outputs, splits.validation.y)
        found[json.dumps(how)] = figures["accuracy"]
        print(json.dumps(how), figures["accuracy"], flush=True)
    return found


def _step(how: Figures) -> Figures:
    return {"method": "distill", "student": STUDENT, **how}


def _at(cache: str, seed: int) -> Path:
    return Path(cache) / f"cnn-{seed}" / "base"


def _derived(row: Figures) -> Figures:
    return {
        "share": row["student_parameters"] / row["teacher_parameters"],
        "kept": row["student"] / row["teacher"],
        "gain": row["student"] - row["untaught"],
    }


def _low(gains: list[float]) -> float:
    """The low end of the 95% interval of their mean over seeds, by Student's t."""
    if len(gains) < 2:
        return -math.inf
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return statistics.mean(gains) - float(stats.t.ppf(0.975, len(gains) - 1)) * error


def _parameters(folder: Path) -> int:
    """Numbers in a weights file; normalisation's are among them."""
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="seeds; then no times are told")
    parser.add_argument("--cache", default="/var/tmp/meuse-compression")
    parser.add_argument("--choose", action="store_true", help="by validation rows alone")
    asked = parser.parse_args()
    print(json.dumps(choose(asked.cache) if asked.choose else distill(asked), indent=1))


if __name__ == "__main__":
    main()
