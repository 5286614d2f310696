"""Fine-tunings: train jobs of the recipes `llm-*`. Base and files pinned at submission, the
versions registered."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from meuse.app import estimates
from meuse.app.kinds.shared import Stores
from meuse.billing.rating import price_of
from meuse.core import jsonl
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Job,
    Lineage,
    ModelVersion,
    NewVersion,
    PlanVersion,
    Scope,
    Signature,
    StoredFile,
)
from meuse.core.ports import Blobs, FileStore
from meuse.gateway.openai.conversation import normal
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import TIER
from meuse.registry import external, references
from meuse.registry.card import check_given
from meuse.train.llm import lines
from meuse.train.llm.spec import MAX_TOKENS, TuneSpec, is_tuning

PURPOSE = "fine-tune"
LAYOUTS = ("gguf", "hf")
READ_NOW = 4 << 20
"""Bytes of a file that is read while its caller waits; larger ones are read by the job."""
METERS = ("training_tokens", "training_ms")


@dataclass(frozen=True, slots=True)
class Finetune:
    """`blobs` hold the files; `plan_of` is the price list that a tenant pays by now."""

    stores: Stores
    files: FileStore
    blobs: Blobs
    plan_of: Callable[[str], PlanVersion | None]

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, self._estimate)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        if spec.pop("deploy", False):
            raise invalid(
                "deploy",
                "a fine-tuned model is not deployed by its job",
                "Serve the adapter on a deployment of its base (compressed to IR).",
            )
        card = check_given(spec.pop("card", None) or {})
        asked = TuneSpec.from_dict(spec)
        base = self._base(scope, asked.base)
        for field, file_id in _files(asked):
            self._look(scope, field, file_id)
        pinned = replace(asked, base=base.ref)
        return {**pinned.to_dict(), "card": card}

    def _base(self, scope: Scope, text: str) -> ModelVersion:
        version = references.resolve(self.stores.registry, scope, text, "base")
        external.check_ours(version, "base")
        told = version.report.get("generation", {}) if version.task == GENERATION else {}
        layout = told.get("layout")
        if layout not in LAYOUTS:
            what = f"has the layout {layout}" if layout else "is no language model of this platform"
            raise invalid(
                "base",
                f"{version.ref} {what}; fine-tuning starts from {' or '.join(LAYOUTS)}",
                "Pull a GGUF file or a safetensors checkpoint, or name the version that this one "
                "was made from.",
            )
        return version

    def _look(self, scope: Scope, field: str, file_id: str) -> None:
        """Refuse a file that is not for this, or, where it is small, one with faulty lines."""
        file = self._file(scope, field, file_id)
        if file.bytes <= READ_NOW:
            body = io.BytesIO(self.blobs.read(scope.tenant, file.digest))
            lines.check(lines.read(jsonl.lines(body), normal), field)

    def _file(self, scope: Scope, field: str, file_id: str) -> StoredFile:
        try:
            file = self.files.get(scope, file_id)
        except MeuseError as error:
            error.field = field
            raise
        if file.purpose != PURPOSE:
            raise invalid(
                field,
                f"{file_id} was uploaded for {file.purpose!r}",
                f'Upload it again with the purpose "{PURPOSE}".',
            )
        return file

    def _prepare(self, job: Job) -> dict[str, Any]:
        asked = _asked(job)
        base = self._base(job.scope, asked.base)
        files = {
            field: {"id": file_id, "digest": self._file(job.scope, field, file_id).digest}
            for field, file_id in _files(asked)
        }
        return {
            "tenant": job.scope.tenant,
            "base": {"ref": base.ref, "manifest": base.artifacts[0].digest},
            "files": files,
            "prices": self._prices(job, asked.model_name),
        }

    def _prices(self, job: Job, model: str) -> list[dict[str, Any]]:
        """What each meter costs, where the tenant's plan has a price: by the unit, if not said
        otherwise (`scheme`, `round_up_to`)."""
        plan = self.plan_of(job.scope.tenant)
        if plan is None:
            return []
        name = f"{job.scope.tenant}/{model}"
        found = [(meter, price_of(plan, meter, name, TIER)) for meter in METERS]
        return [
            {"meter": meter, "amount": price.amount, "per": price.per, "currency": plan.currency}
            | ({"scheme": price.scheme} if price.scheme != "unit" else {})
            | ({"round_up_to": price.round_up_to} if price.round_up_to != 1 else {})
            for meter, price in found
            if price is not None
        ]

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        if job.spec["check_only"]:
            return {"check": result["check"]}
        made = [self._add(job, part, told) for part, told in enumerate(result["versions"])]
        first, *more = made
        answer = {"model": first.ref, "metrics": first.metrics, "report": first.report}
        answer |= {name: result[name] for name in ("check", "trained_tokens", "best_update")}
        return {**answer, "merged": more[0].ref} if more else answer

    def _add(self, job: Job, part: int, told: dict[str, Any]) -> ModelVersion:
        return self.stores.registry.add_version(
            job.scope,
            NewVersion(
                model=job.spec["model_name"],
                task=GENERATION,
                artifacts=tuple(Artifact(**artifact) for artifact in told["artifacts"]),
                signature=Signature.from_dict(told["signature"]),
                metrics=told["metrics"],
                lineage=Lineage(
                    job=job.id,
                    dataset=job.spec["data"],
                    dataset_digest=told["dataset_digest"],
                    code_digest=told["code_digest"],
                    seed=job.spec["seed"],
                    target="",
                    parent=job.spec["base"],
                    split=told["split"],
                ),
                report=told["report"],
                card=told["card"],
                part=part,
            ),
        )

    def _estimate(self, job: Job) -> int | None:
        asked = _asked(job)
        told = self._base(job.scope, asked.base).report["generation"]
        most = min(asked.config.max_tokens or MAX_TOKENS, told["context"])
        return estimates.of_tuning(
            told["parameters"],
            told["vocabulary"],
            most,
            whole=asked.lora is None,
            recomputed=asked.config.gradient_checkpointing,
        )


def by_recipe(others: JobKind, tuning: JobKind) -> JobKind:
    """Train jobs: those that fine-tune a language model, and all others."""

    def of(spec: dict[str, Any]) -> JobKind:
        return tuning if is_tuning(spec.get("recipe")) else others

    return JobKind(
        lambda scope, spec: of(spec).check(scope, spec),
        lambda job: of(job.spec).prepare(job),
        lambda job, result: of(job.spec).complete(job, result),
        lambda job: of(job.spec).estimate(job),
    )


def _asked(job: Job) -> TuneSpec:
    return TuneSpec.of_job(job.spec)


def _files(asked: TuneSpec) -> list[tuple[str, str]]:
    given = [("data", asked.data), ("validation", asked.validation)]
    return [(field, file_id) for field, file_id in given if file_id is not None]
