"""Export: preparation, network and answers as one ONNX file that takes raw rows.

Knows torch.onnx and onnxruntime (for the parity check). The file holds no path, user name
or source text of the machine that made it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper
from torch import nn

from meuse.core.errors import Code, MeuseError
from meuse.train import answers, integers
from meuse.train.answers import SCORES, Answers
from meuse.train.encoder import Encoder
from meuse.train.prepare import graph as prepare
from meuse.train.prepare.builder import FEATURES
from meuse.train.prepare.steps import Preparation
from meuse.train.recipes.texts import PADDING, Embedding

TOLERANCE = 1e-4
ROUNDED = 0.03
"""Of networks with simulated integers: a sum in another order may round to the next level."""
_CUT = "ids_of_the_longest"


def network_graph(
    network: nn.Module, example: NDArray[Any], *, is_cut: bool = False
) -> onnx.ModelProto:
    """`network` as a graph `features` → `scores` with a dynamic batch, and with features that may
    be fewer than in the example, if they are `is_cut`.

    `example` are two rows of features: a dimension of 0 or 1 would be taken for a constant.
    """
    if len(example) != 2:
        raise ValueError("two rows are needed")
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it reports that torchvision is absent
    dynamic = {0: torch.export.Dim("rows")}
    if is_cut:
        dynamic[1] = torch.export.Dim("features", min=2, max=example.shape[1])
    try:
        with warnings.catch_warnings():
            # torch 2.13 calls its own deprecated pytree check while it copies the graph.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            program = torch.onnx.export(
                network.eval(),
                (torch.from_numpy(example),),
                dynamo=True,
                external_data=False,
                dynamic_shapes=(dynamic,),
                input_names=[FEATURES],
                output_names=[SCORES],
                opset_version=dict(prepare.OPSETS)[""],
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    if program is None:
        raise MeuseError(Code.INTERNAL, "the export to ONNX gave no graph")
    proto: onnx.ModelProto = program.model_proto
    return integers.fold(proto)


def assemble(
    preparation: Preparation, network: onnx.ModelProto, reading: Answers
) -> onnx.ModelProto:
    """One graph from raw inputs to answers; `network` takes `features` and gives `scores`."""
    before, after = prepare.graph(preparation), answers.graph(reading)
    network.ir_version = prepare.IR_VERSION
    _align(network)
    # Prefixes keep names apart; the outer names and the two seams are what callers know.
    inner = compose.add_prefix(network, "net_", rename_inputs=False, rename_outputs=False)
    first = compose.merge_models(before, inner, [(FEATURES, FEATURES)])
    whole = compose.merge_models(first, after, [(SCORES, SCORES)])
    _only_used_domains(whole)
    return _strip(whole)


class _Unit(nn.Module):
    """Rows of length 1."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(rows, dim=1)


def embedding(
    preparation: Preparation,
    encoder: Encoder,
    output: str,
    counts: tuple[str, str],
    unit: bool = False,
) -> onnx.ModelProto:
    """One graph from raw texts to the mean of an encoder's states, [n, width], as `output`, with
    `unit` scaled to length 1; and, as `counts`, to how many tokens of each text the encoder is
    given and how many there are (`prepare.pieces.ids`), both INT64 [n].

    The encoder is run on as many tokens as the longest of the texts has."""
    body: nn.Module = Embedding(encoder)
    if unit:
        body = nn.Sequential(body, _Unit())
    example = np.zeros((2, *preparation.shape), np.int64)
    network = network_graph(body, example, is_cut=True)
    network.ir_version = prepare.IR_VERSION
    _align(network)
    inner = compose.add_prefix(network, "net_", rename_inputs=False, rename_outputs=False)
    given, there_are = counts
    before = prepare.graph(preparation, there_are)
    _cut_to_longest(before.graph, given)
    whole = compose.merge_models(before, inner, [(_CUT, FEATURES)])
    whole.graph.node.append(helper.make_node("Identity", [SCORES], [output]))
    shapes = {value.name: value for value in whole.graph.output}
    shapes[SCORES].name = output
    del whole.graph.output[:]
    whole.graph.output.extend([shapes[SCORES], shapes[given], shapes[there_are]])
    _only_used_domains(whole)
    return _strip(whole)


def _cut_to_longest(graph: onnx.GraphProto, count: str) -> None:
    """Tokens are those that are no padding, first and last included, as the tokenizer counts
    them; columns that hold padding alone are left out."""
    constants = {
        "padding_token": np.array(PADDING, np.int64), "along_text": np.array([1]),
        "from_first": np.array([0]), "as_one": np.array([-1]),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    graph.node.extend(
        [
            helper.make_node("Equal", [FEATURES, "padding_token"], ["is_padding"]),
            helper.make_node("Not", ["is_padding"], ["is_token"]),
            helper.make_node("Cast", ["is_token"], ["is_token_int64"], to=onnx.TensorProto.INT64),
            helper.make_node("ReduceSum", ["is_token_int64", "along_text"], [count], keepdims=0),
            helper.make_node("ReduceMax", [count], ["longest"], keepdims=0),
            helper.make_node("Reshape", ["longest", "as_one"], ["longest_1"]),
            helper.make_node("Slice", [FEATURES, "from_first", "longest_1", "along_text"], [_CUT]),
        ]
    )
    graph.output.remove(next(value for value in graph.output if value.name == FEATURES))
    graph.output.append(helper.make_tensor_value_info(count, onnx.TensorProto.INT64, ["rows"]))
    graph.output.append(
        helper.make_tensor_value_info(_CUT, onnx.TensorProto.INT64, ["rows", "longest"])
    )


def check_parity(
    model: bytes,
    inputs: Mapping[str, NDArray[Any]],
    wanted: NDArray[Any],
    output: str,
    tolerance: float = TOLERANCE,
) -> None:
    """Compare `output` of the whole model on ONNX Runtime with what training computes.

    `inputs` and `wanted` hold at least 3 rows; batches of 1 and 3 are compared. Raises
    `internal` when they differ by more than `tolerance` (of the larger of 1 and the value).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        found = session.run([output], {name: value[:batch] for name, value in inputs.items()})[0]
        reference = wanted[:batch]
        scale = np.maximum(1, np.abs(reference))
        if found.shape != reference.shape or not (
            float((np.abs(found - reference) / scale).max()) <= tolerance
        ):
            raise MeuseError(
                Code.INTERNAL,
                f"the exported model differs from the trained one at batch {batch}",
                hint="This is a fault of the platform or of its libraries; please report it.",
            )


def write(model: onnx.ModelProto, path: Path) -> bytes:
    """Write the model to one file; returns its bytes."""
    data: bytes = model.SerializeToString()
    path.write_bytes(data)
    return data


def _align(proto: onnx.ModelProto) -> None:
    """Every domain at the version that the other two graphs use."""
    wanted = dict(prepare.OPSETS)
    for entry in proto.opset_import:
        if entry.version != wanted.setdefault(entry.domain, entry.version):
            raise MeuseError(
                Code.INTERNAL,
                f"the network's graph uses opset {entry.version} of {entry.domain or 'ai.onnx'}",
            )


def _only_used_domains(proto: onnx.ModelProto) -> None:
    """Each domain once, and none that no node is of: some readers insist."""
    used = {node.domain for node in proto.graph.node} | {""}
    used |= {node.domain for function in proto.functions for node in function.node}
    loops = [entry.g for node in proto.graph.node for entry in node.attribute]
    used |= {node.domain for loop in loops for node in loop.node}
    versions = {o.domain: o.version for o in proto.opset_import if o.domain in used}
    del proto.opset_import[:]
    proto.opset_import.extend(helper.make_opsetid(d, v) for d, v in versions.items())


def _strip(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what the exporter says about source files, and all documentation."""
    graph = proto.graph
    parts: list[Any] = [proto, graph, *graph.node, *graph.input, *graph.output]
    parts += [*graph.value_info, *graph.initializer, *proto.functions]
    parts += [node for function in proto.functions for node in function.node]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    return proto
