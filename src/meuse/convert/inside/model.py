"""What every converter makes: an ONNX model, its inputs by kind, and answers to compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError

if TYPE_CHECKING:
    from meuse.train.encoder import Encoder

ROWS = 200
SEED = 20

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Made:
    """`proto` takes and gives what a served model does; `inputs` are sample rows for it, by
    input (float32, or str for texts), `outputs` what the original answers to them."""

    proto: onnx.ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    task: str
    classes: tuple[str | int, ...] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """For the report: versions, kind of the original."""
    encoder: Encoder | None = None
    """What a text classifier may start from."""


@dataclass(frozen=True, slots=True)
class Column:
    """One feature. `samples(rng, n)` gives values that the original may meet."""

    name: str
    is_text: bool
    samples: Callable[[np.random.Generator, int], Array]


def numbers(rng: np.random.Generator, count: int) -> Array:
    """Small and large, round and odd: a third each of the scales 1, 10 and 100."""
    scale = 10.0 ** rng.integers(0, 3, count)
    values = rng.normal(size=count) * scale
    values[::3] = np.round(values[::3])
    return values.astype(np.float32)


def refuse(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="model", hint=hint)


def labels(values: Any) -> tuple[str | int, ...]:
    """Labels as the registry keeps them."""
    return tuple(
        int(value) if isinstance(value, int | np.integer | np.bool_) else str(value)
        for value in np.asarray(values).tolist()
    )
