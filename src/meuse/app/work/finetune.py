"""A fine-tuning: files and a base to an adapter, and where it is wished a whole model."""

from __future__ import annotations

import io
from dataclasses import asdict
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

from meuse.app.work.spending import Tokens
from meuse.billing.plans import curve
from meuse.core import jsonl
from meuse.core.nouns import ADAPTER, GENERATION, Artifact, Price
from meuse.core.ports import Blobs, JobContext
from meuse.gateway.openai.conversation import normal
from meuse.jobs.effort import Effort
from meuse.registry import card
from meuse.serve.generation import manifest as manifests
from meuse.serve.generation.files import lay_out
from meuse.serve.generation.manifest import Manifest
from meuse.train.llm import lines
from meuse.train.llm.lines import Line
from meuse.train.llm.spec import TuneSpec


def work(blobs: Blobs, context: JobContext, job: dict[str, Any], files: Blobs) -> dict[str, Any]:
    """`job["spec"]` is a `TuneSpec` and the card's part of it."""
    from meuse.train.llm import run

    told, inputs = job["spec"], job["inputs"]
    spec = TuneSpec.of_job(told)
    context.progress(0.0, note="validating")
    given = {field: _lines(files, context, inputs, field) for field in inputs["files"]}
    with Effort(context.folder / "checkpoint-effort.json") as effort:
        base, manifest = _base(blobs, context, inputs)
        check: dict[str, Any] = {}

        def tell(counts: run.Counts) -> None:
            tokens.whole = counts.training_tokens
            check.update(asdict(counts), cost=cost(counts, inputs["prices"]))
            context.log(summary(check))

        with Tokens(context, inputs, spends=not spec.check_only) as tokens:
            done = run.fit(
                tokens.job, spec, base, given["data"], given.get("validation", ()), tell,
                tokens.trained,
            )  # fmt: skip
    if isinstance(done, run.Counts):
        return {"check": check}
    training = {"recipe": spec.recipe, "options": _options(spec), **done.notes}
    training |= asdict(effort.spent())
    common = {
        "signature": _signature(),
        "metrics": done.metrics,
        "code_digest": done.code_digest,
        "dataset_digest": inputs["files"]["data"]["digest"],
        "split": _split(spec, inputs),
        "card": card.note(
            data=_data(spec, inputs, check), training=training, given=told.get("card")
        ),
    }
    made = _Keeping(blobs, inputs["tenant"], spec, manifest, common)
    versions = []
    if done.files:
        versions.append(made.adapter(done.files, done.notes))
    if done.checkpoint is not None:
        versions.append(made.whole(done.checkpoint, done.notes))
    return {
        "check": check,
        "versions": versions,
        "trained_tokens": tokens.total,
        "best_update": done.notes["best_update"],
    }


def cost(counts: Any, prices: list[dict[str, Any]]) -> dict[str, str] | None:
    """What training will cost at most by the tenant's plan, as far as it has prices; None
    without. Started packages count whole."""
    if not prices:
        return None
    quantity = {
        "training_tokens": counts.training_tokens,
        "training_ms": ceil(counts.seconds * 1000),
    }
    total = Decimal(0)
    for told in prices:
        price = Price(**{name: value for name, value in told.items() if name != "currency"})
        used = quantity[price.meter]
        total += curve.cost(curve.slices(price, 0, used, used)) / price.per
    return {"amount": f"{total:.6f}", "currency": prices[0]["currency"]}


def summary(check: dict[str, Any]) -> str:
    """What a check found, in a line."""
    price = check["cost"]
    told = f", {price['amount']} {price['currency']}" if price else ""
    return (
        f"{check['examples']:,} examples ({check['validation_examples']:,} more to validate on), "
        f"{check['tokens']:,} tokens, {check['answer_tokens']:,} of them answers; "
        f"{check['training_tokens']:,} tokens in {check['epochs']} epochs at about "
        f"{check['tokens_per_s']:,.0f} tokens/s, {check['validation_tokens']:,} more in "
        f"{check['validations']:,} validations: {check['seconds']:,.0f} s{told}"
    )


def _lines(
    files: Blobs, context: JobContext, inputs: dict[str, Any], field: str
) -> tuple[Line, ...]:
    path = context.folder / f"{field}.jsonl"
    files.copy_to(inputs["tenant"], inputs["files"][field]["digest"], path)

    with path.open("rb") as file:
        found = lines.read(jsonl.lines(file), normal)
    for fault in found.faults:
        context.log(f"{field}: {fault}", level="warning")
    return lines.check(found, field)


def _base(blobs: Blobs, context: JobContext, inputs: dict[str, Any]) -> tuple[Any, Manifest]:
    """The model that is started from, opened."""
    from meuse.app.work.chat import TemplateChat
    from meuse.language.checkpoint import open_checkpoint
    from meuse.serve.generation.template import Template
    from meuse.train.llm.run import Base

    tenant, told = inputs["tenant"], inputs["base"]
    folder = context.folder / "base"
    manifest = lay_out(told["manifest"], folder, blobs, tenant)
    context.progress(0.0, note=f"opening {told['ref']}")
    path = folder / manifest.files[0].name if manifest.layout == "gguf" else folder
    model, tokenizer = open_checkpoint(path)
    chat = None
    if manifest.chat_template:
        names = {name: str(text) for name, text in tokenizer.special_tokens_map.items()}
        chat = TemplateChat(Template(manifest.chat_template, names), _special(tokenizer))
    base = Base(
        told["ref"], told["manifest"], model, tokenizer, chat, manifest.chat_template,
        manifest.context,
    )  # fmt: skip
    return base, manifest


def _special(tokenizer: Any) -> set[str]:
    """The words that the tokenizer takes for control tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}


def _signature() -> dict[str, Any]:
    from meuse.pull.facts import SIGNATURE

    return SIGNATURE.to_dict()


def _options(spec: TuneSpec) -> dict[str, Any]:
    told = spec.to_dict()
    elsewhere = ("recipe", "config", "data", "validation", "model_name", "check_only")
    chosen = {name: value for name, value in told.items() if name not in elsewhere}
    return {**chosen, "learning_rate": spec.loop.rate, **told["config"]}


def _split(spec: TuneSpec, inputs: dict[str, Any]) -> dict[str, Any]:
    if "validation" in inputs["files"]:
        return {"validation": inputs["files"]["validation"]}
    return {"by": "ratio", "validation": spec.validation_fraction, "seed": spec.seed}


def _data(spec: TuneSpec, inputs: dict[str, Any], check: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": spec.data,
        "digest": inputs["files"]["data"]["digest"],
        "rows": check["examples"] + check["validation_examples"],
        "tokens": check["tokens"],
        "answer_tokens": check["answer_tokens"],
        "split": _split(spec, inputs),
        "split_rows": {"train": check["examples"], "validation": check["validation_examples"]},
    }


class _Keeping:
    """Files into the store, and what control needs to register the versions that have them."""

    def __init__(
        self, blobs: Blobs, tenant: str, spec: TuneSpec, base: Manifest, common: dict[str, Any]
    ) -> None:
        self._blobs = blobs
        self._tenant = tenant
        self._spec = spec
        self._base = base
        self._common = common

    def adapter(self, files: dict[str, Path], notes: dict[str, Any]) -> dict[str, Any]:
        import msgspec

        lora = self._spec.lora
        assert lora is not None
        document = msgspec.structs.replace(
            self._base,
            layout=ADAPTER,
            files=self._put(files),
            parameters=notes["counts"]["trained_parameters"],
            source=f"{self._spec.base} by {self._spec.recipe}",
        )
        more = {
            "base": self._spec.base,
            "rank": lora.rank,
            "alpha": lora.scale,
            "targets": notes["targets"],
            "dora": lora.dora,
        }
        return self._version(document, more)

    def whole(self, folder: Path, notes: dict[str, Any]) -> dict[str, Any]:
        import msgspec

        from meuse.pull import checkpoint

        facts = checkpoint.look(folder, checkpoint.config_of(folder))
        document = msgspec.structs.replace(
            self._base,
            layout="hf",
            files=self._put(facts.files),
            architecture=facts.architecture,
            parameters=facts.parameters,
            source=f"{self._spec.base} by {self._spec.recipe}",
        )
        return self._version(document, {"base": self._spec.base})

    def _put(self, files: dict[str, Path]) -> tuple[manifests.File, ...]:
        kept = []
        for name, path in files.items():
            with path.open("rb") as file:
                digest, size = self._blobs.put(self._tenant, file)
            kept.append(manifests.File(name, digest, size))
        return tuple(kept)

    def _version(self, document: Manifest, more: dict[str, Any]) -> dict[str, Any]:
        from meuse.pull import facts

        digest, size = self._blobs.put(self._tenant, io.BytesIO(manifests.encode(document)))
        artifacts = [
            Artifact("manifest.json", manifests.FORMAT, digest, size),
            *(Artifact(f.name, manifests.FILE, f.digest, f.size) for f in document.files),
        ]
        told = facts.report(document, sum(file.size for file in document.files))
        return {
            **self._common,
            "task": GENERATION,
            "artifacts": [asdict(artifact) for artifact in artifacts],
            "report": {"generation": {**told, **more}},
        }
