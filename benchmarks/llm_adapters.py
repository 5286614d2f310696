"""Many adapters on one base in one replica: what they cost in memory, in speed and in waiting.

    python benchmarks/llm_adapters.py                    # SmolLM2-135M, made int8 of its GGUF file
    python benchmarks/llm_adapters.py --gguf FILE        # another one's
    python benchmarks/llm_adapters.py --ir FOLDER        # OpenVINO's files of a language model

Replica processes as the platform starts them, asked over their socket; adapters of random
numbers, rank 8 on q, k, v and o: nothing here depends on what they have learnt. Held: memory of
8 adapters ≤ base + 8 × adapter + 10 %. Writes a dated report.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llm_sides
import msgspec
import numpy as np
import venvs
from report import write
from safetensors.numpy import save

from meuse.core.clock import now_ms
from meuse.deploy.footprint import resident
from meuse.serve import frames
from meuse.serve.frames import Decoder, Finished, Generate, Hello
from meuse.serve.generation import lora, manifest, messages
from meuse.serve.generation.genai import linear_layers
from meuse.serve.generation.manifest import File, Manifest
from meuse.serve.generation.messages import Ask, Sampling
from meuse.store.blobs import FolderBlobs

MIB = 1 << 20
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 8
PROMPT = "Write about the river, its barges and the towns on its banks."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--ir", type=Path)
    source.add_argument("--gguf", type=Path)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load; 0: none")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--turns", type=int, nargs="+", default=[2000, 500], help="ms")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2], help="of each adapter")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meuse-ad-") as folder:
        gguf = None if options.ir else options.gguf or llm_sides.weights(venvs.cache())
        base = converted(gguf, Path(folder) / "ir") if gguf else options.ir
        figures = measure(Path(folder), base, options)
    path = write("llm-adapters", figures, page)
    print(path.with_suffix(".md").read_text())


def converted(gguf: Path, folder: Path) -> Path:
    import nncf

    from meuse.language.checkpoint import open_checkpoint
    from meuse.language.graph import graph_of
    from meuse.language.ir import write_ir

    checkpoint = open_checkpoint(gguf)
    write_ir(checkpoint, nncf.compress_weights(graph_of(checkpoint.model)), folder)
    return folder


def measure(home: Path, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    store = Store(home, base)
    names = [store.add(seed) for seed in range(options.adapters)]
    figures: dict[str, Any] = {
        "model": base.name,
        "threads": options.threads,
        "adapters": options.adapters,
        "adapter_mib": round(store.adapter_bytes / MIB, 2),
        "tokens": options.tokens,
        "load_before": round(os.getloadavg()[0], 1),
    }
    with store.replica(options, 0) as plain, store.replica(options, options.adapters) as able:
        speeds: dict[str, list[float]] = {"none": [], "base": [], "adapter": []}
        for _ in range(3):  # interleaved, for the machine may be busy with something else
            speeds["none"].append(plain.pace("", options.tokens))
            speeds["base"].append(able.pace("", options.tokens))
            speeds["adapter"].append(able.pace(names[0], options.tokens))
        figures["tokens_s"] = {n: round(statistics.median(s), 1) for n, s in speeds.items()}
        figures["memory"] = memory(plain, able, names, store.adapter_bytes)
        figures["switch_ms"] = switches(able, names)
    figures["waits"] = []
    for turn_ms in options.turns if options.seconds else ():
        with store.replica(options, options.adapters, turn_ms) as able:
            for clients in options.clients:
                figures["waits"].append(
                    {"turn_ms": turn_ms, "clients": clients}
                    | waits(able, [*names, ""], clients, options)
                )
    return figures


def memory(plain: Replica, able: Replica, names: list[str], each: int) -> dict[str, Any]:
    """After all have answered, twice, and both replicas have settled."""
    base, before = settled(plain, ""), settled(able, names[0])
    for name in names * 2:
        able.pace(name, 4)
    now = settled(able, names[0])
    bound = (base + len(names) * each) * 1.1
    return {
        "base_mib": round(base / MIB, 1),
        "one_adapter_mib": round(before / MIB, 1),
        "all_adapters_mib": round(now / MIB, 1),
        "bound_mib": round(bound / MIB, 1),
        "holds": now <= bound,
    }


def settled(replica: Replica, name: str) -> int:
    """The resident bytes once all of the cache of keys and values has been written to: the cache is
    there from the start, but a page of it counts from then on."""
    last, now = 0, replica.resident
    while now - last > MIB:
        for _ in range(8):
            replica.pace(name, 32)
        last, now = now, replica.resident
    return now


def switches(able: Replica, names: list[str]) -> float:
    """Of one token on an adapter after another, over one token on the same again: the median."""
    found = []
    for name in names:
        first, again = (able.timed(name, 1) for _ in range(2))
        found.append((first - again) * 1000)
    return round(statistics.median(found), 1)


def waits(
    able: Replica, names: list[str], clients: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Each name has so many clients that ask again as soon as they are answered."""
    begun = time.monotonic()
    asked = {able.send(name, options.tokens): name for name in names for _ in range(clients)}
    waited: list[float] = []
    tokens = switched = 0
    while asked:
        number, last = able.next()
        name = asked.pop(number)
        _check(last, options.tokens)
        waited.append(last.queue_us / 1e6)
        tokens += last.completion_tokens
        switched += last.switches
        if time.monotonic() < begun + options.seconds:
            asked[able.send(name, options.tokens)] = name
    seconds = time.monotonic() - begun  # the last answers end after those asked for
    waited.sort()
    return {
        "requests": len(waited),
        "tokens_s": round(tokens / seconds, 1),
        "switches": switched,
        "p50_s": round(waited[len(waited) // 2], 2),
        "p95_s": round(waited[int(len(waited) * 0.95)], 2),
        "max_s": round(waited[-1], 2),
    }


class Store:
    """Blobs of a base and of adapters, and replicas that read them."""

    def __init__(self, home: Path, base: Path) -> None:
        self.home = home
        self.adapter_bytes = 0
        self._blobs = FolderBlobs(home / "blobs")
        self._layers = {
            name: layer for name, layer in linear_layers(base).items() if name.endswith(TARGETS)
        }
        told = json.loads((base / "config.json").read_text())
        heads = told["num_key_value_heads"]
        size = told.get("head_dim") or told["hidden_size"] // told["num_attention_heads"]
        self._base = self._keep(
            "ir",
            {path.name: path.read_bytes() for path in base.iterdir() if path.is_file()},
            told,
            kv_bytes_per_token=2 * told["num_hidden_layers"] * heads * size * 2,
        )
        self._told = told

    def add(self, seed: int) -> str:
        """An adapter; the digest of its manifest."""
        random = np.random.default_rng(seed)
        tensors = {}
        for name, layer in self._layers.items():
            for part, shape in (
                ("lora_A", (RANK, layer.inputs)),
                ("lora_B", (layer.outputs, RANK)),
            ):
                tensors[f"base_model.model.model.{name}.{part}.weight"] = random.normal(
                    0, 0.02, shape
                ).astype(np.float32)
        weights = save(tensors)
        self.adapter_bytes = len(weights)
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
        files = {lora.CONFIG: json.dumps(config).encode(), lora.WEIGHTS: weights}
        return self._keep("adapter", files, self._told)

    def _keep(self, layout: str, files: dict[str, bytes], told: Any, **more: Any) -> str:
        kept = []
        for name, body in files.items():
            self._blobs.put("bench", io.BytesIO(body))
            kept.append(File(name, hashlib.sha256(body).hexdigest(), len(body)))
        made = Manifest(
            layout, tuple(kept), told["model_type"], told["max_position_embeddings"],
            told["vocab_size"], 1, **more,
        )  # fmt: skip
        return self._blobs.put("bench", io.BytesIO(manifest.encode(made)))[0]

    @contextmanager
    def replica(
        self, options: argparse.Namespace, adapters: int, turn_ms: int = 2000
    ) -> Iterator[Replica]:
        sockets = Path(tempfile.mkdtemp(prefix="s", dir=self.home))
        read, lifeline = os.pipe()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "meuse.app", "replica", "--home", str(self.home)),
                *("--sockets", str(sockets), "--id", "r", "--tenant", "bench"),
                *("--version", "base:1", "--format", "llm", "--digest", self._base),
                *("--engine", "genai", "--lifeline", str(read), "--cores", str(options.threads)),
                *("--max-rows", "64", "--max-queue", "256", "--objective-ms", "0"),
                *("--cache-mb", "128", "--max-sequences", "16"),
                *("--max-adapters", str(adapters), "--adapter-turn-ms", str(turn_ms)),
                *("--adapter-layers", ",".join(TARGETS)),
            ],
            pass_fds=[read],
            env={**os.environ, "MEUSE_HOME": str(self.home)},
        )
        os.close(read)
        try:
            yield Replica(process, sockets / "r.sock")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            os.close(lifeline)


class Replica:
    """A process, and a blocking connection to it."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self._pid = process.pid
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while process.poll() is None:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                time.sleep(0.1)
        self._decoder = Decoder()
        self._ended: list[Finished] = []
        self._number = 0
        self.timed("", 4)

    @property
    def resident(self) -> int:
        return resident(self._pid) or 0

    def send(self, adapter: str, tokens: int) -> int:
        self._number += 1
        sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        ask = messages.encode(Ask(prompt=PROMPT, adapter=adapter, sampling=sampling))
        id = self._number.to_bytes(16, "little")
        header = Generate(self._number, id, now_ms() + 3_600_000, ask)
        self._socket.sendall(b"".join(frames.encode(header)))
        return self._number

    def next(self) -> tuple[int, Finished]:
        """The next answer that is whole."""
        while not self._ended:
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the replica has ended")
            for header, _ in self._decoder.feed(data):
                if isinstance(header, Finished):
                    self._ended.append(header)
                else:
                    assert isinstance(header, Hello | frames.Started | frames.Tokens)
        last = self._ended.pop(0)
        return last.number, last

    def timed(self, adapter: str, tokens: int) -> float:
        began = time.perf_counter()
        self.send(adapter, tokens)
        _check(self.next()[1], tokens)
        return time.perf_counter() - began

    def pace(self, adapter: str, tokens: int) -> float:
        """Tokens/s of four streams, once the engine has the adapter."""
        self.timed(adapter, 1)
        began = time.perf_counter()
        for _ in range(4):
            self.send(adapter, tokens)
        for _ in range(4):
            _check(self.next()[1], tokens)
        return 4 * tokens / (time.perf_counter() - began)


def _check(last: Finished, tokens: int) -> None:
    """That it is a whole answer."""
    if last.error is not None or last.completion_tokens != tokens:
        told = msgspec.json.encode(last.error).decode()
        raise RuntimeError(f"{last.completion_tokens} tokens where {tokens} were asked: {told}")


def page(body: dict[str, Any]) -> str:
    f, machine = body["figures"], body["machine"]
    m, speed = f["memory"], f["tokens_s"]
    held = "held" if m["holds"] else "missed"
    rows = "\n".join(
        f"| {w['turn_ms']} | {w['clients']} | {w['requests']} | {w['tokens_s']} | {w['switches']} "
        f"| {w['p50_s']} | {w['p95_s']} | {w['max_s']} |"
        for w in f["waits"]
    )
    return f"""# {f["adapters"]} adapters on one base, {body["date"]}

{machine["cores"]} cores ({machine["processor"]}), commit {body["commit"]}, load before
{f["load_before"]}; `{f["model"]}`, {f["threads"]} threads; adapters of {f["adapter_mib"]} MiB
(rank {RANK} on {", ".join(TARGETS)}, float32). Made by `benchmarks/llm_adapters.py`.

| memory of the replica, resident, all of its cache (128 MiB) written to | MiB |
|---|---|
| made for no adapters | {m["base_mib"]} |
| made for adapters, one in memory | {m["one_adapter_mib"]} |
| all {f["adapters"]} in memory, each asked twice | {m["all_adapters_mib"]} |
| bound: base + {f["adapters"]} × adapter + 10 % | {m["bound_mib"]} ({held}) |

| four streams | tokens/s |
|---|---|
| made for no adapters | {speed["none"]} |
| made for adapters, the base asked | {speed["base"]} |
| an adapter asked | {speed["adapter"]} |

A switch, over a request that needs none: {f["switch_ms"]} ms (median).

Waiting from arrival to the start, where each of the {f["adapters"]} adapters and the base has so
many clients that ask for {f["tokens"]} tokens again as soon as they are answered:

| turn, ms | clients each | requests | tokens/s | switches | p50, s | p95, s | longest, s |
|---|---|---|---|---|---|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
