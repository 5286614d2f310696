"""Weights of language models at 16, 8 and 4 bits: bytes, perplexity and pace, by compress jobs;
keys and values at 32, 16 and 8 (see `llm_cache`).

    python benchmarks/llm_compression.py --seconds 600
    python benchmarks/llm_compression.py --model FOLDER --texts held-out.jsonl

The first trains a small Llama here, from nothing, on Debian's fortunes (`apt install fortunes
fortunes-min`): its weights are true floats, on which quality can be judged. 400 of the texts,
drawn once, are held out. Every precision runs as the work of a compress job does, from the files
of a version to those of its child; training is bounded by seconds of processor time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import llm_cache
import report
import torch

from meuse.app.work import compress
from meuse.compress.language.spec import LanguageCompressSpec
from meuse.core.errors import RefusedError
from meuse.pull import facts
from meuse.pull.recognise import recognise
from meuse.serve.generation import manifest as manifests
from meuse.store.blobs import FolderBlobs

TENANT = "default"
FORTUNES = Path("/usr/share/games/fortunes")
VOCABULARY, WIDTH, LAYERS, CONTEXT = 4096, 256, 6, 256
BATCH, RATE, HELD_OUT = 16, 1e-3, 400
END = "<|endoftext|>"
STEPS: dict[str, dict[str, Any]] = {
    "f16": {"precision": "f16"},
    "int8": {"precision": "int8"},
    "int4, groups of 128": {"precision": "int4", "group_size": 128, "uneven": "adjust"},
    "int4, groups of 64": {"precision": "int4", "group_size": 64},
    "int4, groups of 32": {"precision": "int4", "group_size": 32},
    "int4 with zero points, groups of 32": {
        "precision": "int4", "group_size": 32, "symmetric": False,
    },
}  # fmt: skip
LEAST_RATIO, MOST_RISE = 3.5, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of processor time, to train")
    parser.add_argument("--model", type=Path, help="a checkpoint's folder or a GGUF file instead")
    parser.add_argument("--texts", type=Path, help="held-out lines for that model")
    parser.add_argument("--fortunes", type=Path, default=FORTUNES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained: dict[str, Any] | None = None
        model, texts = options.model, options.texts
        if model is None:
            known, held = split(options.fortunes)
            model, texts = folder / "model", folder / "held-out.jsonl"
            trained = train(known, model, options.seconds)
            texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in held))
        found = recognise(model)
        assert isinstance(found, facts.Facts)
        figures = {"model": trained or {"name": model.name}, "load": os.getloadavg()[0],
                   "precisions": measure(model, found, texts, folder),
                   "cache": llm_cache.measure(model, found, texts, folder / "cache")}  # fmt: skip
    path = report.write("llm-compression" if trained else f"llm-compression-{model.stem.lower()}",
                        figures, page)  # fmt: skip
    print(path.with_suffix(".md").read_text())


def split(folder: Path) -> tuple[list[str], list[str]]:
    """Fortunes to train on, and those held out: a draw that is the same each time."""
    found: set[str] = set()
    for path in sorted(folder.glob("**/*")):
        if path.is_file() and not path.suffix and "off" not in path.parts:
            parts = path.read_text(errors="replace").split("\n%\n")
            found |= {part.strip() for part in parts if 40 <= len(part) <= 2000}
    texts = sorted(found)
    random.Random(0).shuffle(texts)
    return texts[HELD_OUT:], texts[:HELD_OUT]


def train(texts: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """A Llama of random weights, AdamW with a linear warm-up and cosine decay over `seconds` of
    processor time; the checkpoint in `folder`."""
    import math

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet,
        show_progress=False,
    ))  # fmt: skip
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, eos_token=END, pad_token=END
    )
    ids = [number for text in texts for number in [0, *words.encode(text).ids]]
    stream = torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, eos_token_id=0,
        pad_token_id=0, bos_token_id=0,
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    begun, spent, updates, loss = time.process_time(), 0.0, 0, torch.zeros(())
    while spent < seconds:
        share = spent / seconds
        rate = RATE * min(1.0, share / 0.03 + 0.01) * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = stream[torch.randint(len(stream), (BATCH,))]
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        spent = time.process_time() - begun
        if updates % 20 == 0:
            sys.stderr.write(f"{spent:6.0f} of {seconds:.0f} s, loss {loss.item():.3f}\n")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "name": f"a Llama of {LAYERS} layers, trained here",
        "texts": len(texts), "tokens": stream.numel(), "updates": updates,
        "seen_tokens": updates * BATCH * CONTEXT, "cpu_seconds": round(spent),
        "loss": round(loss.item(), 3),
    }  # fmt: skip


class Quiet:
    """A job that prints its log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.checkpoint = folder / "checkpoint"

    def paused(self) -> bool:
        return False

    def progress(self, fraction: float, *_: object, **more: Any) -> None: ...

    def metrics(self, figures: dict[str, float], **labels: Any) -> None: ...

    def log(self, message: str, level: str = "info") -> None:
        sys.stderr.write(f"{message}\n")


def measure(model: Path, found: facts.Facts, texts: Path, folder: Path) -> dict[str, Any]:
    """The report of each compression, by name; also of one that the gate refuses, whose figures
    are what is wanted."""
    blobs, files = FolderBlobs(folder / "blobs"), FolderBlobs(folder / "files")
    kept = []
    for name, path in found.files.items():
        with path.open("rb") as file:
            kept.append(manifests.File(name, *blobs.put(TENANT, file)))
    body = manifests.encode(facts.manifest(found, tuple(kept), model.name, ""))
    manifest, _ = blobs.put(TENANT, io.BytesIO(body))
    with texts.open("rb") as file:
        digest, _ = files.put(TENANT, file)
    made = {}
    for name, options in STEPS.items():
        spec = LanguageCompressSpec.from_dict(
            {"model": "model:1", "data": f"file-{32 * '0'}", "goal": {"max_drop": 1},
             "steps": [{"method": "weights", **options}]}
        )  # fmt: skip
        inputs = {"language": True, "tenant": TENANT, "data": "held-out", "digest": digest,
                  "manifest": manifest}  # fmt: skip
        order = {"spec": spec.to_dict(), "inputs": inputs}
        try:
            told = compress.work(blobs, Quiet(folder / "job"), order, files)["report"]
        except RefusedError as refused:
            told = refused.report
        made[name] = {k: v for k, v in told.items() if k != "generation"}
    return made


def page(body: dict[str, Any]) -> str:
    f, machine = body["figures"], body["machine"]
    first = next(iter(f["precisions"].values()))
    parent, model = first["before"], f["model"]
    whole = 4 * parent["parameters"] if parent["parameters"] else None
    rows = [
        "| weights | bytes of weights | smaller than float32 | bits a parameter | perplexity "
        "| change (95 %) | tokens/s | ms to the first token |",
        "|---|---|---|---|---|---|---|---|",
        _row(f"the parent ({parent['format']})", parent, whole, ""),
    ]
    for name, told in f["precisions"].items():
        low_high = told["interval"]
        doubt = "of one text" if low_high is None else "{:+.2%} to {:+.2%}".format(*low_high)
        finite = told["after"]["metric"] is not None and parent["metric"] is not None
        change = f"{told['drop']:+.2%} ({doubt})" if finite else "not finite"
        rows.append(_row(name, told["after"], whole, change))
    told = [f"{name.replace('_', ' ')} {value}" for name, value in model.items()]
    return "\n".join(
        [
            f"# Weights of a language model in fewer bits, {body['date']}",
            "",
            f"Commit {body['commit']}; {machine['processor']}, {machine['cores']} cores, Python "
            f"{machine['python']}; load average {f['load']:.1f}: with other work beside it, paces "
            "say little.",
            "",
            f"Model: {'; '.join(told)}. {f'{whole // 4:,}' if whole else 'Unknown'} parameters. "
            f"Perplexity on {first['rows']['test']:,} held-out texts, {first['tokens']:,} tokens.",
            "",
            *rows,
            "",
            f"int4 at least {LEAST_RATIO}× smaller than float32 with perplexity within "
            f"{MOST_RISE:.0%}: {_held(f['precisions'], whole)}.",
            "",
            *[f"{line}\n" for line in first["notes"].values()],
            llm_cache.table(f["cache"]),
            "",
        ]
    )


def _row(name: str, side: dict[str, Any], whole: int | None, change: str) -> str:
    ratio = "" if whole is None else f"{whole / side['weight_bytes']:.2f}×"
    bits, metric = (
        "" if side[figure] is None else f"{side[figure]:.{digits}f}"
        for figure, digits in (("bits", 2), ("metric", 3))
    )
    return (
        f"| {name} | {side['weight_bytes']:,} | {ratio} | {bits} | {metric} | {change} "
        f"| {side['tokens_per_s']:.0f} | {side['first_token_ms']:.1f} |"
    )


def _held(precisions: dict[str, Any], whole: int | None) -> str:
    """The word on the hold, and which of the ways to 4 bits keep it."""
    if whole is None:
        return "not measured (the parent's parameters are not known)"
    names = [
        name for name, told in precisions.items()
        if name.startswith("int4")
        and all(told[side]["metric"] is not None for side in ("before", "after"))
        and whole / told["after"]["weight_bytes"] >= LEAST_RATIO and told["drop"] <= MOST_RISE
    ]  # fmt: skip
    return f"held by {'; '.join(names)}" if names else "missed by each"


if __name__ == "__main__":
    main()
