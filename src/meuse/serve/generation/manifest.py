"""What a version of a language model consists of: one artifact that names the others.

A version has one artifact of the format `llm` (this document, JSON) and one of the format `file`
for every file that it names. A replica reads the document by its digest and puts the files into
a folder; nothing outside the document is ever read.
"""

from __future__ import annotations

import msgspec

FORMAT = "llm"
FILE = "file"
"""The formats of artifacts."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the model: `name` has no folder part but those of the model's own layout."""

    name: str
    digest: str
    size: int


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`layout` says how the files are read: `gguf` (one file), `ir` (OpenVINO's folder with
    tokenizer and detokenizer), `hf` (a safetensors checkpoint, to train on and to convert),
    `adapter` (a LoRA adapter as peft saves it, for a base that its version's report names).

    A text has at most `tokens_per_byte` tokens for each of its UTF-8 bytes (1 for byte-level
    vocabularies), so that bytes bound tokens from above; `template_tokens` is the most that the
    chat template adds to a conversation.
    """

    layout: str
    files: tuple[File, ...]
    architecture: str
    context: int
    """Tokens that prompt and answer may have together."""
    vocabulary: int
    parameters: int
    chat_template: str = ""
    family: str = ""
    """Which parser of tool calls fits: `hermes`, `llama3`, … ; "" for none."""
    template_tokens: int = 64
    licence: str = ""
    source: str = ""
    adapters: dict[str, str] = {}
    """By name, the digest of the adapter's own document."""
    tokens_per_byte: float = 1.0
    kv_bytes_per_token: int = 0
    """Memory of the cache for one token, at 16 bits."""


_decoder = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    """As it lies in the store: the same manifest gives the same bytes."""
    return msgspec.json.encode(manifest, order="deterministic")


def decode(body: bytes) -> Manifest:
    """Raises msgspec.MsgspecError."""
    return _decoder.decode(body)
