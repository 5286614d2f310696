"""vLLM through Meuse beside vLLM by itself, on a machine with a GPU.

    python benchmarks/gpu/vllm.py --python /opt/vllm/bin/python --checkpoint /models/small
    python benchmarks/gpu/vllm.py … --rounds 1 --tokens 16       whether it runs at all

The checkpoint is a folder with config.json and safetensors. Both sides serve it with the same
words on the same GPU, each with `--share` of its memory, and are asked in turn, so that one rests
while the other works: waves of 1, 4, 16 and 64 streams that begin together, greedy, `--tokens`
each, in interleaved rounds. Meuse checks a key and a rate limit and meters. Writes a dated report
under benchmarks/reports/. Where there is no GPU it says so, and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from clients import LoadError
from llm_sides import over_http
from ours import Platform, platform
from processes import free_port, started
from report import write

from meuse.serve.generation.child import fresh_key
from meuse.serve.generation.vllm import VllmOptions, command

Figures = dict[str, Any]
STREAMS = (1, 4, 16, 64)
START_S = 900.0
TOPICS = ("rivers", "bridges", "mills", "locks", "dikes", "boats", "floods", "maps")


def gpus() -> list[str]:
    """Names of the GPUs that the driver tells of."""
    try:
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return []
    return told.stdout.splitlines() if told.returncode == 0 else []


def prompts(count: int, turn: int) -> list[str]:
    """No two alike: no side shall have a prompt's keys and values from before."""
    return [
        f"Wave {turn}, letter {i}: tell me about {TOPICS[i % len(TOPICS)]}." for i in range(count)
    ]


def measure(folder: Path, options: argparse.Namespace, ask: Any = prompts) -> Figures:
    """`ask(count, turn)` gives the prompts of a wave."""
    settings = {
        "vllm_python": f'"{options.python}"',
        "import_folders": f'"{options.checkpoint.resolve().parent}"',
    }
    with contextlib.ExitStack() as stack:
        meuse = stack.enter_context(platform(folder, settings))
        deployed(meuse, options)
        port, headers = stack.enter_context(bare(folder, options))
        sides = {
            "vllm": over_http(port, headers, "bare"),
            "meuse": over_http(meuse.port, meuse.headers(), "chat"),
        }
        runs = rounds(sides, options, ask)
    figures = [summary(streams, options.tokens, runs) for streams in options.streams]
    return {"rows": figures, "runs": runs, "limits": meuse.limits, "tokens": options.tokens}


def deployed(meuse: Platform, options: argparse.Namespace) -> None:
    client = meuse.client
    spec = {"source": f"file:{options.checkpoint.resolve()}", "model_name": "small"}
    job = client.call("POST", "/api/jobs", json={"kind": "import", "spec": spec})
    done = client.wait(job["id"])
    engine = {"name": "vllm", "gpu_memory_utilization": options.share}
    client.deploy("chat", done["result"]["model"], engine=engine)
    client.wait_ready("chat", START_S)


@contextlib.contextmanager
def bare(folder: Path, options: argparse.Namespace) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The same server without anything in front of it."""
    port, key = free_port(), fresh_key()
    words = command(
        options.python,
        options.checkpoint.resolve(),
        "bare",
        port,
        key,
        VllmOptions(memory_share=options.share),
    )
    log = folder / "vllm.log"
    with started(words.argv, words.env, log, folder) as (process, _):
        deadline = time.monotonic() + START_S
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise LoadError(f"vLLM does not answer: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield port, {"authorization": f"Bearer {key}"}


def _healthy(port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        link.request("GET", "/health")
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def rounds(sides: Mapping[str, Any], options: argparse.Namespace, ask: Any) -> list[Figures]:
    """One row for each side, number of streams and round; the first wave of each is not kept."""
    found = []
    for turn in range(options.rounds + 1):
        for streams in options.streams:
            for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                (told,) = sides[name]([ask(streams, turn)], options.tokens)
                if turn == 0:
                    continue
                tokens = sum(each["tokens"] for each in told["streams"])
                row = {
                    "side": name,
                    "streams": streams,
                    "round": turn,
                    "tokens_per_s": tokens / told["seconds"],
                    "first_s": statistics.median(each["first_s"] for each in told["streams"]),
                }
                found.append(row)
                print(
                    f"{name:6} {streams:3} streams  {row['tokens_per_s']:10,.0f} tokens/s  "
                    f"first after {1000 * row['first_s']:7.1f} ms",
                    flush=True,
                )
    return found


def summary(streams: int, tokens: int, runs: Sequence[Figures]) -> Figures:
    """Medians of both sides, and the median of the pairs' ratios."""

    def of(side: str, what: str) -> list[float]:
        return [r[what] for r in runs if (r["side"], r["streams"]) == (side, streams)]

    pairs = zip(of("meuse", "tokens_per_s"), of("vllm", "tokens_per_s"), strict=True)
    row: Figures = {
        "streams": streams,
        "ratio": statistics.median(ours / own for ours, own in pairs),
    }
    for side in ("meuse", "vllm"):
        row[side] = {
            "tokens_per_s": statistics.median(of(side, "tokens_per_s")),
            "first_ms": 1000 * statistics.median(of(side, "first_s")),
        }
    return row


def page(body: Figures) -> str:
    f = body["figures"]
    lines = [
        f"# vLLM through Meuse, {body['date']}",
        "",
        f"Commit {body['commit']}; {'; '.join(f['gpus'])}; vLLM {f['vllm']}; {f['checkpoint']}, "
        f"{f['tokens']} tokens an answer, {f['rounds']} interleaved rounds, medians. "
        f"Rate limit {f['limits']}.",
        "",
        "| streams | vLLM tokens/s | Meuse tokens/s | ratio | vLLM first, ms | Meuse first, ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in f["rows"]:
        own, ours = row["vllm"], row["meuse"]
        lines.append(
            f"| {row['streams']} | {own['tokens_per_s']:,.0f} | {ours['tokens_per_s']:,.0f} "
            f"| {row['ratio']:.3f} | {own['first_ms']:.1f} | {ours['first_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def version_of(python: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('vllm'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} has no vLLM: {done.stderr.strip()[-200:]}")
    return done.stdout.strip()


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="of vLLM's environment")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.4, help="of the GPU's memory, each side")
    return parser.parse_args(argv)


def main() -> None:
    options = parsed()
    found = gpus()
    if not found:
        sys.exit("there is no GPU here (nvidia-smi tells of none): nothing was measured")
    version = version_of(options.python)
    with tempfile.TemporaryDirectory(prefix="meuse-gpu-") as folder:
        figures = measure(Path(folder), options)
    told = {"gpus": found, "vllm": version, "checkpoint": options.checkpoint.name}
    print(write("gpu-vllm", {**told, "rounds": options.rounds, **figures}, page))


if __name__ == "__main__":
    os.umask(0o077)
    main()
