"""Checkpoints of a few bytes, sound in all that a pull reads of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 100,
    "max_position_embeddings": 64, "num_hidden_layers": 2, "hidden_size": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
BYTE_LEVEL = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}}


def tensors(shapes: dict[str, list[int]]) -> bytes:
    """A safetensors file's header; nobody reads its data here."""
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
              for name, shape in shapes.items()}  # fmt: skip
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text


def folder(path: Path, config: Any = CONFIG, **files: Any) -> Path:
    """A checkpoint; None leaves a file out, a dict is written as JSON."""
    there = {
        "config.json": config,
        "tokenizer.json": BYTE_LEVEL,
        "model.safetensors": tensors({"a": [4, 8], "b": [3]}),
        **{name.replace("__", "."): content for name, content in files.items()},
    }
    for name, content in there.items():
        if isinstance(content, dict):
            (path / name).write_text(json.dumps(content))
        elif content is not None:
            (path / name).write_bytes(content)
    return path
