"""The graph of a decoder: one step of attention over a cache of keys and values.

Knows torch, transformers and OpenVINO; knows nothing of tokenizers, folders or precisions.

The graph has the inputs `input_ids` and `attention_mask` [batch, total], `position_ids` [batch,
length] and `beam_idx` [batch], the output `logits` [batch, length, vocabulary], and keeps the
cache as state. That is what openvino-genai expects, and what its rewriting to paged attention
matches. Layers keep the names of their modules (`__module.model.layers.0.self_attn.q_proj/…`):
adapters are joined to the graph by them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openvino
import torch
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation

# By its own name: `openvino` has it only where the serving engine did not import that first.
from openvino.tools.ovc import convert_model
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

_BATCH, _PAST, _NEW = 2, 3, 4
"""Lengths of the example that is traced. None is 1: torch takes another way there."""


def graph_of(model: PreTrainedModel) -> openvino.Model:
    """A stateful graph of the model, in the precision of its weights.

    Raises RuntimeError or ValueError, as torch and OpenVINO do, for what they cannot trace.
    """
    layers = model.config.get_text_config().num_hidden_layers
    heads, size = _cache_shape(model)
    dtype = next(model.parameters()).dtype
    example: dict[str, Any] = {
        "input_ids": torch.ones((_BATCH, _NEW), dtype=torch.int64),
        "attention_mask": torch.ones((_BATCH, _PAST + _NEW), dtype=torch.int64),
        "position_ids": torch.arange(_PAST, _PAST + _NEW).expand(_BATCH, _NEW),
        "past": [torch.zeros((_BATCH, heads, _PAST, size), dtype=dtype)] * (2 * layers),
    }
    with _as_a_step(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, of shapes that it takes for constant
        graph = convert_model(model, example_input=example)
    _name(graph, layers)
    for parameter in graph.inputs[3:]:
        parameter.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, size]))
    for parameter in graph.inputs[:3]:
        parameter.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.validate_nodes_and_infer_types()
    _reorder(graph)
    pairs = {f"past.{i}": f"present.{i}" for i in range(2 * layers)}
    apply_make_stateful_transformation(graph, pairs)
    _start_empty(graph)
    graph.validate_nodes_and_infer_types()
    return graph


def _cache_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Heads and their size, as the model itself fills a cache."""
    with torch.no_grad():
        cache = model(torch.ones((1, 2), dtype=torch.int64), use_cache=True).past_key_values
    shapes = {tuple(t.shape) for layer in cache.layers for t in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise ValueError(f"the layers' caches differ in shape: {sorted(shapes)}")
    ((_, heads, _, size),) = shapes
    return heads, size


@contextmanager
def _as_a_step(model: PreTrainedModel) -> Iterator[None]:
    """The model's `forward` with a cache of plain tensors. A wrapping module would prefix every
    layer's name."""
    kept = model.forward

    def forward(input_ids, attention_mask, position_ids, past):  # type: ignore[no-untyped-def]
        cache = DynamicCache()
        cache.layers = [_filled(past[i], past[i + 1]) for i in range(0, len(past), 2)]
        answer = kept(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        filled = [t for layer in answer.past_key_values.layers for t in (layer.keys, layer.values)]
        return (answer.logits, *filled)

    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    model.forward = forward
    try:
        yield
    finally:
        model.forward = kept


def _filled(keys: torch.Tensor, values: torch.Tensor) -> Any:
    layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
    layer.dtype, layer.device = keys.dtype, keys.device
    layer.keys, layer.values = keys, values
    layer.is_initialized = True
    return layer


def _name(graph: openvino.Model, layers: int) -> None:
    names = ["input_ids", "attention_mask", "position_ids"]
    names += [f"past.{i}" for i in range(2 * layers)]
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_node().set_friendly_name(name)
        port.get_tensor().set_names({name})
    for port, name in zip(
        graph.outputs, ["logits", *(f"present.{i}" for i in range(2 * layers))], strict=True
    ):
        port.get_tensor().set_names({name})


def _reorder(graph: openvino.Model) -> None:
    """Rows of the cache are taken by `beam_idx`, so that beams may be dropped and forked."""
    beams = opset13.parameter(openvino.PartialShape([-1]), openvino.Type.i32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beams])
    for port in graph.inputs:
        if port.get_any_name().startswith("past."):
            readers = port.get_target_inputs()
            rows = opset13.gather(port, beams, opset13.constant(0))
            for reader in readers:
                reader.replace_source_output(rows.output(0))
    graph.validate_nodes_and_infer_types()


def _start_empty(graph: openvino.Model) -> None:
    """The cache begins as [batch, heads, 0, size]; without it the batch would be 0 as well."""
    batch = opset13.gather(
        opset13.shape_of(graph.input("input_ids"), output_type="i64"),
        opset13.constant([0]), opset13.constant(0),
    )  # fmt: skip
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            shape = [
                batch if length.is_dynamic and axis == 0
                else opset13.constant([0 if length.is_dynamic else length.get_length()])
                for axis, length in enumerate(node.get_output_partial_shape(0))
            ]  # fmt: skip
            empty = opset13.broadcast(
                opset13.constant(0.0, node.get_output_element_type(0)),
                opset13.concat([opset13.convert(s, "i64") for s in shape], axis=0),
            )
            node.set_arguments([empty])
