"""A folder with config.json as a language model: a safetensors checkpoint or OpenVINO's IR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meuse.pull.facts import (
    MOST_CONTEXT,
    MOST_LAYERS,
    MOST_WIDTH,
    Facts,
    kv_bytes,
    refused,
)

IR = (
    "openvino_model.xml", "openvino_model.bin",
    "openvino_tokenizer.xml", "openvino_tokenizer.bin",
    "openvino_detokenizer.xml", "openvino_detokenizer.bin",
)  # fmt: skip
_TEXTS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json",
    "chat_template.jinja", "model.safetensors.index.json", "openvino_config.json",
)  # fmt: skip
MOST_TEXT = 256 << 20
MOST_HEADER = 64 << 20


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises `invalid_data`."""
    return _json(folder / "config.json")


def look(folder: Path, config: dict[str, Any]) -> Facts:
    """Raises `invalid_data` when something of it is missing or makes no sense."""
    is_ir = (folder / IR[0]).is_file()
    weights = list(IR) if is_ir else sorted(p.name for p in folder.glob("*.safetensors"))
    missing = [name for name in weights if not (folder / name).is_file()]
    if missing or not weights:
        raise refused(
            f"the folder has no {', '.join(missing) or 'safetensors file'}",
            "optimum-cli export openvino writes all of OpenVINO's; pickle is refused.",
        )
    names = [*weights, *(name for name in _TEXTS if (folder / name).is_file())]
    told = _json(folder / "tokenizer_config.json", {})
    text = config.get("text_config")
    inner = {**config, **text} if isinstance(text, dict) else config
    return Facts(
        layout="ir" if is_ir else "hf",
        files={name: folder / name for name in names},
        architecture=str(config.get("model_type") or ""),
        context=_number(inner, "max_position_embeddings", MOST_CONTEXT),
        vocabulary=_number(inner, "vocab_size", MOST_WIDTH * 4),
        parameters=0 if is_ir else sum(_parameters(folder / name) for name in weights),
        chat_template=_template(folder, told),
        tokenizer=_tokenizer(folder),
        licence=str(config.get("license") or ""),
        kv_bytes_per_token=_kv(inner),
    )


def _kv(config: dict[str, Any]) -> int:
    layers = _number(config, "num_hidden_layers", MOST_LAYERS)
    heads = _number(config, "num_attention_heads", MOST_WIDTH)
    kept = _number(config, "num_key_value_heads", MOST_WIDTH, heads)
    size = _number(config, "hidden_size", MOST_WIDTH) // heads
    size = _number(config, "head_dim", MOST_WIDTH, size)
    return kv_bytes(layers, (kept,), size, size)


def _number(config: dict[str, Any], key: str, most: int, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise refused(f"{key} of config.json is {value!r}", f"It is from 1 to {most:,}.")
    return value


def _template(folder: Path, told: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text()
    template = told.get("chat_template", "")
    if isinstance(template, list):  # several by name: the default
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default", "")
    return template if isinstance(template, str) else ""


def _tokenizer(folder: Path) -> str:
    """By how tokenizer.json says that texts become tokens."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise refused("the folder has no tokenizer.json", "Save the tokenizer with the model.")
    told = _json(path)
    model = told.get("model") or {}
    normaliser = told.get("normalizer") or {}
    steps = {step.get("type") for step in normaliser.get("normalizers") or [normaliser]}
    if steps & {"NFKC", "NFKD", "Precompiled", "Nmt"} or model.get("type") == "Unigram":
        return "compatible"
    return "composed" if steps & {"NFC", "NFD", "BertNormalizer"} else "bytes"


def _parameters(path: Path) -> int:
    """Elements of a safetensors file, by its header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(MOST_HEADER, path.stat().st_size - 8):
            raise refused(f"{path.name} has a header of {size:,} bytes")
        try:
            header = json.loads(file.read(size))
            return sum(_elements(t["shape"]) for n, t in header.items() if n != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise refused(f"the header of {path.name} cannot be read: {error}") from None


def _elements(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= int(length)
    return count


def _json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.is_file():
        return default
    try:
        if path.stat().st_size > MOST_TEXT:
            raise refused(f"{path.name} is too large for a text")
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise refused(f"{path.name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise refused(f"{path.name} is not a JSON object")
    return found
