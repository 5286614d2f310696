"""A tiny language model for tests: a Llama of random weights whose tokenizer has a token for each
byte, as a safetensors checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 512


def tokenizer() -> Any:
    """256 bytes and the three control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate([*SPECIAL, *alphabet])}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", bos_token="<|im_start|>",
        pad_token="<|endoftext|>",
    )  # fmt: skip


def model(seed: int = 0, width: int = 32, layers: int = 2) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def checkpoint(folder: Path, template: str = CHATML, **sizes: int) -> Path:
    """A folder as a hub would have it."""
    words = tokenizer()
    words.chat_template = template
    model(**sizes).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def learned(folder: Path, texts: Sequence[str], width: int = 64) -> Path:
    """A checkpoint that knows these by heart: whatever changes its weights makes it worse."""
    made = checkpoint(folder, width=width)
    rows = tokenizer()(list(texts), return_tensors="pt", padding=True)
    ids, mask = rows["input_ids"], rows["attention_mask"]
    network = model(width=width).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        labels = ids.masked_fill(mask == 0, -100)
        network(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    network.eval().save_pretrained(made)
    return made


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """A line of a file to fine-tune on."""
    asked, told = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return {"messages": [asked, told], **more}


def jsonl(rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
