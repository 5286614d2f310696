"""MLflow model folders: the MLmodel file, and the flavor that can be converted.

Reads the files itself; needs no mlflow. The signature's names and kinds are taken over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meuse.convert.inside.model import Made, refuse

_REFUSED = {
    "pytorch": "Export it to ONNX (torch.onnx.export) and upload that.",
    "keras": "Import the .keras file in it as format keras.",
    "tensorflow": "Import the SavedModel in it as format tensorflow.",
    "xgboost": "Log it as onnx (onnxmltools.convert_xgboost).",
    "transformers": "Import the checkpoint in it as format huggingface.",
}


def convert(folder: Path, kinds: dict[str, str], classes: list[str] | None) -> Made:
    described = _described(folder)
    flavors = described.get("flavors")
    if not isinstance(flavors, dict):
        raise refuse("MLmodel names no flavors")
    kinds = kinds or _kinds(described.get("signature"))
    if "sklearn" in flavors:
        made = _sklearn(folder, flavors["sklearn"], kinds)
    elif "lightgbm" in flavors:
        made = _lightgbm(folder, flavors["lightgbm"], classes)
    elif "onnx" in flavors:
        made = _onnx(folder, flavors["onnx"])
    else:
        names = sorted(set(flavors) - {"python_function"}) or ["python_function"]
        hint = _REFUSED.get(names[0], "Flavors that can be: sklearn, lightgbm, onnx.")
        raise refuse(f"MLflow models of the flavor {names[0]} cannot be imported", hint)
    made.about.update(mlflow=str(described.get("mlflow_version", "unknown")))
    if isinstance(described.get("run_id"), str):
        made.about["run"] = described["run_id"]
    return made


def _described(folder: Path) -> dict[str, Any]:
    import yaml

    path = folder / "MLmodel"
    if not path.is_file():
        raise refuse("the folder has no file MLmodel", "Pack the model's own folder.")
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise refuse(f"MLmodel is not YAML: {error}") from None
    if not isinstance(found, dict):
        raise refuse("MLmodel is not a mapping")
    return found


def _kinds(signature: Any) -> dict[str, str]:
    """Names of the inputs: texts and numbers. Tensors have none."""
    if not isinstance(signature, dict) or not signature.get("inputs"):
        return {}
    columns = json.loads(signature["inputs"])
    found = {}
    for column in columns:
        if "name" not in column or column.get("type") == "tensor":
            return {}
        found[str(column["name"])] = "text" if column["type"] == "string" else "number"
    return found


def _sklearn(folder: Path, flavor: Any, kinds: dict[str, str]) -> Made:
    from meuse.convert.inside import sklearn

    if flavor.get("serialization_format") == "skops":
        raise refuse("models saved by skops cannot be imported", "Log it with cloudpickle.")
    path = _file(folder, flavor.get("pickled_model", "model.pkl"))
    return sklearn.convert(path, kinds)


def _lightgbm(folder: Path, flavor: Any, classes: list[str] | None) -> Made:
    from meuse.convert.inside import lightgbm, sklearn

    path = _file(folder, flavor.get("data", "model.lgb"))
    if path.suffix in (".pkl", ".pickle"):
        return sklearn.convert(path, {})
    return lightgbm.convert(path, classes)


def _onnx(folder: Path, flavor: Any) -> Made:
    import onnx

    path = _file(folder, flavor.get("data", "model.onnx"))
    # With its external files, if it has any: they lie beside it.
    return Made(onnx.load(path), {}, {}, "custom")


def _file(folder: Path, name: Any) -> Path:
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise refuse(f"MLmodel names the file {name!r}, which is not there")
    return path
