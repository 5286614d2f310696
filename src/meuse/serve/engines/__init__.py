"""Engines by name, and the formats that each runs. An allow-list: nothing else is loaded.

Knows no deployment and no artifact. What a recipe is, the torch engine is told by `build`.
"""

from __future__ import annotations

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import ENGINES
from meuse.core.ports import BuildModel, Engine


def prepare(engine: str) -> None:
    """Import what `load` will need for this engine, so that a spare process has it."""
    if engine == "onnx":
        import meuse.serve.engines.onnx
    elif engine == "openvino":
        import meuse.serve.engines.openvino
    elif engine == "litert":
        import meuse.serve.engines.litert
    elif engine == "torch":
        import meuse.serve.engines.torch  # noqa: F401


def load(
    format: str,
    model: bytes,
    threads: int = 1,
    *,
    engine: str | None = None,
    build: BuildModel | None = None,
) -> Engine:
    """An engine on `threads` cores that runs `model`; by default the first for its format.

    Raises `invalid_data` for what cannot be served, `unavailable` when the engine's package
    is not installed.
    """
    able = [name for name, formats in ENGINES.items() if format in formats]
    if able == ["genai"]:
        raise MeuseError(
            Code.INVALID_DATA,
            "a language model produces text, and takes and gives no tensors",
            hint="Use the OpenAI API: /v1/chat/completions.",
        )
    if not able:
        formats = sorted({format for formats in ENGINES.values() for format in formats})
        raise MeuseError(
            Code.INVALID_DATA,
            f"format {format!r} cannot be served",
            field="format",
            hint=f"Formats: {', '.join(formats)}.",
        )
    name = engine or able[0]
    if name not in able:
        raise MeuseError(
            Code.INVALID_DATA,
            f"the engine {name!r} does not run {format}",
            field="engine",
            hint=f"Engines that do: {', '.join(able)}.",
        )
    try:
        return _load(name, format, model, threads, build)
    except ModuleNotFoundError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"the engine {name!r} needs the package {error.name!r}, which is not installed",
            field="engine",
            hint=f"pip install 'meuse[{_EXTRAS[name]}]'",
        ) from None


_EXTRAS = {
    "onnx": "onnx",
    "openvino": "openvino",
    "litert": "litert",
    "torch": "train",
    "genai": "llm",
}


def _load(name: str, format: str, model: bytes, threads: int, build: BuildModel | None) -> Engine:
    if name == "onnx":
        from meuse.serve.engines.onnx import OnnxEngine

        if format == "packed":
            from meuse.serve.packed import unpack

            model = unpack(model)
        return OnnxEngine(model, threads)
    if name == "openvino":
        from meuse.serve.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, format, threads)
    if name == "litert":
        from meuse.serve.engines.litert import LiteRtEngine

        return LiteRtEngine(model, threads)
    from meuse.serve.engines.torch import TorchEngine

    assert build is not None, "the torch engine builds networks from recipes"
    return TorchEngine(model, threads, build)
