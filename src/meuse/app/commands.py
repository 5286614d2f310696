"""Command lines of our processes, and how each reads its own. Standard library only.

Parts such as `{sockets}` are filled in by the supervisor when it starts the process.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meuse.core.nouns import ENGINES, Deployment, EngineOptions, ModelVersion
from meuse.deploy import adapters, generation
from meuse.deploy.spec import artifact_for
from meuse.settings import Settings


def _python(role: str, home: Path) -> list[str]:
    return [sys.executable, "-m", "meuse.app", role, "--home", str(home)]


def roles(settings: Settings) -> dict[str, list[str]]:
    """What the supervisor keeps running, beside the workers."""
    common = ["--sockets", "{sockets}", "--lifeline", "{lifeline}", "--ready", "{ready}"]
    return {
        "control": [
            *_python("control", settings.home),
            *common,
            *("--pipe", "{control}", "--build", "{build}", "--host", settings.host),
            *("--http-port", "{http_port}", "--grpc-port", "{grpc_port}"),
        ],
        "ledger": [*_python("ledger", settings.home), *common],
    }


def worker(settings: Settings) -> list[str]:
    return [
        *_python("worker", settings.home),
        *("--sockets", "{sockets}", "--lifeline", "{lifeline}", "--ready", "{ready}"),
        *("--slot", "{slot}", "--epoch", "{epoch}", "--http-fd", "{http}"),
        *("--host", settings.host, "--grpc-port", "{grpc_port}"),
        *("--workers", str(settings.worker_count)),
    ]


def up(argv: Sequence[str]) -> list[str]:
    """`meuse up` with these options, once more, in the place of the process that runs."""
    return [sys.executable, "-m", "meuse.app", "up", *argv, "--state", "{state}"]


def check(argv: Sequence[str], state_format: int) -> list[str]:
    """Whether that would start; ends with 0 when it would."""
    return [
        *(sys.executable, "-m", "meuse.app", "check", *argv),
        *("--lifeline", "{lifeline}", "--state-format", str(state_format)),
    ]


def replica(
    settings: Settings,
    name: str,
    deployment: Deployment,
    version: ModelVersion,
    named: Mapping[str, str] | None = None,
) -> list[str]:
    """`named`: digests of its adapters by name."""
    batching = deployment.batching
    artifact = artifact_for(version, deployment.engine)
    engine = engine_of(deployment, version)
    options = deployment.engine
    cores = options.cores or settings.replica_threads
    words: list[str] = []
    if engine == generation.VLLM:
        # One word: those that begin with a brace are the supervisor's to fill in.
        words.append(f"--vllm={json.dumps(_vllm(options, named or {}))}")
    if engine == generation.ENGINE:
        words += ["--cache-mb", str(options.cache_mb or generation.CACHE_MB)]
        words += ["--max-sequences", str(options.max_sequences or generation.SEQUENCES)]
        words += ["--max-batched-tokens", str(options.max_batched_tokens or 0)]
        words += _tuning(options)
        if deployment.adapters:
            words += ["--max-adapters", str(options.max_adapters or adapters.MAX_HELD)]
            words += ["--adapter-turn-ms", str(options.adapter_turn_ms or 0)]
            if layers := deployment.adapted_layers:
                words += ["--adapter-layers", ",".join(layers)]
    return [
        *_python("replica", settings.home),
        *("--sockets", "{sockets}", "--lifeline", "{lifeline}", "--id", name),
        *("--tenant", deployment.scope.tenant, "--version", version.ref),
        *("--engine", engine, "--cores", str(cores)),
        *("--format", artifact.format, "--digest", artifact.digest),
        *("--max-rows", str(batching.max_rows), "--max-queue", str(batching.max_queue)),
        *("--objective-ms", str(deployment.objective_ms or 0)),
        *words,
    ]


def _tuning(options: EngineOptions) -> list[str]:
    """What is off is not said."""
    words: list[str] = []
    if options.kv_precision:
        words += ["--kv-precision", options.kv_precision]
    if options.prefix_cache:
        words += ["--prefix-cache", "1"]
    if (lookup := options.prompt_lookup) is not None:
        words += ["--max-ngram-size", str(lookup.max_ngram_size)]
        words += ["--assistant-tokens", str(lookup.num_assistant_tokens)]
    if (draft := options.draft_model) is not None:
        words += ["--draft", draft.digest, "--assistant-tokens", str(draft.num_assistant_tokens)]
    return words


def _vllm(options: EngineOptions, named: Mapping[str, str]) -> dict[str, Any]:
    """As `meuse.app.vllm` reads it."""
    names = (*generation.VLLM_ONLY, *generation.SHARED)
    return {**{name: getattr(options, name) for name in names}, "adapters": dict(named)}


def spare(settings: Settings, name: str, engine: str) -> list[str]:
    return [
        *_python("spare", settings.home),
        *("--sockets", "{sockets}", "--lifeline", "{lifeline}", "--id", name),
        *("--engine", engine, "--cores", str(settings.replica_threads)),
    ]


def spare_for(settings: Settings, deployment: Deployment, version: ModelVersion) -> str | None:
    """The kind of spare process that can become its replica. Pools of threads are made when
    an engine is imported: with other cores than the settings' none can, and that is None. A
    language model is loaded for so long that a spare process saves nothing."""
    cores = deployment.engine.cores or settings.replica_threads
    engine = engine_of(deployment, version)
    if engine in (generation.ENGINE, generation.VLLM):
        return None
    return engine if cores == settings.replica_threads else None


def engine_of(deployment: Deployment, version: ModelVersion) -> str:
    """The engine that it names, else the first that runs its artifact."""
    format = artifact_for(version, deployment.engine).format
    return deployment.engine.name or next(n for n in ENGINES if format in ENGINES[n])


def job(settings: Settings, folder: Path, events: int, lifeline: int) -> list[str]:
    return [
        *_python("job", settings.home),
        *("--folder", str(folder), "--events", str(events), "--lifeline", str(lifeline)),
    ]


def nursery(settings: Settings, link: int) -> list[str]:
    return [*_python("nursery", settings.home), "--link", str(link)]


def inspect(
    settings: Settings,
    path: Path,
    format: str,
    lifeline: int,
    out: Path,
    options: Mapping[str, Any],
) -> list[str]:
    return [
        *_python("inspect", settings.home),
        *("--path", str(path), "--format", format, "--lifeline", str(lifeline)),
        *("--out", str(out), "--options", json.dumps(dict(options))),
    ]


def archive(settings: Settings, work: Mapping[str, Any], lifeline: int) -> list[str]:
    return [
        *_python("archive", settings.home),
        *("--work", json.dumps(dict(work)), "--lifeline", str(lifeline)),
    ]


def parse(
    role: str,
    argv: Sequence[str],
    text: str = "",
    numbers: str = "",
    optional: str = "",
    optional_text: str = "",
) -> argparse.Namespace:
    """Options of a process: `home` (a path), and those named, as text or as integers; those that
    need not be given are 0 then, or empty."""
    parser = argparse.ArgumentParser(prog=f"meuse {role}")
    parser.add_argument("--home", type=Path, required=True)
    for name in text.split():
        parser.add_argument(f"--{name}", required=True)
    for name in numbers.split():
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in optional.split():
        parser.add_argument(f"--{name}", type=int, default=0)
    for name in optional_text.split():
        parser.add_argument(f"--{name}", default="")
    return parser.parse_args(argv)


def host_name() -> str:
    """This machine's, as segments of the journal carry it."""
    return socket.gethostname().partition(".")[0] or "localhost"


def log_to_stderr(role: str) -> None:
    """The supervisor gives every process a log file as its standard error."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s {role}[%(process)d] %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("httpx", "httpcore", "alembic", "dbos"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
