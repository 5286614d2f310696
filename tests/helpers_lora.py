"""LoRA adapters for tests: seeded, and large enough that every answer shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "base_model.model.model."


def config(**changes: Any) -> dict[str, Any]:
    """As peft writes it, without what stays at its default."""
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none",
        "use_dora": False, "use_rslora": False, "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, **changes,
    }  # fmt: skip


def matrices(
    layers: Mapping[str, tuple[int, int]], seed: int, rank: int = 4, size: float = 0.3
) -> dict[str, NDArray[np.float32]]:
    """`layers`: (inputs, outputs) by name, `layers.0.self_attn.q_proj`."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (inputs, outputs) in layers.items():
        for part, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
            drawn = random.normal(0, size, shape).astype(np.float32)
            tensors[f"{PREFIX}{name}.{part}.weight"] = drawn
    return tensors


def safetensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a file of them."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
    header, place = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    return with_header(header, b"".join(array.tobytes() for array in tensors.values()))


def with_header(header: Any, data: bytes) -> bytes:
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + data


def write(folder: Path, tensors: Mapping[str, NDArray[Any]], **changes: Any) -> Path:
    """The folder that peft would have saved."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    return folder
