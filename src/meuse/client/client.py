"""A client of one platform with one key."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from meuse.core.errors import Code, MeuseError, invalid

JSON = dict[str, Any]


class Client:
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

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; the decoded JSON of the answer."""
        response = self._send(method, path, **arguments)
        return response.json() if response.content else None

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise MeuseError(
                Code.UNAVAILABLE,
                f"{self.url} does not answer: {error}",
                hint="Is `meuse up` running there?",
            ) from None
        if response.status_code >= 400:
            raise _error(response)
        return response

    # -- data, training, compression -----------------------------------------------------

    def upload(self, name: str, path: Path) -> JSON:
        """Upload a CSV or NPZ file; the dataset version."""
        kind = "application/x-npz" if path.suffix == ".npz" else "text/csv"
        with path.open("rb") as file:
            answer: JSON = self.call(
                "POST",
                "/api/datasets",
                params={"name": name},
                content=file,
                headers={"content-type": kind},
            )
        return answer

    def datasets(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/datasets")["items"]
        return items

    def train(self, model_name: str, data: str, **spec: Any) -> JSON:
        """Start training; the job. `spec` as in POST /train_model (optimizer, epochs, …)."""
        body = {"model_name": model_name, "data": data, **spec}
        answer: JSON = self.call("POST", "/train_model", json=body)
        return self.job(answer["job_id"])

    def compress(self, model: str, **spec: Any) -> JSON:
        """Start compression; the job. `spec`: data, goal, steps."""
        return self.start("compress", {"model": model, **spec})

    def start(self, kind: str, spec: JSON) -> JSON:
        job: JSON = self.call("POST", "/api/jobs", json={"kind": kind, "spec": spec})
        return job

    def job(self, job_id: str) -> JSON:
        job: JSON = self.call("GET", f"/api/jobs/{quote(job_id)}")
        return job

    def jobs(self, limit: int = 50) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/jobs", params={"limit": limit})["items"]
        return items

    def cancel(self, job_id: str) -> JSON:
        job: JSON = self.call("POST", f"/api/jobs/{quote(job_id)}/cancel")
        return job

    def events(self, job_id: str) -> Iterator[tuple[str, JSON]]:
        """(kind, data) of a job from its start to its end, as they happen."""
        path = f"/api/jobs/{quote(job_id)}/events"
        with self._http.stream("GET", path, timeout=httpx.Timeout(60.0, read=None)) as response:
            if response.status_code >= 400:
                response.read()
                raise _error(response)
            kind = ""
            for line in response.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield kind, json.loads(line.removeprefix("data: "))

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

    def set_alias(self, name: str, alias: str, version: int) -> JSON:
        path = f"/api/models/{quote(name)}/aliases/{quote(alias)}"
        answer: JSON = self.call("PUT", path, json={"version": version})
        return answer

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
        """A new limit: any of tenant, project, key, model, and requests, per (second, minute,
        hour), burst; or concurrency."""
        answer: JSON = self.call("POST", "/api/limits", json=terms)
        return answer

    def limits(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/limits")["items"]
        return items

    def budget(self, **terms: Any) -> JSON:
        """A new budget: any of tenant, project, key, model, and meter (requests, rows), limit,
        period (minute, day, month, total), hard."""
        answer: JSON = self.call("POST", "/api/budgets", json=terms)
        return answer

    def budgets(self) -> list[JSON]:
        """With what is used and left, and when they reset."""
        items: list[JSON] = self.call("GET", "/api/budgets")["items"]
        return items

    def remove_limit(self, limit_id: str) -> JSON:
        """Take a limit or a budget away, by its id."""
        kind = "budgets" if limit_id.startswith("budget-") else "limits"
        answer: JSON = self.call("DELETE", f"/api/{kind}/{quote(limit_id)}")
        return answer

    def put_tenant(self, name: str, plan: str | None = None) -> JSON:
        answer: JSON = self.call("PUT", f"/api/tenants/{quote(name)}", json={"plan": plan})
        return answer

    def put_plan(self, name: str, currency: str, prices: Sequence[JSON]) -> JSON:
        body = {"currency": currency, "prices": list(prices)}
        answer: JSON = self.call("PUT", f"/api/plans/{quote(name)}", json=body)
        return answer

    def usage(self, **query: Any) -> JSON:
        """{rows, complete_to, …}. `query`: from, to, by, tenant, fresh."""
        if "start" in query:  # `from` is a word of the language
            query["from"] = query.pop("start")
        answer: JSON = self.call("GET", "/api/usage", params=query)
        return answer

    def invoice(self, tenant: str, period: Any) -> JSON:
        """The invoice (or draft) of a tenant for "2026-11" or {from, to}."""
        answer: JSON = self.call("POST", "/api/invoices", json={"tenant": tenant, "period": period})
        return answer


def _error(response: httpx.Response) -> MeuseError:
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return MeuseError(Code.INTERNAL, f"HTTP {response.status_code}: {response.text[:200]}")
    error = MeuseError.from_dict(body if isinstance(body, dict) else {"message": body})
    wait = response.headers.get("retry-after", "")
    error.retry_after_s = int(wait) if wait.isdecimal() else None
    return error
