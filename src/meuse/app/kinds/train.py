"""Train jobs: data pinned at submission, the version registered, deployed when asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.shared import Stores
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import Job, Scope
from meuse.data.split_spec import SplitSpec
from meuse.deploy import spec as deployments_spec
from meuse.deploy.completion import completed
from meuse.evaluate.spec import columns_named
from meuse.jobs.kinds import JobKind
from meuse.registry.card import check_given
from meuse.train.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class Train:
    stores: Stores
    foreign: Foreign

    def kind(self) -> JobKind:
        return JobKind(self._check, self._prepare, self._complete, self.stores.estimate)

    def _check(self, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
        deploy, split = spec.pop("deploy", False), spec.pop("split", None)
        if not isinstance(deploy, bool):
            raise invalid("deploy", f"{deploy!r} is not true or false")
        card = check_given(spec.pop("card", None) or {})
        slices = columns_named("slices", spec.pop("slices", None) or [])
        asked = TrainSpec.from_dict(spec)
        if deploy:
            self.stores.deployments.check_name(scope, asked.model_name)
        if (given := asked.config.get("encoder")) is not None:
            version, _ = self.stores.find_encoder(scope, given)
            asked = replace(asked, config={**asked.config, "encoder": version.ref})
        data = self.stores.find_data(scope, asked.data)
        names = [column.name for column in data.columns]
        if asked.target is not None and asked.target not in names:
            raise invalid(
                "target", f"{data.ref} has no column {asked.target!r}", f"It has {names[:50]}."
            )
        for name in slices:
            if name not in names or name == (asked.target or names[-1]):
                raise invalid(
                    "slices", f"{data.ref} has no feature {name!r}", f"It has {names[:50]}."
                )
        # Pinned now: what is uploaded later does not change a job that waits.
        pinned = replace(asked, data=data.ref, target=asked.target or names[-1])
        checked = {**pinned.to_dict(), "deploy": deploy, "card": card, "slices": list(slices)}
        if split is None:
            return checked
        how = SplitSpec.from_dict(split, seed=asked.seed)
        how.check(data.columns, str(pinned.target))
        return {**checked, "split": how.to_dict()}

    def _prepare(self, job: Job) -> dict[str, Any]:
        inputs = {
            **self.stores.data_inputs(job, job.spec["data"]),
            "sandbox_tier": self.foreign.tier,
            "sandbox_wall_s": self.foreign.wall_s,
        }
        if (given := job.spec["config"].get("encoder")) is None:
            return inputs
        version, artifact = self.stores.find_encoder(job.scope, given)
        return {**inputs, "encoder": {"model": version.ref, "digest": artifact.digest}}

    def _complete(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        answer = self.stores.register(
            job, result, job.spec["model_name"], job.spec["data"], job.spec["seed"]
        )
        if job.spec.get("deploy"):
            try:
                self._deploy(job.scope, job.spec["model_name"], answer["model"])
                answer["deployment"] = job.spec["model_name"]
            except MeuseError as error:
                # The model is there all the same: the job has done what cannot be repeated.
                answer["deployment_error"] = error.to_dict()
        return answer

    def _deploy(self, scope: Scope, name: str, model: str) -> None:
        wanted = deployments_spec.parse(scope, name, {"model": model})
        existing = {d.name: d for d in self.stores.deployments.list(scope)}.get(name)
        if existing is not None:
            if existing.targets == wanted.targets:
                return  # this step ran before
            wanted = replace(existing, targets=wanted.targets)
        # What of an existing one does not go with the version is refused, as where it is put.
        # Nothing of this kind is a language model, and no other is asked for its memory.
        wanted = completed(self.stores.registry, wanted, ("model",), budget=0)
        # Somebody's change of scale or access in between must not be undone.
        self.stores.deployments.put(wanted, existing.generation if existing else 0)
        self.stores.wake()
