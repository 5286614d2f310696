"""The training loop: from splits and a spec to a model file, its signature and figures.

Knows torch and the job it reports to; knows no dataset file, no registry and no metric of
its own. The same spec on the same splits gives bit-identical weights, also when the process
was killed in between and went on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Examples, Signature, Splits
from meuse.core.ports import JobContext, Metric
from meuse.train import checkpoint, weights
from meuse.train.digest import source_digest
from meuse.train.export import export
from meuse.train.recipes import RECIPES, Standardised
from meuse.train.spec import TrainSpec

_EVALUATION_ROWS = 8192
_SHARED_PRODUCTS = 300_000_000  # per step; measured with mlp on two cores
_SELECTS = {"classification": "accuracy", "regression": "r2"}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run leaves: `model_path` (ONNX) and `weights_path` lie in the job's folder.

    `metrics` are those of the best epoch's network, named `validation_*` and `test_*`;
    `code_digest` is SHA-256 over the sources of `meuse.train` and the package version.
    """

    model_path: Path
    weights_path: Path
    signature: Signature
    metrics: dict[str, float]
    code_digest: str
    task: str


@dataclass(slots=True)
class _Run:
    """One run in progress: everything the loop's steps share."""

    job: JobContext
    spec: TrainSpec
    metric: Metric
    model: Standardised
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor
    validation: Examples
    progress: checkpoint.Progress


def fit(job: JobContext, splits: Splits, spec: TrainSpec, metric: Metric) -> TrainResult:
    """Train by `spec` on `splits`, keep the best epoch on validation, export it to ONNX.

    After every epoch the job hears the training loss and the validation figures, and a
    checkpoint replaces `job.checkpoint`; a run that finds its own checkpoint goes on from
    it. The best epoch is the first with the highest accuracy or R². Raises `invalid_field`
    (field `learning_rate`) when loss or validation are no longer finite, and `invalid_data`
    (field `data`) when only the test rows give no finite figures.
    """
    run = _start(job, splits, spec, metric)
    while run.progress.epoch < spec.epochs:
        loss = _train_epoch(run, run.progress.epoch)
        _finish_epoch(run, splits.task, loss)
    run.model.load_state_dict(run.progress.best)
    figures = _prefixed("validation", evaluate(run.model, splits.validation, metric))
    figures |= _prefixed("test", _test(run, splits.test))
    job.log(f"kept epoch {run.progress.best_epoch} of {spec.epochs}; exporting to ONNX")
    model_path, signature = export(run.model, splits.classes, run.x[:3], job.folder / "model.onnx")
    weights_path = job.folder / "model.safetensors"
    weights.save(run.model, spec.recipe, spec.config, splits.classes, weights_path)
    job.metrics(figures)
    job.progress(1.0)
    code = source_digest(Path(__file__).parent)
    return TrainResult(model_path, weights_path, signature, figures, code, splits.task)


def build(splits: Splits, spec: TrainSpec) -> Standardised:
    """The untrained network of a spec, standardised by the train split alone.

    Weights follow from `spec.seed`. A feature that never changes keeps a deviation of 1.
    """
    torch.manual_seed(_derive(spec.seed, "weights"))
    outputs = len(splits.classes) if splits.classes is not None else 1
    body = RECIPES[spec.recipe](len(splits.features), outputs, spec.config)
    mean, std = _moments(splits.train.x)
    target = _moments(splits.train.y) if splits.task == "regression" else None
    return Standardised(body, mean, std, target)


def evaluate(model: nn.Module, examples: Examples, metric: Metric) -> dict[str, float]:
    """The figures of `model` on `examples`."""
    return metric(predict(model, examples.x), examples.y)


def predict(model: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs (logits [n, k] or values [n]) for raw rows [n, f], in evaluation mode."""
    model.eval()
    with torch.no_grad():
        rows = torch.from_numpy(x)
        starts = range(0, len(rows), _EVALUATION_ROWS)
        parts = [model(rows[start : start + _EVALUATION_ROWS]) for start in starts]
        outputs: NDArray[np.float32] = torch.cat(parts).numpy()
    return outputs


def _start(job: JobContext, splits: Splits, spec: TrainSpec, metric: Metric) -> _Run:
    model = build(splits, spec)
    torch.set_num_threads(_threads(spec, model, len(splits.train)))
    optimizer = _optimizer(spec, model)
    progress, why = checkpoint.read(job.checkpoint, _run_digest(splits, spec), model, optimizer)
    if why:
        job.log(f"starting anew: {why}", level="warning")
    elif progress.epoch:
        job.log(f"going on after epoch {progress.epoch} of {spec.epochs}")
    parameters = sum(p.numel() for p in model.parameters())
    job.log(
        f"{spec.recipe} with {parameters:,} parameters, {spec.optimizer} at {spec.rate:g}; "
        f"{len(splits.train)} rows to train on, {len(splits.validation)} to validate"
    )
    x, y = torch.from_numpy(splits.train.x), torch.from_numpy(splits.train.y)
    return _Run(job, spec, metric, model, optimizer, x, y, splits.validation, progress)


def _train_epoch(run: _Run, epoch: int) -> float:
    """One pass over the train split; returns the mean loss per row."""
    spec, model, optimizer = run.spec, run.model, run.optimizer
    torch.manual_seed(_derive(spec.seed, f"dropout:{epoch}"))
    order = torch.Generator().manual_seed(_derive(spec.seed, f"order:{epoch}"))
    rows = len(run.y)
    size = rows if spec.optimizer == "gd" else spec.batch_size
    model.train()
    total = 0.0
    shuffled = torch.randperm(rows, generator=order)
    for start in range(0, rows, size):
        chosen = shuffled[start : start + size]
        optimizer.zero_grad()
        loss = _loss(model, run.x[chosen], run.y[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / rows


def _loss(model: Standardised, x: Tensor, y: Tensor) -> Tensor:
    outputs: Tensor = model(x)
    if model.regression:
        return ((outputs - y) / model.target_std).square().mean()
    return nn.functional.cross_entropy(outputs, y)


def _finish_epoch(run: _Run, task: str, loss: float) -> None:
    """Judge the epoch, remember the best, report, and write the checkpoint."""
    progress = run.progress
    epoch = progress.epoch + 1
    figures = _figures(run, run.validation) if math.isfinite(loss) else None
    if figures is None:
        raise MeuseError(
            Code.INVALID_FIELD,
            f"training diverged in epoch {epoch}: the loss is {loss}",
            field="learning_rate",
            hint=f"Use a learning rate below {run.spec.rate:g}, for example "
            f"{run.spec.rate / 10:g}.",
        )
    score = figures[_SELECTS[task]]
    if progress.best_score is None or score > progress.best_score:
        progress.best_score, progress.best_epoch = score, epoch
        progress.best = checkpoint.copy_state(run.model)
    progress.epoch = epoch
    run.job.metrics({"train_loss": loss, **_prefixed("validation", figures)}, epoch=epoch)
    # The last hundredth is the export's.
    run.job.progress(0.99 * epoch / run.spec.epochs)
    run.job.log(
        f"epoch {epoch}/{run.spec.epochs}: loss {loss:.4f}, validation {_SELECTS[task]} {score:.4f}"
    )
    checkpoint.write(run.job.checkpoint, progress, run.model, run.optimizer)


def _figures(run: _Run, examples: Examples) -> dict[str, float] | None:
    """The network's figures, None when any output or figure is not a finite number."""
    outputs = predict(run.model, examples.x)
    if not np.isfinite(outputs).all():
        return None
    figures = run.metric(outputs, examples.y)
    return figures if all(map(math.isfinite, figures.values())) else None


def _test(run: _Run, examples: Examples) -> dict[str, float]:
    figures = _figures(run, examples)
    if figures is None:
        raise MeuseError(
            Code.INVALID_DATA,
            "the network's outputs are finite on the validation rows but not on the test rows",
            field="data",
            hint="Look for extreme values in the data, or use a learning rate below "
            f"{run.spec.rate:g}.",
        )
    return figures


def _threads(spec: TrainSpec, model: nn.Module, rows: int) -> int:
    """Two threads where a step is large enough to share, else one.

    Small steps lose more to the hand-over than they gain, and much more on a busy machine.
    The number follows from spec and data, because sums depend on it in their last bit.
    """
    size = rows if spec.optimizer == "gd" else min(rows, spec.batch_size)
    products = size * sum(p.numel() for p in model.parameters())
    return min(2, os.cpu_count() or 1) if products > _SHARED_PRODUCTS else 1


def _optimizer(spec: TrainSpec, model: nn.Module) -> torch.optim.Optimizer:
    if spec.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=spec.rate)
    momentum = 0.9 if spec.optimizer == "sgd" else 0.0
    return torch.optim.SGD(model.parameters(), lr=spec.rate, momentum=momentum)


def _moments(values: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Mean and deviation along the rows, float32; a deviation of 0 becomes 1."""
    mean = np.asarray(values.mean(axis=0, dtype=np.float64))
    std = np.asarray(values.std(axis=0, dtype=np.float64))
    std = np.where(std > 1e-12 * np.maximum(1, np.abs(mean)), std, 1.0)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _derive(seed: int, purpose: str) -> int:
    """An independent 63-bit seed for one purpose of a run."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _run_digest(splits: Splits, spec: TrainSpec) -> str:
    """Names a run: the spec in full, the training and validation data, the code."""
    settled = replace(spec, learning_rate=spec.rate)
    digest = hashlib.sha256(json.dumps(settled.to_dict(), sort_keys=True).encode())
    digest.update(source_digest(Path(__file__).parent).encode())
    for part in (splits.train, splits.validation):
        digest.update(np.ascontiguousarray(part.x).tobytes())
        digest.update(np.ascontiguousarray(part.y).tobytes())
    return digest.hexdigest()


def _prefixed(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
