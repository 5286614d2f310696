"""A GGUF file as a language model: what its header tells, within bounds."""

from __future__ import annotations

from pathlib import Path

from meuse.pull.facts import (
    MOST_CONTEXT,
    MOST_LAYERS,
    MOST_WIDTH,
    Facts,
    kv_bytes,
    refused,
)
from meuse.serve import gguf
from meuse.serve.gguf import Array, Gguf

_TOKENIZERS = {"gpt2": "bytes", "llama": "bytes"}
"""By `tokenizer.ggml.model`: byte-level BPE, and Llama's, which falls back to bytes. Others are of
encoders."""
_COMPOSING = ("qwen2",)
"""Kinds (`tokenizer.ggml.pre`) whose tokenizers compose texts first (NFC)."""
MOST_VOCABULARY = 1 << 22


def look(path: Path) -> Facts:
    """Raises `invalid_data` for a file that lies, or that is no language model."""
    found = gguf.read(path)
    _check_whole(found)
    architecture = _text(found, "general.architecture")
    if not architecture:
        raise refused("the GGUF file does not say its architecture")
    tokenizer = _text(found, "tokenizer.ggml.model")
    if tokenizer not in _TOKENIZERS:
        raise refused(
            f"the GGUF file has the tokenizer {tokenizer!r}" if tokenizer else
            "the GGUF file holds no tokenizer",
            f"Those that are known: {', '.join(_TOKENIZERS)}.",
        )  # fmt: skip
    return Facts(
        layout="gguf",
        files={path.name: path},
        architecture=architecture,
        context=_number(found, f"{architecture}.context_length", MOST_CONTEXT),
        vocabulary=_vocabulary(found),
        parameters=found.parameters,
        chat_template=_text(found, "tokenizer.chat_template"),
        tokenizer="composed"
        if _text(found, "tokenizer.ggml.pre") in _COMPOSING
        else _TOKENIZERS[tokenizer],
        licence=_text(found, "general.license"),
        kv_bytes_per_token=_kv(found, architecture),
    )


def _check_whole(found: Gguf) -> None:
    kind = _text(found, "general.type") or "model"
    if kind != "model":
        raise refused(f"the GGUF file is of the type {kind!r}, not a model of its own")
    parts = found.fields.get("split.count", 1)
    if parts not in (0, 1):
        raise refused(
            f"the GGUF file is one of {parts} parts", "Join them (llama-gguf-split --merge)."
        )


def _kv(found: Gguf, architecture: str) -> int:
    layers = _number(found, f"{architecture}.block_count", MOST_LAYERS)
    width = _number(found, f"{architecture}.embedding_length", MOST_WIDTH)
    heads = _numbers(found, f"{architecture}.attention.head_count", layers)
    shared = f"{architecture}.attention.head_count_kv"
    kept = _numbers(found, shared, layers) if shared in found.fields else heads
    size = width // max(heads)
    key, value = (
        _number(found, f"{architecture}.attention.{part}_length", MOST_WIDTH, size)
        for part in ("key", "value")
    )
    return kv_bytes(layers, kept, key, value)


def _vocabulary(found: Gguf) -> int:
    tokens = found.fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array) or not 0 < tokens.count <= MOST_VOCABULARY:
        raise refused("the GGUF file holds no vocabulary")
    return tokens.count


def _text(found: Gguf, key: str) -> str:
    value = found.fields.get(key, "")
    if not isinstance(value, str):
        raise refused(f"{key} of the GGUF file is {value!r}, not a text")
    return value


def _number(found: Gguf, key: str, most: int, default: int | None = None) -> int:
    value = found.fields.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise refused(f"{key} of the GGUF file is {value!r}", f"It is from 1 to {most:,}.")
    return value


def _numbers(found: Gguf, key: str, layers: int) -> tuple[int, ...]:
    """One for all layers, or one for each; some layers may have none."""
    value = found.fields.get(key)
    if not isinstance(value, Array):
        return (_number(found, key, MOST_WIDTH),)
    items = tuple(item for item in value.items if type(item) is int and 0 <= item <= MOST_WIDTH)
    if not len(items) == value.count == layers or not max(items):
        raise refused(f"{key} of the GGUF file does not fit its {layers} layers")
    return items
