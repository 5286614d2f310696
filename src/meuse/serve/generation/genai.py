"""`Generator` and `Tokenizer` over openvino-genai's continuous batching pipeline, on CPUs.

Facts of 2026.4, each tested: `step` holds Python's lock while it computes; prompts are cut
without a word at the length that the tokenizer was made with; a step that fails while others are
in flight leaves the pipeline unusable; every request has the same seed unless told one. What an
adapter may change is fixed when the pipeline is made: the layers of those that it is made with.
Those that come later need not be known then, only be of these layers; they apply to all that
runs from the next `generate` on, which needs an empty pipeline. In bfloat16, a layer that had an
adapter and then has none corrupts the process's memory: pipelines with adapters compute in float32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from numpy.typing import NDArray
from openvino_genai import GenerationFinishReason, GenerationStatus

from meuse.core.errors import Code, MeuseError
from meuse.serve.generation import lora
from meuse.serve.generation.engine import Progress, Work
from meuse.serve.generation.grammar import Grammars
from meuse.serve.generation.lora import Layer
from meuse.serve.generation.messages import Format
from meuse.serve.generation.tuning import BLOCK_TOKENS, Tuning, blocks

ANY_OBJECT = b'{"type":"object"}'
"""What `json_object` holds a text to."""
_CHUNK = 2048  # characters that are encoded together where a text may be cut
_BATCH = 64  # texts of no more that share a call, which takes milliseconds whatever it is given
_PER_TOKEN = 16  # characters; a text that has more for each token that it may have is counted first
_LEAST = 1e-6  # of a bound that excludes 0 or 1; a temperature that is less gives no numbers
_WORD = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")  # where every vocabulary begins a new token
_SAMPLES = ("Hello, world!", "  two spaces\n\ttab", "naïve café, 12 345 €", "日本語 🙂 x")


class GenaiTokenizer:
    """Of a pipeline."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self._tokenizer = tokenizer
        pieces = [b""] * (max(tokenizer.get_vocab().values(), default=-1) + 1)
        for piece, number in tokenizer.get_vocab().items():
            pieces[number] = piece
        shown = tokenizer.decode([[number] for number in range(len(pieces))], True)
        hidden = [
            number
            for number, text in enumerate(shown)
            if not text and pieces[number].decode("utf-8", "ignore")
        ]
        self._special = {pieces[number].decode("utf-8", "ignore"): number for number in hidden}
        for number in hidden:
            pieces[number] = b""
        self._limit = len(self._encode([" a" * (context + 16)], False))
        self._pieces = pieces if self._joins(pieces) else None

    @property
    def pieces(self) -> list[bytes] | None:
        return self._pieces

    @property
    def special(self) -> Mapping[str, int]:
        return self._special

    def encode(
        self, *texts: str, whole: bool = False, most: int | None = None
    ) -> NDArray[np.int64]:
        if most is None or sum(map(len, texts)) <= _PER_TOKEN * most:
            ids = self._joined(texts, whole, most)
            if len(ids) < self._limit:
                return ids
        ids = self._joined(_cut(texts), whole, most)
        return ids if len(ids) >= self._limit else self._joined(texts, whole, most)

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids)
        return text

    def _joined(self, texts: Iterable[str], whole: bool, most: int | None) -> NDArray[np.int64]:
        """Of all of them, or until there are more than `most`."""
        found, count = [np.empty(0, np.int64)], 0
        for batch in _batches(texts, whole):
            found.append(self._encode(batch, whole and len(found) == 1))
            count += len(found[-1])
            if most is not None and count > most:
                break
        return np.concatenate(found)

    def _encode(self, texts: list[str], whole: bool) -> NDArray[np.int64]:
        made = self._tokenizer.encode(texts, add_special_tokens=whole)
        ids: NDArray[np.int64] = made.input_ids.data[made.attention_mask.data == 1]
        return ids

    def _joins(self, pieces: list[bytes]) -> bool:
        for sample in _SAMPLES:
            ids = [int(i) for i in self._encode([sample], False)]
            if any(i >= len(pieces) for i in ids):
                return False
            if b"".join(pieces[i] for i in ids).decode("utf-8", "ignore") != self.decode(ids):
                return False
        return True


def _cut(texts: Iterable[str]) -> Iterator[str]:
    """The same between words, as far as there are any."""
    for text in texts:
        start = 0
        while start < len(text):
            end = start + _CHUNK
            if end < len(text):
                cuts = list(_WORD.finditer(text, start + 1, end))
                end = cuts[-1].start() if cuts else end
            yield text[start:end]
            start = end


def _batches(texts: Iterable[str], first_alone: bool) -> Iterator[list[str]]:
    """Without empty ones. Long ones are alone, too: the others would be padded to their length."""
    batch: list[str] = []
    for number, text in enumerate(texts):
        alone = len(text) > _CHUNK or (first_alone and not number)
        if batch and (alone or len(batch) == _BATCH):
            yield batch
            batch = []
        if alone:
            yield [text]
        elif text:
            batch.append(text)
    if batch:
        yield batch


class GenaiGenerator:
    """One pipeline. `path` is a GGUF file or a folder with OpenVINO's files. `layers`, by their
    short names, are those that adapters may change (`linear_layers`); none: it takes none."""

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        threads: int = 1,
        max_sequences: int = 64,
        max_batched_tokens: int = 256,
        cache_mb: int = 1024,
        kv_bytes_per_token: int = 0,
        tuning: Tuning | None = None,
        layers: Mapping[str, Layer] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        self._tuning = tuning = tuning or Tuning()
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = tuning.prefix_cache
        scheduler.max_num_seqs = max_sequences
        scheduler.max_num_batched_tokens = max_batched_tokens
        scheduler.dynamic_split_fuse = True
        if kv_bytes_per_token:
            scheduler.num_kv_blocks = blocks(cache_mb, kv_bytes_per_token, tuning.kv_precision)
            context = min(context, (scheduler.num_kv_blocks - 1) * BLOCK_TOKENS)
        else:
            scheduler.cache_size = max(-(-cache_mb // 1024), 1)
        given = {**_properties(tuning, threads), **(properties or {})}
        if layers:
            given["adapters"] = self.adapter(lora.carrier(layers), 0.0)
            given["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                path, scheduler, "CPU", given
            )
        except RuntimeError as error:
            raise MeuseError(
                Code.INVALID_DATA, f"the model cannot be loaded: {_first_line(error)}"
            ) from error
        self.context = context
        self.max_sequences = max_sequences
        tokenizer = self._pipeline.get_tokenizer()
        self.tokenizer = GenaiTokenizer(tokenizer, context)
        self.names = {
            "bos_token": tokenizer.get_bos_token(),
            "eos_token": tokenizer.get_eos_token(),
            "pad_token": tokenizer.get_pad_token(),
        }
        config = self._pipeline.get_config()
        self._ends = set(config.stop_token_ids)
        if config.eos_token_id >= 0:
            self._ends.add(config.eos_token_id)
        self._grammars = Grammars()
        self._handles: dict[int, Any] = {}
        self._eos = {True: frozenset[int](), False: frozenset(self._ends)}
        self._stripped: dict[int, frozenset[int]] = {}
        self._number = 0
        if layers:
            self.use(None)

    @property
    def cached_tokens(self) -> int:
        """Of a prompt: 0, or -1 with a prefix cache, whose hits the engine does not tell."""
        return -1 if self._tuning.prefix_cache else 0

    @property
    def busy(self) -> bool:
        return bool(self._pipeline.has_non_finished_requests())

    def check(self, format: Format) -> None:
        if format.kind != "text":
            self._grammars.check(format.schema or ANY_OBJECT)

    def add(self, work: Work) -> int:
        self._number += 1
        number = self._number
        ids = openvino.Tensor(np.ascontiguousarray(work.ids[None, :]))
        try:
            self._handles[number] = self._pipeline.add_request(number, ids, self._config(work))
        except RuntimeError as error:
            raise MeuseError(
                Code.ENGINE_ERROR, f"the engine refuses the request: {_first_line(error)}"
            ) from error
        self._stripped[number] = self._eos[work.sampling.ignore_eos]
        return number

    def cancel(self, handle: int) -> None:
        request = self._handles.pop(handle, None)
        self._stripped.pop(handle, None)
        if request is not None:
            request.cancel()

    def step(self) -> list[Progress]:
        self._pipeline.step()
        progress: list[Progress] = []
        for number, handle in self._handles.items():
            if handle.can_read():
                progress.append(self._read(number, handle))
            elif handle.get_status() != GenerationStatus.RUNNING:
                progress.append(Progress(number, ended="length"))
        for each in progress:
            if each.ended:
                del self._handles[each.handle]
                del self._stripped[each.handle]
        return progress

    @staticmethod
    def adapter(body: bytes, scale: float) -> Any:
        """What `use` takes, of a file that `lora.for_engine` made."""
        tensor = openvino.Tensor(np.frombuffer(body, np.uint8))
        return openvino_genai.AdapterConfig(openvino_genai.Adapter(tensor), scale)

    def use(self, adapter: Any) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.ignore_eos = True
        config.adapters = openvino_genai.AdapterConfig() if adapter is None else adapter
        self._pipeline.generate([openvino.Tensor(np.zeros((1, 1), np.int64))], [config])

    def reset(self) -> bool:
        for handle in list(self._handles):
            self.cancel(handle)
        try:
            self._pipeline.step()
        except RuntimeError:
            return False
        return not self.busy

    def _read(self, number: int, handle: Any) -> Progress:
        progress = Progress(number)
        while handle.can_read():
            for output in handle.read().values():
                progress.ids += output.generated_ids
                progress.logprobs += output.generated_log_probs
                reason = output.finish_reason
                if reason != GenerationFinishReason.NONE:
                    length = reason == GenerationFinishReason.LENGTH
                    progress.ended = "length" if length else "stop"
        if (
            progress.ended == "stop"
            and progress.ids[-1:]
            and (progress.ids[-1] in self._stripped[number])
        ):
            progress.ids.pop()
            progress.logprobs = progress.logprobs[: len(progress.ids)]
        return progress

    def _config(self, work: Work) -> Any:
        asked = work.sampling
        config = openvino_genai.GenerationConfig()
        config.eos_token_id = self._pipeline.get_config().eos_token_id
        config.stop_token_ids = set() if asked.ignore_eos else self._ends
        config.ignore_eos = asked.ignore_eos
        config.max_ngram_size = self._tuning.max_ngram_size
        config.num_assistant_tokens = self._tuning.assistant_tokens
        config.max_new_tokens = work.max_tokens
        config.presence_penalty = asked.presence_penalty
        config.frequency_penalty = asked.frequency_penalty
        config.repetition_penalty = asked.repetition_penalty
        config.logprobs = 0 if asked.logprobs is None else 1
        if asked.temperature > 0:
            config.do_sample = True
            config.temperature = max(asked.temperature, _LEAST)
            config.top_p = max(asked.top_p, _LEAST)
            config.min_p = min(asked.min_p, 1 - _LEAST)
            config.rng_seed = work.seed
            if asked.top_k:
                config.top_k = asked.top_k
        if work.format.kind != "text":
            config.structured_output_config = openvino_genai.StructuredOutputConfig(
                json_schema=(work.format.schema or ANY_OBJECT).decode()
            )
        return config


def linear_layers(folder: Path) -> dict[str, Layer]:
    """Those of a decoder in OpenVINO's files that an adapter may change, by their short names."""
    layers = {}
    for node in openvino.Core().read_model(folder / "openvino_model.xml").get_ops():
        module = node.get_friendly_name().removeprefix("__module.").partition("/")[0]
        name = lora.short(module)
        if node.get_type_name() != "MatMul" or not name:
            continue
        shape = node.input_value(1).get_partial_shape()
        if shape.rank.is_dynamic or len(shape) != 2 or shape.is_dynamic:
            continue  # within attention
        sizes = shape[0].get_length(), shape[1].get_length()
        inputs, outputs = sizes[::-1] if node.get_attributes()["transpose_b"] else sizes
        layers[name] = Layer(module, inputs, outputs)
    return layers


def _properties(tuning: Tuning, threads: int) -> dict[str, Any]:
    found: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if tuning.kv_precision:
        found["KV_CACHE_PRECISION"] = tuning.kv_precision
    if tuning.draft is not None:
        found["draft_model"] = openvino_genai.draft_model(
            tuning.draft, "CPU", INFERENCE_NUM_THREADS=threads
        )
    elif tuning.max_ngram_size:
        found["prompt_lookup"] = True
    return found


def _first_line(error: Exception) -> str:
    """The last line that says something: those before are places in the engine's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
