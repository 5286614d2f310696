"""Weights in fewer bits: how small they become, and what cannot be made smaller."""

from __future__ import annotations

from pathlib import Path

import openvino
import pytest

from helpers_llama import model
from meuse.compress.configs.weights import Weights
from meuse.compress.language.weights import compressed, inner
from meuse.core.errors import Code, MeuseError
from meuse.language.graph import graph_of


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.xml"
    openvino.save_model(graph_of(model(width=96)), path, compress_to_fp16=False)
    return path


def bytes_of(graph: openvino.Model, folder: Path) -> int:
    openvino.save_model(graph, folder / "made.xml", compress_to_fp16=True)
    return (folder / "made.bin").stat().st_size


@pytest.mark.slow
def test_fewer_bits_are_fewer_bytes(written: Path, tmp_path: Path) -> None:
    """Of the float32 file: a half, about a quarter, and less with the inner layers at 4 bits."""
    core, whole = openvino.Core(), written.with_suffix(".bin").stat().st_size
    sizes = {
        name: bytes_of(compressed(core.read_model(written), config), tmp_path)
        for name, config in {
            "f16": Weights("f16"),
            "int8": Weights("int8"),
            "symmetric": Weights("int8", symmetric=True),
            "int4": Weights("int4", group_size=32),
            "half": Weights("int4", group_size=32, ratio=0.5),
        }.items()
    }
    assert 0.48 < sizes["f16"] / whole < 0.52
    assert 0.25 < sizes["int8"] / whole < 0.32
    assert sizes["symmetric"] < sizes["int8"]  # no zero points
    assert sizes["int4"] < sizes["half"] < sizes["int8"]


def test_the_layers_that_groups_are_made_in(written: Path) -> None:
    """Seven of each block; not the table of embeddings, which gives the logits too."""
    layers = inner(openvino.Core().read_model(written))
    assert len(layers) == 14
    assert {inputs for _, inputs in layers} == {96, 192}


def test_a_group_that_does_not_divide_is_refused_or_adjusted(written: Path) -> None:
    """96 = 32 × 3: groups of 64 do not fit, and the message says which do."""
    core = openvino.Core()
    with pytest.raises(MeuseError) as caught:
        compressed(core.read_model(written), Weights("int4"))
    assert caught.value.field == "steps.0.group_size"
    assert "96 inputs, which is no multiple of 64" in caught.value.message
    assert "model.layers." in caught.value.message
    assert caught.value.hint == 'Use 32, or "uneven": "adjust".'
    made = compressed(core.read_model(written), Weights("int4", uneven="adjust"))
    kinds = {node.get_output_element_type(0).to_string() for node in made.get_ops()
             if node.get_type_name() == "Constant"}  # fmt: skip
    assert "i4" in kinds


def test_integers_are_not_rounded_again(written: Path, tmp_path: Path) -> None:
    core = openvino.Core()
    made = compressed(core.read_model(written), Weights("int8"))
    openvino.save_model(made, tmp_path / "made.xml")
    with pytest.raises(MeuseError, match="integers already") as caught:
        compressed(core.read_model(tmp_path / "made.xml"), Weights("int4", group_size=32))
    assert caught.value.code is Code.INVALID_DATA


def test_halves_can_be_made_smaller(written: Path, tmp_path: Path) -> None:
    """What was kept as f16 becomes int8 as if it had been float32."""
    core = openvino.Core()
    openvino.save_model(core.read_model(written), tmp_path / "half.xml", compress_to_fp16=True)
    made = compressed(core.read_model(tmp_path / "half.xml"), Weights("int8"))
    assert bytes_of(made, tmp_path) < 0.32 * written.with_suffix(".bin").stat().st_size
