"""`.keras` files, on Keras' torch backend: no TensorFlow.

Loaded in safe mode, which refuses lambdas; that is no boundary, the sandbox is. A model with
one input of fixed shape and one output is converted.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from meuse.convert.inside.model import ROWS, SEED, Array, Made, numbers, refuse

OPSET = 20


def convert(path: Path, classes: list[str] | None) -> Made:
    os.environ["KERAS_BACKEND"] = "torch"
    if not zipfile.is_zipfile(path):
        raise refuse("the file is no .keras archive", "Save the model by model.save('m.keras').")
    named = path.with_name("model.keras")  # the name says the format
    path.rename(named)
    import keras

    try:
        model = keras.saving.load_model(named, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split())
        raise refuse(f"Keras cannot load the model: {text[:400]}") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise refuse(
            f"the model has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            "Models with one of each can be imported.",
        )
    shape = tuple(model.inputs[0].shape[1:])
    if any(size is None for size in shape):
        raise refuse(f"the model's input {list(shape)} has no fixed shape")
    rows = _samples(shape, str(model.inputs[0].dtype))
    wanted = _answers(model, rows)
    return _made(model, rows, wanted, classes)


def _samples(shape: tuple[int, ...], dtype: str) -> Array:
    if not dtype.startswith("float"):
        raise refuse(f"the model's input is {dtype}; numbers in float32 can be served")
    rng = np.random.default_rng(SEED)
    count = ROWS if int(np.prod(shape)) < 10_000 else 8
    return numbers(rng, count * int(np.prod(shape))).reshape(count, *shape)


def _answers(model: Any, rows: Array) -> Array:
    import torch

    with torch.no_grad():
        found = model(torch.from_numpy(rows), training=False)
    answers: Array = found.detach().cpu().numpy().astype(np.float32)
    return answers


def _made(model: Any, rows: Array, wanted: Array, classes: list[str] | None) -> Made:
    import keras

    activation = _last_activation(model)
    width = wanted.shape[-1]
    about = {"keras": keras.__version__, "layers": [type(layer).__name__ for layer in model.layers]}
    about["activation"] = activation
    if wanted.ndim != 2:
        raise refuse(f"the model gives {list(wanted.shape[1:])} a row, not a list of scores")
    outputs: dict[str, Array]
    labels: tuple[str | int, ...] | None = None
    if activation == "softmax" or (activation == "sigmoid" and width == 1):
        shares = wanted if width > 1 else np.concatenate([1 - wanted, wanted], axis=1)
        labels = tuple(classes) if classes else tuple(range(shares.shape[1]))
        outputs = {"label": shares.argmax(axis=1).astype(np.int64), "probabilities": shares}
        task = "classification"
    elif width == 1:
        outputs, task = {"value": wanted.reshape(-1)}, "regression"
    else:
        outputs, task = {"value": wanted}, "regression"
    proto = _export(model, rows, list(outputs), width)
    return Made(proto, {"input": rows}, outputs, task, labels, about)


def _last_activation(model: Any) -> str:
    last = model.layers[-1]
    found = getattr(last, "activation", None)
    name = getattr(found, "__name__", "") if found is not None else type(last).__name__.lower()
    return str(name)


def _export(model: Any, rows: Array, names: list[str], width: int) -> Any:
    import warnings

    import torch

    class Served(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, rows: torch.Tensor) -> Any:
            scores = self.model(rows, training=False)
            if names == ["value"]:
                return scores.reshape(-1) if width == 1 else scores
            shares = torch.cat([1 - scores, scores], dim=1) if width == 1 else scores
            return shares.argmax(dim=1), shares

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one library about the other
        program = torch.onnx.export(
            Served().eval(),
            (torch.from_numpy(rows[:2]),),
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            input_names=["input"],
            output_names=names,
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise refuse("torch gives no ONNX graph of the model")
    return program.model_proto
