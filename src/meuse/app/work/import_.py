"""An import job: bring the source, convert it in the sandbox, keep what passed the checks."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meuse.core.errors import MeuseError
from meuse.core.nouns import ENCODER, Artifact
from meuse.core.ports import Blobs, JobContext

if TYPE_CHECKING:
    from meuse.convert.spec import ImportSpec

TRIED_ROWS = 3


def work(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    if isinstance(job["spec"]["source"], str):
        from meuse.app.work import pull

        return pull.work(blobs, context, job)
    from meuse.convert.spec import ImportSpec

    spec = ImportSpec.from_dict(job["spec"])
    if "hub" in spec.source:
        return _of_hub(blobs, context, spec, job["inputs"])
    source, digest = _source(blobs, context, job["inputs"])
    return converted(blobs, context, spec, job["inputs"], source, digest)


def converted(
    blobs: Blobs,
    context: JobContext,
    spec: ImportSpec,
    inputs: dict[str, Any],
    source: Path,
    digest: str,
) -> dict[str, Any]:
    """The result of converting `source`, a file or folder, of that digest."""
    from meuse.convert.outside import convert
    from meuse.convert.spec import TOOLCHAINS
    from meuse.registry.card import note
    from meuse.runtime import sandbox, toolchains
    from meuse.serve import engines
    from meuse.serve.cost import CostModel
    from meuse.serve.replica import warm_up

    allowed, chain = inputs["sandbox"], None
    if spec.format in TOOLCHAINS:
        chain = toolchains.need(TOOLCHAINS[spec.format], Path(allowed["toolchains"]), "format")
    found = sandbox.survey()
    context.log(f"converting {spec.format} in the sandbox, {found.text}")
    done = convert(
        spec,
        source,
        context.folder / "sandbox",
        lambda model: engines.load("onnx", model),
        least=allowed["tier"],
        limits=sandbox.Limits(wall_s=allowed["wall_s"]),
        log=context.log,
        toolchain=chain,
    )
    length = done.report["imported"].get("length")
    engine = engines.load("onnx", done.model)
    warm_up(engine, TRIED_ROWS, CostModel())  # as every upload is tried
    context.progress(1.0)
    stored, size = blobs.put(inputs["tenant"], io.BytesIO(done.model))
    artifacts = [asdict(Artifact("model.onnx", "onnx", stored, size))]
    if done.encoder is not None:
        with done.encoder.open("rb") as file:
            stored, size = blobs.put(inputs["tenant"], file)
        artifacts.append(asdict(Artifact("encoder.safetensors", ENCODER, stored, size)))
    return {
        "task": done.task,
        "artifacts": artifacts,
        "signature": done.signature.to_dict(),
        "code_digest": digest,
        "report": done.report,
        **({"card": note(limits={"tokens": length})} if length else {}),
    }


def _of_hub(
    blobs: Blobs, context: JobContext, spec: ImportSpec, inputs: dict[str, Any]
) -> dict[str, Any]:
    from meuse.app.work import pull
    from meuse.convert import hub

    reference = spec.source["hub"]
    with pull.kept(context) as folder:
        try:
            found = hub.fetch(
                reference,
                folder / "hub",
                max_bytes=inputs["max_bytes"],
                progress=pull.Arriving(context),
            )
        except MeuseError as error:
            raise MeuseError(
                error.code, error.message, field="source.hub", hint=error.hint
            ) from None
        exactly = {"hub": f"{reference.partition('@')[0]}@{found.commit}"}
        spec = replace(spec, source=exactly)
        made = converted(blobs, context, spec, inputs, found.folder, "")
        return made | {"card": made.get("card", {}) | pull.licensed(found.licence)}


def _source(blobs: Blobs, context: JobContext, inputs: dict[str, Any]) -> tuple[Path, str]:
    """(file or folder, digest of an upload or "")."""
    ((kind, what),) = inputs["source"].items()
    if kind == "upload":
        path = context.folder / "upload"
        blobs.copy_to(inputs["tenant"], what, path)
        return path, what
    return Path(what), ""
