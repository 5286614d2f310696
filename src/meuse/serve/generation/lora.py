"""A LoRA adapter as peft saves it, judged before an engine sees a byte of it.

An engine looks for layers by parts of their names and skips what it does not know without a
word. So all of a file must be understood here: each of its tensors is half of a pair, `lora_A`
[rank, inputs] and `lora_B` [outputs, rank], of one layer; nothing else is in it (Hu et al. 2021,
arXiv:2106.09685; rank-stabilised scales: Kalajdzievski 2023, arXiv:2312.03732). Pure: knows
bytes and numpy; no engine, no store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from meuse.core.errors import Code, MeuseError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_RANK = 1024
MOST_CONFIG = 1 << 20
MOST_HEADER = 16 << 20
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_TENSOR = re.compile(
    r"base_model\.model\.(?:[a-z_]+\.)*(?P<layer>layers\.\d{1,5}(?:\.[A-Za-z_]\w{0,63}){1,4})"
    r"\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?"
)
_MERGE = "Merge it into its base (fine-tune with merge), and deploy the merged model."
_OTHERWISE = {
    "bias": "none", "fan_in_fan_out": False, "lora_bias": False, "use_qalora": False,
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None,
    "alora_invocation_tokens": None, "trainable_token_indices": None, "target_parameters": None,
}  # fmt: skip
"""Fields of the configuration that change what is computed, and what they must say."""
_PLAIN = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base as it is. Others (`pissa`, `olora`, `loftq`, …) take a part out
of it that the adapter alone does not put back."""
_KNOWN = frozenset(_OTHERWISE) | {
    "peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "target_modules", "init_lora_weights",
    # Of training and of files: nothing that is computed with the adapter depends on them.
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type", "velora_config",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """What `adapter_config.json` tells."""

    rank: int
    alpha: float
    dora: bool
    stabilised: bool
    modules: tuple[str, ...] = ()
    """Names of the layers that it was made for, as peft looks for them; () if it does not say."""

    @property
    def scale(self) -> float:
        """What the product of both matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies among the file's data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Both matrices of a layer that takes `inputs` and gives `outputs`."""

    a: Tensor
    b: Tensor

    @property
    def inputs(self) -> int:
        return self.a.shape[1]

    @property
    def outputs(self) -> int:
        return self.b.shape[0]


@dataclass(frozen=True, slots=True)
class Lora:
    """`pairs` by layer (`layers.0.self_attn.q_proj`); `data` is all that follows the header."""

    config: Config
    pairs: Mapping[str, Pair]
    data: memoryview

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(sorted({layer.rpartition(".")[2] for layer in self.pairs}))


@dataclass(frozen=True, slots=True)
class Layer:
    """One of the base that an adapter may change: its full name, and its sizes."""

    name: str
    inputs: int
    outputs: int


def read(config: bytes, weights: bytes) -> Lora:
    """Both files, whole. Raises `invalid_data` that says what is wrong."""
    told = read_config(config)
    tensors, data = _tensors(weights)
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise refused(
                f"the tensor {name[:200]!r} is no half of a LoRA pair",
                "Adapt linear layers of the decoder alone; "
                "heads, embeddings and whole modules cannot be part of it.",
            )
        found.setdefault(match["layer"], {})[match["part"]] = tensor
    if not found:
        raise refused("it has no tensors")
    pairs = {layer: _pair(layer, parts, told) for layer, parts in found.items()}
    if sum(2 + told.dora for _ in pairs) != len(tensors):
        raise refused("two tensors are of one layer and part")
    _check_finite(tensors, data)
    return Lora(told, pairs, data)


def read_config(body: bytes) -> Config:
    """Raises `invalid_data`."""
    if len(body) > MOST_CONFIG:
        raise refused(f"{CONFIG} has {len(body):,} bytes")
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refused(f"{CONFIG} cannot be read: {error}") from None
    if told.get("peft_type") != "LORA":
        raise refused(f"{CONFIG} is of a {told.get('peft_type')!r}, not of a LORA")
    for key, value in _OTHERWISE.items():
        if told.get(key, value) not in (value, None):
            raise refused(f"{CONFIG} sets {key}, which engines leave out", _MERGE)
    for key in sorted(told.keys() - _KNOWN):
        if told[key]:
            raise refused(f"{CONFIG} sets {key[:100]!r}, which is not known here", _MERGE)
    if told.get("init_lora_weights") not in _PLAIN:
        raise refused(
            f"init_lora_weights of {CONFIG} is {told['init_lora_weights']!r:.100}: "
            "its base was changed as well",
            "Save it with path_initial_model_for_weight_conversion, as a plain LoRA.",
        )
    rank, alpha = told.get("r"), told.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MOST_RANK:
        raise refused(f"r of {CONFIG} is {rank!r}", f"It is from 1 to {MOST_RANK}.")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < 1e6:
        raise refused(f"lora_alpha of {CONFIG} is {alpha!r}")
    flags = told.get("use_dora") is True, told.get("use_rslora") is True
    return Config(rank, float(alpha), *flags, _modules(told.get("target_modules")))


def _modules(told: object) -> tuple[str, ...]:
    if told is None:
        return ()
    if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
        raise refused(
            f"target_modules of {CONFIG} is {told!r:.100}, not a list of names",
            "Name the layers, one by one, instead of a pattern.",
        )
    return tuple(told)


def check_fits(lora: Lora, layers: Mapping[str, Layer]) -> None:
    """That each layer is the base's, with its sizes. Raises `invalid_data`."""
    if lora.config.dora:
        raise refused("engines leave out what DoRA adds to LoRA", _MERGE)
    for name, pair in lora.pairs.items():
        layer = layers.get(name)
        if layer is None:
            raise refused(f"the base has no linear layer {name}", "Train it on this base.")
        if (pair.inputs, pair.outputs) != (layer.inputs, layer.outputs):
            raise refused(
                f"{name} of the base is {layer.inputs} → {layer.outputs}, "
                f"the adapter's {pair.inputs} → {pair.outputs}",
                "Train it on this base.",
            )


def of_names(layers: Mapping[str, Layer], names: Sequence[str]) -> dict[str, Layer]:
    """Those of them whose last name is one of these (`q_proj`)."""
    return {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in names}


def for_engine(lora: Lora, layers: Mapping[str, Layer]) -> bytes:
    """The same tensors as a file that names the base's layers in full."""
    tensors = {}
    for name, pair in lora.pairs.items():
        for part, tensor in (("lora_A", pair.a), ("lora_B", pair.b)):
            tensors[_full(layers[name], part)] = tensor
    return _file(tensors, lora.data)


def carrier(layers: Mapping[str, Layer]) -> bytes:
    """An adapter of rank 1 on every layer that changes nothing: where it is, others can be."""
    tensors, begin = {}, 0
    for layer in layers.values():
        for part, shape in (("lora_A", (1, layer.inputs)), ("lora_B", (layer.outputs, 1))):
            end = begin + 4 * math.prod(shape)
            tensors[_full(layer, part)] = Tensor("F32", shape, begin, end)
            begin = end
    return _file(tensors, memoryview(bytes(begin)))


def short(name: str) -> str:
    """What a decoder's layer is called whatever is wrapped around it; "" for others."""
    match = re.fullmatch(r"(?:[a-z_]+\.)*(layers\.\d+\..+)", name)
    return match[1] if match else ""


def refused(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, f"the adapter: {message}", field="adapter", hint=hint)


def _full(layer: Layer, part: str) -> str:
    return f"base_model.model.{layer.name}.{part}.weight"


def _file(tensors: Mapping[str, Tensor], data: memoryview) -> bytes:
    header = msgspec.json.encode(
        {
            name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": (t.begin, t.end)}
            for name, t in tensors.items()
        }
    )
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, data))


def _tensors(body: bytes) -> tuple[dict[str, Tensor], memoryview]:
    """All tensors of a safetensors file, which fill its data without a gap, and that data."""
    size = int.from_bytes(body[:8], "little")
    if len(body) < 10 or not 2 <= size <= min(MOST_HEADER, len(body) - 8):
        raise refused(f"{WEIGHTS} of {len(body):,} bytes has a header of {size:,}")
    try:
        told = msgspec.json.decode(body[8 : 8 + size], type=dict[str, dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refused(f"the header of {WEIGHTS} cannot be read: {error}") from None
    told.pop("__metadata__", None)
    data = memoryview(body)[8 + size :]
    tensors = {name: _tensor(name, entry) for name, entry in told.items()}
    place = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].begin):
        if tensor.begin != place:
            raise refused(f"the data of {name[:200]} begins at {tensor.begin}, not at {place}")
        place = tensor.end
    if place != len(data):
        raise refused(f"{WEIGHTS} has {len(data):,} bytes of data where its tensors have {place:,}")
    return tensors, data


def _tensor(name: str, entry: Mapping[str, Any]) -> Tensor:
    dtype, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if dtype not in _BYTES:
        raise refused(f"{name[:200]} has the type {dtype!r}", f"One of {', '.join(_BYTES)}.")
    if not _whole(shape, 1, 2) or not _whole(place, 2, 2):
        raise refused(f"{name[:200]} has the shape {shape!r} at {place!r}")
    assert isinstance(shape, list)
    assert isinstance(place, list)
    begin, end = place
    if math.prod(shape) * _BYTES[dtype] != end - begin:
        raise refused(f"{name[:200]} of shape {shape} has {end - begin} bytes")
    return Tensor(dtype, tuple(shape), begin, end)


def _whole(value: object, least: int, most: int) -> bool:
    return (
        isinstance(value, list)
        and least <= len(value) <= most
        and all(type(n) is int and 0 <= n < 1 << 48 for n in value)
    )


def _pair(layer: str, parts: Mapping[str, Tensor], config: Config) -> Pair:
    wanted = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.dora else set())
    if set(parts) != wanted:
        raise refused(f"{layer} has {', '.join(sorted(parts))}, not {', '.join(sorted(wanted))}")
    pair = Pair(parts["lora_A"], parts["lora_B"])
    shapes = pair.a.shape, pair.b.shape
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or (
        pair.a.shape[0] != config.rank or pair.b.shape[1] != config.rank
    ):
        raise refused(f"{layer} has matrices of {shapes[0]} and {shapes[1]} at rank {config.rank}")
    if pair.a.dtype != pair.b.dtype:
        raise refused(f"{layer} has matrices of {pair.a.dtype} and {pair.b.dtype}")
    return pair


def _check_finite(tensors: Mapping[str, Tensor], data: memoryview) -> None:
    for name, tensor in tensors.items():
        part = data[tensor.begin : tensor.end]
        if tensor.dtype == "BF16":
            finite = bool(((np.frombuffer(part, "<u2") & 0x7F80) != 0x7F80).all())
        else:
            finite = bool(
                np.isfinite(np.frombuffer(part, "<f4" if tensor.dtype == "F32" else "<f2")).all()
            )
        if not finite:
            raise refused(f"{name[:200]} holds what is no number")
