"""Encoders of transformers without a head: what a text classifier can start from.

Served, one gives the mean of its states for a raw text, and how many tokens the text has. Its
tokenizer is part of the graph (`train.prepare.pieces`); the tokens' and the weights' arithmetic is
compared with what transformers itself gives. Texts are cut where the checkpoint says that it cuts
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from meuse.convert.inside.model import SEED, Made, refuse
from meuse.train.encoder import Architecture, Encoder
from meuse.train.prepare.steps import Pieces, Preparation

FAMILIES = ("bert", "distilbert")
COLUMN, OUTPUT = "text", "embedding"
TOKENS, TEXT_TOKENS = "tokens", "text_tokens"
"""How many the encoder is given of a text, and how many there are: more where it was cut."""
ROWS = 24
LIMIT = "max_seq_length"
LIMITS = tuple(f"sentence_{family}_config.json" for family in FAMILIES)
"""Where sentence encoders say how many tokens they take."""
_PREFIXES = ("bert.", "distilbert.")
_SIZES = {
    "bert": (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "layer_norm_eps", "hidden_act",
    ),
    "distilbert": ("dim", "n_layers", "n_heads", "hidden_dim", None, "activation"),
}  # fmt: skip
_EMBEDDINGS = {
    "word_embeddings": "words", "position_embeddings": "positions",
    "token_type_embeddings": "segments", "LayerNorm": "norm",
}  # fmt: skip
_LAYERS = {
    "attention.self.query": "query", "attention.self.key": "key",
    "attention.self.value": "value", "attention.output.dense": "join",
    "attention.output.LayerNorm": "between", "intermediate.dense": "up",
    "output.dense": "down", "output.LayerNorm": "after",
    "attention.q_lin": "query", "attention.k_lin": "key", "attention.v_lin": "value",
    "attention.out_lin": "join", "sa_layer_norm": "between", "ffn.lin1": "up",
    "ffn.lin2": "down", "output_layer_norm": "after",
}  # fmt: skip


def convert(folder: Path, config: dict[str, Any]) -> Made:
    import transformers

    from meuse.train.export import embedding

    architecture = _architecture(config)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise refuse(
            f"transformers cannot load the tokenizer: {' '.join(str(error).split())[:400]}",
            "The folder needs tokenizer.json or vocab.txt.",
        ) from None
    length = _length(folder, tokenizer, architecture)
    pieces = _pieces(tokenizer, length, architecture)
    encoder = Encoder(architecture, pieces, _tensors(folder, architecture))
    texts = _texts(pieces.vocabulary, length)
    wanted, counts = _answers(transformers, folder, tokenizer, texts, length)
    whole = np.array([len(tokenizer(text)["input_ids"]) for text in texts])
    unit = _is_unit(folder)
    if unit:
        wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    preparation = Preparation(((COLUMN, "string"),), pieces=pieces)
    proto = embedding(preparation, encoder, OUTPUT, (TOKENS, TEXT_TOKENS), unit)
    about = {
        "transformers": transformers.__version__,
        "architecture": str((config.get("architectures") or ["none"])[0]),
        "encoder": msgspec.to_builtins(architecture),
        "pooling": "mean",
        "unit": unit,
        "length": length,
    }
    return Made(
        proto,
        {COLUMN: np.array(texts)},
        {OUTPUT: wanted, TOKENS: counts, TEXT_TOKENS: whole},
        "custom",
        about=about,
        encoder=encoder,
    )


def _length(folder: Path, tokenizer: Any, architecture: Architecture) -> int:
    """How many tokens of a text it takes: what it says as a sentence encoder, else what its
    tokenizer says; at most one for each of its positions."""
    told: Any = None
    for path in (folder / name for name in LIMITS):
        if path.is_file():
            found = _read(path)
            told = found.get(LIMIT) if isinstance(found, dict) else None
            if told is not None and (type(told) is not int or told < 3):
                raise refuse(
                    f"{LIMIT} of {path.name} is {told!r}",
                    "It is how many tokens the encoder takes, from 3 on.",
                )
            break
    if told is None:
        told = tokenizer.model_max_length  # one without a limit says 10³⁰
    return int(min(told, architecture.positions))


def _is_unit(folder: Path) -> bool:
    """Whether a sentence encoder says that its embeddings have length 1. Raises for one that
    makes them in another way than by the mean of its states."""
    steps = [(str(m.get("type")).rpartition(".")[2], m) for m in _list(folder / "modules.json")]
    for kind, module in steps:
        if kind == "Pooling":
            path = folder / str(module.get("path")) / "config.json"
            pools = _read(path) if path.is_file() else {}
            others = [key for key, value in pools.items() if "_mode_" in key and value is True]
            others = [key for key in others if key != "pooling_mode_mean_tokens"]
            if others or pools.get("pooling_mode_mean_tokens") is False:
                raise refuse(
                    f"the sentence encoder pools by {', '.join(others) or 'nothing known'}",
                    "Those that take the mean of all tokens can be imported.",
                )
        elif kind not in ("Transformer", "Normalize"):
            raise refuse(f"the sentence encoder has a {kind} after its transformer")
    return any(kind == "Normalize" for kind, _ in steps)


def _list(path: Path) -> list[dict[str, Any]]:
    """A list of objects in a file; [] when there is none."""
    if not path.is_file():
        return []
    found = _read(path)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise refuse(f"{path.name} is not a list of objects")
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise refuse(f"{path.name} is not JSON: {error}") from None


def _architecture(config: dict[str, Any]) -> Architecture:
    width, depth, heads, inner, epsilon, activation = (
        None if name is None else config.get(name) for name in _SIZES[config["model_type"]]
    )
    positioned = config.get("position_embedding_type", "absolute")
    if (activation or "gelu") != "gelu" or positioned != "absolute" or config.get("is_decoder"):
        raise refuse(
            f"the encoder has the activation {activation!r} and {positioned} positions",
            "Encoders with gelu and absolute positions can be imported.",
        )
    sizes = {
        "vocabulary": config.get("vocab_size"),
        "positions": config.get("max_position_embeddings"),
        "width": width,
        "depth": depth,
        "heads": heads,
        "inner": inner,
        "epsilon": 1e-12 if epsilon is None else epsilon,
    }
    try:
        return msgspec.convert(sizes, Architecture)
    except msgspec.ValidationError as error:
        raise refuse(f"config.json does not describe an encoder: {error}") from None


def _pieces(tokenizer: Any, length: int, architecture: Architecture) -> Pieces:
    if not getattr(tokenizer, "is_fast", False):
        raise refuse("the tokenizer is not one of the package tokenizers")
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normaliser = told.get("model") or {}, told.get("normalizer") or {}
    kinds = (
        model.get("type"), normaliser.get("type"), (told.get("pre_tokenizer") or {}).get("type"),
        model.get("continuing_subword_prefix"), model.get("max_input_chars_per_word"),
    )  # fmt: skip
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer", "##", 100):
        raise refuse(
            f"the tokenizer is {kinds[0]} after {kinds[1]} and {kinds[2]}",
            "BERT's own, WordPiece, can be imported.",
        )
    vocabulary = tuple(sorted(model["vocab"], key=model["vocab"].__getitem__))
    if sorted(model["vocab"].values()) != list(range(len(vocabulary))):
        raise refuse("the ids of the tokenizer's vocabulary have gaps")
    if tokenizer.pad_token_id != 0:
        raise refuse(f"the tokenizer pads with {tokenizer.pad_token_id}, not with 0")
    if len(vocabulary) > architecture.vocabulary:
        raise refuse("the tokenizer has more pieces than the encoder embeds")
    lowercase = bool(normaliser.get("lowercase"))
    strip = normaliser.get("strip_accents")
    try:
        return Pieces(
            COLUMN,
            vocabulary,
            length,
            first=tokenizer.cls_token_id,
            last=tokenizer.sep_token_id,
            unknown=model["vocab"].get(model.get("unk_token"), -1),
            lowercase=lowercase,
            accents=not (lowercase if strip is None else strip),
            clean=bool(normaliser.get("clean_text")),
            chinese=bool(normaliser.get("handle_chinese_chars")),
        )
    except (ValueError, TypeError) as error:
        raise refuse(f"the tokenizer lacks what BERT's has: {error}") from None


def _tensors(folder: Path, architecture: Architecture) -> dict[str, Any]:
    """Under our names, float32, without what an encoder does not have."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise refuse(f"{path.name} cannot be read: {error}") from None
        for name, tensor in tensors.items():
            if (ours := _named(name)) is not None:
                found[ours] = tensor.to(torch.float32)
    segments = found.pop("segments.weight", None)
    if segments is not None and "positions.weight" in found:
        found["positions.weight"] = found["positions.weight"] + segments[0]
    missing = {"words.weight", "positions.weight", "norm.weight"} - found.keys()
    if missing:
        raise refuse(f"the checkpoint has no {', '.join(sorted(missing))}")
    return found


def _named(name: str) -> str | None:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    base, _, leaf = name.rpartition(".")
    leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
    if leaf not in ("weight", "bias"):
        return None
    place, _, rest = base.partition(".")
    if place == "embeddings":
        return f"{_EMBEDDINGS[rest]}.{leaf}" if rest in _EMBEDDINGS else None
    if place not in ("encoder", "transformer") or not rest.startswith("layer."):
        return None
    _, number, part = rest.split(".", 2)
    return f"layers.{number}.{_LAYERS[part]}.{leaf}" if part in _LAYERS else None


def _texts(vocabulary: tuple[str, ...], length: int) -> list[str]:
    """Words of the vocabulary, made-up ones, and what tokenizers stumble over; the last is cut."""
    rng = np.random.default_rng(SEED)
    words = [piece for piece in vocabulary if piece.isalnum()] or ["a"]
    texts = ["", "Zoë's naïve CAFÉ — 50% off!", "日本 한국 ﬁne x\u200by don't_stop", "é" * 101]
    while len(texts) < ROWS:
        chosen = [words[i] for i in rng.integers(0, len(words), int(rng.integers(1, 40)))]
        chosen = [word.upper() if rng.random() < 0.2 else word for word in chosen]
        signs = [" ", " ", " ", ", ", "", "-", ".\n"]
        texts.append("".join(w + signs[rng.integers(0, len(signs))] for w in chosen))
    return [*texts, "a " * (length + 5)]


def _answers(
    transformers: Any, folder: Path, tokenizer: Any, texts: list[str], length: int
) -> tuple[Any, Any]:
    """(vectors [n, width], tokens of each text [n])."""
    import torch

    try:
        model = transformers.AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype="float32",
        ).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())
        raise refuse(f"transformers cannot load the checkpoint: {text[:400]}") from None
    given = tokenizer(
        texts, truncation=True, max_length=length, padding=True, return_tensors="pt",
        return_token_type_ids=False,
    )  # fmt: skip
    with torch.no_grad():
        states = model(**given).last_hidden_state
    weights = given["attention_mask"].unsqueeze(2).float()
    means = ((states * weights).sum(1) / weights.sum(1)).numpy()
    return means, given["attention_mask"].sum(1).numpy()
