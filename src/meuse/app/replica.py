"""A replica: one engine that runs one version behind one unix socket."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from meuse.app import commands, vllm
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.core.ports import PrepareInputs
from meuse.runtime import lifeline
from meuse.serve import heap
from meuse.serve.generation import manifest
from meuse.serve.generation.files import lay_out
from meuse.serve.generation.tuning import Tuning
from meuse.settings import load
from meuse.store.blobs import FolderBlobs

log = logging.getLogger(__name__)

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    commands.log_to_stderr(options.id)
    lifeline.watch(options.lifeline, lifeline.end_now)
    return run(argv)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    return commands.parse(
        "replica",
        argv,
        "sockets id tenant version format digest engine",
        "lifeline cores max-rows max-queue objective-ms",
        "cache-mb max-sequences max-batched-tokens max-adapters adapter-turn-ms "
        "prefix-cache max-ngram-size assistant-tokens",
        "kv-precision draft vllm adapter-layers",
    )


def run(argv: Sequence[str]) -> int:
    """Load, serve, return when told to end; the process has its log and its lifeline."""
    options = parse(argv)
    sockets = Path(options.sockets)
    if not options.vllm:
        set_pools(options.cores)
    try:
        if options.vllm:
            return vllm.run(options)
        if options.format == manifest.FORMAT:
            generate(options)
        else:
            infer(options)
    except MeuseError as error:
        # The reconciler reads why, and shows it on the deployment.
        (sockets / f"{options.id}.error").write_text(str(error))
        log.error("%s cannot be served: %s", options.version, error)
        return 1
    return 0


def infer(options: argparse.Namespace) -> None:
    """Tensors in, tensors out."""
    from meuse.serve import engines
    from meuse.serve.replica import ReplicaConfig, serve

    sockets = Path(options.sockets)
    engine = engines.load(
        options.format,
        # Held by nobody once it is loaded.
        FolderBlobs(load(options.home).blobs).read(options.tenant, options.digest),
        options.cores,
        engine=options.engine,
        build=build,
    )
    heap.give_back()
    serve(
        engine,
        ReplicaConfig(
            id=options.id,
            version=options.version,
            socket=sockets / f"{options.id}.sock",
            page=sockets / f"{options.id}.page",
            max_rows=options.max_rows,
            max_queue=options.max_queue,
            objective_ms=options.objective_ms or None,
        ),
    )


def generate(options: argparse.Namespace) -> None:
    """Text in, text out. The model's files lie beside the socket while they are read."""
    from meuse.serve.generation import load as models
    from meuse.serve.generation import replica

    sockets = Path(options.sockets)
    blobs = FolderBlobs(load(options.home).blobs)
    folder, draft = (sockets / f"{options.id}.{name}" for name in ("model", "draft"))
    try:
        described = lay_out(options.digest, folder, blobs, options.tenant)
        tuning = Tuning(
            prefix_cache=bool(options.prefix_cache),
            max_ngram_size=options.max_ngram_size,
            assistant_tokens=options.assistant_tokens,
            kv_precision=options.kv_precision,
        )
        if options.draft:
            other = lay_out(options.draft, draft, blobs, options.tenant)
            tuning = replace(tuning, draft=models.model_path(other, draft))
        parts = models.load(
            described,
            folder,
            models.Options(
                threads=options.cores,
                max_sequences=options.max_sequences,
                max_batched_tokens=options.max_batched_tokens,
                cache_mb=options.cache_mb,
                tuning=tuning,
                max_adapters=options.max_adapters,
                adapter_layers=tuple(filter(None, options.adapter_layers.split(","))),
            ),
            partial(blobs.read, options.tenant),
        )
    except msgspec.MsgspecError as error:
        raise MeuseError(Code.INVALID_DATA, f"the manifest is not understood: {error}") from None
    finally:
        # Read by now, or mapped: then the system keeps what nobody can name any more.
        for read in (folder, draft):
            shutil.rmtree(read, ignore_errors=True)
    heap.give_back()
    replica.serve(
        parts,
        replica.Config(
            id=options.id,
            version=options.version,
            socket=sockets / f"{options.id}.sock",
            page=sockets / f"{options.id}.page",
            max_queue=options.max_queue,
            adapter_turn_ms=options.adapter_turn_ms or replica.ADAPTER_TURN_MS,
        ),
    )


def set_pools(cores: int) -> None:
    """Read when numpy, torch and their libraries are loaded: nothing before imports them."""
    os.environ.update({name: str(cores) for name in POOLS})


def build(described: Mapping[str, Any]) -> tuple[Any, Signature, PrepareInputs]:
    """Network and preparation of a version: the one thing of training that serving needs."""
    from meuse.train.weights import build

    return build(described)
