"""A compress job that searches for its steps: the trials, and the best of them judged once.

Knows the order of things, as `run` does for steps that are given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from meuse.compress import auto, catalog, latency, propose
from meuse.compress.answers import rows_of
from meuse.compress.artifact import Load
from meuse.compress.auto import Found, Tried
from meuse.compress.gate import Scored, Verdict, judge, score
from meuse.compress.pipeline import Parent, Pipeline
from meuse.compress.report import refused_early
from meuse.compress.run import CompressResult, StepGate, judged, refuse
from meuse.compress.spec import CompressSpec, Step, steps_from
from meuse.core.errors import RefusedError
from meuse.core.nouns import Splits
from meuse.core.ports import JobContext
from meuse.evaluate.metrics import for_task

_QUICK_S = 1.0
_MEASURE_S = 2.0


class Window:
    """A job whose progress is a part of another's, from `done` on, `share` wide."""

    def __init__(self, job: JobContext) -> None:
        self._job = job
        self.done, self.share = 0.0, 0.0

    @property
    def folder(self) -> Path:
        return self._job.folder

    @property
    def checkpoint(self) -> Path:
        return self._job.checkpoint

    def paused(self) -> bool:
        return self._job.paused()

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        self._job.progress(self.done + self.share * fraction, rate=rate, unit=unit, note=note)

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self._job.metrics(figures, **labels)

    def log(self, message: str, level: str = "info") -> None:
        self._job.log(message, level)


def run(
    job: JobContext, parent: Parent, splits: Splits, spec: CompressSpec, load: Load
) -> list[CompressResult]:
    """Search for steps on the validation split, and judge the best on the test split, each once:
    what is to be registered, the smallest, which is recommended, first.

    Raises `RefusedError` with the report when no candidate keeps the goal, on either split.
    """
    assert spec.auto is not None
    window = Window(job)
    pipeline = Pipeline(window, parent, splits, spec.seed, for_task(splits.task), load)
    outputs = pipeline.validation_outputs(parent.artifact)
    before = score(splits.task, outputs, splits.validation.y)
    rows = rows_of(splits.validation.frame, parent.signature)
    methods = [
        name
        for name, method in catalog.METHODS.items()
        if method.stage == "graph" or parent.weights is not None
    ]
    families = propose.usable(propose.FAMILIES, methods)
    window.share = auto.SHARE / spec.auto.trials

    def attempt(steps: Sequence[Step]) -> Tried:
        candidate = pipeline.apply(steps, _unjudged, shared=True)
        found = score(splits.task, candidate.outputs, splits.validation.y)
        engines = {"it": load(candidate.artifact)}
        times = latency.in_turns(engines, rows, 1, max_seconds=_QUICK_S)["it"]
        drop = judge(before, found, 1.0).drop
        size = len(candidate.artifact.data)
        window.done += window.share
        return Tried(found.value, drop, size, times.percentile(50), times.percentile(95))

    told = [pipeline.digest, asdict(spec.goal), [asdict(family) for family in families]]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    found = auto.search(job, families, spec.goal, spec.auto, digest, attempt)
    job.log(f"{found.ended} {len(found.chosen)} of them go on to the test split")
    window.done, window.share = auto.SHARE, 0.0
    if not found.chosen:
        _nothing(job, parent, splits, spec, found, before)
    return _judged(job, pipeline, parent, splits, spec, load, found, outputs, before)


def _unjudged(step: Step, outputs: NDArray[Any]) -> None:
    """Steps of a search have no gate: proposals follow from what came out."""


def _judged(
    job: JobContext,
    pipeline: Pipeline,
    parent: Parent,
    splits: Splits,
    spec: CompressSpec,
    load: Load,
    found: Found,
    outputs: NDArray[Any],
    before: Scored,
) -> list[CompressResult]:
    methods = [family.method for family in propose.FAMILIES] if spec.sensitivity else []
    layers = pipeline.sensitivity(methods)
    made: list[tuple[int, CompressResult]] = []
    refused: RefusedError | None = None
    for place, number in enumerate(found.chosen):
        trial = found.trials[number]
        point = replace(spec, steps=steps_from(list(trial.steps)), auto=None)
        gate = StepGate(job, parent, splits, point, outputs)
        candidate = pipeline.apply(point.steps, gate, shared=True)
        folder = job.folder / f"candidate-{place}"
        folder.mkdir(exist_ok=True)
        try:
            result = judged(
                job, folder, parent, candidate, splits, point, load, gate, layers, _MEASURE_S
            )
            made.append((number, result))
        except RefusedError as error:
            job.log(f"{trial.name} is not kept: the test split refuses it", level="warning")
            refused = refused or error
        job.progress(auto.SHARE + (1 - auto.SHARE) * (place + 1) / len(found.chosen))
    if not made:
        assert refused is not None
        refused.report["auto"] = auto.told(found, before.value, len(parent.artifact.data))
        raise refused
    best = made[0][0]
    search = auto.told(found, before.value, len(parent.artifact.data), best)
    results = [replace(result, report={**result.report, "auto": search}) for _, result in made]
    job.metrics(results[0].metrics)
    job.progress(1.0)
    return results


def _nothing(
    job: JobContext,
    parent: Parent,
    splits: Splits,
    spec: CompressSpec,
    found: Found,
    before: Scored,
) -> NoReturn:
    made = [trial for trial in found.trials if trial.tried is not None]
    nearest = min((t.tried.drop for t in made if t.tried is not None), default=float("nan"))
    reason = (
        f"none of {len(found.trials)} candidates keeps the goal on the validation split; the "
        f"least drop of {before.metric} was {nearest:.4f}"
    )
    field = "goal.max_drop"
    if any(t.tried is not None and t.tried.drop <= spec.goal.max_drop + 1e-9 for t in made):
        smallest = min(t.tried.bytes for t in made if t.tried is not None)
        field = "goal.max_bytes" if spec.goal.max_bytes is not None else "goal.max_latency_ms"
        reason += f", the smallest file had {smallest:,} bytes"
    verdict = Verdict(False, 0.0, None, reason, field)
    report = refused_early(
        parent=parent.ref,
        task=splits.task,
        steps=[],
        goal=spec.goal,
        before=before,
        verdict=verdict,
    )
    report |= {"method": "auto", "auto": auto.told(found, before.value, len(parent.artifact.data))}
    refuse(job, verdict, report)
