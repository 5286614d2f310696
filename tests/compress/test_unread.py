"""Options that the others leave without effect: refused when asked for, never ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meuse.compress.spec import CompressSpec
from meuse.core.errors import Code, MeuseError

NNCF_INT4 = "openvino_int4_weights"


def spec_of(method: str, **given: Any) -> CompressSpec:
    return CompressSpec.from_dict({"model": "digits:1", "steps": [{"method": method, **given}]})


@pytest.mark.parametrize(
    ("method", "given", "field", "hint"),
    [
        *(("quantize", {"mode": mode, "max_drop": 0.02}, "max_drop", "mode to mixed")
          for mode in ("int8_static", "int8_dynamic", "int4", "float16", "openvino_int8")),
        ("quantize", {"max_drop": 0.005}, "max_drop", "mode to mixed"),  # also what is the default
        *(("quantize", {"mode": mode, name: value}, name, "int4")
          for mode in ("int8_static", "int8_dynamic", "float16", "bfloat16", "openvino_int8",
                       "openvino_int8_weights")
          for name, value in (("algorithm", "gptq"), ("group_size", 64), ("uneven", "pad"))),
        *(("quantize", {"mode": mode, "calibration": how}, "calibration", "int8_static or mixed")
          for mode in ("int8_dynamic", "int4", "openvino_int8", NNCF_INT4)
          for how in ("entropy", "percentile")),
        *(("quantize", {"mode": mode, "embeddings": False}, "embeddings", "int8_dynamic")
          for mode in ("float16", "openvino_int8", "openvino_int8_weights")),
        *(("quantize", {"mode": mode, "rows": 64}, "rows", "int8_static")
          for mode in ("int8_dynamic", "bfloat16", "openvino_int8_weights", NNCF_INT4)),
        ("quantize", {"mode": "int4", "rows": 64}, "rows", "algorithm to gptq"),
        ("quantize", {"mode": "int4", "algorithm": "hqq", "rows": 64}, "rows", "to gptq"),
        ("quantize", {"mode": "int8_static", "least_bits": 4}, "least_bits", "mode to mixed"),
        ("quantize", {"percentile": 99}, "percentile", "calibration to percentile"),
        ("quantize", {"calibration": "entropy", "percentile": 99}, "percentile", "to percentile"),
        ("quantize", {"mode": "mixed", "uneven": "pad"}, "uneven", "int4"),
        ("quantize", {"mode": "mixed", "group_size": 64}, "group_size", "least_bits to 4"),
        ("quantize", {"mode": "mixed", "least_bits": 8, "algorithm": "hqq"}, "algorithm", "to 4"),
        ("quantize", {"mode": NNCF_INT4, "algorithm": "hqq"}, "algorithm", "mixed or int4"),
        *(("clip", {"by": "value", "value": 0.5, name: value}, name, "by to calibrated")
          for name, value in (("bits", 4), ("error", "weights"), ("samples", 64),
                              ("channels", False))),
        ("clip", {"by": "norm", "norm": 1.0, "channels": False}, "channels", "or percentile"),
        ("clip", {"by": "percentile", "bits": 4}, "bits", "by to calibrated"),
        ("clip", {"value": 0.5}, "value", "by to value"),
        ("clip", {"error": "weights", "samples": 64}, "samples", "error to outputs"),
        ("clip", {"learning_rate": 0.1}, "learning_rate", "epochs"),
        ("prune", {"pattern": "2:4", "scope": "layer"}, "scope", "out"),
        ("prune", {"rates": "sensitivity", "scope": "global"}, "scope", "out"),
        *((method, {"epochs": 0, "learning_rate": 0.1}, "learning_rate", "epochs")
          for method in ("prune", "prune_structured", "share", "low_rank")),
        ("prune_structured", {"most": 0.5}, "most", "scope to global"),
        ("prune_structured", {"scope": "layer", "most": 0.5}, "most", "scope to global"),
    ],
)  # fmt: skip
def test_what_nothing_reads_is_refused(
    method: str, given: dict[str, Any], field: str, hint: str
) -> None:
    """When the job is submitted, at the option, with what it would take."""
    with pytest.raises(MeuseError) as caught:
        spec_of(method, **given)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, f"steps.0.{field}")
    assert "has no effect" in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("quantize", {}),
        ("quantize", {"calibration": "percentile", "percentile": 99, "rows": 64}),
        ("quantize", {"mode": "int8_dynamic", "embeddings": False}),
        ("quantize", {"mode": "mixed", "calibration": "entropy", "max_drop": 0.0, "rows": 64,
                      "embeddings": False, "least_bits": 4, "group_size": 16, "algorithm": "gptq"}),
        ("quantize", {"mode": "mixed", "least_bits": 8}),
        ("quantize", {"mode": "int4", "algorithm": "gptq", "rows": 64, "group_size": 16,
                      "uneven": "pad", "embeddings": False}),
        ("quantize", {"mode": "float16"}),
        ("quantize", {"mode": "openvino_int8", "rows": 64}),
        ("quantize", {"mode": NNCF_INT4, "group_size": 64, "uneven": "pad", "embeddings": False}),
        ("clip", {"bits": 4, "error": "outputs", "samples": 64, "channels": False}),
        ("clip", {"by": "percentile", "percentile": 99, "channels": False}),
        ("clip", {"by": "value", "value": 0.5, "epochs": 1, "learning_rate": 0.1}),
        ("prune", {"scope": "layer", "learning_rate": 0.1}),
        ("prune", {"pattern": "2:4", "epochs": 0}),
        ("prune_structured", {"scope": "global", "most": 0.5}),
    ],
)  # fmt: skip
def test_what_is_read_is_taken_and_written(method: str, given: dict[str, Any]) -> None:
    """Every option where it has an effect; a spec that is stored is taken again."""
    spec = spec_of(method, **given)
    written = spec.to_dict()
    assert given.items() <= written["steps"][0].items()
    assert CompressSpec.from_dict(json.loads(json.dumps(written))) == spec
