"""Checkpoints of transformers: encoders that classify texts, from safetensors.

Those without a head become encoders to start from (`encoders`). Of the others the model takes
token ids, not text. The tokenizers of these checkpoints have no counterpart
among ONNX's own operators, and the custom ones that would do it (onnxruntime-extensions) are
native code that every replica would load and that OpenVINO does not know. Whoever calls runs
the checkpoint's own tokenizer.json.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from meuse.convert.inside import encoders
from meuse.convert.inside.model import SEED, Made, labels, refuse

OPSET = 20
ROWS, LENGTH = 16, 24
_FAMILIES = ("albert", "bert", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta")


def convert(folder: Path) -> Made:
    config = _config(folder)
    try:
        import transformers
    except ModuleNotFoundError:
        raise refuse(
            "checkpoints of transformers need the package transformers, which is not installed",
            "pip install 'meuse[import]'",
        ) from None

    if not _classifies(config):
        return encoders.convert(folder, config)
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="eager",  # plain products and a softmax: ONNX has them
            dtype="float32",
        ).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())
        raise refuse(f"transformers cannot load the checkpoint: {text[:400]}") from None
    tokens, mask = _samples(model.config)
    outputs = _answers(model, tokens, mask)
    proto = _export(model, tokens, mask)
    names = model.config.id2label
    about = {
        "transformers": transformers.__version__,
        "architecture": config["architectures"][0],
        "vocabulary": int(model.config.vocab_size),
        "positions": int(model.config.max_position_embeddings),
        "tokenizer": (folder / "tokenizer.json").is_file(),
    }
    classes = labels([names[index] for index in range(len(names))])
    inputs = {"input_ids": tokens, "attention_mask": mask}
    return Made(proto, inputs, outputs, "classification", classes, about)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise refuse("the folder has no config.json", "Pack the checkpoint's own folder.")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise refuse(f"config.json is not JSON: {error}") from None
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in _FAMILIES:
        raise refuse(
            f"checkpoints of the family {family!r} cannot be imported",
            f"Families that can be: {', '.join(_FAMILIES)}.",
        )
    if not _classifies(config) and family not in encoders.FAMILIES:
        raise refuse(
            f"the checkpoint is a {_name(config)}; those that classify texts can be imported",
            "Fine-tune it as …ForSequenceClassification first. To start a text classifier from, "
            f"encoders of these families can be: {', '.join(encoders.FAMILIES)}.",
        )
    if not list(folder.glob("*.safetensors")):
        raise refuse(
            "the checkpoint has no safetensors file",
            "Save it by save_pretrained; pickle is refused.",
        )
    return config


def _name(config: dict[str, Any]) -> str:
    return str((config.get("architectures") or ["none"])[0])


def _classifies(config: dict[str, Any]) -> bool:
    return _name(config).endswith("ForSequenceClassification")


def _samples(config: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(SEED)
    length = min(LENGTH, int(config.max_position_embeddings) - 2)
    tokens = rng.integers(0, int(config.vocab_size), (ROWS, length)).astype(np.int64)
    lengths = rng.integers(1, length + 1, ROWS)
    mask = (np.arange(length)[None, :] < lengths[:, None]).astype(np.int64)
    padding = int(config.pad_token_id or 0)
    return np.where(mask == 1, np.where(tokens == padding, 1, tokens), padding), mask


def _answers(model: Any, tokens: Any, mask: Any) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        given = {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
        shares = model(**given).logits.softmax(dim=1).numpy()
    return {"label": shares.argmax(axis=1).astype(np.int64), "probabilities": shares}


def _export(model: Any, tokens: Any, mask: Any) -> Any:
    import torch

    class Served(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
            return logits.argmax(dim=1), logits.softmax(dim=1)

    rows = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one library about the other
        program = torch.onnx.export(
            Served().eval(),
            (torch.from_numpy(tokens[:2]), torch.from_numpy(mask[:2])),
            dynamo=True,
            external_data=False,
            dynamic_shapes=(rows, rows),
            input_names=["input_ids", "attention_mask"],
            output_names=["label", "probabilities"],
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise refuse("torch gives no ONNX graph of the checkpoint")
    return program.model_proto
