"""Which step may follow which, decided before anything starts.

Knows methods by name and what their options make; knows no network and no file, so what depends on
those (a model that was trained for integers before) is refused where it is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import msgspec

from meuse.compress import catalog
from meuse.compress.configs.convert import Convert
from meuse.compress.configs.distill import Distill
from meuse.compress.configs.pack import Pack
from meuse.compress.configs.prune import Prune
from meuse.compress.configs.quantize import Qat, Quantize
from meuse.core.errors import invalid

if TYPE_CHECKING:
    from meuse.compress.spec import Step

_NAMES = {"openvino": "OpenVINO IR", "litert": "LiteRT", "packed": "a packed file"}
_RESHAPING = ("prune_structured", "low_rank")
"""Methods that take layers as they were built, not those with scales of integers."""


@dataclass(slots=True)
class _Before:
    """Of the steps so far, that which left the network behind, that which left ONNX behind, that
    which made integers of the numbers, and those that set weights to zero or to shared values."""

    graph: Step | None = None
    format: Step | None = None
    integers: Step | None = None
    zeros: Step | None = None
    shared: Step | None = None


def check(steps: Sequence[Step]) -> None:
    """Raises `invalid_field` (`steps.N.method`) for a step that can take nothing of what those
    before it leave."""
    before = _Before()
    for index, step in enumerate(steps):
        field, stage = f"steps.{index}.method", catalog.METHODS[step.method].stage
        if stage == "graph" and any(step.method == s.method for s in steps[:index]):
            told = f"{step.method!r} stands twice: what it made is no longer what it takes"
            raise invalid(field, told, "Name each method of the graph once.")
        if stage == "network" and before.graph is not None:
            _left_behind(field, step, before.graph)
        if before.format is not None:
            _not_onnx(field, step, before.format)
        if before.integers is not None:
            _check_integers(field, step, before.integers)
        _check_forms(field, step, before)
        if stage == "graph" or _format(step.config) != "onnx":
            before.graph = step
        if _format(step.config) != "onnx":
            before.format = step
        if _is_anew(step.config):
            before.integers = before.zeros = before.shared = None
        if step.method == "prune":
            before.zeros = step
        if step.method == "share":
            before.shared = step
        if _makes_integers(step.config):
            before.integers = step


def check_parent(steps: Sequence[Step], ref: str, format: str, *, has_weights: bool) -> None:
    """Raises `invalid_field` where the version cannot begin: its file of this format is what
    methods of the graph take, its weights are what those of the network do. Without steps, of a
    search, which tries both."""
    takes_file = format not in ("openvino", "litert")
    if not steps:
        if takes_file:
            return
        told = f"a search takes ONNX, and {ref} is {_NAMES[format]}"
        raise invalid("model", told, f"Compress the version that {ref} was made of, or name steps.")
    first = catalog.METHODS[steps[0].method]
    if first.stage == "graph" and not takes_file:
        told = f"{first.name!r} takes ONNX, and {ref} is {_NAMES[format]}"
        raise invalid("steps.0.method", told, f"Compress the version that {ref} was made of.")
    if first.stage == "network" and not has_weights:
        graph = [method.name for method in catalog.METHODS.values() if method.stage == "graph"]
        told = (
            f"{ref} has no weights file, which {first.name!r} needs: it is known as a finished "
            "graph only"
        )
        hint = "Versions that were trained here have one."
        if takes_file:
            hint += f" Without it these work: {', '.join(graph)}."
        raise invalid("steps.0.method", told, hint)


def _left_behind(field: str, step: Step, earlier: Step) -> NoReturn:
    told = f"{step.method!r} changes the network, which {earlier.method!r} has left behind"
    hint = f"Put {step.method!r} before {earlier.method!r}."
    if isinstance(earlier.config, Qat):
        hint = "NNCF leaves a finished graph: make it the last step, or use the backend own."
    raise invalid(field, told, hint)


def _not_onnx(field: str, step: Step, earlier: Step) -> NoReturn:
    format = _format(earlier.config)
    told = f"{step.method!r} takes ONNX, and {earlier.method!r} makes {_NAMES[format]}"
    hint = f"Put {step.method!r} before {earlier.method!r}."
    if _format(step.config) != "onnx":
        hint = f"A file has one format: leave {step.method!r} or {earlier.method!r} out."
    elif isinstance(earlier.config, Qat):
        hint = f"Leave {step.method!r} out: what NNCF has trained is integers already."
    elif format == "litert":
        hint = f"Leave {step.method!r} out: numbers of {earlier.method!r} says what they become."
    raise invalid(field, told, hint)


def _check_integers(field: str, step: Step, earlier: Step) -> None:
    told = f"{earlier.method!r} has made integers of the numbers already"
    if isinstance(step.config, Quantize):
        raise invalid(field, told, f"Leave {step.method!r} out, or {earlier.method!r}.")
    if isinstance(step.config, Qat) and step.config.backend == "nncf":
        raise invalid(field, told, f"Name {step.method!r} once.")
    if step.method in _RESHAPING:
        told = f"{earlier.method!r} has trained scales for the layers as they are"
        raise invalid(field, told, f"Put {step.method!r} before {earlier.method!r}.")
    if _format(step.config) == "litert":
        told = f"LiteRT has no operators for the integers that {earlier.method!r} makes"
        hint = f"Leave {earlier.method!r} out, and use numbers: int8 of {step.method!r}."
        raise invalid(field, told, hint)


def _check_forms(field: str, step: Step, before: _Before) -> None:
    """Training keeps zeros and shared values; what takes a weight apart cannot."""
    undone: Step | None = None
    if step.method == "low_rank":
        undone = before.shared or before.zeros
    elif step.method == "clip":
        undone = before.shared
    elif step.method == "prune_structured" and before.zeros is not None:
        config = before.zeros.config
        undone = before.zeros if isinstance(config, Prune) and config.pattern else None
    if undone is not None:
        told = f"{step.method!r} would undo what {undone.method!r} has made of the weights"
        raise invalid(field, told, f"Put {step.method!r} before {undone.method!r}.")


def _format(config: msgspec.Struct) -> str:
    """Of the file that the step leaves."""
    if isinstance(config, Convert):
        return config.to
    if isinstance(config, Pack):
        return "packed"
    by_nncf = isinstance(config, Qat) and config.backend == "nncf"
    if by_nncf or (isinstance(config, Quantize) and config.mode.startswith("openvino")):
        return "openvino"
    return "onnx"


def _makes_integers(config: msgspec.Struct) -> bool:
    """In ONNX's operators for them; 16-bit floats are widened by a plain cast."""
    if isinstance(config, Quantize):
        return config.mode not in ("float16", "bfloat16")
    return isinstance(config, Qat)


def _is_anew(config: msgspec.Struct) -> bool:
    """Whether another network takes the place of what was there."""
    return isinstance(config, Distill) and config.student is not None
