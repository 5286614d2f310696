"""One training, from raw splits and a spec to the files of a version.

Fit the preparation on the training rows, train the recipe's network on what it gives, judge
the kept network, and put preparation, network and answers into one file. Knows no dataset
file, no registry and no metric of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import Examples, Signature, Splits
from meuse.core.ports import JobContext, Metric
from meuse.train import export, frozen, loop, recipes, weights
from meuse.train.answers import Answers
from meuse.train.arrays import TrainArrays
from meuse.train.digest import source_digest
from meuse.train.loop import Arrays, scores_of
from meuse.train.options import LoopOptions
from meuse.train.prepare.apply import Preparer
from meuse.train.prepare.fit import fit as fit_preparation
from meuse.train.prepare.graph import inputs_of as inputs_of_model
from meuse.train.prepare.numbers import moments
from meuse.train.prepare.options import PrepareOptions
from meuse.train.prepare.steps import Preparation
from meuse.train.recipes.texts import OnGiven
from meuse.train.seeds import derive
from meuse.train.signature import inputs_of, outputs_for
from meuse.train.spec import TrainSpec


class Fitted(Protocol):
    """What a recipe leaves: it gives scores for features, as code here and as a graph."""

    def predict(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Scores [n, outputs]: logits, or standardised values [n, 1]."""
        ...

    def graph(self) -> onnx.ModelProto:
        """`features` → `scores`."""
        ...


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run leaves: `files` lie in the job's folder, by path with their format; the model
    that answers (ONNX) comes first.

    `metrics` are those of the best epoch's network, named `validation_*` and `test_*`;
    `features` are the columns that the model takes, in their order; `code_digest` is SHA-256
    over the sources of `meuse.train` and the package version. `notes` is what the training says
    of itself: epochs, or the tier of the sandbox.
    """

    files: dict[Path, str]
    signature: Signature
    metrics: dict[str, float]
    code_digest: str
    task: str
    features: tuple[str, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_path(self) -> Path:
        return next(iter(self.files))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Splits as recipes take them, and how scores are read."""

    preparation: Preparation
    answers: Answers
    train: Arrays
    validation: Arrays
    test: Arrays


def fit(
    job: JobContext,
    splits: Splits,
    spec: TrainSpec,
    metric: Metric,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    """Train by `spec` on `splits`, keep what is best on validation, export it to ONNX.

    `given` is what a recipe may need besides (`Recipe.needs_for`).
    Raises what preparation and recipe raise, and `invalid_data` (field `data`) when only the
    test rows give no finite figures.
    """
    learned = learn(job, splits, spec, metric, given)
    prepared, fitted = learned.prepared, learned.fitted
    signature = Signature(
        inputs_of_model(prepared.preparation),
        outputs_for(splits.task, prepared.answers.outputs),
        splits.classes,
    )
    figures = figures_of(fitted, prepared, splits, spec, metric)
    job.log("exporting to ONNX")
    model_path = _export(job.folder / "model.onnx", fitted, prepared, splits, signature)
    files = {model_path: "onnx"}
    if isinstance(fitted, NetworkFit):
        weights_path = weights.save(
            fitted.network,
            spec.recipe,
            spec.config,
            prepared.preparation,
            prepared.answers,
            splits.classes,
            job.folder / "model.safetensors",
            given.get("encoder"),
        )
        files[weights_path] = "safetensors"
    job.metrics(figures)
    job.progress(1.0)
    code = source_digest(Path(__file__).parent)
    features = tuple(name for name, _ in prepared.preparation.columns)
    notes: dict[str, Any] = dict(getattr(fitted, "notes", {}))
    if learned.epochs:
        notes |= {"epochs": learned.epochs, "best_epoch": learned.best_epoch}
    return TrainResult(files, signature, figures, code, splits.task, features, notes)


@dataclass(frozen=True, slots=True)
class Learned:
    """What was trained, before anything is exported. `figures` are those on validation;
    `best_epoch` of `epochs` was kept (0 of 0 for a recipe with a training of its own)."""

    prepared: Prepared
    fitted: Fitted
    figures: Mapping[str, float]
    best_epoch: int = 0
    epochs: int = 0


def learn(
    job: JobContext,
    splits: Splits,
    spec: TrainSpec,
    metric: Metric,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Learned:
    """Prepare and train; nothing is exported."""
    recipe = recipes.find(spec.recipe)
    needed = {name: given[name] for name in recipe.needs_for(recipe.configure(spec.config))}
    prepared = prepare(job, splits, spec, needed)
    if recipe.fit is None:
        network, trained = _train_network(job, splits, spec, prepared, metric, needed)
        fitted = NetworkFit(network, prepared.train.x[:2])
        return Learned(prepared, fitted, trained.figures, trained.best_epoch, trained.epochs)
    arrays = TrainArrays(
        prepared.train.x,
        prepared.train.y,
        prepared.validation.x,
        prepared.validation.y,
        splits.task,
        prepared.answers.outputs,
    )
    made: Fitted = recipe.builder()(job, arrays, recipe.configure(spec.config), **needed)
    outputs = prepared.answers.outputs_of(made.predict(prepared.validation.x))
    return Learned(prepared, made, metric(outputs, splits.validation.y))


@dataclass(frozen=True, slots=True)
class NetworkFit:
    """A trained network (`Fitted`); `example` are two rows of its features."""

    network: nn.Module
    example: NDArray[Any]

    def predict(self, features: NDArray[Any]) -> NDArray[np.float32]:
        return scores_of(self.network, features)

    def graph(self) -> onnx.ModelProto:
        return export.network_graph(self.network, self.example)


def prepare(
    job: JobContext,
    splits: Splits,
    spec: TrainSpec,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Prepared:
    """Fit on the training rows, apply to all three splits. A given encoder cuts texts itself."""
    recipe = recipes.find(spec.recipe)
    if splits.task not in recipe.tasks:
        able = [name for name in recipes.names() if splits.task in recipes.find(name).tasks]
        raise invalid(
            "recipe",
            f"{recipe.name} cannot do {splits.task}",
            f"These can: {', '.join(able)}.",
        )
    options = _for_recipe(spec, recipe)
    train = _without_duplicates(job, splits.train) if options.duplicates == "drop" else splits.train
    kinds = recipe.data_for(recipe.configure(spec.config))
    preparation = fit_preparation(
        train.frame,
        splits.features,
        options,
        kinds,
        lambda told: job.log(told, "warning"),
        given.get("encoder"),
    )
    preparer = Preparer(preparation)
    answers = _answers(splits)
    parts = (train, splits.validation, splits.test)
    arrays = [Arrays(preparer.apply(p.frame), answers.targets_of(p.y)) for p in parts]
    return Prepared(preparation, answers, *arrays)


def _for_recipe(spec: TrainSpec, recipe: recipes.Recipe) -> PrepareOptions:
    """The vocabulary that the network embeds is the one that texts are cut by."""
    words = getattr(recipe.configure(spec.config), "vocabulary", None)
    if words is None:
        return spec.prepare
    text = msgspec.structs.replace(spec.prepare.text, vocabulary=words)
    return msgspec.structs.replace(spec.prepare, text=text)


def _without_duplicates(job: JobContext, examples: Examples) -> Examples:
    """The first of all rows that say the same, target included."""
    frame = examples.frame
    keys: list[NDArray[Any]] = [frame.numbers.view(np.uint32), examples.y.reshape(len(frame), -1)]
    digests = [hashlib.blake2b(digest_size=16) for _ in range(len(frame))]
    for row, digest in enumerate(digests):
        for key in keys:
            digest.update(np.ascontiguousarray(key[row]).data)
        for text in frame.texts.values():
            digest.update(text[row].encode() + b"\0")
        for image in frame.images.values():
            digest.update(np.ascontiguousarray(image[row]).data)
    seen: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        seen.setdefault(digest.digest(), row)
    kept = np.fromiter(seen.values(), np.int64, len(seen))
    if len(kept) < len(frame):
        job.log(f"{len(frame) - len(kept)} duplicates left out of the rows to train on")
    return Examples(frame.take(kept), examples.y[kept])


def build(
    spec: TrainSpec, prepared: Prepared, given: Mapping[str, Any] = MappingProxyType({})
) -> nn.Module:
    """The untrained network of a spec; its weights follow from `spec.seed` and what is given."""
    torch.manual_seed(derive(spec.seed, "weights"))
    shape, outputs = prepared.preparation.shape, prepared.answers.outputs
    recipe = recipes.find(spec.recipe)
    network: nn.Module = recipe.builder()(shape, outputs, recipe.configure(spec.config), **given)
    return network


def _train_network(
    job: JobContext,
    splits: Splits,
    spec: TrainSpec,
    prepared: Prepared,
    metric: Metric,
    given: Mapping[str, Any],
) -> tuple[nn.Module, loop.Trained]:
    recipe, kind = recipes.find(spec.recipe), prepared.preparation.kind
    config = recipe.configure(spec.config)
    for note in recipe.remarks(config, kind, splits.task, prepared.answers.outputs):
        job.log(note)
    network = build(spec, prepared, given)
    learner: nn.Module = network
    train, validation = prepared.train, prepared.validation
    if isinstance(network, OnGiven) and network.frozen:
        job.log("encoding the texts once: the encoder stays as it is")
        learner = network.top
        train, validation = (
            Arrays(frozen.embedded(job, network, a.x), a.y) for a in (train, validation)
        )
    trained = loop.run(
        job,
        learner,
        train,
        validation,
        splits.task,
        spec.loop,
        _in_own_unit(metric, prepared.answers),
        _digest(spec, prepared),
    )
    job.log(f"kept epoch {trained.best_epoch} of {trained.epochs}")
    return network, trained


def _answers(splits: Splits) -> Answers:
    if splits.task == "regression":
        mean, std = moments(splits.train.y)
        return Answers(splits.task, 1, float(mean), float(std))
    return Answers(splits.task, len(splits.classes or ()))


def _in_own_unit(metric: Metric, answers: Answers) -> Metric:
    """The metric of scores and of targets as the loop has them."""

    def figures(scores: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
        if answers.task == "regression":
            y = answers.outputs_of(y[:, None])
        return metric(answers.outputs_of(scores), y)

    return figures


def figures_of(
    fitted: Fitted, prepared: Prepared, splits: Splits, spec: TrainSpec, metric: Metric
) -> dict[str, float]:
    """Figures on validation and test, named so."""
    figures: dict[str, float] = {}
    parts = {"validation": splits.validation, "test": splits.test}
    for name, arrays in (("validation", prepared.validation), ("test", prepared.test)):
        outputs = prepared.answers.outputs_of(fitted.predict(arrays.x))
        found = metric(outputs, parts[name].y) if np.isfinite(outputs).all() else {}
        if not found or not all(map(math.isfinite, found.values())):
            raise MeuseError(
                Code.INVALID_DATA,
                f"the model's outputs are not finite on the {name} rows",
                field="data",
                hint="Look for extreme values in the data, or use a learning rate below "
                f"{spec.loop.rate:g}.",
            )
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return figures


def _export(
    path: Path, fitted: Fitted, prepared: Prepared, splits: Splits, signature: Signature
) -> Path:
    """Write the whole model, once it has answered real rows as training does."""
    names = [name for name, _ in prepared.preparation.columns]
    rows = splits.train.frame.take(slice(0, 3)).select(names)
    whole = export.assemble(prepared.preparation, fitted.graph(), prepared.answers)
    model = export.write(whole, path)
    output = signature.outputs[-1].name
    inputs = inputs_of(rows, signature, encode=False)
    features = Preparer(prepared.preparation).apply(rows)
    wanted = prepared.answers.last_of(fitted.predict(features))
    export.check_parity(model, inputs, wanted, output)
    return path


def _digest(spec: TrainSpec, prepared: Prepared) -> str:
    """Names a run: the spec in full, the training and validation data, the code."""
    # The loop adds its own options, but for how often it keeps a checkpoint.
    settled = replace(spec, loop=LoopOptions(), cv=None)
    digest = hashlib.sha256(json.dumps(settled.to_dict(), sort_keys=True).encode())
    digest.update(json.dumps(prepared.preparation.to_dict(), sort_keys=True).encode())
    digest.update(source_digest(Path(__file__).parent).encode())
    parts: Sequence[Arrays] = (prepared.train, prepared.validation)
    for part in parts:
        digest.update(np.ascontiguousarray(part.x).data)
        digest.update(np.ascontiguousarray(part.y).data)
    return digest.hexdigest()
