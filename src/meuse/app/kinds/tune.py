"""Tune jobs: a deployment's engine measured with other settings; the best are kept when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from meuse.app.kinds.shared import Stores
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.fields import integer, known
from meuse.core.nouns import (
    Deployment,
    Draft,
    EngineOptions,
    Job,
    ModelVersion,
    PromptLookup,
    Scope,
)
from meuse.deploy import generation
from meuse.deploy.completion import completed
from meuse.deploy.spec import draft
from meuse.jobs.kinds import JobKind
from meuse.registry import references

DEFAULTS: dict[str, Any] = {
    "streams": 4, "tokens": 64, "rounds": 5, "prompts": [], "settings": [], "apply": False,
    "draft_model": None,
}  # fmt: skip
SETTINGS = (
    "cores", "prompt_lookup", "prefix_cache", "kv_precision", "max_batched_tokens",
    "max_sequences", "draft_model",
)  # fmt: skip
_SAID = ("targets", "timeout_ms")
"""What of a deployment stays as it is."""
MAX_PROMPTS = 64
MAX_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class Tune:
    """`threads` of a replica whose deployment does not say, `cores` of this machine; `budget()` is
    the memory in bytes that all replicas may have."""

    stores: Stores
    threads: int
    cores: int
    budget: Callable[[], int]

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, self._estimate)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        checked = check(spec)
        deployment = self._deployment(scope, checked["deployment"])
        version = self._version(deployment)
        if (asked := checked["draft_model"]) is not None:
            checked["draft_model"] = asdict(self._draft(deployment, version, asked))
        return {**checked, "model": version.ref, "generation": deployment.generation}

    def _prepare(self, job: Job) -> dict[str, Any]:
        deployment = self._deployment(job.scope, job.spec["deployment"])
        version = references.resolve(self.stores.registry, job.scope, job.spec["model"])
        options = deployment.engine
        engine = {name: value for name, value in asdict(options).items() if value is not None}
        drafts = engine.get("draft_model"), job.spec.get("draft_model")
        return {
            "tenant": job.scope.tenant,
            "model": version.ref,
            "digest": version.artifacts[0].digest,
            "drafts": sorted({told["digest"] for told in drafts if told}),
            "engine": {"cores": self.threads, **engine},
            "cores": self.cores,
            "refused": refused(deployment),
        }

    def _estimate(self, job: Job) -> int:
        """The best so far and a candidate are loaded together."""
        deployment = self._deployment(job.scope, job.spec["deployment"])
        version = references.resolve(self.stores.registry, job.scope, job.spec["model"])
        options = deployment.engine
        if (told := job.spec.get("draft_model")) is not None:
            options = replace(options, draft_model=Draft(**told))
        return 2 * generation.need(version, options)

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        answer = {**result, "applied": False}
        if not (job.spec["apply"] and result["changes"]):
            return answer
        try:
            self._apply(job, result["changes"])
        except MeuseError as error:
            # What was measured is there all the same.
            return {**answer, "apply_error": error.to_dict()}
        return {**answer, "applied": True}

    def _apply(self, job: Job, changes: Mapping[str, Any]) -> None:
        deployment = self._deployment(job.scope, job.spec["deployment"])
        wanted = changed(deployment.engine, changes)
        if wanted == deployment.engine:
            return  # this step ran before
        if deployment.generation != job.spec["generation"]:
            raise MeuseError(
                Code.PRECONDITION_FAILED,
                f"{deployment.name} was changed while it was measured",
                hint="Run the job again.",
            )
        # Here was room for one engine; the deployment's replicas have to have it, too.
        spec = replace(deployment, engine=wanted)
        spec = completed(self.stores.registry, spec, _SAID, self.budget())
        # What was measured is the spec of that generation, and no other.
        self.stores.deployments.put(spec, job.spec["generation"])
        self.stores.wake()

    def _deployment(self, scope: Scope, name: str) -> Deployment:
        for deployment in self.stores.deployments.list(scope):
            if deployment.name == name:
                return deployment
        raise not_found("deployment", name)

    def _draft(self, deployment: Deployment, version: ModelVersion, asked: Draft) -> Draft:
        """The one to try, pinned. Raises `invalid_field` or `not_found` at `draft_model`."""
        field = "draft_model"
        if (why := refused(deployment).get(field)) is not None:
            raise invalid(field, why, "Leave it out, or tune a deployment without adapters.")
        found = references.resolve(self.stores.registry, deployment.scope, asked.model, field)
        return generation.drafted(asked, found, [version], field)

    def _version(self, deployment: Deployment) -> ModelVersion:
        if deployment.engine.name != generation.ENGINE:
            raise invalid("deployment", f"{deployment.name} runs no language model here")
        if len(deployment.targets) > 1:
            raise invalid(
                "deployment",
                f"{deployment.name} has {len(deployment.targets)} versions",
                "Tune one of them in a deployment of its own.",
            )
        target = deployment.targets[0].model
        return references.resolve(self.stores.registry, deployment.scope, target)


def check(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec, complete. Raises `invalid_field`."""
    known(spec, {"deployment", *DEFAULTS}, "")
    given = {**DEFAULTS, **spec}
    if not isinstance(given.get("deployment"), str) or not given["deployment"]:
        raise invalid("deployment", "a deployment is missing", "Name one of yours.")
    if not isinstance(given["apply"], bool):
        raise invalid("apply", f"{given['apply']!r} is not true or false")
    prompts = given["prompts"]
    if not isinstance(prompts, list) or len(prompts) > MAX_PROMPTS:
        raise invalid("prompts", f"a list of at most {MAX_PROMPTS} texts is wanted")
    for i, text in enumerate(prompts):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_CHARACTERS:
            raise invalid(f"prompts[{i}]", f"a text of 1 to {MAX_CHARACTERS:,} characters")
    given["draft_model"] = draft("draft_model", given["draft_model"])
    settings = given["settings"]
    if not isinstance(settings, list) or any(name not in SETTINGS for name in settings):
        raise invalid("settings", f"{settings!r} is not allowed", f"Of: {', '.join(SETTINGS)}.")
    if "draft_model" in settings and given["draft_model"] is None:
        raise invalid("draft_model", "which model guesses is missing", "Name a version to try.")
    numbers = {
        name: integer(name, given[name], low, high)
        for name, low, high in (("streams", 1, 256), ("tokens", 1, 4096), ("rounds", 1, 50))
    }
    return {**given, **numbers}


def changed(options: EngineOptions, changes: Mapping[str, Any]) -> EngineOptions:
    """The options with what a tune job found (JSON)."""
    nested = dict(changes)
    if nested.get("prompt_lookup"):
        nested["prompt_lookup"] = PromptLookup(**nested["prompt_lookup"])
    if nested.get("draft_model"):
        nested["draft_model"] = Draft(**nested["draft_model"])
    return replace(options, **nested)


def refused(deployment: Deployment) -> dict[str, str]:
    """The options that it may not have, and why."""
    found = {}
    if deployment.adapters:
        found = dict(generation.NOT_WITH_ADAPTERS)
    if deployment.access:
        found["prefix_cache"] = "callers of several tenants may call it"
    return found
