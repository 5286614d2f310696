"""What an exported model answers to raw rows, as metrics take it.

Knows engines through their port, and signatures; knows no method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Frame, Signature
from meuse.core.ports import Engine
from meuse.train.signature import inputs_of

BLOCK_ROWS = 1024
_LEAST = 1e-45

Rows = Mapping[str, NDArray[Any]]
"""Raw rows as a model takes them: every input [n, …]."""


def rows_of(frame: Frame, signature: Signature) -> Rows:
    """The rows of a frame. A model of one matrix takes the numbers, whatever it calls them."""
    first = signature.inputs[0]
    if len(signature.inputs) == 1 and len(first.shape) == 2 and first.datatype == "FP32":
        return {first.name: frame.numbers}
    return inputs_of(frame, signature)


def blocks(rows: Rows, size: int = BLOCK_ROWS) -> Iterator[dict[str, NDArray[Any]]]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, size):
        yield {name: value[start : start + size] for name, value in rows.items()}


def outputs_of(engine: Engine, rows: Rows, task: str) -> NDArray[np.float64]:
    """What metrics take: class scores [n, k] (logits up to a constant per row), a logit per
    label [n, k], or values [n].

    Raises `invalid_data` (field `model`) when the model lacks the output that the task needs.
    """
    wanted = "value" if task == "regression" else "probabilities"
    names = [output.name for output in engine.signature.outputs]
    if wanted not in names:
        raise MeuseError(
            Code.INVALID_DATA,
            f"the model has no output {wanted!r}, which {task} needs",
            field="model",
            hint=f"Its outputs are: {', '.join(names)}.",
        )
    parts = [engine.run(block)[wanted] for block in blocks(rows)]
    found: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
    if task == "regression":
        return found.reshape(len(found))
    if task == "multilabel":
        return np.log(np.maximum(found, _LEAST)) - np.log(np.maximum(1 - found, _LEAST))
    return np.log(np.maximum(found, _LEAST))
