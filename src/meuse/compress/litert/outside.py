"""Start the converter to LiteRT in its sandbox, and check that its file answers as the ONNX file.

Knows the toolchain and the sandbox; knows no operator.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np

from meuse.compress import parity
from meuse.compress.artifact import Artifact
from meuse.compress.configs.convert import Numbers
from meuse.compress.litert import inside
from meuse.compress.material import GraphMaterial
from meuse.compress.parity import Bound
from meuse.core.errors import MeuseError
from meuse.runtime import sandbox, toolchains
from meuse.runtime.sandbox.call import call

CALIBRATION_ROWS = 256
_LIMIT = 2 << 30
_HINT = "Use openvino, or serve the ONNX file."

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
    """Raises `invalid_data` when the file answers otherwise than the ONNX file."""
    files = Artifact("onnx", model), Artifact("litert", made)
    parity.check(*files, BOUNDS[numbers], material, f"LiteRT in {numbers}", _HINT)


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
    return parity.refusal(message, _HINT)
