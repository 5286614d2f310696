"""A compress job from a parent's bytes to a smaller model that its gate let through.

Knows the order of the steps; methods, gate and measurement are its siblings' business, the
engine comes from the caller.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meuse.compress.gate import Verdict, check_limits, judge, row_scores
from meuse.compress.quantize import static_int8
from meuse.compress.report import Load, measure, outputs_of
from meuse.compress.spec import CompressSpec
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Splits
from meuse.core.ports import Engine, JobContext
from meuse.evaluate.metrics import PRIMARY, for_task
from meuse.train.digest import source_digest


@dataclass(frozen=True, slots=True)
class CompressResult:
    """What a compression leaves: `model_path` lies in the job's folder.

    `metrics` have the names that training gives (`validation_*`, `test_*`); `report` is what
    was measured, JSON-able; the signature is the parent's.
    """

    model_path: Path
    metrics: dict[str, float]
    report: dict[str, Any]
    code_digest: str


def run(
    job: JobContext,
    parent_model: bytes,
    splits: Splits,
    spec: CompressSpec,
    task: str,
    load: Load,
) -> CompressResult:
    """Compress `parent_model` (ONNX) by the steps of `spec` and judge the result.

    Calibrated on the validation split, judged on the test split. Raises `gate_refused` with
    the numbers, its field the goal that was missed, and `invalid_data` (field `model`) for
    a model that the method or the task cannot use.
    """
    job.log(f"{spec.model}: {len(parent_model):,} bytes, to be compressed by {_method(spec)}")
    model_path = _apply(job, parent_model, splits, spec)
    model = model_path.read_bytes()
    job.progress(0.4)
    before, after = load(parent_model), load(model)
    _check_signature(before, after)
    old, new = (outputs_of(engine, splits.test.x, task) for engine in (before, after))
    name, _ = PRIMARY[task]
    score, new_score = (row_scores(task, outputs, splits.test.y) for outputs in (old, new))
    verdict = judge(name, score, new_score, spec.goal.max_drop)
    _require(job, verdict)
    job.log(verdict.reason)
    job.progress(0.5)
    measured = measure(load, parent_model, model, splits.test.x)
    job.log(_summary(measured))
    verdict = check_limits(verdict, spec.goal, len(model), measured["after"]["p95_ms"])
    _require(job, verdict)
    metric = for_task(task)
    validation = outputs_of(after, splits.validation.x, task)
    test = metric(new, splits.test.y)
    measured["before"]["metric"] = metric(old, splits.test.y)[name]
    measured["after"]["metric"] = test[name]
    metrics = {f"validation_{n}": v for n, v in metric(validation, splits.validation.y).items()}
    metrics |= {f"test_{n}": v for n, v in test.items()}
    job.metrics(metrics)
    job.progress(1.0)
    report = _report(spec, name, measured, verdict)
    return CompressResult(model_path, metrics, report, source_digest(Path(__file__).parent))


def _apply(job: JobContext, parent_model: bytes, splits: Splits, spec: CompressSpec) -> Path:
    """Run the steps one after the other; the spec allows `quantize` alone so far."""
    current = job.folder / "step-0.onnx"
    current.write_bytes(parent_model)
    for index, step in enumerate(spec.steps):
        job.log(f"step {index + 1} of {len(spec.steps)}: {step['method']}")
        target = job.folder / f"step-{index + 1}.onnx"
        static_int8(current, splits.validation.x, target)
        current.unlink()
        current = target
    return current.replace(job.folder / "model.onnx")


def _check_signature(before: Engine, after: Engine) -> None:
    old, new = before.signature, after.signature
    if (old.inputs, old.outputs) != (new.inputs, new.outputs):
        raise MeuseError(
            Code.INTERNAL,
            "compression changed the model's inputs or outputs",
            hint="This is a fault of the platform or of its libraries; please report it.",
        )


def _require(job: JobContext, verdict: Verdict) -> None:
    if verdict.passed:
        return
    job.log(f"refused: {verdict.reason}", level="warning")
    raise MeuseError(
        Code.GATE_REFUSED,
        f"the compressed model is refused: {verdict.reason}",
        field=verdict.field,
        hint=f"Allow more with {verdict.field}, or keep the model as it is.",
    )


def _report(
    spec: CompressSpec, name: str, measured: dict[str, Any], verdict: Verdict
) -> dict[str, Any]:
    return {
        "method": _method(spec),
        "metric_name": name,
        **measured,
        "drop": verdict.drop,
        "interval": list(verdict.interval),
        "goal": asdict(spec.goal),
    }


def _method(spec: CompressSpec) -> str:
    return "+".join(step["method"] for step in spec.steps)


def _summary(measured: dict[str, Any]) -> str:
    old, new = measured["before"], measured["after"]
    return (
        f"{old['bytes']:,} → {new['bytes']:,} bytes; p50 {old['p50_ms']:.3f} → "
        f"{new['p50_ms']:.3f} ms at batch 1, {old['p50_ms_batch32']:.3f} → "
        f"{new['p50_ms_batch32']:.3f} ms at batch 32"
    )
