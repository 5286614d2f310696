"""A compress job of a language model: a parent's files to a folder that the engine serves.

The parent becomes a graph in float32, the graph gets smaller weights, both are judged on the same
held-out texts, and parent and child answer in turns in the serving engine.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import openvino

from meuse.app.work.pull import keep
from meuse.app.work.subjects import served
from meuse.app.work.tokens import tokens_of
from meuse.app.work.traced import check_traced
from meuse.compress.language import gate, report, speed
from meuse.compress.language.report import Side
from meuse.compress.language.spec import LanguageCompressSpec
from meuse.compress.language.weights import compressed
from meuse.compress.run import refuse
from meuse.core import jsonl
from meuse.core.ports import Blobs, JobContext, Paused
from meuse.evaluate.language import lines
from meuse.evaluate.language.likelihood import WINDOW, Ids, Likelihood, perplexity
from meuse.evaluate.language.lines import Line
from meuse.gateway.openai.conversation import normal
from meuse.jobs.effort import Effort
from meuse.language.checkpoint import open_checkpoint
from meuse.language.graph import graph_of
from meuse.language.ir import GRAPH, copy_ir, write_ir
from meuse.pull import checkpoint
from meuse.pull.facts import Facts, manifest
from meuse.registry.card import note
from meuse.serve.generation.files import lay_out
from meuse.serve.generation.genai import GenaiGenerator
from meuse.serve.generation.manifest import Manifest
from meuse.train.digest import source_digest

_WEIGHTS = (".bin", ".gguf", ".safetensors")
_STAGES = 4
"""Opening, judging the parent, judging the child, measuring."""
_CACHE_MB = 256
_NOTES = {
    "gguf": "The parent's weights are quantised already: quality is relative to its dequantised "
    "checkpoint; bytes and pace are those of the file itself.",
    "hf": "The engine does not run the parent: its pace is that of its graph in float32.",
}


def work(blobs: Blobs, files: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    """`job["spec"]` is a `LanguageCompressSpec`. Raises `RefusedError` with the report."""
    spec, inputs = LanguageCompressSpec.from_dict(job["spec"]), job["inputs"]
    path = context.folder / "lines.jsonl"
    files.copy_to(inputs["tenant"], inputs["digest"], path)
    with path.open("rb") as file:
        found = lines.read(jsonl.lines(file), normal)
    lines.metrics_of(found, ("perplexity",))
    with Effort(context.folder / "checkpoint-effort.json") as effort:
        given, made = context.folder / "parent", context.folder / "made"
        parent = lay_out(inputs["manifest"], given, blobs, inputs["tenant"])
        whole = given if parent.layout == "ir" else context.folder / "whole"
        bench = _Bench(context, spec, found, parent)
        seconds = bench.make(given, whole, made)
        told = bench.compare(given, whole, made, seconds)
        facts = bench.facts(made)
        kept = keep(
            blobs, context, inputs["tenant"], facts, f"{spec.step.method} of {spec.model}",
            parent.licence, source_digest(Path(report.__file__).parent),
        )  # fmt: skip
        spent = effort.spent()
    for folder in {given, whole, made}:
        shutil.rmtree(folder, ignore_errors=True)
    training = {"made_from": spec.model, "steps": spec.to_dict()["steps"], **asdict(spent)}
    return {
        **kept,
        "metrics": {"perplexity": told["after"]["metric"]},
        "report": {**told, **kept["report"]},
        "card": {**kept["card"], **note(training=training)},
        "dataset_digest": inputs["digest"],
    }


class _Bench:
    """Where the parent and what is made of it lie side by side."""

    def __init__(
        self,
        context: JobContext,
        spec: LanguageCompressSpec,
        found: Sequence[Line],
        parent: Manifest,
    ) -> None:
        self._context, self._spec, self._found, self._parent = context, spec, found, parent
        self._threads = len(os.sched_getaffinity(0))

    def make(self, given: Path, whole: Path, made: Path) -> float:
        """The child in `made`, and where the parent is no graph yet, its graph in float32 in
        `whole`; the seconds of the compression alone."""
        self._stage(0, f"opening {self._spec.model}")
        if self._parent.layout == "ir":
            graph = openvino.Core().read_model(given / GRAPH)
            begun = time.monotonic()
            copy_ir(given, compressed(graph, self._config), made)
            return time.monotonic() - begun
        is_gguf = self._parent.layout == "gguf"
        opened = open_checkpoint(given / self._parent.files[0].name if is_gguf else given)
        graph = graph_of(opened.model)
        write_ir(opened, graph, whole, half=False)
        check_traced(opened, whole, [line.answers[0] for line in self._found], self._threads)
        begun = time.monotonic()
        write_ir(opened, compressed(graph, self._config), made)
        return time.monotonic() - begun

    def compare(self, given: Path, whole: Path, made: Path, seconds: float) -> dict[str, Any]:
        """The report. Raises `RefusedError`."""
        spec = self._spec
        likely = {name: self._likelihood(path, i) for i, (name, path) in
                  enumerate({"before": whole, "after": made}.items(), 1)}  # fmt: skip
        tokens = int(likely["before"].tokens.sum())
        gate.check_texts(tokens)
        before, after = (gate.score(found, spec.seed) for found in likely.values())
        size = _bytes(made)
        verdict = gate.judge(before, after, spec.goal, size)
        self._context.log(verdict.reason)
        served_from = given if self._parent.layout == "gguf" else whole
        paces = self._paces(served_from, made)
        parameters = self._parent.parameters
        sides = (
            Side(self._parent.layout, _bytes(given), _bytes(given, _WEIGHTS), parameters, before,
                 paces["before"]),
            Side("ir", size, (made / GRAPH).with_suffix(".bin").stat().st_size, parameters, after,
                 paces["after"]),
        )  # fmt: skip
        layout = self._parent.layout
        notes = {layout: _NOTES[layout]} if layout in _NOTES else {}
        told = report.document(spec, *sides, verdict, tokens, seconds, self._threads, notes)
        for line in told["claims"]:
            self._context.log(line)
        if not verdict.passed:
            refuse(self._context, verdict, told)
        self._context.metrics({"perplexity": after.value, "bytes": float(size)})
        return told

    def facts(self, folder: Path) -> Facts:
        """Of the child: what its files say, and what they do not say as the parent says it."""
        seen = checkpoint.look(folder, checkpoint.config_of(folder))
        template = seen.chat_template or self._parent.chat_template
        return replace(seen, parameters=self._parent.parameters, chat_template=template)

    @property
    def _config(self) -> Any:
        return self._spec.step.config

    def _likelihood(self, folder: Path, stage: int) -> Likelihood:
        self._stage(stage, "judging")
        subject = served(manifest(self.facts(folder), (), "", ""), folder)
        context = min(subject.model.context, self._parent.context)
        window = min(WINDOW, context)
        read = (tokens_of(line, subject.reader, subject.tokenizer, context) for line in self._found)
        texts, firsts = zip(*(answers[0] for answers in read), strict=True)
        return perplexity(
            subject.model, texts, firsts, window=window, stride=max(window // 2, 1),
            progress=lambda done: self._stage(stage + done / len(texts), "judging"),
        )  # fmt: skip

    def _paces(self, before: Path, after: Path) -> dict[str, speed.Pace]:
        self._stage(3, "measuring the pace of both")
        is_gguf = self._parent.layout == "gguf"
        paths = {
            "before": before / self._parent.files[0].name if is_gguf else before,
            "after": after,
        }
        generators = {
            name: GenaiGenerator(
                path, context=self._parent.context, threads=self._threads, cache_mb=_CACHE_MB,
                kv_bytes_per_token=self._parent.kv_bytes_per_token,
            )
            for name, path in paths.items()
        }  # fmt: skip
        return speed.in_turns(generators, self._prompt(generators["after"]))

    def _prompt(self, generator: GenaiGenerator) -> Ids:
        """Words of the texts, as many tokens as are wanted and fit."""
        text = " ".join(line.answers[0] for line in self._found)
        room = generator.context - speed.ANSWER
        return generator.tokenizer.encode(text)[: min(speed.PROMPT, room)]

    def _stage(self, number: float, told: str) -> None:
        if self._context.paused():
            raise Paused
        self._context.progress(number / _STAGES, note=told)


def _bytes(folder: Path, endings: Sequence[str] = ("",)) -> int:
    return sum(p.stat().st_size for p in folder.iterdir() if p.name.endswith(tuple(endings)))
