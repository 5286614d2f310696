"""A job child: the heavy part of one job. torch lives here (and in nothing but children)."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Artifact, Signature, Splits
from meuse.core.ports import Blobs, JobContext
from meuse.jobs import child
from meuse.runtime import lifeline
from meuse.settings import load
from meuse.store.blobs import FolderBlobs


def main(argv: Sequence[str]) -> int:
    options = commands.parse("job", argv, "folder", "events lifeline")
    lifeline.watch(options.lifeline, lifeline.end_now)  # before anything slow is imported
    commands.log_to_stderr("job")
    settings = load(options.home)
    memory = settings.job_memory_bytes or _three_quarters()
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    blobs = FolderBlobs(settings.blobs)
    works: dict[str, child.Work] = {
        "train": lambda context, job: train(blobs, context, job),
        "compress": lambda context, job: compress(blobs, context, job),
    }
    return child.main(Path(options.folder), options.events, works)


def _three_quarters() -> int:
    """Of the machine's memory: a job that wants more fails by itself, not its neighbours."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4


def train(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    from meuse.evaluate.metrics import for_task
    from meuse.train.loop import fit
    from meuse.train.spec import TrainSpec

    spec = TrainSpec.from_dict({k: v for k, v in job["spec"].items() if k != "deploy"})
    splits = _splits(
        blobs, context, job["inputs"], target=spec.target, task=spec.task, seed=spec.seed
    )
    done = fit(context, splits, spec, for_task(splits.task))
    files = {done.model_path: "onnx", done.weights_path: "safetensors"}
    return _result(blobs, job, splits, files, done.signature, done.metrics, done.code_digest)


def compress(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    from meuse.compress.run import run
    from meuse.compress.spec import CompressSpec
    from meuse.serve import engines

    spec, inputs = CompressSpec.from_dict(job["spec"]), job["inputs"]
    parent = inputs["parent"]
    splits = _splits(
        blobs,
        context,
        inputs,
        target=parent["target"],
        task=parent["task"],
        seed=parent["seed"],
    )
    signature = Signature.from_dict(parent["signature"])
    _check_same_kind(signature, splits)
    model = blobs.read(inputs["tenant"], parent["digest"])
    done = run(
        context,
        model,
        splits,
        spec,
        splits.task,
        lambda data: engines.load("onnx", data, threads=1),
    )
    files = {done.model_path: "onnx"}
    result = _result(blobs, job, splits, files, signature, done.metrics, done.code_digest)
    return {**result, "report": done.report}


def _check_same_kind(signature: Signature, splits: Splits) -> None:
    """The data must be of the model's kind: indices of other classes would be nonsense."""
    features = signature.inputs[0].shape[-1]
    if features != len(splits.features):
        raise MeuseError(
            Code.INVALID_DATA,
            f"the model takes {features} features, the data has {len(splits.features)}",
            field="data",
            hint="Use the dataset that the model was trained on, or one like it.",
        )
    if signature.classes is not None and signature.classes != splits.classes:
        raise MeuseError(
            Code.INVALID_DATA,
            "the labels of the data are not the classes of the model",
            field="data",
            hint="Every class of the model must be there, and no other.",
        )


def _splits(
    blobs: Blobs,
    context: JobContext,
    inputs: dict[str, Any],
    *,
    target: str | None,
    task: str | None,
    seed: int,
) -> Splits:
    from meuse.data.splits import load_splits

    path = context.folder / "data"
    blobs.copy_to(inputs["tenant"], inputs["digest"], path)
    return load_splits(path, inputs["format"], target=target, task=task, seed=seed)


def _result(
    blobs: Blobs,
    job: dict[str, Any],
    splits: Splits,
    files: dict[Path, str],
    signature: Signature,
    metrics: dict[str, float],
    code_digest: str,
) -> dict[str, Any]:
    """What control needs to register the version; its files are in the blobs by now."""
    artifacts = []
    for path, format in files.items():
        with path.open("rb") as file:
            digest, size = blobs.put(job["inputs"]["tenant"], file)
        artifacts.append(asdict(Artifact(path.name, format, digest, size)))
    return {
        "task": splits.task,
        "target": splits.target,
        "artifacts": artifacts,
        "signature": signature.to_dict(),
        "metrics": metrics,
        "code_digest": code_digest,
    }
