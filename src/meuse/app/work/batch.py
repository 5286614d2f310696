"""A batch job: each line of a file is asked of the platform's own data plane, and answered once.

Answers are on disk before more is asked: a child that was killed asks only for lines without
one, and under the same record id, so that what was answered and lost is not billed again. Asks
in the lowest class of priority, few at a time, and waits whenever the platform says it is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from meuse.app.work.batch_lines import Answer, Line, body_of, judge, read_json, slices
from meuse.core.clock import now_ms
from meuse.core.ports import Blobs, JobContext, Paused
from meuse.jobs.parts import Parts
from meuse.meter.jobs import record_id

CONCURRENCY = 8
"""Lines that are asked at once: enough to fill an engine's batch."""
CANCEL = "cancel"
"""A file in the job's folder: the batch shall stop and keep what it has."""
LOOK_S = 0.25
REPORT_S = 0.5
GRACE_S = 60.0
"""For what is under way when a batch is stopped."""
READ_S = 3700.0
"""Longer than the gateway lets any answer take."""
PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
BUSY = (429, 503)
BROKEN = (500, 502, 504)
TRIES = 10
"""Of a line that the platform fails to answer; busy does not count."""
STOPS = {401: "invalid_api_key", 402: "insufficient_quota"}
"""What ends the whole batch: nothing that follows would be answered."""
LEFT = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was executed."),
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}


class StoppedError(Exception):
    """The platform will answer none of the lines: {code, message, param, line}."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["message"])
        self.told = told


def work(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    inputs, path = job["inputs"], context.folder / "input.jsonl"
    if not path.exists():
        fresh = context.folder / "input.new"
        blobs.copy_to(inputs["tenant"], inputs["digest"], fresh)
        fresh.replace(path)
    context.progress(0.0, note="validating")
    with path.open("rb") as file:
        judged = judge(file, inputs["endpoint"])
    if judged.errors:
        return _result("failed", judged.errors, {"total": 0, "completed": 0, "failed": 0})
    with Parts(
        context.folder / "checkpoint-lines.jsonl", context.folder / "checkpoint-parts.jsonl"
    ) as parts:
        run = Run(context, job, path, judged.lines, parts)
        reason, stopped = asyncio.run(run.all())
        if reason == "paused":
            raise Paused
        return run.finished(blobs, reason, stopped)


class Run:
    """The lines of one batch on their way."""

    def __init__(
        self, context: JobContext, job: dict[str, Any], path: Path, lines: list[Line], parts: Parts
    ) -> None:
        self._context = context
        self._job = job["job"]
        self._inputs = job["inputs"]
        self._path = path
        self._lines = lines
        self._parts = parts
        self._done = {number for number, *_ in slices(parts.done)}
        self._good = sum(is_good for _, is_good, *_ in slices(parts.done))
        self._begun_ms = _begun(context.folder / "checkpoint-begun")
        self._ending = asyncio.Event()
        self._calm_until = 0.0
        self._reported = 0.0

    async def all(self) -> tuple[str, dict[str, Any] | None]:
        """Ask for every line that has no answer. Why it ended: completed, cancelled, expired,
        paused, or failed, with what stopped it."""
        if self._done:
            self._context.log(f"going on with {len(self._done)} of {len(self._lines)} answered")
        waiting = (line for line in self._lines if line.number not in self._done)
        limits = httpx.Limits(max_connections=CONCURRENCY)
        async with httpx.AsyncClient(
            base_url=self._inputs["url"], limits=limits, timeout=READ_S, trust_env=False
        ) as client:
            asking: set[asyncio.Task[Answer | None]] = set()
            reason, stopped = "", None
            while not reason:
                self._begin(client, waiting, asking)
                if not asking:
                    reason = self._reason() or "completed"
                    break
                done, asking = await asyncio.wait(
                    asking, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                stopped = self._keep(done)
                reason = "failed" if stopped is not None else self._reason()
                self._report()
            await self._leave(asking, 0 if reason == "paused" else GRACE_S)
        # What was under way may have been all that was left.
        return ("completed" if len(self._done) == len(self._lines) else reason), stopped

    async def _leave(self, asking: set[asyncio.Task[Answer | None]], grace_s: float) -> None:
        """Ask for nothing more. What is under way is paid for: it may come to its end."""
        self._ending.set()
        done, left = await asyncio.wait(asking, timeout=grace_s) if asking else (asking, asking)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._keep(done | {task for task in left if not task.cancelled()})

    def _begin(
        self,
        client: httpx.AsyncClient,
        waiting: Iterator[Line],
        asking: set[asyncio.Task[Answer | None]],
    ) -> None:
        if self._reason():
            return
        while len(asking) < CONCURRENCY and (line := next(waiting, None)) is not None:
            asking.add(asyncio.create_task(self._ask(client, line)))

    def _reason(self) -> str:
        if self._inputs["cancelled"] or (self._context.folder / CANCEL).exists():
            return "cancelled"
        if now_ms() >= self._inputs["until_ms"]:
            return "expired"
        return "paused" if self._context.paused() else ""

    def _keep(self, done: set[asyncio.Task[Answer | None]]) -> dict[str, Any] | None:
        """Put answers on disk, all of a time at once. What stopped one, if any did."""
        given = [task.result() for task in done if task.exception() is None]
        answers = [answer for answer in given if answer is not None]
        written = [answer.encode() for answer in answers]
        if answers:
            used = [sum(tokens) for tokens in zip(*(a.tokens() for a in answers), strict=True)]
            lines = [
                (answer.line.number, answer.is_good, len(data))
                for answer, data in zip(answers, written, strict=True)
            ]
            self._parts.append(b"".join(written), lines=lines, used=used)
            self._done |= {answer.line.number for answer in answers}
            self._good += sum(answer.is_good for answer in answers)
        for task in done:
            error = task.exception()
            if isinstance(error, StoppedError):
                return error.told
            if error is not None:
                raise error
        return None

    async def _ask(self, client: httpx.AsyncClient, line: Line) -> Answer | None:
        """The answer to a line, however long the platform is busy; None: the batch ends before
        there is one. Raises `StoppedError`."""
        with self._path.open("rb") as file:
            body = body_of(file, line)
        id = self._id(line)
        headers = {
            "authorization": f"Bearer {self._inputs['pass']}",
            "content-type": "application/json",
            "x-priority": "low",
            "x-meuse-record": id,
        }
        broken = 0
        for attempt in count():
            if not await self._calm():
                return None
            try:
                response = await client.post(
                    self._inputs["endpoint"], content=body, headers=headers
                )
            except httpx.TransportError:
                self._wait(attempt, None)  # a worker that is replaced, or the whole platform
                continue
            status = response.status_code
            broken += status in BROKEN
            if status in BUSY or (status in BROKEN and broken < TRIES):
                self._wait(attempt, response.headers.get("retry-after"))
                continue
            told = read_json(response.content)
            if status in STOPS:
                raise StoppedError(_stopped(told, status, line))
            return Answer(line, id, status, response.headers.get("x-request-id", ""), told)
        raise AssertionError

    async def _calm(self) -> bool:
        """Wait as long as the platform is busy; false when the batch ends meanwhile."""
        while (seconds := self._calm_until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), seconds)
                return False
        return not self._ending.is_set()

    def _id(self, line: Line) -> str:
        return record_id(self._job, str(line.number)).hex()

    def _wait(self, attempt: int, told: str | None) -> None:
        """Nothing more is asked for a while, longer each time."""
        seconds = min(PAUSE_S * 2 ** min(attempt, 10), LONGEST_PAUSE_S)
        if told is not None and told.isdigit():
            seconds = min(max(seconds, int(told)), LONGEST_PAUSE_S)
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311
        self._calm_until = max(self._calm_until, time.monotonic() + seconds)

    def _report(self, note: str = "in_progress") -> None:
        if note == "in_progress" and time.monotonic() - self._reported < REPORT_S:
            return
        self._reported = time.monotonic()
        done = len(self._done)
        self._context.progress(0.99 * done / len(self._lines), note=note)
        self._context.metrics(
            {
                "total": float(len(self._lines)),
                "completed": float(self._good),
                "failed": float(done - self._good),
                "in_progress_ms": float(self._begun_ms),
            }
        )

    def finished(self, blobs: Blobs, reason: str, stopped: dict[str, Any] | None) -> dict[str, Any]:
        """The two files in the blobs: every line of the input has its own in one of them."""
        self._report("finalizing")
        finalizing_ms = now_ms()
        output, errors = (
            self._context.folder / "output.jsonl",
            self._context.folder / "errors.jsonl",
        )
        kept = self._context.folder / "checkpoint-lines.jsonl"
        with kept.open("rb") as answers, output.open("wb") as good, errors.open("wb") as bad:
            for _, is_good, start, size in slices(self._parts.done):
                answers.seek(start)
                (good if is_good else bad).write(answers.read(size))
            if left := [line for line in self._lines if line.number not in self._done]:
                code, message = LEFT.get(reason, (None, None))
                told = stopped or {"code": code, "message": message}
                error = {"code": told["code"], "message": told["message"]}
                bad.writelines(Answer(line, self._id(line), error=error).encode() for line in left)
        used = [sum(n) for n in zip(*(p["used"] for p in self._parts.done), strict=True)]
        counts = {
            "total": len(self._lines),
            "completed": self._good,
            "failed": len(self._lines) - self._good,
        }
        self._context.log(f"{reason}: {counts['completed']} of {counts['total']} lines answered")
        tenant = self._inputs["tenant"]
        return {
            **_result(reason, [stopped] if stopped else [], counts),
            "output": _put(blobs, tenant, output),
            "error": _put(blobs, tenant, errors),
            "used": used or [0, 0, 0],
            "in_progress_ms": self._begun_ms,
            "finalizing_ms": finalizing_ms,
        }


def _result(status: str, errors: list[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
    return {
        "status": status, "errors": errors, "counts": counts, "output": None, "error": None,
        "used": [0, 0, 0], "in_progress_ms": None, "finalizing_ms": None, "at_ms": now_ms(),
    }  # fmt: skip


def _begun(path: Path) -> int:
    """When the first attempt began to ask (ms)."""
    try:
        return int(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        now = now_ms()
        path.write_text(json.dumps(now))
        return now


def _put(blobs: Blobs, tenant: str, path: Path) -> dict[str, Any] | None:
    if not path.stat().st_size:
        return None
    with path.open("rb") as file:
        digest, size = blobs.put(tenant, file)
    return {"digest": digest, "bytes": size}


def _stopped(told: Any, status: int, line: Line) -> dict[str, Any]:
    error = told.get("error") if isinstance(told, dict) else None
    message = error.get("message") if isinstance(error, dict) else str(told)
    return {"code": STOPS[status], "message": message, "param": None, "line": line.number}
