"""Whether a JSON schema can be made a grammar, tried where a failure harms nobody.

The engine compiles a schema within a step, where a failure makes a pipeline with other requests
in flight unusable and a large schema holds all of them up. So a schema is measured first, and
compiled by a pipeline of its own: one layer of nothing, over an alphabet of bytes, some MB.
Knows openvino-genai and gguf.
"""

from __future__ import annotations

import re
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import openvino
import openvino_genai
from gguf import GGMLQuantizationType as Quantization

from meuse.core.errors import MeuseError, invalid

MAX_BYTES = 64 * 1024
MAX_DEPTH = 48
"""Of the document's lists and objects: about 16 levels of properties."""
MAX_PROPERTIES = 256
MAX_ENUM = 1000
MAX_COUNT = 10_000
"""Largest minLength, maxItems and their like: grammars grow with them."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_TOKENS = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|(?P<times>\{\d*,?\d*\})|.", re.DOTALL)
_MOST_SIZE = 10**12  # beyond it nothing is added up
_KEPT = 256  # schemas whose outcome is known
_WIDTH = 64


class Grammars:
    """The checks of one replica."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._known: OrderedDict[bytes, str] = OrderedDict()  # why not, or nothing

    def check(self, schema: bytes) -> None:
        """Raises `invalid_field` at `response_format`."""
        if schema in self._known:
            self._known.move_to_end(schema)
        else:
            measure(schema)
            self._known[schema] = self._compile(schema.decode())
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        if reason := self._known[schema]:
            raise _refused(f"the engine cannot hold text to it: {reason}")

    def _compile(self, schema: str) -> str:
        """Why it cannot be a grammar, or nothing."""
        if self._pipeline is None:
            self._pipeline = _smallest_pipeline()
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.structured_output_config = openvino_genai.StructuredOutputConfig(json_schema=schema)
        prompt = openvino.Tensor(np.ones((1, 1), np.int64))
        request = self._pipeline.add_request(0, prompt, config)
        try:
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except RuntimeError as error:
            request.cancel()
            self._pipeline.step()  # alone, it heals
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return lines[-1].rpartition(".cc:")[2].partition(": ")[2][:300] or "no reason is given"
        return ""


def measure(schema: bytes) -> None:
    """Raises `invalid_field` at `response_format` for no JSON schema, or one that is too large."""
    if len(schema) > MAX_BYTES:
        raise _refused(f"it has {len(schema)} bytes, and may have {MAX_BYTES}")
    try:
        document = msgspec.json.decode(schema)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _refused(f"it is no JSON: {error}") from None
    if not isinstance(document, dict | bool):
        raise _refused("it is neither an object nor true or false")
    properties = values = 0
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                properties += len(named) if isinstance(named := node.get("properties"), dict) else 0
                values += len(listed) if isinstance(listed := node.get("enum"), list) else 0
                _measure_counts(node)
                below += node.values()
            elif isinstance(node, list):
                below += node
        level = below
        if properties > MAX_PROPERTIES or values > MAX_ENUM:
            raise _refused(f"it has more than {MAX_PROPERTIES} properties or {MAX_ENUM} values")
    raise _refused(f"it is nested deeper than {MAX_DEPTH} levels")


def _measure_counts(node: dict[str, Any]) -> None:
    for pattern in _patterns(node):
        if (size := pattern_size(pattern)) > MAX_COUNT:
            raise _refused(f"a pattern comes to {size} characters, and may to {MAX_COUNT}")
    for name in _COUNTS:
        if isinstance(count := node.get(name), int | float) and count > MAX_COUNT:
            raise _refused(f"{name} is {count}, and may be {MAX_COUNT}")


def _patterns(node: dict[str, Any]) -> list[str]:
    """The regular expressions of an object of a schema."""
    found = [node.get("pattern")]
    if isinstance(named := node.get("patternProperties"), dict):
        found += named
    return [pattern for pattern in found if isinstance(pattern, str)]


def pattern_size(pattern: str) -> int:
    """How many characters a regular expression has when its repetitions are written out, those
    without an end once: grammars grow with it."""
    sizes = [0]  # of the groups that are open
    last = 0  # of what a repetition would repeat
    for token in _TOKENS.finditer(pattern):
        text = token.group()
        if text == "(":
            sizes.append(0)
            last = 0
        elif text == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif token.lastgroup == "times":
            counts = [int(number[:9]) for number in text[1:-1].split(",") if number]
            times = max([*counts, 1])
            sizes[-1] = min(sizes[-1] + last * (times - 1), _MOST_SIZE)
            last = min(last * times, _MOST_SIZE)
        else:
            last = 1
            sizes[-1] += 1
    return sum(sizes)


def _refused(why: str) -> MeuseError:
    return invalid("response_format", f"the JSON schema cannot be used: {why}")


def _smallest_pipeline() -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 4
    scheduler.max_num_seqs = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bytes.gguf"
        _write_smallest_model(path)
        return openvino_genai.ContinuousBatchingPipeline(
            path, scheduler, "CPU", {"INFERENCE_NUM_THREADS": 1}
        )


def _write_smallest_model(path: Path) -> None:
    """One layer of zeros over the 256 bytes and an end."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(_WIDTH)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    tokens = ["<|end|>", *_byte_letters()]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * 256)
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(0)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    rows = {"token_embd": len(tokens)} | {f"blk.0.{name}": _WIDTH for name in names}
    for name, count in rows.items():
        zeros = np.zeros((count, _WIDTH), np.float32)
        packed = gguf.quants.quantize(zeros, Quantization.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=Quantization.Q8_0)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_letters() -> list[str]:
    """The printable character that byte-level vocabularies write for each byte (GPT-2)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
