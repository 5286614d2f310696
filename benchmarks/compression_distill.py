"""A student of at most a tenth of its teacher's parameters, taught and untaught, on Fashion-MNIST.

    python benchmarks/compression_distill.py [--seeds 3] [--cache FOLDER]

Temperature and alpha are the method's defaults, nothing was tuned on test rows; these are read
once, by the reports of the jobs. The untaught student is the same job with alpha 0: same network,
same first weights, same order of rows, same epochs and rates, labels alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import compression_base as bases
from safetensors import safe_open

Figures = dict[str, Any]

ABSENT = "skipped: the Debian package dataset-fashion-mnist is absent"

TEACHER: Figures = {"channels": [16, 32], "hidden": [256, 128], "dropout": 0.3}
TRAINING: Figures = {"epochs": 8}
STUDENT: Figures = {
    "recipe": "lenet",
    "config": {"channels": [6, 12], "hidden": [48, 32]},
    "options": {"epochs": 16},
}
TAUGHT: Figures = {"temperature": 4.0, "alpha": 0.9}


def distill(asked: argparse.Namespace) -> Figures | str:
    """Teacher, student and untaught student, for every seed."""
    rows: list[Figures] = []
    for seed in range(asked.seeds):
        splits = bases.fashion_splits(seed)
        if splits is None:
            return ABSENT
        folder = Path(asked.cache) / f"distill-{seed}"
        base = bases.base(splits, "lenet", TEACHER, TRAINING, seed, folder / "teacher")
        row: Figures = {"seed": seed, "teacher_seconds": base.seconds}
        for name, how in (("student", TAUGHT), ("untaught", {"alpha": 0.0})):
            step = {"method": "distill", "student": STUDENT, **how}
            done = bases.compress(base, splits, [step], folder / name, seed)
            row[name] = done.metrics["test_accuracy"]
            row[f"{name}_validation"] = done.metrics["validation_accuracy"]
            row[f"{name}_seconds"] = done.report["steps"][0]["seconds"]
            row["teacher"] = done.report["before"]["metric"]
            row["student_parameters"] = _parameters(folder / name)
        row["teacher_parameters"] = _parameters(folder / "teacher")
        rows.append(row | _derived(row))
        print(json.dumps(rows[-1]), flush=True)
    names = ("teacher", "student", "untaught", "share", "kept", "gain")
    means = {name: statistics.mean(row[name] for row in rows) for name in names}
    settings = {"teacher": TEACHER | TRAINING, "student": STUDENT, "distill": TAUGHT}
    return {"means": means, "seeds": rows, "settings": settings}


def _derived(row: Figures) -> Figures:
    return {
        "share": row["student_parameters"] / row["teacher_parameters"],
        "kept": row["student"] / row["teacher"],
        "gain": row["student"] - row["untaught"],
    }


def _parameters(folder: Path) -> int:
    """Numbers in a weights file; normalisation's are among them."""
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", default="/tmp/compression-bench")
    print(json.dumps(distill(parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()
