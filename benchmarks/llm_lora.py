"""LoRA on 200 chat examples: how far the validation loss falls, and how long that takes.

    python benchmarks/llm_lora.py                  SmolLM2-135M-Instruct, from the package index
    python benchmarks/llm_lora.py --model FILE     another GGUF file, or a checkpoint's folder

Runs the work of a fine-tuning job as its process does, from the files of a version to the files
of the adapter; then asks held-out questions of the model without the adapter and with it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import llm_sides
import report
import torch
import venvs
from llm_lora_data import TAUGHT, Row, rows

from meuse.app.work import finetune
from meuse.pull import facts
from meuse.pull.recognise import recognise
from meuse.serve.generation import manifest as manifests
from meuse.store.blobs import FolderBlobs
from meuse.train.llm.spec import TuneSpec

TENANT = "default"
EXAMPLES, HELD_OUT, ASKED = 200, 40, 6
SPEC: dict[str, Any] = {
    "recipe": "llm-lora", "model_name": "log", "base": "smollm2:1", "data": f"file-{1:032x}",
    "validation": f"file-{2:032x}", "epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "seed": 1,
    "config": {"rank": 8},
}  # fmt: skip


class Printed:
    """A job that prints what it reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.safetensors"
        self.figures: list[tuple[dict[str, float], dict[str, Any]]] = []

    def paused(self) -> bool:
        return False

    def progress(self, fraction: float, *_: object, **more: Any) -> None:
        sys.stderr.write(f"{fraction:6.1%} {more.get('rate') or 0:.0f} tokens/s\n")

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self.figures.append((figures, labels))

    def log(self, message: str, level: str = "info") -> None:
        sys.stderr.write(f"{level}: {message}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file or a folder")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or llm_sides.weights(venvs.cache())
        figures = measure(model, Path(folder))
    path = report.write("llm-lora", figures, page)
    print(path.with_suffix(".md").read_text())


def measure(model: Path, folder: Path) -> dict[str, Any]:
    blobs, files = FolderBlobs(folder / "blobs"), FolderBlobs(folder / "files")
    train, held = rows(EXAMPLES, HELD_OUT)
    (folder / "job").mkdir()
    job = Printed(folder / "job")
    order = {
        "spec": {**TuneSpec.from_dict(SPEC).to_dict(), "card": {}},
        "inputs": {
            "tenant": TENANT, "attempt": 1, "prices": [],
            "base": {"ref": "smollm2:1", "manifest": _kept(blobs, model)},
            "files": {"data": _file(files, train), "validation": _file(files, held)},
            "token_budgets": {"meter": "training_tokens", "limits": [], "cells": ""},
        },
    }  # fmt: skip
    load, since, cpu = os.getloadavg()[0], time.monotonic(), _cpu()
    done = finetune.work(blobs, job, order, files)
    seconds, spent = time.monotonic() - since, _cpu() - cpu
    (version,) = done["versions"]
    curve = [(f, labels) for f, labels in job.figures if "epoch" not in labels]
    return {
        "spec": SPEC,
        "threads": torch.get_num_threads(),
        "load_before": round(load, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(spent, 1),
        "check": done["check"],
        "metrics": version["metrics"],
        "adapter_bytes": version["report"]["generation"]["weight_bytes"],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "curve": [[labels["step"], f["train_loss"]] for f, labels in curve if "train_loss" in f],
        "answers": answers(model, folder, held[:ASKED]),
    }


def _kept(blobs: FolderBlobs, model: Path) -> str:
    """The digest of the manifest of a version with the model's files."""
    found = recognise(model)
    assert isinstance(found, facts.Facts)
    kept = []
    for name, path in found.files.items():
        with path.open("rb") as file:
            kept.append(manifests.File(name, *blobs.put(TENANT, file)))
    made = manifests.encode(facts.manifest(found, tuple(kept), str(model.name), ""))
    return blobs.put(TENANT, io.BytesIO(made))[0]


def _file(files: FolderBlobs, given: list[Row]) -> dict[str, str]:
    body = b"".join(json.dumps(row).encode() + b"\n" for row in given)
    digest, _ = files.put(TENANT, io.BytesIO(body))
    return {"id": f"file-{len(given)}", "digest": digest}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def answers(model: Path, folder: Path, held: list[Row]) -> list[dict[str, str]]:
    """Held-out questions with what the base says, and what it says with the adapter."""
    from peft import PeftModel

    from meuse.language.checkpoint import open_checkpoint

    base, tokenizer = open_checkpoint(model)
    tuned: Any = PeftModel.from_pretrained(base, folder / "job" / "adapter").eval()

    def said(prompt: str) -> str:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        out = tuned.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False
        )
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    found = []
    for row in held:
        question, wanted = (message["content"] for message in row["messages"])
        prompt = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            f"Face<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        with tuned.disable_adapter():
            before = said(prompt)
        found.append(
            {"question": question, "wanted": wanted, "before": before, "after": said(prompt)}
        )
    return found


def page(body: dict[str, Any]) -> str:
    f, machine = body["figures"], body["machine"]
    m, check = f["metrics"], f["check"]
    fall = 1 - m["validation_loss"] / m["validation_loss_before"]
    taught = sum(a["after"].startswith(TAUGHT) for a in f["answers"])
    before = sum(a["before"].startswith(TAUGHT) for a in f["answers"])
    minutes = f["seconds"] / 60
    held = [
        ["validation loss falls", ">= 20 %", f"{fall:.1%}", _word(fall >= 0.2)],
        ["time, opening and writing included", "<= 10 minutes", f"{minutes:.1f} minutes",
         _word(minutes <= 10)],
    ]  # fmt: skip
    told = ("question", "wanted", "before", "after")
    rows_ = [[_short(a[name]) for name in told] for a in f["answers"]]
    return "\n".join(
        [
            f"# LoRA on {check['examples']} chat examples, {body['date']}",
            "",
            f"Commit {body['commit']}; {machine['processor']}, {machine['cores']} cores, "
            f"{f['threads']} threads, Python {machine['python']}; load average before it "
            f"{f['load_before']}: {f['cpu_seconds']:.0f} CPU seconds in {f['seconds']:.0f} s.",
            "",
            *_table(["what", "hold", "measured", ""], held),
            "",
            f"Validation on {check['validation_examples']} held-out questions: loss "
            f"{m['validation_loss_before']:.3f} before, {m['validation_loss']:.3f} after; "
            f"perplexity {m['validation_perplexity']:.2f}; accuracy of answers' tokens "
            f"{m['validation_accuracy']:.1%}. {check['training_tokens']:,} tokens trained on "
            f"({check['updates']} updates); the adapter has {f['adapter_bytes']:,} bytes; the "
            f"process had {f['peak_mib']:,} MiB at most.",
            "",
            f"Of {len(rows_)} held-out questions, {taught} are answered in the taught shape, "
            f"{before} without the adapter.",
            "",
            *_table(["question", "wanted", "without the adapter", "with it"], rows_),
            "",
        ]
    )


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _word(ok: bool) -> str:
    return "held" if ok else "missed"


def _short(text: str) -> str:
    return " ".join(text.split())[:120].replace("|", "\\|")


if __name__ == "__main__":
    main()
