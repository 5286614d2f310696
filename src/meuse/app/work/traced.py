"""Whether the graph that was traced of a checkpoint computes what the checkpoint does.

A trace follows one example: what the model decides by lengths or values may be fixed in it without
a word. What is judged and served afterwards is the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meuse.core.errors import Code, MeuseError
from meuse.evaluate.language.checkpoint import CheckpointTokenizer, TorchModel
from meuse.evaluate.language.ir import CHUNK, GRAPH, IrModel
from meuse.language.checkpoint import Checkpoint

TOKENS = CHUNK + 64
"""Of the text: more than the example has, and more than one call, so that the cache is read."""
TOLERANCE = 0.01
"""In log-probability, of any token, both in float32: graphs that are right differ by some 1e-4."""
_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def check_traced(opened: Checkpoint, folder: Path, texts: Sequence[str], threads: int) -> None:
    """`folder` has the graph in float32. Raises `invalid_data`."""
    sides = (
        TorchModel(opened.model),
        IrModel(folder / GRAPH, context=TOKENS, threads=threads, properties=_EXACT),
    )
    written = CheckpointTokenizer(opened.tokenizer).encode(" ".join(texts), whole=True)
    ids = np.resize(written, min(TOKENS, sides[0].context))
    mine, theirs = (side.log_probabilities(ids) for side in sides)
    apart = float(np.abs(mine - theirs).max())
    if not apart <= TOLERANCE:  # also what is no number
        raise MeuseError(
            Code.INVALID_DATA,
            f"the graph of the checkpoint does not compute what the checkpoint does: "
            f"log-probabilities of a text of {len(ids)} tokens differ by up to {apart:.3g}",
            field="model",
            hint="This kind of model cannot be traced; pull OpenVINO's files of it (IR) instead.",
        )
