"""A folder with adapter_config.json as a LoRA adapter of peft."""

from __future__ import annotations

from pathlib import Path

from meuse.core.errors import MeuseError
from meuse.pull.facts import AdapterFacts, refused
from meuse.serve.generation import lora

MOST_BYTES = 8 << 30


def is_one(folder: Path) -> bool:
    return (folder / lora.CONFIG).is_file()


def look(folder: Path) -> AdapterFacts:
    """Raises `invalid_data` when something of it is missing or makes no sense."""
    config, weights = folder / lora.CONFIG, folder / lora.WEIGHTS
    if not weights.is_file():
        raise refused(
            f"the folder has no {lora.WEIGHTS}", "Pickle (adapter_model.bin) is refused: save anew."
        )
    if config.stat().st_size > lora.MOST_CONFIG or weights.stat().st_size > MOST_BYTES:
        raise refused("the adapter is too large for one")
    try:
        read = lora.read(config.read_bytes(), weights.read_bytes())
    except MeuseError as error:
        raise refused(error.message, error.hint) from None
    return AdapterFacts(
        files={lora.CONFIG: config, lora.WEIGHTS: weights},
        rank=read.config.rank,
        alpha=read.config.alpha,
        targets=read.targets,
        dora=read.config.dora,
        parameters=sum((p.inputs + p.outputs) * read.config.rank for p in read.pairs.values()),
    )
