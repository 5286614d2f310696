"""SavedModels, and .keras files on Keras' TensorFlow backend. Runs in the toolchain alone.

Both can hold code: what they do when they are loaded and run, they do in the sandbox. A model
with one input of fixed shape and one output is converted, by tf2onnx.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from meuse.convert.inside.model import ROWS, SEED, Array, Made, numbers, refuse
from meuse.runtime.sandbox.archives import folder_of

OPSET = 18
MAX_BYTES = 2 << 30
GRAPH = "saved_model.pb"
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "KERAS_BACKEND": "tensorflow",
}  # fmt: skip
_THROUGH = ("Identity", "Cast", "Reshape", "Squeeze")


def convert(source: Path, classes: list[str] | None) -> Made:
    keras = _is_keras(source)
    folder = None if keras else _folder(source)
    os.environ.update(_QUIET)
    try:
        import tensorflow as tf
        import tf2onnx
    except ImportError as error:
        raise refuse(f"the toolchain has no TensorFlow that can be loaded: {error}") from None
    function, spec = _keras(tf, source) if folder is None else _saved(tf, folder)
    rows = _samples(spec)
    wanted = np.asarray(function(tf.constant(rows)))
    if wanted.ndim not in (1, 2) or len(wanted) != len(rows) or wanted.dtype.kind != "f":
        raise refuse(f"the model gives {list(wanted.shape[1:])} a row, not a list of scores")
    wanted = wanted.astype(np.float32)
    asked = tf.TensorSpec((None, *rows.shape[1:]), tf.float32, name="input")
    activation = _activation(tf2onnx, tf.function(function), asked)
    task, labels, outputs, answer = _reading(tf, wanted, activation, classes)
    proto = _export(tf2onnx, tf.function(lambda input: answer(function(input))), asked)
    named = {value.name for value in proto.graph.output}
    if named != set(outputs):
        raise refuse(f"tf2onnx gives the outputs {sorted(named)}")
    about = {
        "tensorflow": tf.__version__,
        "tf2onnx": tf2onnx.__version__,
        "kind": "keras" if keras else "SavedModel",
        "activation": activation,
    }
    return Made(proto, {"input": rows}, outputs, task, labels, about)


def _is_keras(source: Path) -> bool:
    if source.is_dir() or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return {"config.json", "metadata.json"} <= set(archive.namelist())


def _folder(source: Path) -> Path:
    """The SavedModel; what it may not hold is said before TensorFlow sees it."""
    folder = folder_of(source, Path("unpacked"))
    if not (folder / GRAPH).is_file():
        raise refuse(
            f"the folder has no file {GRAPH}",
            "Pack what model.export(folder) or tf.saved_model.save writes.",
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise refuse(f"the SavedModel has {size:,} bytes; the limit is {MAX_BYTES:,}")
    return folder


def _saved(tf: Any, folder: Path) -> tuple[Callable[[Any], Any], Any]:
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow's errors share no base class
        raise refuse(f"TensorFlow cannot load the SavedModel: {_line(error)}") from None
    signatures = dict(getattr(model, "signatures", {}))
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
    if name is None or (name != "serving_default" and len(signatures) > 1):
        raise refuse(
            f"the SavedModel has the signatures {sorted(signatures)}",
            "Save it with one that is called serving_default.",
        )
    signature = signatures[name]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise _several(len(inputs), len(outputs))
    ((given, spec),), (found,) = inputs.items(), outputs

    def run(rows: Any, keep: Any = model) -> Any:  # the variables live as long as the model does
        return signature(**{given: rows})[found]

    return run, spec


def _keras(tf: Any, source: Path) -> tuple[Callable[[Any], Any], Any]:
    import keras

    named = source.with_name("model.keras")  # the name says the format
    source.rename(named)
    try:
        model = keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as error:  # a layer's own code may raise anything
        raise refuse(f"Keras cannot load the model: {_line(error)}") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise _several(len(model.inputs), len(model.outputs))
    spec = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)
    return lambda rows: model(rows, training=False), spec


def _several(inputs: int, outputs: int) -> Exception:
    return refuse(
        f"the model has {inputs} inputs and {outputs} outputs",
        "Models with one of each can be imported.",
    )


def _samples(spec: Any) -> Array:
    if spec.dtype.name != "float32":
        raise refuse(f"the model's input is {spec.dtype.name}; numbers in float32 can be served")
    if spec.shape.rank is None or spec.shape.rank < 2 or None in tuple(spec.shape)[1:]:
        raise refuse(f"the model's input {spec.shape} has no fixed shape")
    if spec.shape[0] is not None:
        raise refuse(
            f"the model takes {spec.shape[0]} rows at a time",
            "Save it with a first dimension that is open (None).",
        )
    shape = tuple(spec.shape)[1:]
    count = ROWS if int(np.prod(shape)) < 10_000 else 8
    return numbers(np.random.default_rng(SEED), count * int(np.prod(shape))).reshape(count, *shape)


def _activation(tf2onnx: Any, function: Any, asked: Any) -> str:
    """What the scores come out of, as the graph says it."""
    graph = _export(tf2onnx, function, asked).graph
    makers = {name: node for node in graph.node for name in node.output}
    if len(graph.output) != 1:
        raise refuse(f"tf2onnx gives {len(graph.output)} outputs")
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _THROUGH:
        node = makers.get(node.input[0])
    return "none" if node is None else str(node.op_type).lower()


def _reading(
    tf: Any, wanted: Array, activation: str, classes: list[str] | None
) -> tuple[str, tuple[str | int, ...] | None, dict[str, Array], Callable[[Any], dict[str, Any]]]:
    """(task, labels, what is answered to the samples, how that comes from the scores)."""
    width = 1 if wanted.ndim == 1 else wanted.shape[1]
    shares = activation == "softmax" and width > 1
    if shares or (activation == "sigmoid" and width == 1):
        flat = wanted.reshape(len(wanted), width)
        if width == 1:
            flat = np.concatenate([1 - flat, flat], axis=1)
        labels = tuple(classes) if classes else tuple(range(flat.shape[1]))
        outputs = {"label": flat.argmax(axis=1).astype(np.int64), "probabilities": flat}

        def classify(scores: Any) -> dict[str, Any]:
            scores = tf.reshape(scores, (-1, width))
            both = scores if width > 1 else tf.concat([1 - scores, scores], axis=1)
            label = tf.argmax(both, axis=1, output_type=tf.int64)
            return {"label": label, "probabilities": both}

        return "classification", labels, outputs, classify
    shape = (-1,) if width == 1 else (-1, width)
    return (
        "regression",
        None,
        {"value": wanted.reshape(shape)},
        lambda scores: {"value": tf.reshape(scores, shape)},
    )


def _export(tf2onnx: Any, function: Any, asked: Any) -> Any:
    try:
        proto, _ = tf2onnx.convert.from_function(function, input_signature=[asked], opset=OPSET)
    except Exception as error:  # of TensorFlow or of the converter
        raise refuse(
            f"tf2onnx cannot convert the model: {_line(error)}",
            "A part of it has no counterpart in ONNX.",
        ) from None
    return proto


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
