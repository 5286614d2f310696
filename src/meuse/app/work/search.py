"""A search job: trials in processes of their own, the best of them to a version's files."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from meuse.app.work.shared import fetch, read, version_of, with_features
from meuse.core.nouns import Splits
from meuse.core.ports import Blobs, JobContext

ENCODER = "encoder.safetensors"


def work(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    """Decide how many processes the machine bears, and search."""
    from meuse.train.digest import source_digest
    from meuse.train.search.run import search

    spec, inputs = spec_of(job), job["inputs"]
    splits = _splits(fetch(blobs, context, inputs), job)
    if "encoder" in inputs:
        blobs.copy_to(inputs["tenant"], inputs["encoder"]["digest"], context.folder / ENCODER)
    for warning in splits.warnings:
        context.log(warning, "warning")
    told = [spec.to_dict(), inputs["digest"], source_digest(Path(__file__).parents[2] / "train")]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    size, why = processes(spec.parallel, inputs["trial_bytes"])
    if why:
        context.log(f"{size} trials at once instead of {spec.parallel}: {why}", "warning")
    memory = resource.getrlimit(resource.RLIMIT_DATA)[0]
    share = memory if memory == resource.RLIM_INFINITY else memory // size

    def command(commands: int, reports: int) -> list[str]:
        options = ["--commands", str(commands), "--reports", str(reports), "--memory", str(share)]
        home = context.folder.parents[2]
        return [
            *(sys.executable, "-m", "meuse.app", "trial", "--home", str(home)),
            *("--folder", str(context.folder), *options),
        ]

    monitor = monitor_of(spec, splits.task)
    del splits  # what trials need they read themselves
    made, report = search(context, spec, monitor, digest, command, size)
    given = {"encoder": inputs["encoder"]} if "encoder" in inputs else {}
    return {**made, "report": {**made.get("report", {}), **given, "search": report}}


def trials(blobs: Blobs, folder: Path, commands: int, reports: int) -> None:
    """The inside of a trial's process; never returns."""
    from meuse.app.work import documents
    from meuse.evaluate.metrics import for_task
    from meuse.train.encoder import load
    from meuse.train.run import TrainResult
    from meuse.train.search.trials import Talk, serve

    talk = Talk(commands, reports)
    job = json.loads((folder / "job.json").read_text())
    spec = spec_of(job)
    splits = _splits(folder / "data", job)

    def finish(splits: Splits, done: TrainResult) -> dict[str, Any]:
        splits = with_features(splits, done.features)
        judged = documents.evaluation_of(done.files, done.signature, splits, job["inputs"])
        made = version_of(
            blobs, job, splits, done.files, done.signature, done.metrics, done.code_digest
        )
        card = documents.card_of(
            splits, job["inputs"], done.signature, spec.training({}).seed,
            {"recipe": job["spec"]["recipe"], "searched": sorted(spec.space)}, None,
        )  # fmt: skip
        return {**made, "evaluation": judged.to_dict(), "card": card}

    given = {"encoder": load(folder / ENCODER)} if "encoder" in job["inputs"] else {}
    metric, monitor = for_task(splits.task), monitor_of(spec, splits.task)
    serve(talk, folder, spec, splits, metric, monitor, finish, given)


def spec_of(job: dict[str, Any]) -> Any:
    from meuse.train.search.spec import SearchSpec

    return SearchSpec.from_dict({k: v for k, v in job["spec"].items() if k != "deploy"})


def monitor_of(spec: Any, task: str) -> Any:
    """The figure that compares trials: the spec's, or the one that chooses a training's epoch."""
    from meuse.train.selection import monitor

    varies = any(name.partition(".")[0] == "loss" for name in spec.space)
    loss = "" if varies else spec.training({}).loop.loss_for(task).name
    return monitor(spec.metric or "auto", task, loss)


def processes(asked: int, trial_bytes: int) -> tuple[int, str]:
    """(how many trials at once, why fewer than asked or ""): one a core, and as memory bears."""
    cores = len(os.sched_getaffinity(0))
    memory = resource.getrlimit(resource.RLIMIT_DATA)[0]
    room = asked if memory == resource.RLIM_INFINITY else max(1, memory // max(1, trial_bytes))
    size = min(asked, cores, room)
    if size == asked:
        return size, ""
    if size == cores:
        return size, f"there are {cores} cores"
    return size, f"each needs about {trial_bytes >> 20} MiB"


def _splits(path: Path, job: dict[str, Any]) -> Splits:
    spec, base = job["spec"], job["spec"]["base"]
    return read(
        path,
        job["inputs"],
        target=spec.get("target"),
        task=spec.get("task"),
        seed=int(base.get("seed", 0)),
        split=base.get("split"),
    )
