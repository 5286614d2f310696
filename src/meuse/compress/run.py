"""A compress job from a parent to a smaller model that its gate let through.

Knows the order of things; steps, gate and measurement are its siblings' business, engines come
from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from meuse.compress.answers import outputs_of, rows_of
from meuse.compress.artifact import Load
from meuse.compress.gate import Scored, Verdict, check_limits, judge, score
from meuse.compress.pipeline import Candidate, Parent, Pipeline, save
from meuse.compress.report import StepDone, document, measure, refused_early
from meuse.compress.spec import CompressSpec, Step
from meuse.core.errors import Code, MeuseError, RefusedError
from meuse.core.nouns import Splits
from meuse.core.ports import Engine, JobContext
from meuse.evaluate.metrics import for_task
from meuse.train.digest import source_digest

_SUFFIXES = {"onnx": "onnx", "packed": "packed", "openvino": "openvino", "litert": "tflite"}


@dataclass(frozen=True, slots=True)
class CompressResult:
    """What a compression leaves: `files` lie in the job's folder, by path with their format;
    the one that is served comes first, then the weights where a network computes the same.

    `metrics` have the names that training gives (`validation_*`, `test_*`); `report` is what
    was measured, JSON-able; the signature is the parent's. `recipe` and `config` are those of
    the network, None where there is none.
    """

    files: dict[Path, str]
    metrics: dict[str, float]
    report: dict[str, Any]
    code_digest: str
    recipe: str | None = None
    config: Mapping[str, Any] | None = None

    @property
    def model_path(self) -> Path:
        return next(iter(self.files))


def run(
    job: JobContext, parent: Parent, splits: Splits, spec: CompressSpec, load: Load
) -> CompressResult:
    """Compress `parent` by the steps of `spec` and judge the result.

    Methods see the training and the validation split, the gate of a step is judged on
    validation; the test split is read once, for the result. Raises `gate_refused` with the
    numbers, its field the goal that was missed, and what methods raise.
    """
    steps = ", ".join(step.method for step in spec.steps)
    job.log(f"{parent.ref}: {len(parent.artifact.data):,} bytes, to be compressed by {steps}")
    pipeline = Pipeline(job, parent, splits, spec.seed, for_task(splits.task), load)
    gate = StepGate(job, parent, splits, spec, pipeline.validation_outputs(parent.artifact))
    candidate = pipeline.apply(spec.steps, gate)
    methods = [step.method for step in spec.steps] if spec.sensitivity else []
    layers = pipeline.sensitivity(methods)
    result = judged(job, job.folder, parent, candidate, splits, spec, load, gate, layers)
    job.metrics(result.metrics)
    job.progress(1.0)
    return result


class StepGate:
    """Judges the outputs on validation after a step against the parent's (`before`), and keeps
    what it found: `verdicts` by step, `scores` by step."""

    def __init__(
        self,
        job: JobContext,
        parent: Parent,
        splits: Splits,
        spec: CompressSpec,
        before: NDArray[Any],
    ) -> None:
        self._job, self._parent, self._splits, self._spec = job, parent, splits, spec
        self.before = score(splits.task, before, splits.validation.y)
        self.scores: list[Scored] = []
        self.verdicts: list[Verdict] = []

    def __call__(self, step: Step, outputs: NDArray[Any]) -> None:
        """Raises `RefusedError` when the step has a gate and the metric fell further."""
        found = score(self._splits.task, outputs, self._splits.validation.y)
        field = f"steps.{len(self.scores)}.gate.max_drop"
        verdict = judge(self.before, found, 1.0 if step.gate is None else step.gate, field)
        self.scores.append(found)
        self.verdicts.append(verdict)
        if step.gate is not None and not verdict.passed:
            report = refused_early(
                parent=self._parent.ref,
                task=self._splits.task,
                steps=self.done([]),
                goal=self._spec.goal,
                before=self.before,
                verdict=verdict,
            )
            refuse(self._job, verdict, report)
        told = verdict.reason if step.gate is not None else verdict.change or verdict.reason
        self._job.log(f"after {step.method}, on validation: {told}")

    def done(self, rows: Sequence[Mapping[str, Any]]) -> list[StepDone]:
        """The steps so far, with what the pipeline told of each (`rows`)."""
        found = []
        for index, (step, scored) in enumerate(zip(self._spec.steps, self.scores, strict=False)):
            row = rows[index] if index < len(rows) else {}
            config = {k: v for k, v in step.to_dict().items() if k not in ("method", "gate")}
            finite = bool(np.isfinite(scored.value))
            found.append(
                StepDone(
                    step.method,
                    config,
                    scored.value if finite else None,
                    self.verdicts[index].drop if finite else None,
                    row.get("bytes"),
                    row.get("seconds"),
                    step.gate,
                    row.get("lost", ()),
                )
            )
        return found


def judged(
    job: JobContext,
    folder: Path,
    parent: Parent,
    candidate: Candidate,
    splits: Splits,
    spec: CompressSpec,
    load: Load,
    gate: StepGate,
    sensitivity: Sequence[Mapping[str, Any]] = (),
    max_seconds: float = 5.0,
) -> CompressResult:
    """The candidate against the parent on the test split, measured and written to `folder`.

    `sensitivity` is for the report; `max_seconds` is what latency may take per batch size.
    Raises `RefusedError` with the report.
    """
    task, metric = splits.task, for_task(splits.task)
    before, after = load(parent.artifact), load(candidate.artifact)
    _check_signature(before, after)
    rows = rows_of(splits.test.frame, parent.signature)
    old, new = (outputs_of(engine, rows, task) for engine in (before, after))
    del before, after
    scored, found = (score(task, outputs, splits.test.y) for outputs in (old, new))
    verdict = judge(scored, found, spec.goal.max_drop)
    job.log(verdict.reason)
    measured = measure(
        load,
        parent.artifact,
        candidate.artifact,
        rows,
        log=partial(job.log, level="warning"),
        source=candidate.graph,
        max_seconds=max_seconds,
    )
    job.log(_summary(measured))
    size = len(candidate.artifact.data)
    verdict = check_limits(verdict, spec.goal, size, measured["after"]["p95_ms"])
    report = document(
        measured,
        parent=parent.ref,
        task=task,
        steps=gate.done(candidate.rows),
        goal=spec.goal,
        before=scored,
        after=found,
        verdict=verdict,
        validation_rows=len(splits.validation),
        sensitivity=sensitivity,
    )
    for line in report["claims"]:
        job.log(line)
    if not verdict.passed:
        refuse(job, verdict, report)
    validation = metric(candidate.outputs, splits.validation.y)
    metrics = {f"validation_{n}": v for n, v in validation.items()}
    metrics |= {f"test_{n}": v for n, v in metric(new, splits.test.y).items()}
    network = candidate.network
    return CompressResult(
        _files(folder, candidate),
        metrics,
        report,
        source_digest(Path(__file__).parent),
        None if network is None else network.recipe,
        None if network is None else network.config,
    )


def _files(folder: Path, candidate: Candidate) -> dict[Path, str]:
    artifact = candidate.artifact
    path = folder / f"model.{_SUFFIXES[artifact.format]}"
    path.write_bytes(artifact.data)
    files = {path: artifact.format}
    if candidate.network is not None:
        files[save(candidate.network, folder / "model.safetensors")] = "safetensors"
    return files


def _check_signature(before: Engine, after: Engine) -> None:
    old, new = before.signature, after.signature
    if (old.inputs, old.outputs) != (new.inputs, new.outputs):
        raise MeuseError(
            Code.INTERNAL,
            "compression changed the model's inputs or outputs",
            hint="This is a fault of the platform or of its libraries; please report it.",
        )


def refuse(job: JobContext, verdict: Verdict, report: dict[str, Any]) -> NoReturn:
    """End the job without a version. The report goes with it: the numbers were measured."""
    job.log(f"refused: {verdict.reason}", level="warning")
    raise RefusedError(
        f"the compressed model is refused: {verdict.reason}",
        report=report,
        field=verdict.field,
        hint=f"Allow more with {verdict.field}, or keep the model as it is.",
    )


def _summary(measured: dict[str, Any]) -> str:
    old, new = measured["before"], measured["after"]
    return (
        f"{old['bytes']:,} → {new['bytes']:,} bytes; p50 {old['p50_ms']:.3f} → "
        f"{new['p50_ms']:.3f} ms at batch 1, {old['p50_ms_batch32']:.3f} → "
        f"{new['p50_ms_batch32']:.3f} ms at batch 32"
    )
