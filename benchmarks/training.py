"""Training: speed beside a bare torch loop, and accuracy on real data.

    python benchmarks/training.py [--part speed|fashion|linear|visits …] [--pairs N]
        [--recipe mlp|lenet|lenet-caffe|cnn …] [--options JSON] [--config JSON] [--rows N]

Hyperparameters are chosen on validation rows only; test rows are read once, by the model kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import report
import training_choice
import training_data
import training_tables
from holds import Hold
from training_choice import Told
from training_data import Setting

from meuse.core.nouns import Splits
from meuse.evaluate.metrics import for_task
from meuse.train.batches import Arrays
from meuse.train.loop import scores_of
from meuse.train.recipes.trees import Gbdt
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

Figures = dict[str, Any]

SPEED = Path(__file__).parent / "training_speed.py"
PAIRS = 5
PEER = "HistGradientBoosting"

JUDGED = ("mlp", "lenet", "cnn")
ABSENT = "skipped: the Debian package dataset-fashion-mnist is absent"


def speed(asked: argparse.Namespace) -> Figures | str:
    """Pairs of fresh processes, one right after the other, in turns first."""
    if training_data.fashion() is None:
        return ABSENT
    found: Figures = {}
    for name in asked.recipe or ("mlp", "cnn"):
        pairs = []
        for number in range(asked.pairs):
            order = ("platform", "bare") if number % 2 else ("bare", "platform")
            pairs.append({who: _process(who, name) for who in order})
            last = pairs[-1]
            print(f"{name} pair {number + 1}: " + _ratio(last), flush=True)
        losses = [np.array([p[who]["losses"] for p in pairs]) for who in ("platform", "bare")]
        found[name] = {
            "ratio": statistics.median(_of(p, "seconds") for p in pairs),
            "cpu_ratio": statistics.median(_of(p, "cpu_seconds") for p in pairs),
            "largest_difference": float(np.abs(losses[0] - losses[1]).max()),
            "threads": pairs[0]["bare"]["threads"],
            "pairs": pairs,
        }
    return found


def _ratio(pair: Figures) -> str:
    seconds = ", ".join(f"{who} {pair[who]['seconds']:.2f} s" for who in ("platform", "bare"))
    return f"{seconds}, {_of(pair, 'seconds'):.3f} of bare ({_of(pair, 'cpu_seconds'):.3f} in CPU)"


def _of(pair: Figures, figure: str) -> float:
    return float(pair["platform"][figure] / pair["bare"][figure])


def _process(who: str, name: str) -> Figures:
    """The figures of one training; its reports are read from a pipe as control reads them."""
    reports, events = os.pipe()
    process = subprocess.Popen(
        [sys.executable, SPEED, who, name, str(events)], stdout=subprocess.PIPE, pass_fds=(events,)
    )
    os.close(events)
    with os.fdopen(reports, "rb") as lines:
        told = sum(1 for _ in lines)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{who} {name} ended with {process.returncode}")
    figures: Figures = json.loads(output)
    return {**figures, "reports": told}


def fashion(asked: argparse.Namespace) -> Figures | str:
    """Accuracy on the 10,000 test images, and the whole time of the run."""
    data = training_data.fashion()
    if data is None:
        return ABSENT
    found: Figures = {}
    for name in asked.recipe or JUDGED:
        setting = training_data.SETTINGS.get(name) or Setting(name, {}, {})
        setting = replace(
            setting,
            config=setting.config | asked.config,
            options=setting.options | asked.options,
        )
        train = Arrays(data.train.x[: asked.rows], data.train.y[: asked.rows])
        done = training_choice.train(setting, replace(data, train=train))
        scores = scores_of(done.network, data.test.x)
        found[name] = {
            "test_accuracy": for_task("classification")(scores, data.test.y)["accuracy"],
            "validation_accuracy": done.accuracy,
            "minutes": done.seconds / 60,
            "cpu_seconds": done.cpu_seconds,
            "best_epoch": done.trained.best_epoch,
            "parameters": sum(p.numel() for p in done.network.parameters()),
            "config": setting.config,
            "options": setting.options,
            "history": [dict(row) for row in done.trained.history],
        }
        print(f"{name}: test accuracy {found[name]['test_accuracy']:.4f}, {done.seconds:.0f} s")
    return found


def linear(asked: argparse.Namespace) -> Figures:
    """Means over five folds, by the whole way: preparation, loop, export, parity."""
    found: Figures = {}
    for name, figure in (("breast-cancer", "accuracy"), ("diabetes", "r2")):
        scores = [
            _trained(splits, "linear", asked.options)[f"test_{figure}"]
            for splits in training_data.folds(name)
        ]
        found[name] = {"figure": figure, "mean": statistics.mean(scores), "folds": scores}
        print(f"linear on {name}: mean {figure} {found[name]['mean']:.4f}")
    return found


def visits(asked: argparse.Namespace) -> Figures | str:
    """R² on RAND HIE, means over three splits, beside scikit-learn's gradient boosting."""
    scores: dict[str, list[float]] = {}
    for seed in range(3):
        data = training_data.visits(seed)
        if data is None:
            return "skipped: statsmodels is absent"
        splits = data[0]
        for name, score in _peers(splits, seed).items():
            scores.setdefault(name, []).append(score)
        for name in ("gbdt", "mlp"):
            given = asked.options if name == "mlp" else {}
            figures = _trained(splits, name, {"seed": seed, **given})
            scores.setdefault(name, []).append(figures["test_r2"])
    means = {name: statistics.mean(values) for name, values in scores.items()}
    print(f"visits: {means}")
    peer = max(mean for name, mean in means.items() if name.startswith(PEER))
    ours = max(means["gbdt"], means["mlp"])
    return {"figure": "r2", "means": means, "scores": scores, "behind": peer - ours}


def _peers(splits: Splits, seed: int) -> dict[str, float]:
    """R² on the test rows of scikit-learn's boosting, by its defaults and at our size."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.metrics import r2_score

    train, validation, test = splits.train, splits.validation, splits.test
    # By its defaults it keeps a part of its rows to stop by, so it gets ours as well.
    x = np.concatenate([train.frame.numbers, validation.frame.numbers])
    y = np.concatenate([train.y, validation.y])
    peer = HistGradientBoostingRegressor(random_state=seed).fit(x, y)
    default = r2_score(test.y, peer.predict(test.frame.numbers))
    # As many trees as gbdt may have, of which the validation rows choose how many count.
    trees = Gbdt().trees
    large = HistGradientBoostingRegressor(max_iter=trees, early_stopping=False, random_state=seed)
    large.fit(train.frame.numbers, train.y)
    kept = [r2_score(validation.y, p) for p in large.staged_predict(validation.frame.numbers)]
    best = int(np.argmax(kept))
    values = next(islice(large.staged_predict(test.frame.numbers), best, None))
    return {PEER: float(default), f"{PEER}, {trees} trees": float(r2_score(test.y, values))}


def _trained(splits: Splits, recipe: str, options: Figures) -> dict[str, float]:
    given = {"model_name": "m", "data": "d", "recipe": recipe, **options}
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        job = Told(Path(folder), quiet=True)
        return fit(job, splits, TrainSpec.from_dict(given), for_task(splits.task)).metrics


PARTS: dict[str, Callable[[argparse.Namespace], Figures | str]] = {
    "speed": speed,
    "fashion": fashion,
    "linear": linear,
    "visits": visits,
}


def _value(*path: str) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        here: Any = figures
        for name in path:
            here = here.get(name) if isinstance(here, dict) else None
        return here if isinstance(here, int | float) else None

    return value


HOLDS = [
    *(
        hold
        for name in ("mlp", "cnn")
        for hold in (
            Hold(f"{name}: wall time of the bare loop", "<=", 1.02, _value("speed", name, "ratio")),
            Hold(
                f"{name}: largest difference of the loss curves",
                "<=",
                1e-6,
                _value("speed", name, "largest_difference"),
                "",
            ),
        )
    ),
    *(
        Hold(
            f"Fashion-MNIST, {name}: test accuracy",
            ">=",
            bound,
            _value("fashion", name, "test_accuracy"),
            "",
        )
        for name, bound in (("cnn", 0.93), ("lenet", 0.905), ("mlp", 0.893))
    ),
    Hold("Fashion-MNIST, cnn: time", "<=", 15, _value("fashion", "cnn", "minutes"), "minutes"),
    Hold(
        "linear on breast-cancer: accuracy",
        ">=",
        0.96,
        _value("linear", "breast-cancer", "mean"),
        "",
    ),
    Hold("linear on diabetes: R²", ">=", 0.45, _value("linear", "diabetes", "mean"), ""),
    Hold("RAND HIE: R² behind HistGradientBoosting", "<=", 0.01, _value("visits", "behind"), ""),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--recipe", action="append", choices=training_data.SETTINGS)
    parser.add_argument("--options", type=json.loads, default={}, help="over those of the recipe")
    parser.add_argument("--config", type=json.loads, default={})
    parser.add_argument("--rows", type=int, help="train on so many images only")
    parser.add_argument("--reports", type=Path, default=report.REPORTS, help="folder")
    asked = parser.parse_args()
    load, began = os.getloadavg()[0], time.perf_counter()
    figures: Figures = {"load_before": load, "choice": training_choice.latest()}
    for name in asked.part or PARTS:
        figures[name] = PARTS[name](asked)
    figures["seconds"] = time.perf_counter() - began
    held = [
        {
            "what": hold.what,
            "bound": f"{hold.sign} {hold.bound:g} {hold.unit}".strip(),
            "measured": hold.measured(figures),
            "met": hold.met(figures),
        }
        for hold in HOLDS
    ]
    figures["holds"] = held
    whole = set(figures) >= set(PARTS)
    name = "training" if whole else "training-" + "-".join(asked.part)
    path = report.write(name, figures, training_tables.page, asked.reports)
    for row in held:
        if row["met"] is not None:
            print(
                f"{row['what']}: {row['measured']:.4g} ({row['bound']})"
                f" {'held' if row['met'] else 'MISSED'}"
            )
    print(f"report: {path}")


if __name__ == "__main__":
    main()
