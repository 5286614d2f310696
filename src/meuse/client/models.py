"""The client's calls about models and deployments, and to deployments."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from meuse.client.jobs import JobCalls
from meuse.client.link import JSON, unreachable
from meuse.core.errors import Code, MeuseError


class ModelCalls(JobCalls):
    """What `Client` has of models and deployments; what takes long is a job."""

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
            raise unreachable(self.url, error) from None
