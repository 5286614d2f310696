"""Quantization of ONNX graphs to 8-bit integers.

Knows onnxruntime.quantization and this machine's processor; knows no metric and no gate.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from meuse.core.errors import Code, MeuseError

_WEIGHTED = ["MatMul", "Gemm"]
_BATCH = 256


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in batches, as the quantizer wants to pull them."""

    def __init__(self, name: str, rows: NDArray[np.float32]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = (
            {name: rows[start : start + _BATCH]} for start in range(0, len(rows), _BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)


def static_int8(model: Path, calibration: NDArray[np.float32], target: Path) -> None:
    """Quantize the ONNX file `model` into the single file `target`.

    Weights of MatMul and Gemm become int8, one scale per output channel; their inputs
    become uint8 by the range seen on `calibration` [n, f] (raw rows, n ≥ 1). Everything
    else stays float32: standardisation, because raw features share no scale; outputs of
    MatMul and Gemm, so that scores keep their precision; softmax and argmax. Where the
    processor lacks VNNI, weights take 7 bits, because its 16-bit sums would saturate.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference (CVPR 2018), section 2; post-training, as
    quantize-dequantize pairs that the runtime fuses. Raises `invalid_data` (field `model`)
    when nothing in the graph can be quantized.
    """
    name = str(onnx.load(str(model)).graph.input[0].name)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Shapes are static but for the batch: symbolic inference has nothing to add.
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantized = Path(folder) / "quantized.onnx"
        quantize_static(
            str(prepared),
            str(quantized),
            _Rows(name, calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_WEIGHTED,
            per_channel=True,
            reduce_range=not sums_are_exact(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": _WEIGHTED},
        )
        proto = onnx.load(str(quantized))
        if not any(i.data_type == onnx.TensorProto.INT8 for i in proto.graph.initializer):
            raise MeuseError(
                Code.INVALID_DATA,
                "the model has no weights that can be quantized",
                field="model",
                hint=f"Quantization works on {' and '.join(_WEIGHTED)} with constant weights.",
            )
        quantized.replace(target)


def sums_are_exact(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether uint8 × int8 products are summed without saturation on this machine.

    On x86 that takes VNNI (`avx512_vnni` or `avx_vnni`); other processors sum in 32 bits.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = {
        flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return bool(flags & {"avx512_vnni", "avx_vnni"})
