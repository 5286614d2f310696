"""The converter's main program: `python -m meuse.convert.inside.worker`, in a sandbox.

Takes `order.json` (format, source, …); leaves `model.onnx`, `samples.npz` (inputs and the
original's answers, as `in.<name>` and `out.<name>`), `encoder.safetensors` where there is one,
and what it knows in `outcome.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from meuse.convert.inside.model import Made, refuse
from meuse.runtime.sandbox import inside
from meuse.runtime.sandbox.archives import folder_of

MODEL, SAMPLES, ENCODER = "model.onnx", "samples.npz", "encoder.safetensors"


def main() -> int:
    return inside.main(work)


def work(order: dict[str, Any]) -> dict[str, Any]:
    made = convert(order)
    Path(MODEL).write_bytes(made.proto.SerializeToString())
    arrays = {f"in.{name}": value for name, value in made.inputs.items()}
    arrays |= {f"out.{name}": value for name, value in made.outputs.items()}
    np.savez(SAMPLES, **arrays)  # type: ignore[arg-type]
    if made.encoder is not None:
        from meuse.train import encoder

        encoder.save(made.encoder, Path(ENCODER))
    return {
        "task": made.task,
        "encoder": made.encoder is not None,
        "classes": None if made.classes is None else list(made.classes),
        "about": made.about,
    }


def convert(order: dict[str, Any]) -> Made:
    source, kinds, classes = Path(order["source"]), order["columns"], order["classes"]
    format = order["format"]
    if format == "sklearn":
        from meuse.convert.inside import sklearn

        return sklearn.convert(source, kinds)
    if format == "lightgbm":
        from meuse.convert.inside import lightgbm

        return lightgbm.convert(source, classes)
    if format == "mlflow":
        from meuse.convert.inside import mlflow

        return mlflow.convert(folder_of(source, Path("unpacked")), kinds, classes)
    if format == "keras":
        from meuse.convert.inside import keras

        return keras.convert(source, classes)
    if format == "huggingface":
        from meuse.convert.inside import huggingface

        return huggingface.convert(folder_of(source, Path("unpacked")))
    if format == "tensorflow":
        from meuse.convert.inside import tensorflow

        return tensorflow.convert(source, classes)
    raise refuse(f"there is no converter of {format!r}")


if __name__ == "__main__":
    raise SystemExit(main())
