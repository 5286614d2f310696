"""A language model of a few thousand random weights, as a GGUF file: real in every part."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import openvino_genai

CONTEXT = 128
HIDDEN = 64
HEADS, KV_HEADS, LAYERS, FEED = 4, 2, 2, 128


def byte_pieces() -> list[str]:
    """What byte-level vocabularies write for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


PIECES = [*byte_pieces(), "he", "<|im_start|>", "<|im_end|>"]
START, END = 257, 258


def engine_graph(path: Path) -> Path:
    """The graph that the engine makes of a GGUF file, written beside it."""
    graph = path.parent / "openvino_model.xml"
    if not graph.exists():
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = 2
        openvino_genai.ContinuousBatchingPipeline(
            path, scheduler, "CPU", {"enable_save_ov_model": True, "INFERENCE_NUM_THREADS": 1}
        )
    return graph


def write_gguf(
    path: Path,
    seed: int = 0,
    template: str = "",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
    context: int = CONTEXT,
) -> Path:
    """A Llama of 2 layers over bytes; matrices are stored as `kind`."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(PIECES))
    writer.add_file_type(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(PIECES)
    writer.add_token_types([1] * START + [3] * 2)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(END)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)

    def matrix(name: str, rows: int, columns: int) -> None:
        weights = random.normal(0, 0.1, (rows, columns)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, random.normal(1, 0.1, HIDDEN).astype(np.float32))

    narrow = HIDDEN // HEADS * KV_HEADS
    matrix("token_embd.weight", len(PIECES), HIDDEN)
    norm("output_norm.weight")
    matrix("output.weight", len(PIECES), HIDDEN)
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        norm(f"{at}.attn_norm.weight")
        norm(f"{at}.ffn_norm.weight")
        for name, rows, columns in [
            ("attn_q", HIDDEN, HIDDEN), ("attn_k", narrow, HIDDEN), ("attn_v", narrow, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN), ("ffn_gate", FEED, HIDDEN), ("ffn_up", FEED, HIDDEN),
            ("ffn_down", HIDDEN, FEED),
        ]:  # fmt: skip
            matrix(f"{at}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
