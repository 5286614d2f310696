"""Static int8 with the layers that cost most left in float32.

Knows ONNX Runtime and the metric on the validation split; knows no test split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from meuse.compress.answers import BLOCK_ROWS
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import graphs, int8
from meuse.evaluate.metrics import PRIMARY

_LAYERS = ("MatMul", "Gemm", "Conv")
_MOST = 64  # layers that are tried one by one


def mixed(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """Int8 in all layers but the fewest that must stay in float32 for the metric to fall by at
    most `max_drop` on the validation split.

    Every layer is first quantized alone; layers are then left in float32 in the order of what
    that costs (of equal costs, those first whose answers move most), until the drop is within
    the bound. Their drops are logged. Sensitivity one layer at a time: Wu et al.,
    arXiv:2004.09602, section 6. Of more than 64 layers the 64 with the most weights are tried.
    """
    feeds = graphs.feeds(material.rows, config.rows)
    with tempfile.TemporaryDirectory() as folder:
        proto = int8.prepared(artifact, Path(folder))
    chosen = int8.nodes(proto)
    tried = _layers(proto, chosen)
    base = _Scored(artifact, material)
    drops: dict[str, tuple[float, float]] = {}
    for number, name in enumerate(tried):
        others = [node for node in chosen if node != name]
        alone = _Scored(int8.static_but(artifact, feeds, _plain(config), others), material)
        drops[name] = (base.metric - alone.metric, alone.distance(base))
        told = f"{name} alone in int8 costs {drops[name][0]:.4f}"
        material.job.log(told)
        material.job.progress(0.8 * (number + 1) / len(tried))
    order = sorted(tried, key=lambda name: drops[name], reverse=True)
    for count in range(len(order) + 1):
        left = set(order[:count])
        if count == len(order) and count:
            break
        made = int8.static_but(artifact, feeds, config, left)
        drop = base.metric - _Scored(made, material).metric
        if drop <= config.max_drop + 1e-9:
            names = f": {', '.join(sorted(left))}" if left else ""
            material.job.log(
                f"{len(order) - count} of {len(order)} layers in int8, {count} in float32{names}; "
                f"the metric falls by {drop:.4f}"
            )
            return made
    raise graphs.too_sensitive(config.max_drop)


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
