"""Versions of language models as an evaluate job judges them, in its child.

What the engine serves (GGUF, IR) is judged on the engine's own graph and writes by the engine;
checkpoints, and adapters on them, by transformers.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Blobs
from meuse.evaluate.language.likelihood import LanguageModel
from meuse.serve.generation import lora
from meuse.serve.generation.engine import Tokenizer, Work
from meuse.serve.generation.files import lay_out
from meuse.serve.generation.manifest import Manifest
from meuse.serve.generation.messages import Sampling
from meuse.serve.generation.prompt import Prompt, Reader
from meuse.serve.generation.template import Template

SEQUENCES = 16
"""Answers that the engine writes at once."""
AHEAD = 4 * SEQUENCES
"""Prompts that the engine is given at once: each of its steps looks at all that it has."""
CACHE_MB = 1024
"""At most, for the cache of keys and values."""
_MIB = 1 << 20

Ended = Callable[[str], bool]
"""Whether a text has come to a stop."""
Write = Callable[[Sequence[Prompt], Ended | None, Callable[[int], None]], list[str]]
"""(prompts, ended, progress) → what the model writes behind each, the likeliest token each time.
`ended` None: nothing stops it but its own end. `progress` is told how many are written."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A version, opened. `reader` makes prompts as a replica does."""

    model: LanguageModel
    reader: Reader
    tokenizer: Tokenizer
    write: Write
    engine: str


def opened(blobs: Blobs, tenant: str, version: dict[str, Any], folder: Path) -> Subject:
    """`version` as the kind describes it; its files are laid out below `folder`.

    Raises `invalid_data` for what cannot be read, `unavailable` where a package is missing.
    """
    try:
        if version["layout"] in ("gguf", "ir"):
            described = lay_out(version["manifest"], folder, blobs, tenant)
            return served(described, folder)
        base = version["base"] or version
        described = lay_out(base["manifest"], folder / "base", blobs, tenant)
        if version["base"] is not None:
            lay_out(version["manifest"], folder / "adapter", blobs, tenant)
        return _trained(described, folder / "base", folder / "adapter", bool(version["base"]))
    except ModuleNotFoundError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"judging the layout {version['layout']!r} needs the package {error.name!r}",
            hint="pip install 'meuse[lora]'",
        ) from None


def _reader(
    described: Manifest, tokenizer: Tokenizer, names: dict[str, str], context: int
) -> Reader:
    template = Template(described.chat_template, names) if described.chat_template else None
    return Reader(tokenizer, context, described.vocabulary, template.render if template else None)


def served(described: Manifest, folder: Path) -> Subject:
    """What the engine runs, laid out in a folder."""
    from meuse.evaluate.language.ir import GRAPH, IrModel
    from meuse.serve.generation.genai import GenaiGenerator

    is_gguf = described.layout == "gguf"
    wanted = math.ceil(SEQUENCES * described.context * described.kv_bytes_per_token / _MIB) + 1
    threads = len(os.sched_getaffinity(0))
    generator = GenaiGenerator(
        folder / described.files[0].name if is_gguf else folder,
        context=described.context,
        threads=threads,
        max_sequences=SEQUENCES,
        cache_mb=min(wanted, CACHE_MB),
        kv_bytes_per_token=described.kv_bytes_per_token,
        # The graph that the engine made of the file is written beside it.
        properties={"enable_save_ov_model": True} if is_gguf else None,
    )

    def write(
        prompts: Sequence[Prompt], ended: Ended | None, progress: Callable[[int], None]
    ) -> list[str]:
        return _written(generator, prompts, ended, progress)

    return Subject(
        IrModel(folder / GRAPH, context=described.context, threads=threads),
        _reader(described, generator.tokenizer, generator.names, generator.context),
        generator.tokenizer,
        write,
        "openvino",
    )


def _written(
    generator: Any, prompts: Sequence[Prompt], ended: Ended | None, progress: Callable[[int], None]
) -> list[str]:
    greedy = Sampling(temperature=0)
    ids: list[list[int]] = [[] for _ in prompts]
    waiting = iter(enumerate(prompts))
    open_: dict[int, int] = {}  # by the engine's handle
    written = 0
    while True:
        for index, prompt in itertools.islice(waiting, AHEAD - len(open_)):
            work = Work(ids=prompt.ids, max_tokens=prompt.max_tokens, sampling=greedy, seed=0)
            open_[generator.add(work)] = index
        if not open_:
            return [generator.tokenizer.decode(each) for each in ids]
        for each in generator.step():
            if each.handle not in open_:
                continue
            text = ids[open_[each.handle]]
            text += each.ids
            stopped = ended is not None and ended(generator.tokenizer.decode(text))
            if stopped and not each.ended:
                generator.cancel(each.handle)
            if stopped or each.ended:
                del open_[each.handle]
                written += 1
        progress(written)


def _trained(described: Manifest, base: Path, adapter: Path, is_adapter: bool) -> Subject:
    import torch

    from meuse.evaluate.language.checkpoint import CheckpointTokenizer, TorchModel
    from meuse.language.checkpoint import open_checkpoint

    is_gguf = described.layout == "gguf"
    model: Any
    model, read = open_checkpoint(base / described.files[0].name if is_gguf else base)
    if is_adapter:
        model = _with_adapter(model, adapter)
    tokenizer = CheckpointTokenizer(read)
    names = {name: getattr(read, name) or "" for name in ("bos_token", "eos_token", "pad_token")}

    def write(
        prompts: Sequence[Prompt], ended: Ended | None, progress: Callable[[int], None]
    ) -> list[str]:
        texts = []
        for prompt in prompts:
            ids = torch.from_numpy(np.asarray(prompt.ids))[None]
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=prompt.max_tokens, pad_token_id=read.pad_token_id or 0,
            )  # fmt: skip
            texts.append(tokenizer.decode(made[0, ids.shape[1] :].tolist()))
            progress(len(texts))
        return texts

    return Subject(
        TorchModel(model, context=described.context),
        _reader(described, tokenizer, names, described.context),
        tokenizer,
        write,
        "transformers",
    )


def _with_adapter(model: Any, folder: Path) -> Any:
    """By a configuration of what was judged alone: others wrote the file, and peft would follow
    whatever else it says. Raises `invalid_data`."""
    import peft

    told = lora.read_config((folder / lora.CONFIG).read_bytes())
    if not told.modules:
        raise lora.refused(f"{lora.CONFIG} has no target_modules", "Save it anew with peft.")
    config = peft.LoraConfig(
        r=told.rank,
        lora_alpha=cast(int, told.alpha),  # peft only divides it
        use_dora=told.dora,
        use_rslora=told.stabilised,
        target_modules=list(told.modules),
        task_type="CAUSAL_LM",
    )
    return peft.PeftModel.from_pretrained(
        model, str(folder), is_trainable=False, config=config
    ).eval()
