"""Search jobs: what is searched pinned at submission, the best of the trials registered."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.shared import Stores
from meuse.app.kinds.train import Train
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import Job, Scope
from meuse.jobs.kinds import JobKind
from meuse.train import recipes
from meuse.train.search.spec import OWN, SearchSpec, in_base


@dataclass(frozen=True, slots=True)
class Search:
    stores: Stores
    foreign: Foreign

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, self._estimate)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        asked = SearchSpec.from_dict({k: v for k, v in spec.items() if k != "deploy"})
        # What a training with the base alone would be refused for, and its pinned data.
        told = {**asked.own, **asked.base}
        told |= {"deploy": spec["deploy"]} if "deploy" in spec else {}
        try:
            checked = Train(self.stores, self.foreign).kind().check(scope, dict(told))
        except MeuseError as error:
            raise in_base(error, asked.base) from None
        recipe = recipes.find(checked["recipe"])
        if "config.encoder" in asked.space:
            raise invalid(
                "space.config.encoder",
                "all trials of a search start from one encoder",
                "Name it in base.config.encoder, and search each encoder by itself.",
            )
        if recipe.needs:
            raise invalid("recipe", f"{recipe.name} cannot be searched")
        own = {name: checked[name] for name in OWN}
        base = asked.base
        if "encoder" in base.get("config", {}):
            pinned_version = {"encoder": checked["config"]["encoder"]}
            base = {**base, "config": {**base["config"], **pinned_version}}
        if "split" in checked:
            base = {**base, "split": checked["split"]}
        pinned = replace(asked, own=own, base=base)
        return {**pinned.to_dict(), "deploy": checked["deploy"]}

    def _prepare(self, job: Job) -> dict[str, Any]:
        inputs = Train(self.stores, self.foreign).kind().prepare(_as_training(job))
        return {**inputs, "trial_bytes": self.stores.estimate(_as_training(job))}

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        seed = int(job.spec["base"].get("seed", 0))
        trained = replace(job, spec={**job.spec, "seed": seed})
        return Train(self.stores, self.foreign).kind().complete(trained, result)

    def _estimate(self, job: Job) -> int | None:
        at_once: int = min(job.spec["parallel"], os.cpu_count() or 1)
        return at_once * self.stores.estimate(_as_training(job)) + (80 << 20)


def _as_training(job: Job) -> Job:
    """A training with the base alone."""
    return replace(job, spec={**job.spec, "config": job.spec["base"].get("config", {})})
