"""A replica that is vLLM: lays the model's files out, starts the server as a child, stands for it.

To all others it is a replica like any: it listens on its socket once it answers, ends when its
server does, and gives what was begun its time when it is told to end.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Blobs
from meuse.serve.generation import child, vllm
from meuse.serve.generation.files import lay_out
from meuse.settings import Settings, load
from meuse.store.blobs import FolderBlobs

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Until its server ends, or it is told to; the exit status. Raises `MeuseError`."""
    settings = load(options.home)
    told: dict[str, Any] = json.loads(options.vllm)
    sockets = Path(options.sockets)
    blobs = FolderBlobs(settings.blobs)
    with _folder(settings.home / "served", options.id) as folder:
        command = _command(settings, told, options, blobs, folder)
        server = child.Server(command, sockets / options.id, folder)
        # Set before the child is there: what comes now is not lost.
        signal.signal(signal.SIGTERM, lambda *_: server.leave())
        return server.run()


@contextmanager
def _folder(root: Path, name: str) -> Iterator[Path]:
    """A folder on the disk of the home, for as long as it is needed. Those of processes that were
    killed are removed: nobody holds their locks any more."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in root.iterdir():
        if (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    folder = root / name
    folder.mkdir(mode=0o700)
    held = _locked(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _locked(folder: Path) -> int | None:
    try:
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        return None
    return found


def _command(
    settings: Settings,
    told: Mapping[str, Any],
    options: argparse.Namespace,
    blobs: Blobs,
    folder: Path,
) -> vllm.Command:
    python = Path(settings.vllm_python)
    if not settings.vllm_python or not os.access(python, os.X_OK):
        raise MeuseError(
            Code.UNAVAILABLE,
            "vLLM is not set up here",
            hint="Name the Python of its environment in the setting vllm_python.",
        )
    model = folder / "model"
    try:
        lay_out(options.digest, model, blobs, options.tenant)
        adapters = {
            name: _adapter(digest, folder / "adapters" / name, blobs, options.tenant)
            for name, digest in told["adapters"].items()
        }
    except msgspec.MsgspecError as error:
        raise MeuseError(Code.INVALID_DATA, f"the manifest is not understood: {error}") from None
    shape = _json(model / "config.json")
    return vllm.command(
        python,
        model,
        options.version,
        child.free_port(),
        child.fresh_key(),
        vllm.VllmOptions(
            tensor_parallel_size=told["tensor_parallel_size"] or 1,
            pipeline_parallel_size=told["pipeline_parallel_size"] or 1,
            context=told["max_model_len"],
            max_sequences=told["max_sequences"],
            max_batched_tokens=told["max_batched_tokens"],
            memory_share=told["gpu_memory_utilization"],
            adapters=adapters,
            max_loras=told["max_loras"],
            max_held=told["max_adapters"],
        ),
        heads=shape.get("num_attention_heads"),
        layers=shape.get("num_hidden_layers"),
    )


def _adapter(digest: str, folder: Path, blobs: Blobs, tenant: str) -> vllm.Adapter:
    lay_out(digest, folder, blobs, tenant)
    return vllm.Adapter(folder, int(_json(folder / "adapter_config.json").get("r", 8)))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MeuseError(Code.INVALID_DATA, f"{path.name} cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}
