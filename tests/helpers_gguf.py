"""GGUF files byte by byte, so that tests can make each word of a header lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIELDS: dict[str, Any] = {
    "general.architecture": "llama",
    "general.license": "apache-2.0",
    "llama.context_length": 64,
    "llama.block_count": 2,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "a", "b", "é"],
    "tokenizer.ggml.scores": [0.5, 0.25, 0.125, 0.0],
    "tokenizer.chat_template": "{{ messages[0].content }}",
    "tokenizer.ggml.add_bos_token": False,
}
"""Of a small model that is sound in all that its header says."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A tensor as a header describes it; `content` are its bytes in the file."""

    name: str
    shape: tuple[int, ...]
    type: int = 0  # float32
    offset: int | None = None
    content: bytes | None = None


WEIGHTS = (Weights("token_embd.weight", (32, 4)), Weights("output_norm.weight", (32,)))


def text(value: str | bytes, length: int | None = None) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(content) if length is None else length) + content


def value(given: Any) -> bytes:
    """With its type before it. Bytes are taken as they are."""
    match given:
        case bytes():
            return given
        case bool():
            return struct.pack("<IB", 7, given)
        case str():
            return struct.pack("<I", 8) + text(given)
        case int():
            return struct.pack("<Ii", 5, given)
        case float():
            return struct.pack("<If", 6, given)
    if isinstance(given[0], str):
        return struct.pack("<IIQ", 9, 8, len(given)) + b"".join(map(text, given))
    kind, form = (5, "i") if isinstance(given[0], int) else (6, "f")
    return struct.pack(f"<IIQ{len(given)}{form}", 9, kind, len(given), *given)


def gguf(
    fields: Mapping[str | bytes, Any] | Sequence[tuple[str | bytes, Any]] = FIELDS,
    tensors: Sequence[Weights] = WEIGHTS,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    key_count: int | None = None,
    alignment: int = 32,
    cut: int = 0,
) -> bytes:
    """A whole file; what is given as None is what is true. `cut`: bytes missing at its end."""
    rows = list(fields.items() if isinstance(fields, Mapping) else fields)
    out = bytearray(magic + struct.pack("<I", version))
    out += struct.pack("<Q", len(tensors) if tensor_count is None else tensor_count)
    out += struct.pack("<Q", len(rows) if key_count is None else key_count)
    for key, given in rows:
        out += text(key) + value(given)
    data = bytearray()
    for each in tensors:
        data += bytes(-len(data) % alignment)
        offset = len(data) if each.offset is None else each.offset
        out += text(each.name) + struct.pack("<I", len(each.shape))
        out += struct.pack(f"<{len(each.shape)}Q", *each.shape)
        out += struct.pack("<IQ", each.type, offset)
        count = 1
        for length in each.shape:
            count *= length
        data += bytes(count * 4) if each.content is None else each.content
    out += bytes(-len(out) % alignment)
    whole = bytes(out + data)
    return whole[: len(whole) - cut]
