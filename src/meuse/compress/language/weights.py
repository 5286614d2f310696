"""The weights of a language model's graph in fewer bits, by NNCF. No data is needed."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import nncf
import openvino

from meuse.compress.configs.weights import GROUP, Weights
from meuse.core.errors import Code, MeuseError, invalid

_INTEGERS = ("i8", "u8", "i4", "u4", "nf4", "i2", "u2")
GROUPS = (256, 128, 64, 32, 16)
_LARGE = 4096
"""Elements from which a constant of integers is a matrix of weights."""


def compressed(graph: openvino.Model, config: Weights) -> openvino.Model:
    """The graph with other weights; the one that is given may be changed.

    Raises `invalid_data` for weights that are integers already, `invalid_field` for a group size
    that does not fit a layer.
    """
    _check_floats(graph)
    if config.precision == "f16":
        return graph  # floats are stored at 16 bits
    nncf.set_log_level(logging.ERROR)
    options = _int4(graph, config) if config.precision == "int4" else _int8(config)
    with contextlib.redirect_stdout(io.StringIO()):  # of its progress bar
        made: openvino.Model = nncf.compress_weights(graph, **options)
    return made


def _int8(config: Weights) -> dict[str, Any]:
    modes = nncf.CompressWeightsMode
    return {"mode": modes.INT8_SYM if config.symmetric else modes.INT8_ASYM}


def _int4(graph: openvino.Model, config: Weights) -> dict[str, Any]:
    modes, group = nncf.CompressWeightsMode, config.group_size or GROUP
    adjust = config.uneven == "adjust"
    if not adjust:
        _check_groups(graph, group)
    return {
        "mode": modes.INT4_ASYM if config.symmetric is False else modes.INT4_SYM,
        "group_size": group,
        "ratio": config.ratio or 1.0,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            if adjust
            else nncf.GroupSizeFallbackMode.ERROR
        ),
    }


def _check_floats(graph: openvino.Model) -> None:
    for node in graph.get_ops():
        if node.get_type_name() != "Constant":
            continue
        kind = node.get_output_element_type(0).to_string()
        shape = node.get_output_shape(0)
        if kind in _INTEGERS and len(shape) > 1 and _elements(shape) >= _LARGE:
            raise MeuseError(
                Code.INVALID_DATA,
                f"the weights are integers already ({kind}): rounding them again only loses",
                field="model",
                hint="Compress the version that this one was made from.",
            )


def _check_groups(graph: openvino.Model, group: int) -> None:
    """All matrices but the last: that one, and embeddings, are int8."""
    uneven = [(name, inputs) for name, inputs in inner(graph) if inputs % group]
    if uneven:
        name, inputs = uneven[0]
        fits = [
            size for size in (256, 128, 64, 32, 16) if not any(n % size for _, n in inner(graph))
        ]
        raise invalid(
            "steps.0.group_size",
            f"{name} has {inputs} inputs, which is no multiple of {group}",
            (f"Use {fits[0]}, or" if fits else "Use") + ' "uneven": "adjust".',
        )


def inner(graph: openvino.Model) -> list[tuple[str, int]]:
    """(layer, inputs) of every product with a matrix of weights but the one that gives logits."""
    found = []
    for node in graph.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = node.input_value(1).get_node()
        while weights.get_type_name() == "Convert":
            weights = weights.input_value(0).get_node()
        if weights.get_type_name() == "Constant" and not _gives_logits(node):
            axis = -1 if node.get_attributes()["transpose_b"] else -2
            name = node.get_friendly_name().removeprefix("__module.").partition("/")[0]
            found.append((name, weights.get_output_shape(0)[axis]))
    return found


def _gives_logits(node: Any) -> bool:
    """Only conversions lie between it and the output."""
    while True:
        readers = [r.get_node() for r in node.output(0).get_target_inputs()]
        if any(reader.get_type_name() == "Result" for reader in readers):
            return True
        if len(readers) != 1 or readers[0].get_type_name() not in ("Convert", "Multiply"):
            return False
        node = readers[0]


def _elements(shape: Any) -> int:
    count = 1
    for length in shape:
        count *= int(length)
    return count
