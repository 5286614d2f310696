"""Start the converter in its sandbox, and check what it made against what it saw.

Loads the ONNX file as every upload is loaded, runs the samples and compares: an original
whose answers ONNX Runtime does not give again is refused, with the difference.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.convert.inside.worker import ENCODER, MODEL, SAMPLES
from meuse.convert.spec import ImportSpec
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.core.ports import Engine
from meuse.runtime import sandbox
from meuse.runtime.sandbox.call import call
from meuse.runtime.toolchains import Environment

TOLERANCE = 1e-4
AGREEING = 0.99
"""Share of the rows that must be within the tolerance: doubles that become floats may cross
a threshold of a tree, rarely."""
SOURCE = "source"
MAX_MODEL = 2 << 30
MAX_SAMPLES = 256 << 20

Load = Callable[[bytes], Engine]


@dataclass(frozen=True, slots=True)
class Converted:
    """`report` says of the original, the sandbox and the comparison."""

    model: bytes
    signature: Signature
    task: str
    report: dict[str, Any]
    encoder: Path | None = None
    """What a text classifier may start from, checked."""


def convert(
    spec: ImportSpec,
    source: Path,
    folder: Path,
    load: Load,
    *,
    least: int,
    limits: sandbox.Limits,
    log: Callable[[str], None],
    toolchain: Environment | None = None,
) -> Converted:
    """Convert `source`, a file or a folder, in `folder`, which is emptied first; by the
    packages of a toolchain, if one is given.

    Raises `invalid_data` for all that is wrong with it, `unavailable` without a sandbox.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    # A copy: the sandbox's user may not be let in where the original lies.
    if source.is_dir():
        _copy(source, folder / SOURCE)
    else:
        shutil.copyfile(source, folder / SOURCE)
    order = sandbox.Order(
        "meuse.convert.inside.worker",
        folder,
        readable=() if toolchain is None else (toolchain.path,),
        interpreter=None if toolchain is None else toolchain.interpreter,
        environment=_environment(toolchain),
        limits=limits,
    )
    payload = {
        "format": spec.format,
        "source": SOURCE,
        "columns": spec.columns,
        "classes": spec.classes,
    }
    result, tier = call(
        order, payload, what="the conversion", field="model", least=least, listener=log
    )
    model, samples = _files(folder)
    task, classes = _facts(result, spec)
    engine = load(model)
    signature = replace(engine.signature, classes=classes)
    report: dict[str, Any] = {
        "imported": {"format": spec.format, "source": spec.source, **_about(result)},
        "sandbox": {"tier": tier, "is": sandbox.NAMES[tier]},
    }
    if samples:
        report["parity"] = compare(engine, samples)
        log(
            f"compared on {report['parity']['rows']} rows: "
            f"largest difference {report['parity']['largest']:.3g}"
        )
    encoder = _encoder(folder) if result.get("encoder") is True else None
    return Converted(model, signature, task, report, encoder)


def _encoder(folder: Path) -> Path:
    """The encoder that was left, once it has the tensors that it says it has."""
    from meuse.train.encoder import load

    try:
        content = sandbox.take(folder, ENCODER, MAX_MODEL)
    except sandbox.FileRefusedError as error:
        raise _refusal(f"the conversion left no encoder: {error}") from None
    if content is None:
        raise _refusal("the conversion left no encoder")
    path = folder / f"checked-{ENCODER}"
    path.write_bytes(content)
    try:
        load(path)
    except MeuseError as error:
        raise _refusal(error.message) from None
    return path


def _environment(toolchain: Environment | None) -> dict[str, str]:
    common = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if toolchain is None:
        return {**common, "KERAS_BACKEND": "torch"}
    return {**common, **toolchain.variables()}


def _copy(source: Path, target: Path) -> None:
    """A folder of files. Links are followed within it alone."""
    root = source.resolve()
    for path in sorted(source.rglob("*")):
        if not path.resolve().is_relative_to(root):
            raise _refusal(f"{path.name} is a link to a file outside of the folder")
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def compare(engine: Engine, samples: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Run the samples; {rows, agreeing, largest}. Raises `invalid_data` when too few agree."""
    inputs = {n.removeprefix("in."): _text(v) for n, v in samples.items() if n.startswith("in.")}
    wanted = {n.removeprefix("out."): v for n, v in samples.items() if n.startswith("out.")}
    try:
        found = engine.run(inputs)
    except Exception as error:  # whatever the runtime raises
        raise _refusal(f"the converted model does not run: {str(error)[:500]}") from None
    rows = len(next(iter(inputs.values())))
    good, largest = np.ones(rows, bool), 0.0
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            raise _refusal(f"the converted model has no output {name!r} of {list(value.shape)}")
        difference = np.abs(found[name].astype(np.float64) - value.astype(np.float64))
        if name == "label" and "probabilities" in wanted:
            difference[_ties(found["label"], wanted["probabilities"])] = 0.0
        if value.dtype.kind == "f":
            difference /= np.maximum(1.0, np.abs(value))
            difference[np.isnan(value) & np.isnan(found[name])] = 0.0
        by_row = np.nan_to_num(difference.reshape(rows, -1).max(axis=1), nan=np.inf)
        good &= by_row <= TOLERANCE
        largest = max(largest, float(by_row.max()))
    share = float(good.mean())
    if share < AGREEING:
        raise _refusal(
            f"the converted model answers otherwise than the original on "
            f"{rows - int(good.sum())} of {rows} rows; largest difference {largest:.3g}",
            "A part of it has no faithful conversion to ONNX.",
        )
    return {"rows": rows, "agreeing": share, "largest": largest, "tolerance": TOLERANCE}


def _ties(labels: NDArray[Any], shares: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows whose label is as good as the best: either may be named."""
    known = (labels >= 0) & (labels < shares.shape[1])
    chosen = shares[np.arange(len(shares)), np.where(known, labels, 0)]
    tied: NDArray[np.bool_] = known & (chosen >= shares.max(axis=1) - TOLERANCE)
    return tied


def _text(value: NDArray[Any]) -> NDArray[Any]:
    """Texts as engines take them: objects of bytes."""
    if value.dtype.kind != "U":
        return value
    return np.array([text.encode() for text in value.tolist()], object)


def _files(folder: Path) -> tuple[bytes, dict[str, NDArray[Any]]]:
    try:
        model = sandbox.take(folder, MODEL, MAX_MODEL)
        packed = sandbox.take(folder, SAMPLES, MAX_SAMPLES)
    except sandbox.FileRefusedError as error:
        raise _refusal(f"the conversion left no model: {error}") from None
    if not model or packed is None:
        raise _refusal("the conversion left no model")
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            return model, {name: file[name] for name in file.files}
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise _refusal(f"the conversion's samples cannot be read: {error}") from None


def _facts(result: dict[str, Any], spec: ImportSpec) -> tuple[str, tuple[str | int, ...] | None]:
    task, classes = result.get("task"), result.get("classes")
    if task not in ("classification", "regression", "custom"):
        raise _refusal("the conversion does not say what the model does")
    if spec.classes is not None:
        if classes is None or len(classes) != len(spec.classes):
            raise MeuseError(
                Code.INVALID_FIELD,
                f"{len(spec.classes)} labels for {len(classes or ())} classes",
                field="classes",
            )
        classes = spec.classes
    if classes is not None and not all(isinstance(label, str | int) for label in classes):
        raise _refusal("the conversion gives labels that are neither texts nor numbers")
    return task, None if classes is None else tuple(classes)


def _about(result: dict[str, Any]) -> dict[str, Any]:
    about = result.get("about")
    if not isinstance(about, dict) or len(str(about)) > 100_000:
        return {}
    return {str(key): value for key, value in about.items() if key not in ("format", "source")}


def _refusal(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="model", hint=hint)
