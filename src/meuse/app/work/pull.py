"""Pulling a model: fetch it, recognise it, keep its files and the document that names them."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import GENERATION, Artifact
from meuse.core.ports import Blobs, JobContext, Paused
from meuse.serve.generation import manifest as manifests
from meuse.serve.generation.manifest import File, Manifest

_ARRIVED, _LOOKED = 0.8, 0.85
"""The shares of the job's progress at which its stages end."""
FOLDER = "checkpoint-pull"
"""Of what was fetched. A name that begins so stays with a job that failed, for the next try."""
_PAUSE_S = 0.5
"""Before a file that broke off is asked for again."""
_PASSING = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.BUDGET_EXCEEDED, Code.FORBIDDEN)
"""Failures after which what has come is of use."""
_HINTS = {
    Code.FORBIDDEN: "Ask the operator to look at pull_allowed_hosts.",
    Code.TOO_LARGE: "The operator can raise max_pull_bytes.",
    Code.DEADLINE_EXCEEDED: "The operator can raise pull_seconds; the job goes on where it was.",
    Code.UNAVAILABLE: "Try the job again: it goes on where it was broken off.",
}


def work(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    """`job["spec"]` is a `PullSpec`."""
    with kept(context) as folder:
        return _pulled(blobs, context, job, folder)


@contextmanager
def kept(context: JobContext) -> Iterator[Path]:
    """A folder for what is fetched. It stays where the job may go on with it, and only there."""
    folder = context.folder / FOLDER
    try:
        yield folder
    except MeuseError as error:
        if error.code not in _PASSING:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _pulled(blobs: Blobs, context: JobContext, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from meuse.pull.bring import bring
    from meuse.pull.facts import AdapterFacts
    from meuse.pull.recognise import recognise
    from meuse.pull.spec import PullSpec

    spec, inputs = PullSpec.from_dict(job["spec"]), job["inputs"]
    if inputs["path"]:
        spec = replace(spec, source=f"file:{inputs['path']}")
    brought = bring(spec, folder, _means(inputs), Arriving(context))
    context.progress(_ARRIVED, note="looking at it")
    context.log(f"{brought.origin} is here" + (f", {brought.digest}" if brought.digest else ""))
    facts = recognise(brought.path)
    if spec.base and not isinstance(facts, AdapterFacts):
        raise MeuseError(
            Code.INVALID_DATA, "only adapters have a base", field="base", hint="Leave it out."
        )
    if facts is None:
        return _encoder(blobs, context, job, brought)
    if isinstance(facts, AdapterFacts):
        return _keep_adapter(blobs, context, inputs, facts, brought)
    return keep(
        blobs, context, inputs["tenant"], facts, brought.origin, brought.licence, brought.digest
    )


def keep(
    blobs: Blobs,
    context: JobContext,
    tenant: str,
    facts: Any,
    origin: str,
    licence: str,
    code_digest: str,
) -> dict[str, Any]:
    """Files into the store, then the manifest; a version without metrics and lineage."""
    from meuse.pull import facts as known
    from meuse.pull.template import most_tokens

    template_tokens = most_tokens(facts.chat_template)  # first: it may refuse
    files = _stored(blobs, context, tenant, facts.files)
    made = known.manifest(facts, files, origin, licence, template_tokens)
    context.log(
        f"{made.architecture}, {made.parameters:,} parameters, {made.context:,} tokens, "
        f"licence {made.licence or 'not given'}"
    )
    return {
        "task": GENERATION,
        "artifacts": _artifacts(blobs, tenant, made),
        "signature": known.SIGNATURE.to_dict(),
        "code_digest": code_digest,
        "report": {"generation": known.report(made, sum(file.size for file in files))},
        "card": licensed(made.licence),
    }


def _keep_adapter(
    blobs: Blobs, context: JobContext, inputs: dict[str, Any], facts: Any, brought: Any
) -> dict[str, Any]:
    from meuse.pull import facts as known

    base = inputs.get("base")
    if not base:
        raise MeuseError(
            Code.INVALID_DATA,
            "this is a LoRA adapter, and its base is not named",
            field="base",
            hint="meuse pull SOURCE --base smollm2:1, the version that it was trained on.",
        )
    files = _stored(blobs, context, inputs["tenant"], facts.files)
    made = known.adapter_manifest(facts, files, brought.origin, brought.licence, base["report"])
    context.log(f"LoRA of rank {facts.rank} on {', '.join(facts.targets)} of {base['model']}")
    size = sum(file.size for file in files)
    return {
        "task": GENERATION,
        "artifacts": _artifacts(blobs, inputs["tenant"], made),
        "signature": known.SIGNATURE.to_dict(),
        "code_digest": brought.digest,
        "report": {"generation": known.adapter_report(facts, made, size, base["model"])},
        "parent": base["model"],
        "card": licensed(made.licence),
    }


def licensed(licence: str) -> dict[str, Any]:
    """What the card of a version notes of a licence; "" for none."""
    from meuse.registry.card import note

    return note(given={"licence": licence} if licence else {})


def _stored(
    blobs: Blobs, context: JobContext, tenant: str, paths: dict[str, Path]
) -> tuple[File, ...]:
    files, total = [], sum(path.stat().st_size for path in paths.values())
    done = 0
    for name, path in paths.items():
        with path.open("rb") as file:
            digest, size = blobs.put(tenant, file)
        files.append(File(name, digest, size))
        done += size
        context.progress(_LOOKED + (1 - _LOOKED) * done / total, note="storing it")
    return tuple(files)


def _artifacts(blobs: Blobs, tenant: str, made: Manifest) -> list[dict[str, Any]]:
    """The manifest, stored, and the files that it names."""
    digest, size = blobs.put(tenant, io.BytesIO(manifests.encode(made)))
    first = Artifact("manifest.json", manifests.FORMAT, digest, size)
    rest = [Artifact(f.name, manifests.FILE, f.digest, f.size) for f in made.files]
    return [asdict(artifact) for artifact in (first, *rest)]


def _encoder(
    blobs: Blobs, context: JobContext, job: dict[str, Any], brought: Any
) -> dict[str, Any]:
    """The way of every checkpoint of transformers: through the sandbox, to ONNX."""
    from meuse.app.work import import_
    from meuse.convert.spec import ImportSpec

    spec = ImportSpec(job["spec"]["model_name"], "huggingface", {"pull": brought.origin})
    made = import_.converted(blobs, context, spec, job["inputs"], brought.path, brought.digest)
    return made | {"card": made.get("card", {}) | licensed(brought.licence)}


def _means(inputs: dict[str, Any]) -> Any:
    from meuse.convert import hub
    from meuse.data import fetch, hosts
    from meuse.pull import pip
    from meuse.pull.bring import Means

    def web(url: str, out: Path, progress: Any) -> str:
        try:
            return _patiently(
                lambda left: fetch.fetch(
                    url,
                    hosts.parse(inputs["hosts"]),
                    out,
                    max_bytes=inputs["max_bytes"],
                    max_seconds=left,
                    progress=progress,
                    resume=True,
                ),
                out,
                inputs["max_seconds"],
            )
        except MeuseError as error:
            hint = _HINTS.get(error.code, error.hint)
            raise MeuseError(error.code, error.message, field="source", hint=hint) from None

    def indexes() -> pip.Indexes:
        return pip.Indexes((inputs["index"],)) if inputs["index"] else pip.configured()

    def checkpoint(name: str, folder: Path, patterns: Sequence[str], progress: Any) -> Any:
        return hub.fetch(name, folder, patterns, max_bytes=inputs["max_bytes"], progress=progress)

    return Means(indexes, checkpoint, web, inputs["max_bytes"])


def _patiently(fetch: Callable[[float], str], out: Path, seconds: float) -> str:
    """`fetch` (seconds left), again as long as each try brings more of the file than there was."""
    deadline = time.monotonic() + seconds
    while True:
        before = _size(out)
        try:
            return fetch(max(deadline - time.monotonic(), 0.0))
        except MeuseError as error:
            if error.code is not Code.UNAVAILABLE or _size(out) <= before:
                raise
            time.sleep(_PAUSE_S)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Arriving:
    """Progress of the download, and the place where a pause ends it."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._began = time.monotonic()
        self._first = -1
        self._next = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self._first < 0:
            self._first = done
        if now < self._next:
            return
        self._next = now + 0.25
        if self._context.paused():
            raise Paused
        rate = (done - self._first) / max(now - self._began, 0.001)
        self._context.progress(
            _ARRIVED * min(1.0, done / total) if total else 0.0,
            round(rate, 1),
            "bytes",
            eta_s=None if not (total and rate) else (total - done) / rate,
            note=f"fetching: {done:,} bytes",
        )
