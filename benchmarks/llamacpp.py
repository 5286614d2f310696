"""llama.cpp's own server, built once from the source that llama-cpp-python's sdist carries.

`python benchmarks/llamacpp.py [--cache FOLDER]` builds it below the cache folder, at the lowest
priority, and prints where it lies. An interrupted build goes on where it was. Needs a C++ compiler;
cmake and ninja are the system's, or PyPI's in an environment of their own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import venvs

SDIST = "llama-cpp-python==0.3.36"
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
"""A release build for this very processor, without what a server on loopback does not need."""


def built(cache: Path, jobs: int = 2, timeout_s: float = 3600.0) -> Path:
    """The server's binary, built if need be. Raises AbsentError with the last words of what
    failed."""
    folder = cache / "llamacpp"
    server = folder / "build" / "bin" / "llama-server"
    if server.exists():
        return server
    if shutil.which("c++") is None:
        raise venvs.AbsentError("llama.cpp: no C++ compiler (Debian: g++)")
    began = time.monotonic()
    source = _source(folder)
    print(f"building llama.cpp's server in {folder / 'build'}, at the lowest priority", flush=True)
    cmake, environment = _cmake(cache)
    build = str(folder / "build")
    configure = [cmake, "-S", str(source), "-B", build, "-G", "Ninja", *FLAGS]
    make = [cmake, "--build", build, "--target", "llama-server", "-j", str(jobs)]
    for command in (configure, make):
        _run(["nice", "-n", "19", *command], timeout_s, environment)
    print(f"built llama.cpp's server in {time.monotonic() - began:.0f} s", flush=True)
    return server


def _source(folder: Path) -> Path:
    """llama.cpp as the sdist carries it, unpacked."""
    package, _, version = SDIST.partition("==")
    name = f"{package.replace('-', '_')}-{version}"
    source = folder / name / "vendor" / "llama.cpp"
    if (source / "CMakeLists.txt").exists():
        return source
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--no-binary", package, "-d", str(folder), SDIST], 600.0)
    with tarfile.open(folder / f"{name}.tar.gz") as packed:
        packed.extractall(folder, filter="data")
    return source


def _cmake(cache: Path) -> tuple[str, dict[str, str]]:
    found = shutil.which("cmake")
    if found and shutil.which("ninja"):
        return found, {}
    folder = venvs.made("cmake", cache).folder / "bin"
    return str(folder / "cmake"), {"PATH": f"{folder}:{os.environ['PATH']}"}


def _run(command: list[str], timeout_s: float, environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise venvs.AbsentError(f"llama.cpp: {command[-1]} took over {timeout_s:.0f} s") from None
    if done.returncode:
        raise venvs.AbsentError(f"llama.cpp: {(done.stderr or done.stdout).strip()[-500:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build llama.cpp's server.")
    parser.add_argument("--cache", help="where it lies (default ~/.cache/meuse-bench)")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    print(built(venvs.cache(options.cache), options.jobs))


if __name__ == "__main__":
    main()
