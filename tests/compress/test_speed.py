"""Smaller shapes are faster where it counts: in the serving engine, beside the network before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers_arrays import digits
from helpers_compress import built, material_of
from meuse.compress import catalog, latency
from meuse.compress.material import Material
from meuse.core.ports import Engine
from meuse.serve import engines
from meuse.train import export

WIDE = {"hidden": [1024, 1024], "dropout": 0.0}
"""A million products in the middle, some tenths of a millisecond: far from what a call costs."""


def served(network: Any, material: Material) -> Engine:
    graph = export.network_graph(network, material.train.x[:2])
    whole = export.assemble(material.preparation, graph, material.answers)
    return engines.load("onnx", whole.SerializeToString(), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "less"),
    [
        ("low_rank", {"rank": 32, "epochs": 0, "data": False}, 0.6),
        ("prune_structured", {"rate": 0.7, "rounds": 1, "epochs": 0}, 0.6),
    ],
)
def test_it_is_faster_in_the_engine(
    tmp_path: Path, method: str, options: dict[str, Any], less: float
) -> None:
    """Of some 1.1 million parameters a tenth is left, so even the upper end of the ratio's interval
    lies far below 1, at one row and at 32."""
    material = material_of(tmp_path, digits())
    before = served(built("mlp", (64,), **WIDE).eval(), material)
    found = catalog.METHODS[method]
    made = found.function()(
        built("mlp", (64,), **WIDE).eval(), material, found.configure(options)
    )  # fmt: skip
    pair = {"before": before, "after": served(made, material)}
    (given,) = before.signature.inputs
    rows = {given.name: material.validation.x}
    for batch in latency.BATCHES:
        taken = latency.in_turns(pair, rows, batch, max_seconds=1)
        ratio = latency.compare(taken["before"], taken["after"])
        assert ratio.high < less, (batch, ratio)
