"""Accuracy on real handwritten digits: five seeds, float and int8, through the stages.

Holds: mean test accuracy of the float model at least 0.97, each int8 child within 0.01 of its
parent. Uses the stages as a job child does, with default settings.
"""

from __future__ import annotations

import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from report import write
from sklearn.datasets import load_digits

from meuse.compress.artifact import Artifact
from meuse.compress.pipeline import Parent
from meuse.compress.run import run as compress
from meuse.compress.spec import CompressSpec
from meuse.data.splits import load_splits
from meuse.evaluate.metrics import for_task
from meuse.serve import engines
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

SEEDS = range(5)


class Quiet:
    """A job context that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.safetensors"

    def paused(self) -> bool:
        return False

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None: ...

    def metrics(self, figures: dict[str, float], **labels: Any) -> None: ...

    def log(self, message: str, level: str = "info") -> None: ...


def one(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    splits = load_splits(data, "csv", target=None, task=None, seed=seed)
    spec = TrainSpec.from_dict({"model_name": "digits", "data": "digits", "seed": seed})
    began = time.perf_counter()
    trained = fit(Quiet(folder), splits, spec, for_task(splits.task))
    seconds = time.perf_counter() - began
    parent = Parent(
        "digits:1", Artifact("onnx", trained.model_path.read_bytes()), trained.signature
    )
    small = compress(
        Quiet(folder),
        parent,
        splits,
        CompressSpec.from_dict({"model": "digits:1", "goal": {"max_drop": 1.0}}),
        lambda artifact: engines.load(artifact.format, artifact.data, 1),
    )
    report = small.report
    return {
        "seed": seed,
        "float_accuracy": trained.metrics["test_accuracy"],
        "int8_accuracy": report["after"]["metric"],
        "drop": report["drop"],
        "float_bytes": report["before"]["bytes"],
        "int8_bytes": report["after"]["bytes"],
        "float_p50_ms": [report["before"]["p50_ms"], report["before"]["p50_ms_batch32"]],
        "int8_p50_ms": [report["after"]["p50_ms"], report["after"]["p50_ms_batch32"]],
        "train_seconds": seconds,
    }


def speed_up(runs: list[dict[str, Any]], batch: int) -> float:
    """Median over the seeds of float p50 over int8 p50, in the serving engine."""
    ratios = [float(r["float_p50_ms"][batch] / r["int8_p50_ms"][batch]) for r in runs]
    return statistics.median(ratios)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "digits.csv"
        digits = load_digits()
        with data.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*(f"p{i}" for i in range(64)), "digit"])
            writer.writerows(
                [*map(int, row), label]
                for row, label in zip(digits.data, digits.target, strict=True)
            )
        runs = []
        for seed in SEEDS:
            folder = Path(name) / str(seed)
            folder.mkdir()
            runs.append(one(data, folder, seed))
            print(
                f"seed {seed}: float {runs[-1]['float_accuracy']:.4f} "
                f"int8 {runs[-1]['int8_accuracy']:.4f} in {runs[-1]['train_seconds']:.1f} s"
            )
    figures = {
        "mean_float_accuracy": statistics.mean(r["float_accuracy"] for r in runs),
        "mean_int8_accuracy": statistics.mean(r["int8_accuracy"] for r in runs),
        "largest_drop": max(r["drop"] for r in runs),
        "size_ratio": statistics.median(r["float_bytes"] / r["int8_bytes"] for r in runs),
        "speed_up_batch_1": speed_up(runs, 0),
        "speed_up_batch_32": speed_up(runs, 1),
        "runs": runs,
    }
    path = write("digits", figures)
    held = figures["mean_float_accuracy"] >= 0.97 and figures["largest_drop"] <= 0.01
    print(
        f"mean float {figures['mean_float_accuracy']:.4f} (hold 0.97), "
        f"mean int8 {figures['mean_int8_accuracy']:.4f}, "
        f"largest drop {figures['largest_drop']:.4f} (hold 0.01): "
        f"{'held' if held else 'MISSED'}"
    )
    print(
        f"int8: {figures['size_ratio']:.2f} times smaller, {figures['speed_up_batch_1']:.2f} times "
        f"as fast at batch 1, {figures['speed_up_batch_32']:.2f} at batch 32"
    )
    print(f"report: {path}")


if __name__ == "__main__":
    main()
