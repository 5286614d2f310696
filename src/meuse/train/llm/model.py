"""What of a model is trained, and how it is written down: an adapter, or every weight.

Knows transformers' models and peft.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from meuse.core.errors import invalid
from meuse.language.checkpoint import Checkpoint, write_checkpoint
from meuse.train.recipes.language import Lora
from meuse.train.seeds import derive

ATTENTION = (
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query_key_value", "out_proj", "dense",
)  # fmt: skip
"""How models call the projections of attention."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


class Trained:
    """The parameters that are trained, as a checkpoint keeps them: by their names, without those
    that stay as they are."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}

    @property
    def count(self) -> int:
        return sum(p.numel() for p in self._parameters.values())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError for the state of another model."""
        if state.keys() != self._parameters.keys():
            raise ValueError("the weights are those of another model")
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(state[name])


def linear_names(model: nn.Module) -> tuple[str, ...]:
    """The last parts of the names of linear layers, but for the one that gives the tokens."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return tuple(found)


def targets_of(model: nn.Module, wanted: Sequence[str]) -> tuple[str, ...]:
    """The layers that an adapter changes. Raises `invalid_field` at `config.targets`."""
    names = linear_names(model)
    chosen = tuple(wanted) or tuple(name for name in ATTENTION if name in names)
    missing = [name for name in chosen if name not in names]
    if missing or not chosen:
        told = f"the model has no linear layer {missing[0]!r}" if missing else "none is known"
        raise invalid("config.targets", told, f"It has: {', '.join(names)}.")
    return tuple(dict.fromkeys(chosen))


def adapted(model: nn.Module, lora: Lora, seed: int, base: str) -> nn.Module:
    """The model with an adapter that changes nothing yet; all else of it stays as it is."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(derive(seed, "adapter"))
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.scale),  # peft only divides it
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules=list(targets_of(model, lora.targets)),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with old_names():
        made: nn.Module = get_peft_model(cast(Any, model), config)
    config.base_model_name_or_path = base  # what the adapter says that it is for
    return made


def recompute(model: Any) -> None:
    """Let the backward pass compute activations anew instead of keeping them."""
    with old_names():
        model.gradient_checkpointing_enable({"use_reentrant": False})


@contextmanager
def old_names() -> Iterator[None]:
    """transformers warns of names that go with its version 6; peft uses them, and those of now
    do not know the new ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def write_adapter(model: Any, folder: Path) -> dict[str, Path]:
    """peft's two files, by their names."""
    # Said, because it would ask a hub otherwise.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    for path in folder.iterdir():
        if path.name not in ADAPTER:
            path.unlink()
    config = folder / ADAPTER[0]
    told = json.loads(config.read_text())
    told["target_modules"] = sorted(told["target_modules"])  # a set, in whatever order
    config.write_text(json.dumps(told, indent=1, sort_keys=True))
    return {name: folder / name for name in ADAPTER}


def write_model(model: Any, tokenizer: Any, template: str, folder: Path) -> Path:
    """A safetensors checkpoint with its tokenizer; an adapter is merged into it first."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    tokenizer.chat_template = template or None
    write_checkpoint(Checkpoint(model, tokenizer), folder)
    return folder
