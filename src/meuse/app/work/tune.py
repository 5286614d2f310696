"""A tune job: settings of the engine measured with a deployment's version, in this process."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import JobContext, Paused
from meuse.serve.generation import load as models
from meuse.serve.generation.engine import Generator
from meuse.serve.generation.files import lay_out
from meuse.serve.generation.manifest import Manifest
from meuse.serve.generation.messages import Ask
from meuse.serve.generation.prompt import Reader
from meuse.serve.generation.replica import Parts
from meuse.serve.generation.tune import Candidate, Options, Row, Tuning, candidates
from meuse.serve.generation.tuning import Tuning as Engine
from meuse.store.blobs import FolderBlobs

PROMPTS = (
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Explain in simple words why the sky is blue.",
    "Repeat this sentence three times: the river flows past the old town to the sea.",
    "Summarise this. The Meuse rises in France, flows through Belgium and the Netherlands, and "
    "drains into the North Sea. The Meuse is 925 kilometres long. Ships use most of it.",
)
"""Where the job names none: half of them answer with words of their own, half with given ones."""


def work(blobs: FolderBlobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    spec, inputs = job["spec"], job["inputs"]
    folder = context.folder / "model"
    drafts: dict[str, Path] = {}
    try:
        manifest = lay_out(inputs["digest"], folder, blobs, inputs["tenant"])
        for digest in inputs["drafts"]:
            place = context.folder / f"draft-{digest}"
            other = lay_out(digest, place, blobs, inputs["tenant"])
            drafts[digest] = models.model_path(other, place)
        return _tuned(context, spec, inputs, _maker(manifest, folder, drafts))
    finally:
        for read in (folder, *context.folder.glob("draft-*")):
            shutil.rmtree(read, ignore_errors=True)


def _tuned(
    context: JobContext,
    spec: dict[str, Any],
    inputs: dict[str, Any],
    make: Callable[[Options], Parts],
) -> dict[str, Any]:
    current: dict[str, Any] = inputs["engine"]
    prompts = _Prompts(spec["prompts"] or list(PROMPTS), spec["streams"])
    draft = spec.get("draft_model")
    tried = candidates(current, inputs["cores"], spec["streams"], inputs["refused"], draft)
    if spec["settings"]:
        tried = _chosen(tried, spec["settings"])

    def loaded(options: Options) -> Generator:
        parts = make(options)
        prompts.read_by(parts.reader)
        return parts.generator

    def told(row: Row, done: int, all_: int) -> None:
        context.log(f"{row.name}: {row.tokens_s:.1f} tokens/s, {row.ratio:.2f}× {row.note}")
        context.metrics({"tokens_s": row.tokens_s, "first_ms": row.first_ms}, setting=row.name)
        context.progress(done / all_)
        if context.paused():
            raise Paused

    search = Tuning(
        make=loaded, waves=prompts.next, tokens=spec["tokens"], rounds=spec["rounds"], told=told
    )
    best, rows = search.run(current, tried)
    changes = {name: value for name, value in best.items() if current.get(name) != value}
    return {
        "deployment": spec["deployment"],
        "model": inputs["model"],
        "rows": [asdict(row) for row in rows],
        "changes": changes,
        "not_measured": inputs["refused"],
    }


def _chosen(tried: list[Candidate], names: list[str]) -> list[Candidate]:
    found = [candidate for candidate in tried if candidate.setting in names]
    if not found:
        raise MeuseError(
            Code.INVALID_FIELD,
            "there is nothing to try: the deployment has these settings, or may not",
            field="settings",
        )
    return found


def _maker(
    manifest: Manifest, folder: Path, drafts: Mapping[str, Path]
) -> Callable[[Options], Parts]:
    """`drafts` are files by the digest of their version."""

    def make(options: Options) -> Parts:
        lookup = options.get("prompt_lookup") or {}
        guess = options.get("draft_model") or {}
        assistant = {**guess, **lookup}.get("num_assistant_tokens", 0)
        return models.load(
            manifest,
            folder,
            models.Options(
                threads=options["cores"],
                max_sequences=options.get("max_sequences") or 0,
                max_batched_tokens=options.get("max_batched_tokens") or 0,
                cache_mb=options.get("cache_mb") or 0,
                tuning=Engine(
                    prefix_cache=bool(options.get("prefix_cache")),
                    max_ngram_size=lookup.get("max_ngram_size", 0),
                    assistant_tokens=assistant,
                    draft=drafts[guess["digest"]] if guess else None,
                    kv_precision=options.get("kv_precision") or "",
                ),
            ),
        )

    return make


class _Prompts:
    """Waves of tokenized prompts, each with a number of its own so that none comes twice."""

    def __init__(self, texts: list[str], streams: int) -> None:
        self._texts, self._streams = itertools.cycle(texts), streams
        self._number = itertools.count(1)
        self._reader: Reader | None = None  # alone: the first engine has to go when it is measured

    def read_by(self, reader: Reader) -> None:
        self._reader = self._reader or reader

    def next(self) -> list[NDArray[np.int64]]:
        return [self._read(next(self._texts)) for _ in range(self._streams)]

    def _read(self, text: str) -> NDArray[np.int64]:
        reader = self._reader
        assert reader is not None
        # First: what follows has no beginning in common that a cache of prefixes would find.
        asked = f"{next(self._number)}. {text}"
        told = msgspec.json.encode([{"role": "user", "content": asked}])
        try:
            prompt = reader.read(Ask(messages=told))
        except MeuseError:  # a model without a chat template
            prompt = reader.read(Ask(prompt=asked))
        return prompt.ids
