"""Whether a converted file answers as the file that it was made of.

Knows engines and their answers; knows no converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.compress.artifact import Artifact
from meuse.compress.material import GraphMaterial
from meuse.core.errors import Code, MeuseError
from meuse.serve import engines

_COMPARED = 256
_AGREEING = 0.99  # of the rows; a tie may fall either way


@dataclass(frozen=True, slots=True)
class Bound:
    """How far an answer may lie from the other file's, of the larger of 1 and its size."""

    largest: float
    typical: float


def check(
    before: Artifact, made: Artifact, bound: Bound, material: GraphMaterial, told: str, hint: str
) -> None:
    """Compare on up to 256 rows of the training split. `told` names what was made, in messages.

    Raises `invalid_data` (field `model`, with `hint`) when too few agree.
    """
    first, second = (engines.load(file.format, file.data) for file in (before, made))
    rows = {name: value[:_COMPARED] for name, value in material.rows.items()}
    wanted, found = first.run(rows), second.run(rows)
    output = first.signature.outputs[-1].name
    if found.keys() != wanted.keys() or found[output].shape != wanted[output].shape:
        raise refusal("the converted file has other outputs", hint)
    distance = _distances(wanted[output], found[output])
    share = float((distance <= bound.largest).mean())
    typical, largest = float(np.median(distance)), float(distance.max())
    material.job.log(
        f"as {told}: {len(distance)} rows differ by {typical:.2g} in the middle, "
        f"{largest:.2g} at most"
    )
    if share < _AGREEING or not typical <= bound.typical:
        raise refusal(
            f"as {told} the model answers otherwise than the ONNX file: by {typical:.2g} in the "
            f"middle, {largest:.2g} at most",
            hint,
        )


def refusal(message: str, hint: str) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="model", hint=hint)


def _distances(wanted: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Of each row the largest difference."""
    apart = np.abs(wanted.astype(np.float64) - found) / np.maximum(1, np.abs(wanted))
    rows: NDArray[np.float64] = apart.reshape(len(apart), -1).max(axis=1)
    return np.nan_to_num(rows, nan=np.inf)
