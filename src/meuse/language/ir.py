"""A language model in OpenVINO's representation: a folder that openvino-genai serves.

The graph is stateful and keeps the names of its modules (see `graph`); tokenizer and detokenizer
are graphs too. Weights may be compressed on the way, which needs no data.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import openvino
import openvino_tokenizers
from transformers import PreTrainedTokenizerBase

from meuse.language.checkpoint import Checkpoint

GRAPH = "openvino_model.xml"


def write_ir(
    checkpoint: Checkpoint, graph: openvino.Model, folder: Path, *, half: bool = True
) -> None:
    """`graph` is `graph_of(checkpoint.model)`, as it is or compressed; `half` stores the floats
    that are left in it at 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(graph, folder / GRAPH, compress_to_fp16=half)
    write_tokenizer(checkpoint.tokenizer, folder)
    checkpoint.model.config.save_pretrained(folder)
    if checkpoint.model.generation_config is not None:
        checkpoint.model.generation_config.save_pretrained(folder)


def copy_ir(source: Path, graph: openvino.Model, folder: Path) -> None:
    """The files of `source`, with another graph."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.stem != Path(GRAPH).stem:
            shutil.copyfile(path, folder / path.name)
    openvino.save_model(graph, folder / GRAPH, compress_to_fp16=True)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """As graphs and as transformers keeps it, with its chat template."""
    tokenizer.save_pretrained(folder)
    there, back = openvino_tokenizers.convert_tokenizer(
        tokenizer, with_detokenizer=True, skip_special_tokens=True
    )
    openvino.save_model(there, folder / "openvino_tokenizer.xml")
    openvino.save_model(back, folder / "openvino_detokenizer.xml")
