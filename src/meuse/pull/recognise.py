"""Which model a file or folder holds: a language model, an adapter of one, or an encoder of
texts."""

from __future__ import annotations

from pathlib import Path

from meuse.pull import adapter, checkpoint, gguf_model
from meuse.pull.facts import AdapterFacts, Facts, refused

ENCODERS = ("bert", "distilbert")
"""Families whose checkpoints without a head are imported as encoders."""
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def recognise(found: Path) -> Facts | AdapterFacts | None:
    """What is known of a language model or of an adapter; None for an encoder of texts.

    Raises `invalid_data` for anything else.
    """
    if found.is_file():
        if found.suffix != ".gguf":
            raise refused(
                f"{found.name} is no model file", "Pull a .gguf file, a wheel or zip, or a folder."
            )
        return gguf_model.look(found)
    inside = sorted(found.glob("*.gguf"))
    if len(inside) == 1:
        return gguf_model.look(inside[0])
    if adapter.is_one(found):
        return adapter.look(found)
    if not (found / "config.json").is_file():
        raise refused(
            f"{found.name} holds {'several GGUF files' if inside else 'no model'}",
            "A model is one GGUF file, or a folder with config.json and safetensors files, or "
            "one with adapter_config.json and adapter_model.safetensors.",
        )
    config = checkpoint.config_of(found)
    names = [str(name) for name in config.get("architectures") or ()]
    if config.get("model_type") in ENCODERS:
        return None
    if (found / checkpoint.IR[0]).is_file() or any(n.endswith(_GENERATES) for n in names):
        return checkpoint.look(found, config)
    raise refused(
        f"the checkpoint is a {', '.join(names) or config.get('model_type') or 'model'}",
        "Language models (…ForCausalLM) and encoders of the families "
        f"{', '.join(ENCODERS)} can be pulled; others go by an import job with a format.",
    )
