"""A train job: splits and a spec to a version's files."""

from __future__ import annotations

from typing import Any

from meuse.app.work.shared import splits_of, version_of, with_features
from meuse.core.ports import Blobs, JobContext
from meuse.jobs.effort import Effort
from meuse.train import recipes
from meuse.train.llm.spec import is_tuning
from meuse.train.spec import TrainSpec

NOT_OF_TRAINING = ("deploy", "split", "card", "slices")
"""Fields of the job's spec that say what happens around the training."""


def work(blobs: Blobs, context: JobContext, job: dict[str, Any], files: Blobs) -> dict[str, Any]:
    """`files` has what language models are fine-tuned on."""
    if is_tuning(job["spec"]["recipe"]):
        from meuse.app.work import finetune

        return finetune.work(blobs, context, job, files)
    return _trained(blobs, context, job)


def _trained(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    from meuse.app.work import documents
    from meuse.evaluate.metrics import for_task
    from meuse.train.cv import fit_with_folds

    told, inputs = job["spec"], job["inputs"]
    spec = TrainSpec.from_dict({k: v for k, v in told.items() if k not in NOT_OF_TRAINING})
    with Effort(context.folder / "checkpoint-effort.json") as effort:
        splits = splits_of(
            blobs,
            context,
            inputs,
            target=spec.target,
            task=spec.task,
            seed=spec.seed,
            split=told.get("split"),
            image_size=spec.prepare.image.size,
        )
        given = _given(blobs, context, inputs, spec)
        done, report = fit_with_folds(context, splits, spec, for_task(splits.task), given)
        splits = with_features(splits, done.features)
        judged = documents.evaluation_of(
            done.files, done.signature, splits, inputs, told.get("slices", ())
        )
    result = version_of(
        blobs, job, splits, done.files, done.signature, done.metrics, done.code_digest
    )
    how = {"recipe": spec.recipe, **done.notes, "options": _options(spec)}
    card = documents.card_of(
        splits, inputs, done.signature, spec.seed, how, effort.spent(), told.get("card")
    )
    if "sandbox_tier" in done.notes:
        report = {**report, "sandbox_tier": done.notes["sandbox_tier"]}
    if "encoder" in inputs:
        report = {**report, "encoder": {**inputs["encoder"], "frozen": spec.config["frozen"]}}
    return {**result, "report": report, "evaluation": judged.to_dict(), "card": card}


def _given(
    blobs: Blobs, context: JobContext, inputs: dict[str, Any], spec: TrainSpec
) -> dict[str, Any]:
    """What recipes may need besides the data."""
    recipe = recipes.find(spec.recipe)
    needs = recipe.needs_for(recipe.configure(spec.config))
    if "encoder" in needs:
        from meuse.train.encoder import load

        path = context.folder / "encoder.safetensors"
        blobs.copy_to(inputs["tenant"], inputs["encoder"]["digest"], path)
        return {"encoder": load(path)}
    if "code" not in needs:
        return {}
    from meuse.train.custom import Allowed

    code = context.folder / "code.zip"
    blobs.copy_to(inputs["tenant"], spec.config["code"], code)
    allowed = Allowed(inputs["sandbox_tier"], inputs["sandbox_wall_s"])
    return {"code": code, "loop": spec.loop, "allowed": allowed}


def _options(spec: TrainSpec) -> dict[str, Any]:
    """What the card tells of a training's choices; its data stands elsewhere."""
    told = spec.to_dict()
    elsewhere = ("recipe", "config", "data", "model_name", "target", "task")
    chosen = {name: value for name, value in told.items() if name not in elsewhere}
    return {**chosen, "learning_rate": spec.loop.rate, **spec.config}
