"""Encoders that were made elsewhere: what they look like, their tokenizer, and their file.

The file is safetensors; its metadata says all that is needed to build the encoder and to cut
texts for it. It holds no code, and is checked against the architecture that it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from meuse.core.errors import Code, MeuseError
from meuse.train.prepare.steps import Pieces

KEY = "meuse.encoder"
MAX_PARAMETERS = 400_000_000

Size = Annotated[int, Meta(ge=1, le=1 << 20)]


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A BERT encoder (arXiv:1810.04805): words and positions are embedded and normalised, then
    `depth` layers of attention and two linear maps, each normalised after its shortcut."""

    vocabulary: Size
    positions: Size
    width: Annotated[int, Meta(ge=8, le=4096)]
    depth: Annotated[int, Meta(ge=1, le=48)]
    heads: Annotated[int, Meta(ge=1, le=64)]
    inner: Annotated[int, Meta(ge=8, le=32_768)]
    epsilon: Annotated[float, Meta(gt=0, le=0.1)] = 1e-12

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"the width {self.width} is not a multiple of the {self.heads} heads")
        if self.parameters > MAX_PARAMETERS:
            raise ValueError(
                f"the encoder has {self.parameters:,} parameters; the limit is {MAX_PARAMETERS:,}"
            )

    @property
    def parameters(self) -> int:
        """How many numbers it has, roughly."""
        layer = 4 * self.width * self.width + 2 * self.width * self.inner
        return (self.vocabulary + self.positions) * self.width + self.depth * layer


@dataclass(frozen=True, slots=True)
class Encoder:
    """`pieces` cut texts for it (their column and length are the caller's to choose); both are
    None where the network is only to be built, for weights that come from elsewhere."""

    architecture: Architecture
    pieces: Pieces | None = None
    tensors: Mapping[str, Tensor] | None = None

    @classmethod
    def of(cls, described: object) -> Encoder:
        """The architecture alone. Raises msgspec.ValidationError."""
        return cls(msgspec.convert(described, Architecture))

    def cut(self, column: str, length: int) -> Pieces:
        """Texts of a column, cut for it; no longer than it has positions."""
        assert self.pieces is not None
        length = max(3, min(length, self.architecture.positions))
        return msgspec.structs.replace(self.pieces, column=column, length=length)


def save(encoder: Encoder, path: Path) -> Path:
    """Write it whole."""
    described = msgspec.to_builtins(
        {"architecture": encoder.architecture, "pieces": encoder.pieces}
    )
    tensors = {name: tensor.contiguous() for name, tensor in (encoder.tensors or {}).items()}
    save_file(tensors, path, {KEY: json.dumps(described)})
    return path


def load(path: Path) -> Encoder:
    """Raises `invalid_data` (field `config.encoder`) for a file that is none, or whose tensors
    are not those of its architecture."""
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})[KEY])
            encoder = Encoder(
                msgspec.convert(described["architecture"], Architecture),
                msgspec.convert(described["pieces"], Pieces),
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
            )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refusal(f"the file cannot be read ({error})") from None
    _check(encoder)
    return encoder


def _check(encoder: Encoder) -> None:
    from meuse.train.recipes.bert import Bert

    assert encoder.pieces is not None
    assert encoder.tensors is not None
    if len(encoder.pieces.vocabulary) > encoder.architecture.vocabulary:
        raise _refusal("its tokenizer has more pieces than it embeds")
    with torch.device("meta"):
        wanted: dict[str, Any] = Bert(encoder.architecture).state_dict()
    if wanted.keys() != encoder.tensors.keys():
        odd = sorted(wanted.keys() ^ encoder.tensors.keys())
        raise _refusal(f"its tensors are not those of its architecture: {', '.join(odd[:5])}")
    for name, tensor in encoder.tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != torch.float32:
            raise _refusal(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, its architecture needs "
                f"float32 {list(wanted[name].shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise _refusal(f"{name} has values that are no finite numbers")


def _refusal(reason: str) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, f"not an encoder: {reason}", field="config.encoder")
