"""Tensors against a model's signature: what came in, what came out. Knows no protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.gateway.link import Answer
from meuse.gateway.routes import Target
from meuse.serve.frames import DATATYPES
from meuse.serve.snapshot import TensorEntry

Inputs = Sequence[tuple[str, NDArray[Any]]]
"""Tensors by name, in the order of the request."""


def in_order(target: Target, answer: Answer) -> list[tuple[str, NDArray[Any]]]:
    """Outputs as the target declares them. A replica that gives others is at fault."""
    if [name for name, _ in answer.outputs] == target.output_names:
        return answer.outputs
    given = dict(answer.outputs)
    try:
        return [(name, given[name]) for name in target.outputs]
    except KeyError as missing:
        raise MeuseError(Code.ENGINE_ERROR, f"the model gave no output {missing}") from None


def check(specs: tuple[TensorEntry, ...], by_name: dict[str, TensorEntry], inputs: Inputs) -> int:
    """The number of rows of inputs that fit the signature. Raises `invalid_input`."""
    if len(inputs) == len(specs) == 1 and (count := _one(specs[0], *inputs[0])):
        return count
    rows: int | None = None
    seen = set()
    for i, (name, array) in enumerate(inputs):
        spec = by_name.get(name)
        if spec is None:
            expected = ", ".join(by_name)
            raise _bad(f"inputs[{i}].name", f"the model has no input {name!r}", expected)
        if name in seen:
            raise _bad(f"inputs[{i}].name", f"input {name!r} is given twice")
        seen.add(name)
        datatype, shape = DATATYPES[array.dtype], array.shape
        if datatype != spec.datatype:
            raise _bad(f"inputs[{i}].datatype", f"got {datatype} for {name!r}", spec.datatype)
        wanted = spec.shape
        if len(shape) != len(wanted) or any(
            w not in (-1, g) for w, g in zip(wanted, shape, strict=True)
        ):
            raise _bad(f"inputs[{i}].shape", f"got {list(shape)} for {name!r}", str(list(wanted)))
        if shape:
            if shape[0] < 1:
                raise _bad(f"inputs[{i}].shape", f"input {name!r} has no rows", "at least one row")
            if rows is not None and shape[0] != rows:
                raise _bad(
                    f"inputs[{i}].shape", f"{shape[0]} rows of {name!r}", f"{rows} as before it"
                )
            rows = shape[0]
    if len(seen) != len(specs):
        missing = [name for name in by_name if name not in seen]
        raise _bad("inputs", f"inputs are missing: {', '.join(missing)}")
    return rows or 1


def _one(spec: TensorEntry, name: str, array: NDArray[Any]) -> int:
    """The rows of what is by far the most common: one matrix that fits. 0: look closer."""
    shape, wanted = array.shape, spec.shape
    if (
        len(wanted) == len(shape) == 2
        and name == spec.name
        and DATATYPES[array.dtype] == spec.datatype
        and wanted[0] in (-1, shape[0])
        and wanted[1] in (-1, shape[1])
    ):
        return int(shape[0])
    return 0


def _bad(field: str, message: str, expected: str | None = None) -> MeuseError:
    hint = f"Expected: {expected}." if expected else None
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
