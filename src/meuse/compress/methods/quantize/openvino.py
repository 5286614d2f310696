"""Integers in OpenVINO's own format, by NNCF. `load_nncf` is the only way to it."""

from __future__ import annotations

import logging
import sys
from typing import Any

from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods import ir
from meuse.compress.methods.quantize import graphs, int4
from meuse.compress.processor import sums_are_exact
from meuse.core.errors import Code, MeuseError

FLOAT = ["Subtract", "Divide", "ReduceMean", "Gather", "Add"]
"""What stays in float32: standardisation, because raw features share no scale; what is pooled for
the scores; and sums. OpenVINO 2026.4 adds an 8-bit shortcut to the integers of the convolution
that it is fused with in the wrong scale: a small residual network then agreed with the same
rounding done step by step on 62 % of the rows, with sums in float32 on 97 %."""


def quantize(artifact: Artifact, material: GraphMaterial, config: Quantize) -> Artifact:
    """OpenVINO IR: `openvino_int8` has int8 weights and activations, calibrated on `config.rows`
    rows (`nncf.quantize`, with its correction of biases); `openvino_int8_weights` and
    `openvino_int4_weights` have weights alone in integers (`nncf.compress_weights`, symmetric;
    int4 with one scale per `group_size` inputs, layers that it does not divide in int8 when
    `uneven` is `pad`).

    Raises `unavailable` without nncf, `invalid_data` (field `model`) for a graph that OpenVINO
    has no operators for, and `invalid_field` (`group_size`) for one that does not divide.
    """
    nncf = load_nncf()
    proto = graphs.read(artifact)
    if config.mode == "openvino_int4_weights" and config.uneven != "pad":
        int4.check_groups(int4.matrices(graphs.replace_gemm(graphs.read(artifact))), config.size)
    model = ir.model_of(proto.SerializeToString())
    with graphs.quiet():
        if config.mode == "openvino_int8":
            model = _whole(nncf, model, graphs.feeds(material.rows, config.rows, batch=1))
        else:
            model = nncf.compress_weights(model, **_weights(nncf, config))
    types = {op.get_element_type().get_type_name() for op in model.get_ops() if _is_constant(op)}
    if not types & {"i8", "u8", "i4", "u4"}:
        raise graphs.nothing("MatMul, Conv and tables of embeddings")
    return ir.pack(model)


def load_nncf(field: str = "mode") -> Any:
    """The package. Raises `unavailable` (`field`) where it is not installed."""
    # It would tell its makers of every use, were this package there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import nncf
    except ImportError:
        raise MeuseError(
            Code.UNAVAILABLE,
            "NNCF is not installed, which quantization for OpenVINO needs",
            field=field,
            hint='Install it with pip install "meuse[nncf]", or make ONNX (int8_static, own).',
        ) from None
    nncf.set_log_level(logging.ERROR)
    return nncf


def _whole(nncf: Any, model: Any, feeds: graphs.Feeds) -> Any:
    # Without VNNI, sums of 8-bit products saturate: weights keep to half the range.
    fix = nncf.OverflowFix.DISABLE if sums_are_exact() else nncf.OverflowFix.ENABLE
    return nncf.quantize(
        model,
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(types=FLOAT, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )


def _weights(nncf: Any, config: Quantize) -> dict[str, Any]:
    if config.mode == "openvino_int8_weights":
        return {"mode": nncf.CompressWeightsMode.INT8_SYM}
    fallback = nncf.GroupSizeFallbackMode.IGNORE
    return {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": config.size,
        "all_layers": config.tables,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=fallback
        ),
    }


def _is_constant(op: Any) -> bool:
    return bool(op.get_type_name() == "Constant")
