"""LoRA adapters for tests: seeded, and large enough that every answer shows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.serve.generation.manifest import File, Manifest

PREFIX = "base_model.model.model."


def config(**changes: Any) -> dict[str, Any]:
    """As peft writes it, without what stays at its default."""
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none",
        "use_dora": False, "use_rslora": False, "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, **changes,
    }  # fmt: skip


def matrices(
    layers: Mapping[str, tuple[int, int]], seed: int, rank: int = 4, size: float = 0.3
) -> dict[str, NDArray[np.float32]]:
    """`layers`: (inputs, outputs) by name, `layers.0.self_attn.q_proj`."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (inputs, outputs) in layers.items():
        for part, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
            drawn = random.normal(0, size, shape).astype(np.float32)
            tensors[f"{PREFIX}{name}.{part}.weight"] = drawn
    return tensors


def safetensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a file of them."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
    header, place = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    return with_header(header, b"".join(array.tobytes() for array in tensors.values()))


def with_header(header: Any, data: bytes) -> bytes:
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + data


def write(folder: Path, tensors: Mapping[str, NDArray[Any]], **changes: Any) -> Path:
    """The folder that peft would have saved."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    return folder


WIDTH, INNER, LAYERS, KEYS = 64, 128, 2, 32
CONTEXT = 512
KV_BYTES_PER_TOKEN = 2 * LAYERS * KEYS * 2
PROJECTIONS = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, KEYS),
    "self_attn.v_proj": (WIDTH, KEYS), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (WIDTH, INNER), "mlp.up_proj": (WIDTH, INNER), "mlp.down_proj": (INNER, WIDTH),
}  # fmt: skip
"""(inputs, outputs) of the linear layers of `tiny`."""


def layers_of(*names: str) -> dict[str, tuple[int, int]]:
    """Of `tiny`, those whose name ends so."""
    return {
        f"layers.{i}.{name}": sizes
        for i in range(LAYERS)
        for name, sizes in PROJECTIONS.items()
        if name.endswith(names)
    }


def tiny(folder: Path) -> Path:
    """OpenVINO's files of a small decoder with random weights, whose tokens are bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from meuse.language.checkpoint import Checkpoint
    from meuse.language.graph import graph_of
    from meuse.language.ir import write_ir

    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=INNER, vocab_size=259, max_position_embeddings=CONTEXT,
        tie_word_embeddings=False, eos_token_id=256, bos_token_id=257, pad_token_id=258,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(3.0)  # so that answers differ by their prompts
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token="<|im_end|>", bos_token="<|im_start|>",
        pad_token="<|pad|>",
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
        "'<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    checkpoint = Checkpoint(model, tokenizer)
    write_ir(checkpoint, graph_of(model), folder)
    return folder


def manifest(layout: str, paths: list[Path]) -> Manifest:
    """Of these files of `tiny`, or of an adapter on it."""
    files = tuple(
        File(p.name, hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_size) for p in paths
    )
    return Manifest(layout, files, "llama", CONTEXT, 259, 1, kv_bytes_per_token=KV_BYTES_PER_TOKEN)
