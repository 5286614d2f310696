"""A virtual environment for each peer, made on demand in a cache folder.

Made once, kept, and resumed where an earlier run was cut off: one is complete when its
`installed.json` holds the pins below. Only direct requirements are pinned; what pip resolved
beneath them stands in `freeze.txt` beside it. `python benchmarks/venvs.py [peer …]`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# The engine and the HTTP server are what the platform itself runs (constraints.txt).
ENGINE = ("onnxruntime==1.31.1", "numpy==2.4.6")
SERVER = ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")

PINS: dict[str, tuple[str, ...]] = {
    "bare": (*SERVER, "msgspec==0.22.0", *ENGINE),
    "fastapi": (*SERVER, "fastapi==0.165.0", "pydantic==2.14.3", *ENGINE),
    "triton": ("nvidia-pytriton==0.7.0", "onnxruntime==1.31.1"),
    "litserve": ("litserve==0.2.19", "onnxruntime==1.31.1"),
    "bentoml": ("bentoml==1.4.39", "onnxruntime==1.31.1"),
    "mlserver": ("mlserver==1.7.1", "httptools==0.9.0", "onnxruntime==1.31.1"),
    "ray": ("ray[serve]==2.60.0", "onnxruntime==1.31.1"),
    "litellm": ("litellm[proxy]==1.106.2",),
    "cmake": ("cmake==4.1.2", "ninja==1.13.0"),
    "profiler": ("py-spy==0.4.3",),
}


class AbsentError(Exception):
    """A peer that cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Venv:
    """A complete environment of one peer."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        return next((self.folder / "lib").glob("python3.*/site-packages"))

    def versions(self) -> list[str]:
        return (self.folder / "freeze.txt").read_text().split()


def cache(given: str | None = None) -> Path:
    """Where the environments lie: `given`, else MEUSE_BENCH_CACHE, else ~/.cache/meuse-bench."""
    chosen = given or os.environ.get("MEUSE_BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "meuse-bench"


def made(peer: str, folder: Path, timeout_s: float = 900.0) -> Venv:
    """The peer's environment, installed if need be. Raises AbsentError with pip's last words."""
    venv = Venv(folder / peer)
    stamp = venv.folder / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(PINS[peer]):
        return venv
    began = time.monotonic()
    print(f"installing {peer} into {venv.folder}: {' '.join(PINS[peer])}", flush=True)
    if not venv.python.exists():
        _run(peer, [sys.executable, "-m", "venv", str(venv.folder)], timeout_s)
    pip = [str(venv.python), "-m", "pip", "--disable-pip-version-check"]
    _run(peer, [*pip, "install", "--quiet", "--no-cache-dir", *PINS[peer]], timeout_s)
    (venv.folder / "freeze.txt").write_text(_run(peer, [*pip, "freeze"], timeout_s))
    stamp.write_text(json.dumps(PINS[peer]))
    print(f"installed {peer} in {time.monotonic() - began:.0f} s", flush=True)
    return venv


def _run(peer: str, command: list[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise AbsentError(f"{peer}: {command[-1]} took more than {timeout_s:.0f} s") from None
    if done.returncode:
        raise AbsentError(f"{peer}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the peers' virtual environments.")
    parser.add_argument("peers", nargs="*", default=list(PINS), metavar="peer")
    parser.add_argument("--cache", help="where they lie (default ~/.cache/meuse-bench)")
    options = parser.parse_args()
    folder = cache(options.cache)
    print(f"environments lie in {folder}")
    for peer in options.peers:
        try:
            made(peer, folder)
        except AbsentError as reason:
            print(f"absent: {reason}")


if __name__ == "__main__":
    main()
