"""Language models as transformers has them: opened from files, written as a checkpoint.

Runs in processes of jobs, where torch is allowed. Nothing of a file is executed: safetensors and
GGUF alone are read, and there is no `trust_remote_code`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from meuse.core.errors import Code, MeuseError


class Checkpoint(NamedTuple):
    """A model in evaluation mode and the tokenizer that belongs to it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def open_checkpoint(path: Path, *, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """`path` is a `.gguf` file, whose weights are dequantised, or a folder with `config.json`,
    safetensors and the tokenizer's files.

    Raises `invalid_data` when something of it is missing or of a kind that is not known.
    """
    folder, more = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **more}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, **common
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # libraries raise all kinds for files that others wrote
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MeuseError(
            Code.INVALID_DATA,
            f"the checkpoint cannot be opened: {told[:300]}",
            field="model",
            hint="A checkpoint has config.json, safetensors and tokenizer.json, or is one GGUF "
            "file of a kind that transformers knows.",
        ) from error
    return Checkpoint(_as_floats(model), tokenizer)


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """config.json, generation_config.json, safetensors and the tokenizer with its template."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.model.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)


def _as_floats(read: Any) -> PreTrainedModel:
    """What was read of a GGUF file is dequantised, but still takes itself for quantised, and
    would refuse to be saved."""
    if getattr(read, "hf_quantizer", None) is not None:
        read.hf_quantizer = None
        del read.config.quantization_config
    for quantised in ("is_quantized", "quantization_method"):
        if hasattr(read, quantised):
            delattr(read, quantised)
    model: PreTrainedModel = read.eval()
    return model
