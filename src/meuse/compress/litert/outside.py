"""Start the converter to LiteRT in its sandbox, and check that its file answers as the ONNX file.

Knows the toolchain, the sandbox and both engines; knows no operator.
"""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.compress.configs.convert import Numbers
from meuse.compress.litert import inside
from meuse.compress.material import GraphMaterial
from meuse.core.errors import Code, MeuseError
from meuse.runtime import sandbox, toolchains
from meuse.runtime.sandbox.call import call
from meuse.serve import engines

CALIBRATION_ROWS = 256
_LIMIT = 2 << 30
_COMPARED = 256
_AGREEING = 0.99  # of the rows; a tie may fall either way


@dataclass(frozen=True, slots=True)
class Bound:
    """How far an answer may lie from the ONNX file's, of the larger of 1 and its size."""

    largest: float
    typical: float


BOUNDS = {
    "float32": Bound(1e-4, 1e-5),
    "float16": Bound(5e-2, 5e-3),
    # What eight bits cost the metric is for the gate to judge; this tells another model apart.
    "int8": Bound(1.0, 0.1),
}


def convert(model: bytes, numbers: Numbers, material: GraphMaterial) -> bytes:
    """An ONNX file as a LiteRT file of `numbers`.

    Raises `unavailable` (field `to`) without the toolchain or a sandbox, `invalid_data` (field
    `model`) for operators that LiteRT lacks, which it names, and for a file whose answers are
    not those of `model`.
    """
    tools = material.tools
    chain = toolchains.need("tensorflow", Path(tools.toolchains), "to")
    folder = material.job.folder / "litert"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    (folder / inside.MODEL).write_bytes(model)
    if numbers == "int8":
        (folder / inside.ROWS).write_bytes(_packed(material))
    order = sandbox.Order(
        "meuse.compress.litert.inside",
        folder,
        readable=(chain.path,),
        interpreter=chain.interpreter,
        environment={"OMP_NUM_THREADS": "1", **chain.variables()},
        limits=sandbox.Limits(wall_s=tools.wall_s),
    )
    what, log = "the conversion to LiteRT", material.job.log
    payload = {"numbers": numbers, "rows": list(material.rows)}
    call(order, payload, what=what, field="to", least=tools.tier, listener=log)
    try:
        made = sandbox.take(folder, inside.RESULT, _LIMIT)
    except sandbox.FileRefusedError as error:
        raise _refusal(f"the conversion left no file: {error}") from None
    if not made:
        raise _refusal("the conversion left no file")
    shutil.rmtree(folder, ignore_errors=True)
    check(model, made, numbers, material)
    return made


def check(model: bytes, made: bytes, numbers: Numbers, material: GraphMaterial) -> None:
    """Compare on rows of the training split. Raises `invalid_data` when too few agree."""
    before, after = engines.load("onnx", model), engines.load("litert", made)
    rows = {name: value[:_COMPARED] for name, value in material.rows.items()}
    wanted, found = before.run(rows), after.run(rows)
    output = before.signature.outputs[-1].name
    if found.keys() != wanted.keys() or found[output].shape != wanted[output].shape:
        raise _refusal("the converted file has other outputs")
    distance = _distances(wanted[output], found[output])
    bound = BOUNDS[numbers]
    share = float((distance <= bound.largest).mean())
    typical = float(np.median(distance))
    material.job.log(
        f"as LiteRT in {numbers}: {len(distance)} rows differ by {typical:.2g} in the middle, "
        f"{distance.max():.2g} at most"
    )
    if share < _AGREEING or typical > bound.typical:
        raise _refusal(
            f"the LiteRT file answers otherwise than the ONNX file: by {typical:.2g} in the "
            f"middle, {distance.max():.2g} at most"
        )


def _distances(wanted: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Of each row the largest difference."""
    apart = np.abs(wanted.astype(np.float64) - found) / np.maximum(1, np.abs(wanted))
    rows: NDArray[np.float64] = apart.reshape(len(apart), -1).max(axis=1)
    return np.nan_to_num(rows, nan=np.inf)


def _packed(material: GraphMaterial) -> bytes:
    rows = {
        f"a{index}": value[:CALIBRATION_ROWS] for index, value in enumerate(material.rows.values())
    }
    if any(value.dtype == object for value in rows.values()):
        return b""  # texts: the converter refuses them before it reads a row
    file = io.BytesIO()
    np.savez(file, **rows)  # type: ignore[arg-type]
    return file.getvalue()


def _refusal(message: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA, message, field="model", hint="Use openvino, or serve the ONNX file."
    )
