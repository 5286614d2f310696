"""Steps applied one after the other: from a parent to a candidate, with checkpoints.

Knows how a network becomes a file and how a killed job goes on after its last finished step;
knows no method by name, no gate and no test split.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.compress import catalog, digests, forms, sensitivity
from meuse.compress.answers import outputs_of, rows_of
from meuse.compress.artifact import Artifact, Load
from meuse.compress.material import GraphMaterial, Material, Tools, of_part
from meuse.compress.method import Method
from meuse.compress.processor import sums_are_exact
from meuse.compress.spec import Step
from meuse.compress.teachers import Given, Version
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Frame, Signature, Splits
from meuse.core.ports import JobContext, Metric, Paused
from meuse.serve.packed import unpack
from meuse.train import export, fakequant, loop, parts, recipes, weights
from meuse.train.batches import Arrays
from meuse.train.digest import source_digest
from meuse.train.options import LoopOptions
from meuse.train.prepare.apply import Preparer
from meuse.train.seeds import derive
from meuse.train.signature import inputs_of
from meuse.train.weights import Described

_CALIBRATION_ROWS = 1024
_SENSITIVITY_ROWS = 1024
_PRUNING = {"prune", "prune_structured"}
_ROUNDING = {"share", "qat", "quantize"}
"""Methods by what they do to the weights of a layer."""

Judge = Callable[[Step, NDArray[Any]], None]
"""Given a step and the outputs on validation after it; raises to refuse."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What is compressed: `artifact` is what is served of it, `weights` its safetensors file if
    it has one; `training` is what its card says of how it was trained. `given` is what steps of
    distillation name; by default they have the parent alone as teacher. `tools` is for
    converters."""

    ref: str
    artifact: Artifact
    signature: Signature
    weights: bytes | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    given: Given | None = None
    tools: Tools = field(default_factory=Tools)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A compressed model: `artifact` is to be served; `network` computes the same, None where
    none does. `rows` tell of the steps: {method, config, figures, bytes, seconds}. `graph` is the
    last ONNX graph on the way to `artifact`, None where there was none."""

    artifact: Artifact
    network: Described | None
    outputs: NDArray[Any]
    rows: tuple[dict[str, Any], ...]
    graph: bytes | None = None


@dataclass(frozen=True, slots=True)
class _State:
    """Between two steps. `network` computes what `artifact` does; None where none does any more.
    `graph` is the last ONNX graph so far."""

    network: Described | None
    artifact: Artifact
    rows: tuple[dict[str, Any], ...] = ()
    graph: bytes | None = None


class Pipeline:
    """One parent with its data, to which steps are applied."""

    def __init__(
        self,
        job: JobContext,
        parent: Parent,
        splits: Splits,
        seed: int,
        metric: Metric,
        load: Load,
    ) -> None:
        self._job, self._parent, self._splits = job, parent, splits
        self._seed, self._metric, self._load = seed, metric, load
        self._network = None if parent.weights is None else weights.load(parent.weights)
        self._validation = rows_of(splits.validation.frame, parent.signature)
        self._material = self._gather()

    @property
    def digest(self) -> str:
        """Names parent, data and code: what follows from the same digest is the same."""
        return self._material.digest

    def apply(self, steps: Sequence[Step], judge: Judge, *, shared: bool = False) -> Candidate:
        """The candidate that `steps` make of the parent. `shared`: what several candidates
        begin with is done once, and its checkpoints stay apart from those of others.

        `judge` hears the outputs on validation after every step. Raises what methods raise;
        their errors name `steps.N.field`.
        """
        state = _with_graph(_State(self._network, _plain(self._parent.artifact)), None)
        outputs = self.validation_outputs(self._parent.artifact)
        for index, step in enumerate(steps):
            if self._job.paused():
                raise Paused
            label = f"step-{index + 1}"
            self._job.log(f"{label} of {len(steps)}: {step.method}")
            if shared:
                label = f"{_told(steps[: index + 1])[:12]}-{label}"
            done, share = index / len(steps), 1 / len(steps)
            try:
                made = self._step(state, step, steps[: index + 1], label, done, share)
            except MeuseError as error:
                if error.code in (Code.INVALID_FIELD, Code.INVALID_DATA) and error.field != "data":
                    error.field = (
                        f"steps.{index}.{error.field}" if error.field else f"steps.{index}"
                    )
                raise
            state = _with_graph(made, state.graph)
            self._job.progress(done + share)
            outputs = self.validation_outputs(state.artifact)
            judge(step, outputs)
        return Candidate(state.artifact, state.network, outputs, state.rows, state.graph)

    def validation_outputs(self, artifact: Artifact) -> NDArray[Any]:
        """What a file answers to the validation rows, as metrics take it."""
        return outputs_of(self._load(artifact), self._validation, self._splits.task)

    def sensitivity(self, methods: Collection[str]) -> list[dict[str, Any]]:
        """What each layer of the parent alone can bear of what `methods` do
        (`sensitivity.told`), on validation rows; nothing for a parent without a network, or
        where no method prunes or rounds. Measured once, however often the job starts."""
        prunes, rounds = bool(_PRUNING & set(methods)), bool(_ROUNDING & set(methods))
        if self._network is None or not (prunes or rounds):
            return []
        path, digest = parts.outcome_of(self._job.folder, "sensitivity"), self._material.digest
        before = parts.kept(path, f"{digest}:{prunes}:{rounds}")
        if before is None:
            few = _some(self._with_network(), _SENSITIVITY_ROWS)
            network = self._network.network
            rows = sensitivity.told(network, few.score, prunes=prunes, rounds=rounds)
            count = len({row["layer"] for row in rows})
            self._job.log(f"each of {count} layers alone, on {len(few.validation.y):,} rows")
            before = {"rows": rows}
            parts.keep(path, f"{digest}:{prunes}:{rounds}", before)
        found: list[dict[str, Any]] = before["rows"]
        return found

    def _step(
        self,
        state: _State,
        step: Step,
        so_far: Sequence[Step],
        label: str,
        done: float,
        share: float,
    ) -> _State:
        """The state after one step, from its checkpoint if a run before this got that far. A
        network is kept with the file that it was exported to, which is what was judged."""
        method, folder = catalog.METHODS[step.method], self._job.folder
        digest = f"{self._material.digest}:{_told(so_far)}"
        outcome, file = parts.outcome_of(folder, label), folder / f"checkpoint-{label}.served"
        network = parts.checkpoint_of(folder, label)
        before = parts.kept(outcome, digest)
        if before is not None and file.exists():
            self._job.log(f"{label} was done before")
            found = state.network if method.lossless else None
            if before["network"]:
                found = weights.load(network.read_bytes())
            artifact = Artifact(before["format"], file.read_bytes())
            return _State(found, artifact, (*state.rows, before["row"]))
        begun = time.monotonic()
        if method.stage == "network":
            made = self._change(state, method, step, label, done, share)
        else:
            material = of_part(self._material, label, done, share)
            made = method.function()(state.artifact, material, step.config)
        seconds = round(time.monotonic() - begun, 3)
        if isinstance(made, Described):
            save(made, network)
            after = _State(made, self._export(made))
        else:
            after = _State(state.network if method.lossless else None, made)
        file.write_bytes(after.artifact.data)
        row = {**step.to_dict(), "seconds": seconds, "bytes": len(after.artifact.data)}
        if lost := self._lost(state, step, made):
            row["lost"] = lost
        kept = {"row": row, "format": after.artifact.format, "network": after.network is made}
        parts.keep(outcome, digest, kept)
        return replace(after, rows=(*state.rows, row))

    def _lost(self, state: _State, step: Step, made: Described | Artifact) -> list[str]:
        """What the step has undone of the network's forms, said aloud; a student has its own."""
        if state.network is None or not isinstance(made, Described):
            return []
        if getattr(step.config, "student", None) is not None:
            return []
        lost = forms.lost(forms.of(state.network.network), forms.of(made.network))
        for told in lost:
            self._job.log(f"{step.method} undid earlier work: {told}", "warning")
        return lost

    def _change(
        self, state: _State, method: Method, step: Step, label: str, done: float, share: float
    ) -> Described | Artifact:
        """The changed network, or the file that no network computes."""
        found = state.network
        if found is None:
            raise MeuseError(
                Code.INVALID_DATA,
                f"{self._parent.ref} has no weights file, which {method.name} needs: it is known "
                "as a finished graph only",
                field="method",
                hint="Versions that were trained here have one. "
                f"Without it these work: {', '.join(_graph_methods())}.",
            )
        material = of_part(self._with_network(), label, done, share)
        if self._network is not None and found.recipe != self._network.recipe:
            material = replace(material, loop=_options(found.recipe, {}))
        # Methods may change it in place; another candidate starts from the same.
        network = method.function()(copy.deepcopy(found.network), material, step.config)
        if isinstance(network, Artifact):  # trained in another's format, which no network has
            return network
        told = getattr(network, "described", None)  # another recipe's network took its place
        if told is not None:
            found = replace(found, recipe=told["recipe"], config=told["config"])
        return replace(found, network=network)

    def _export(self, found: Described) -> Artifact:
        """The network as a file that answers raw rows, once it does so as the network does."""
        material = self._with_network()
        graph = export.network_graph(found.network, material.train.x[:2])
        whole = export.assemble(found.preparation, graph, found.answers)
        model: bytes = whole.SerializeToString()
        frame = self._splits.train.frame.take(slice(0, 3))
        frame = frame.select([name for name, _ in found.preparation.columns])
        wanted = found.answers.last_of(loop.scores_of(found.network, material.train.x[:3]))
        inputs = inputs_of(frame, found.signature, encode=False)
        tolerance = export.ROUNDED if fakequant.layers(found.network) else export.TOLERANCE
        export.check_parity(model, inputs, wanted, found.signature.outputs[-1].name, tolerance)
        return Artifact("onnx", model)

    def _with_network(self) -> Material:
        assert isinstance(self._material, Material)
        return self._material

    def _gather(self) -> GraphMaterial:
        """What methods have to work with; of a parent without weights, methods of the graph."""
        splits, found = self._splits, self._network
        given = self._parent.given or self._parent_alone()
        rows = rows_of(_sample(splits, self._seed), self._parent.signature)
        common: dict[str, Any] = {
            "job": self._job,
            "rows": {name: np.ascontiguousarray(value) for name, value in rows.items()},
            "validation_rows": self._validation,
            "validation_y": splits.validation.y,
            "task": splits.task,
            "metric": self._metric,
            "seed": self._seed,
            "digest": _digest(self._parent, given, splits, self._seed),
            "tools": self._parent.tools,
        }
        if found is None:
            return GraphMaterial(**common)
        preparer = Preparer(found.preparation)
        train, validation = (
            Arrays(preparer.apply(part.frame), found.answers.targets_of(part.y))
            for part in (splits.train, splits.validation)
        )
        return Material(
            **common,
            train=train,
            validation=validation,
            outputs=found.answers.outputs,
            preparation=found.preparation,
            answers=found.answers,
            loop=_options(found.recipe, self._parent.training),
            given=given,
        )

    def _parent_alone(self) -> Given:
        parent = self._parent
        features = self._splits.train.frame.names
        weights = parent.weights
        teacher = Version(
            parent.ref,
            hashlib.sha256(parent.artifact.data).hexdigest(),
            parent.signature,
            self._splits.task,
            features,
            lambda: self._load(parent.artifact),
            None if weights is None else lambda: weights,
        )
        return Given(self._splits.task, self._splits.train.frame, {"": teacher})


def _plain(artifact: Artifact) -> Artifact:
    """A packed file as the graph that it holds, which is what methods change."""
    if artifact.format != "packed":
        return artifact
    return Artifact("onnx", unpack(artifact.data))


def _with_graph(state: _State, before: bytes | None) -> _State:
    """The state with its last ONNX graph: its own file, or the graph `before` it."""
    own = state.artifact.data if state.artifact.format == "onnx" else before
    return replace(state, graph=own)


def _told(steps: Sequence[Step]) -> str:
    """Names a list of steps."""
    told = json.dumps([step.to_dict() for step in steps], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def save(found: Described, path: Path) -> Path:
    """The network as a weights file of its own."""
    return weights.save(
        found.network, found.recipe, found.config, found.preparation, found.answers,
        found.classes, path, found.encoder,
    )  # fmt: skip


def _graph_methods() -> list[str]:
    return [method.name for method in catalog.METHODS.values() if method.stage == "graph"]


def _sample(splits: Splits, seed: int) -> Frame:
    """Up to 1,024 rows of the training split, any of them."""
    frame = splits.train.frame
    if len(frame) <= _CALIBRATION_ROWS:
        return frame
    chosen = np.random.default_rng(derive(seed, "calibration")).permutation(len(frame))
    return frame.take(np.sort(chosen[:_CALIBRATION_ROWS]))


def _some(material: Material, most: int) -> Material:
    """The same with at most so many validation rows, any of them."""
    found = material.validation
    if len(found.y) <= most:
        return material
    order = np.random.default_rng(derive(material.seed, "sensitivity")).permutation(len(found.y))
    chosen = np.sort(order[:most])
    return replace(material, validation=Arrays(found.x[chosen], found.y[chosen]))


def _options(recipe: str, training: Mapping[str, Any]) -> LoopOptions:
    """The loop's options that the parent was trained with, over its recipe's own."""
    chosen = training.get("options") or {}
    names = LoopOptions.__struct_fields__
    given = {name: value for name, value in chosen.items() if name in names}
    return recipes.find(recipe).options(given)


def _digest(parent: Parent, given: Given, splits: Splits, seed: int) -> str:
    """Names everything that a step's result follows from, but for the steps."""
    digest = hashlib.sha256(f"{seed}:{splits.task}".encode())
    for file in (parent.artifact.data, parent.weights or b""):
        digest.update(hashlib.sha256(file).digest())
    digest.update(json.dumps(dict(parent.training), sort_keys=True, default=str).encode())
    for named in (
        digests.of_examples(splits.train),
        digests.of_examples(splits.validation),
        digests.of_given(given),
        digests.of_place(exact_sums=sums_are_exact()),
        source_digest(Path(__file__).parent),
        source_digest(Path(loop.__file__).parent),
    ):
        digest.update(named.encode())
    return digest.hexdigest()
