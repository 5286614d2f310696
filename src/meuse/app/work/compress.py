"""A compress job: a parent's file to a smaller one that its gate let through, or to several."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from meuse.app.work.shared import splits_of, version_of, with_features
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, Splits
from meuse.core.ports import Blobs, Engine, JobContext
from meuse.jobs.effort import Effort


def work(blobs: Blobs, context: JobContext, job: dict[str, Any], files: Blobs) -> dict[str, Any]:
    if "language" in job["inputs"]:
        from meuse.app.work import compress_language

        return compress_language.work(blobs, files, context, job)
    from meuse.app.work import documents, teachers
    from meuse.compress.artifact import Artifact
    from meuse.compress.material import Tools
    from meuse.compress.pipeline import Parent
    from meuse.compress.run import run
    from meuse.compress.run_auto import run as run_auto
    from meuse.compress.spec import CompressSpec

    spec, inputs = CompressSpec.from_dict(job["spec"]), job["inputs"]
    parent = inputs["parent"]
    with Effort(context.folder / "checkpoint-effort.json") as effort:
        splits = splits_of(
            blobs,
            context,
            inputs,
            target=parent["target"],
            task=parent["task"],
            seed=parent["seed"],
            split=parent.get("split"),
        )
        whole = splits
        if parent.get("features") is not None:
            splits = with_features(whole, parent["features"])
        signature = Signature.from_dict(parent["signature"])
        check_same_kind(signature, splits)
        given = Parent(
            spec.model,
            Artifact(parent["format"], blobs.read(inputs["tenant"], parent["digest"])),
            signature,
            weights=blobs.read(inputs["tenant"], parent["weights"]) if parent["weights"] else None,
            training=parent["training"],
            tools=Tools(**inputs.get("sandbox", {})),
        )
        given = replace(given, given=teachers.given(blobs, context, inputs, spec, whole, given))
        if spec.auto is None:
            results = [run(context, given, splits, spec, _engine)]
        else:
            results = run_auto(context, given, splits, spec, _engine)
        evaluations = [
            documents.evaluation_of(done.files, signature, splits, inputs) for done in results
        ]
    versions = []
    for done, evaluation in zip(results, evaluations, strict=True):
        made = version_of(blobs, job, splits, done.files, signature, done.metrics, done.code_digest)
        steps = [{"method": s["method"], **s["config"]} for s in done.report["steps"]]
        # Loop options as the parent's: what is made of this version trains by them, unless its
        # network is another recipe's.
        same = done.recipe in (None, parent["training"].get("recipe", done.recipe))
        options = {**(parent["training"].get("options", {}) if same else {}), **asdict(spec.goal)}
        how = {"made_from": spec.model, "steps": steps, "options": options}
        card = documents.card_of(
            splits, inputs, signature, parent["seed"], how, effort.spent(), parent.get("given")
        )
        more = {"report": done.report, "evaluation": evaluation.to_dict(), "card": card}
        versions.append({**made, **more})
    return versions[0] if spec.auto is None else {"versions": versions}


def _engine(artifact: Any) -> Engine:
    from meuse.serve import engines

    return engines.load(artifact.format, artifact.data, threads=1)


def check_same_kind(signature: Signature, splits: Splits) -> None:
    """The data must be of the model's kind: indices of other classes would be nonsense."""
    first = signature.inputs[0]
    one = len(signature.inputs) == 1 and len(first.shape) == 2
    features = first.shape[-1] if one and first.datatype == "FP32" else len(signature.inputs)
    if features not in (-1, len(splits.features)):
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
