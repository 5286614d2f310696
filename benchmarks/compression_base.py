"""What the compression benchmarks share: data as splits, bases trained by a recipe, and the
whole way of a compress job in this process."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import training_data
from numpy.typing import NDArray

from meuse.compress.artifact import Artifact
from meuse.compress.pipeline import Parent
from meuse.compress.run import CompressResult, run
from meuse.compress.spec import CompressSpec
from meuse.compress.teachers import Given, Version
from meuse.core.nouns import Column, Examples, Frame, Splits
from meuse.core.ports import Engine
from meuse.evaluate.metrics import for_task
from meuse.jobs.child import ChildContext
from meuse.serve import engines
from meuse.train.batches import Arrays
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

Figures = dict[str, Any]

TEACHER = "teacher:1"


class Told(ChildContext):
    """The context of a job's child whose reports nobody waits for; says its log aloud."""

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, os.open(os.devnull, os.O_WRONLY))
        self._quiet = quiet

    def log(self, message: str, level: str = "info") -> None:
        super().log(message, level)
        if not self._quiet:
            print(f"  {message}", flush=True)


@dataclass(frozen=True, slots=True)
class Base:
    """A trained version, and what it scored."""

    parent: Parent
    metrics: dict[str, float]
    seconds: float


def fashion_splits(seed: int = 0) -> Splits | None:
    """Fashion-MNIST as a dataset of one image column; one training image in ten is to validate
    on. None where the Debian package dataset-fashion-mnist is absent."""
    data = training_data.fashion(seed)
    return None if data is None else image_splits(data.train, data.validation, data.test)


def image_splits(train: Arrays, validation: Arrays, test: Arrays) -> Splits:
    """Images uint8 [n, h, w, c] and classes as splits of a dataset."""
    _, height, width, channels = train.x.shape
    column = Column("image", "image", shape=(height, width, channels))
    classes = tuple(range(int(train.y.max()) + 1))
    first, second, third = (_examples(p.x, p.y) for p in (train, validation, test))
    return Splits(first, second, third, (column,), "label", "classification", classes)


def _examples(x: NDArray[np.uint8], y: NDArray[np.int64]) -> Examples:
    nothing = np.empty((len(x), 0), np.float32)
    return Examples(Frame(("image",), (), nothing, {}, {"image": x}), y)


def base(
    splits: Splits, recipe: str, config: Figures, options: Figures, seed: int, folder: Path
) -> Base:
    """Train a base by a recipe, as a train job does. Kept in `folder`: asked again for the same,
    it is read back."""
    told = {"recipe": recipe, "config": config, **options, "seed": seed}
    said, kept = folder / "base.json", json.dumps(told, sort_keys=True)
    spec = TrainSpec.from_dict({"model_name": "base", "data": "base", **told})
    if not said.exists() or json.loads(said.read_text())["told"] != kept:
        began = time.perf_counter()
        done = fit(Told(folder), splits, spec, for_task(splits.task))
        found = {
            "told": kept,
            "metrics": done.metrics,
            "seconds": time.perf_counter() - began,
            "signature": done.signature.to_dict(),
        }
        said.write_text(json.dumps(found))
    found = json.loads(said.read_text())
    graph = Artifact("onnx", (folder / "model.onnx").read_bytes())
    parent = Parent(
        f"{recipe}:1",
        graph,
        engine(graph).signature,
        (folder / "model.safetensors").read_bytes(),
        {"options": spec.to_dict()},
    )
    return Base(parent, found["metrics"], found["seconds"])


def engine(artifact: Artifact) -> Engine:
    """The engine that serves a file, on one core as a replica has."""
    return engines.load(artifact.format, artifact.data, 1)


def compress(
    of: Base,
    splits: Splits,
    steps: list[Figures],
    folder: Path,
    seed: int = 0,
    teacher: Base | None = None,
) -> CompressResult:
    """A compress job whose gate lets everything through: the figures are what is wanted. Steps
    name the teacher as `TEACHER`."""
    spec = {"model": of.parent.ref, "steps": steps, "goal": {"max_drop": 1.0}, "seed": seed}
    parent = of.parent
    if teacher is not None:
        parent = replace(parent, given=given(splits, teacher))
    return run(Told(folder), parent, splits, CompressSpec.from_dict(spec), engine)


def given(splits: Splits, teacher: Base) -> Given:
    """What a job is given that distills from a registered version."""
    theirs = teacher.parent
    assert theirs.weights is not None
    weights = theirs.weights
    version = Version(
        TEACHER,
        hashlib.sha256(theirs.artifact.data).hexdigest(),
        theirs.signature,
        splits.task,
        splits.train.frame.names,
        lambda: engine(theirs.artifact),
        lambda: weights,
    )
    return Given(splits.task, splits.train.frame, {TEACHER: version})
