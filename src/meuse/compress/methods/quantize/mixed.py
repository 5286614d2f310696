"""Every layer in the fewest bits that the metric bears: int4, int8 or float32.

Knows ONNX Runtime and the metric on the validation split; knows no test split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from meuse.compress.answers import BLOCK_ROWS
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import graphs, int4, int8
from meuse.evaluate.metrics import PRIMARY

_LAYERS = ("MatMul", "Gemm", "Conv")
_MOST = 64  # layers that are tried one by one


def mixed(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """Int8 in all layers but the fewest that must stay in float32 for the metric to fall by at
    most `max_drop` on the validation split; then, with `least_bits` 4, int4 weights in all
    products that bear it within the same bound and whose inputs `group_size` divides.

    Every layer is first quantized alone; layers are then left in float32 in the order of what
    that costs (of equal costs, those first whose answers move most), until the drop is within
    the bound, and tried in int4 from the one that costs least there. Their drops are logged.
    Sensitivity one layer at a time: Wu et al., arXiv:2004.09602, section 6. Of more than 64
    layers the 64 with the most weights are tried.

    Raises `invalid_data` (`max_drop`) where no layer bears less than float32.
    """
    search = _Search(artifact, material, config)
    left = search.floats()
    four: set[str] = set()
    if config.least_bits == 4:
        four = search.fours(left)
        left -= four
    if search.layers and left == set(search.layers):
        raise graphs.too_sensitive(config.bound)
    made, drop = search.of(left, four)
    told = f"; float32: {', '.join(sorted(left))}" if left else ""
    told += f"; int4: {', '.join(sorted(four))}" if four else ""
    counts = f", {len(four)} in int4" if four else ""
    material.job.log(
        f"{len(search.layers) - len(left) - len(four)} of {len(search.layers)} layers in int8, "
        f"{len(left)} in float32{counts}{told}; the metric falls by {drop:.4f}"
    )
    return made


class _Search:
    """The choices for one model, each scored on the validation split. `layers` by size."""

    def __init__(self, artifact: Artifact, material: GraphMaterial, config: Quantize) -> None:
        self._artifact, self._material, self._config = artifact, material, config
        self._feeds = graphs.feeds(material.rows, config.rows)
        with tempfile.TemporaryDirectory() as folder:
            self._float = int8.prepared(artifact, Path(folder))
        self._nodes = int8.nodes(self._float)
        self.layers = _layers(self._float, self._nodes)
        self._base = _Scored(artifact, material)
        self._fitting = self._divided() if config.least_bits == 4 else []

    def floats(self) -> set[str]:
        """The fewest layers that must stay in float32 where the others are int8."""
        order = self._ordered("int8", self.layers, 0.0, self._only)
        for count, _ in enumerate(order):
            left = set(order[len(order) - count :])
            if self._bears(left, set()):
                return left
        return set(order)

    def fours(self, left: set[str]) -> set[str]:
        """The products in int4 beside layers in int8, and in float32 those of `left`."""
        chosen: set[str] = set()
        for name in self._ordered("int4", self._fitting, 0.5, self._alone_in_four):
            if self._bears(left - chosen - {name}, chosen | {name}):
                chosen.add(name)
        return chosen

    def of(self, left: set[str], four: set[str]) -> tuple[Artifact, float]:
        """The model with `left` in float32 and `four` in int4, and how far the metric falls."""
        made = self._made(left, four)
        return made, self._base.metric - _Scored(made, self._material).metric

    def _bears(self, left: set[str], four: set[str]) -> bool:
        return self.of(left, four)[1] <= self._config.bound + 1e-9

    def _made(self, left: set[str], four: set[str]) -> Artifact:
        if self.layers and set(self.layers) <= left | four:  # no layer is left for int8
            made = self._tables()
        else:
            made = int8.static_but(self._artifact, self._feeds, self._config, left | four)
        return self._in_four(made, four) if four else made

    def _tables(self) -> Artifact:
        proto = _copy(self._float)
        if self._config.tables:
            int8.embeddings(proto)
        return int8.finish(proto)

    def _only(self, name: str) -> Artifact:
        others = [node for node in self._nodes if node != name]
        return int8.static_but(self._artifact, self._feeds, _plain(self._config), others)

    def _alone_in_four(self, name: str) -> Artifact:
        return self._in_four(int8.finish(_copy(self._float)), {name})

    def _in_four(self, artifact: Artifact, names: set[str]) -> Artifact:
        proto = graphs.replace_gemm(onnx.load_from_string(artifact.data))
        found = {n: size for n, size in int4.matrices(proto).items() if n in names}
        return int4.finish(int4.products(proto, found, self._material, self._config))

    def _divided(self) -> list[str]:
        """Products whose inputs the groups divide."""
        found = int4.matrices(graphs.replace_gemm(_copy(self._float)))
        size = self._config.size
        return [name for name in self.layers if name in found and found[name][0] % size == 0]

    def _ordered(
        self, kind: str, names: list[str], done: float, alone: Callable[[str], Artifact]
    ) -> list[str]:
        """From the layer that costs least in numbers of `kind` to the one that costs most."""
        job = self._material.job
        costs: dict[str, tuple[float, float]] = {}
        for number, name in enumerate(names):
            scored = _Scored(alone(name), self._material)
            costs[name] = (self._base.metric - scored.metric, scored.distance(self._base))
            job.log(f"{name} alone in {kind} costs {costs[name][0]:.4f}")
            job.progress(done + 0.4 * (number + 1) / len(names))
        return sorted(names, key=lambda name: costs[name])


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


class _Scored:
    """A model's primary metric and last outputs on the validation split."""

    def __init__(self, artifact: Artifact, material: GraphMaterial) -> None:
        session = graphs.session(onnx.load_from_string(artifact.data))
        name = session.get_outputs()[-1].name
        rows = {n: graphs.text(v) for n, v in material.validation_rows.items()}
        count = len(material.validation_y)
        parts = [
            session.run([name], {n: v[start : start + BLOCK_ROWS] for n, v in rows.items()})[0]
            for start in range(0, count, BLOCK_ROWS)
        ]
        self.answers: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
        figures = material.metric(_scores(self.answers, material.task), material.validation_y)
        self.metric = figures[PRIMARY[material.task][0]]

    def distance(self, other: _Scored) -> float:
        return float(np.abs(self.answers - other.answers).mean())


def _scores(answers: NDArray[np.float64], task: str) -> NDArray[np.float64]:
    """Probabilities as logits; values as they are."""
    if task == "regression":
        return answers.reshape(len(answers))
    least = 1e-45
    logs = np.log(np.maximum(answers, least))
    return logs - np.log(np.maximum(1 - answers, least)) if task == "multilabel" else logs


def _layers(proto: onnx.ModelProto, chosen: list[str]) -> list[str]:
    """The layers among the nodes to quantize, those with the most weights first."""
    known: Mapping[str, onnx.TensorProto] = graphs.constants(proto)
    sizes = {
        node.name: int(np.prod(known[node.input[1]].dims))
        for node in proto.graph.node
        if node.name in chosen and node.op_type in _LAYERS
    }
    return sorted(sizes, key=lambda name: sizes[name], reverse=True)[:_MOST]


def _plain(config: Quantize) -> Quantize:
    """Without tables of embeddings, which are not tried."""
    return Quantize(
        calibration=config.calibration,
        percentile=config.percentile,
        rows=config.rows,
        embeddings=False,
    )
