"""Engines by format. An allow-list: a format that is not here is never loaded."""

from __future__ import annotations

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine

FORMATS = frozenset({"onnx"})


def prepare(engine: str) -> None:
    """Import all that `load` will need, so that a spare process has it."""
    if engine == "onnx":
        import meuse.serve.engines.onnx  # noqa: F401


def load(format: str, model: bytes, threads: int = 1) -> Engine:
    """An engine that runs `model`. Raises `invalid_data` for what cannot be served."""
    if format == "onnx":
        from meuse.serve.engines.onnx import OnnxEngine

        return OnnxEngine(model, threads)
    raise MeuseError(
        Code.INVALID_DATA,
        f"format {format!r} cannot be served",
        field="format",
        hint=f"Formats: {', '.join(sorted(FORMATS))}.",
    )
