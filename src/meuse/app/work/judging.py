"""An evaluate job of language models: versions judged side by side on the lines of a file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meuse.app.work.subjects import Subject, opened
from meuse.app.work.tokens import prompt_of, tokens_of
from meuse.core import jsonl
from meuse.core.ports import Blobs, JobContext, Paused
from meuse.evaluate.judge import Judged
from meuse.evaluate.language import lines
from meuse.evaluate.language.judge import chosen, judge, normalised
from meuse.evaluate.language.likelihood import (
    WINDOW,
    Ids,
    perplexity,
)
from meuse.evaluate.language.lines import Line
from meuse.evaluate.language.spec import LanguageSpec
from meuse.evaluate.record import Rows
from meuse.evaluate.side_by_side import side_by_side
from meuse.gateway.openai.conversation import normal
from meuse.serve.generation.prompt import Prompt

MAX_WRONG = 20
"""Lines with wrong answers that a job tells of each version and metric."""


def work(blobs: Blobs, files: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    spec, inputs = LanguageSpec.from_dict(job["spec"]), job["inputs"]
    path = context.folder / "lines.jsonl"
    files.copy_to(inputs["tenant"], inputs["digest"], path)
    with path.open("rb") as file:
        found = lines.read(jsonl.lines(file), normal)
    metrics = lines.metrics_of(found, spec.metrics)
    versions = inputs["versions"]
    window = spec.window or min(WINDOW, *(v["context"] for v in versions))
    stride = spec.stride or max(window // 2, 1)
    rows = Rows(
        inputs["data"], inputs["digest"], "all", "all",
        _settings(metrics, window, stride, spec), len(found),
    )  # fmt: skip
    context.log(f"judging {len(versions)} versions on {len(found)} lines: {', '.join(metrics)}")
    judged: dict[str, Judged] = {}
    wrong: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for index, version in enumerate(versions):
        folder = context.folder / "model"
        progress = Progress(context, version["ref"], index, len(versions), len(metrics), len(found))
        progress.begin("opening")
        subject = opened(blobs, inputs["tenant"], version, folder)
        exam = Exam(subject, found, window, stride, spec, progress)
        begun = time.perf_counter()
        columns = exam.take(metrics)
        seconds = time.perf_counter() - begun
        one = judge(columns, rows, engine=subject.engine, seconds=seconds, seed=spec.seed)
        judged[version["ref"]], wrong[version["ref"]] = one, exam.wrong
        context.metrics(one.evaluation.figures, model=version["ref"])
        del subject, exam
        shutil.rmtree(folder, ignore_errors=True)
    context.progress(1.0)
    return _told(side_by_side(judged, rows), judged, wrong, metrics)


def _settings(metrics: Sequence[str], window: int, stride: int, spec: LanguageSpec) -> str:
    """What of the job decides its figures: two evaluations compare where it is the same."""
    told = []
    if "perplexity" in metrics:
        told.append(f"perplexity (window {window}, stride {stride})")
    if "choice" in metrics:
        told.append("choice")
    if "exact_match" in metrics:
        stop = f", stop {list(spec.stop)}" if spec.stop else ""
        told.append(f"exact_match (max_tokens {spec.max_tokens}{stop})")
    return ", ".join(told)


def _told(
    result: dict[str, Any],
    judged: dict[str, Judged],
    wrong: dict[str, dict[str, list[dict[str, Any]]]],
    metrics: Sequence[str],
) -> dict[str, Any]:
    for one in result["models"]:
        evaluation = judged[one["model"]].evaluation
        one |= {"engine": evaluation.engine, "seconds": evaluation.seconds}
        one |= {"tokens": evaluation.tokens, "wrong": wrong[one["model"]]}
    return {**result, "measured": list(metrics)}


class Progress:
    """Of one version; the place where a pause ends it."""

    def __init__(
        self, context: JobContext, ref: str, index: int, versions: int, metrics: int, rows: int
    ) -> None:
        self._context = context
        self._ref = ref
        self._from, self._share = index / versions, 1 / versions
        self._total = metrics * rows
        self._before = 0
        self._note = ""
        self._began = time.monotonic()
        self._next = 0.0

    def begin(self, note: str, before: int = 0) -> None:
        self._note, self._before = f"{self._ref}: {note}", before
        self._began, self._next = time.monotonic(), 0.0
        self._context.progress(self._from + self._share * before / self._total, note=self._note)

    def __call__(self, done: int) -> None:
        if self._context.paused():
            raise Paused
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.25
        share = (self._before + done) / self._total
        rate = round(done / max(now - self._began, 0.001), 2)
        self._context.progress(self._from + self._share * share, rate, "lines", note=self._note)


@dataclass(frozen=True, slots=True)
class Exam:
    """One version on all lines. Every prompt is read before anything is computed."""

    subject: Subject
    found: Sequence[Line]
    window: int
    stride: int
    spec: LanguageSpec
    progress: Progress
    wrong: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def take(self, metrics: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Columns by name, [lines] each."""
        subject, most = self.subject, self.spec.max_tokens
        scored, prompts = [], []
        if set(metrics) - {"exact_match"}:
            context = subject.model.context
            scored = [
                tokens_of(line, subject.reader, subject.tokenizer, context) for line in self.found
            ]
        if "exact_match" in metrics:
            prompts = [prompt_of(line, subject.reader, most) for line in self.found]
        columns: dict[str, np.ndarray[Any, Any]] = {}
        for done, metric in enumerate(metrics):
            self.progress.begin(metric, done * len(self.found))
            if metric == "perplexity":
                texts, firsts = zip(*(each[0] for each in scored), strict=True)
                likely = perplexity(
                    self.subject.model, texts, firsts,
                    window=self.window, stride=self.stride, progress=self.progress,
                )  # fmt: skip
                columns |= {"nats": likely.nats, "tokens": likely.tokens.astype(np.float64)}
            elif metric == "choice":
                columns |= self._chosen(scored)
            else:
                columns |= self._matched(prompts)
        return columns

    def _chosen(self, scored: Sequence[list[tuple[Ids, int]]]) -> dict[str, Any]:
        hits = np.zeros((2, len(scored)))
        for index, (line, answers) in enumerate(zip(self.found, scored, strict=True)):
            likely = [
                float(self.subject.model.log_probabilities(ids)[first - 1 :].sum())
                for ids, first in answers
            ]
            picked = chosen(likely, line.answers)
            hits[:, index] = [number == line.right for number in picked]
            if picked[0] != line.right:
                self._note("choice", line, chosen=picked[0], right=line.right)
            self.progress(index + 1)
        return {"accuracy": hits[0], "accuracy_norm": hits[1]}

    def _matched(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        stops = self.spec.stop

        def ended(text: str) -> bool:
            return any(stop in text for stop in stops)

        texts = self.subject.write(prompts, ended if stops else None, self.progress)
        hits = np.zeros(len(texts))
        for index, (line, text) in enumerate(zip(self.found, texts, strict=True)):
            cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
            written = text[:cut]
            hits[index] = normalised(written) == normalised(line.answers[0])
            if not hits[index]:
                self._note("exact_match", line, written=written[:500], right=line.answers[0][:500])
        return {"exact_match": hits}

    def _note(self, metric: str, line: Line, **told: Any) -> None:
        kept = self.wrong.setdefault(metric, [])
        if len(kept) < MAX_WRONG:
            kept.append({"line": line.number, **told})
