"""Toolchains: packages whose pins collide with the platform's, each in an environment of its own.

One is made on demand, when the operator says so (`meuse toolchains install`), from a lock with
hashes: wheels only, nothing but what is listed. It is used by job processes, never by ours.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meuse.core.errors import Code, MeuseError, invalid

MARK = "toolchain.json"
_LAST_S = 60.0
"""What has closed its output may take this long to end."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """`download_mib` and `disk_mib` are told before it is made."""

    name: str
    summary: str
    download_mib: int
    disk_mib: int

    @property
    def lock(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.txt")

    def place(self, folder: Path) -> Path:
        """Its environment below `folder`; of another lock or Python it is another."""
        told = self.lock.read_bytes() + sys.version.encode() + sys.prefix.encode()
        return folder / f"{self.name}-{hashlib.sha256(told).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Environment:
    """What is there: `packages` is the folder with its packages."""

    path: Path
    interpreter: Path
    packages: Path

    def variables(self) -> dict[str, str]:
        """The environment in which its interpreter finds its packages, and this package beside
        the platform's, which its own go before."""
        source = str(Path(__file__).resolve().parents[3])
        return {"PYTHONPATH": f"{self.packages}{os.pathsep}{source}"}


KNOWN = {
    "tensorflow": Toolchain(
        "tensorflow",
        "converts SavedModels and .keras files of TensorFlow, and models to LiteRT",
        420,
        1700,
    )
}


def known(name: str) -> Toolchain:
    """Raises `invalid_field` at `name`."""
    if name not in KNOWN:
        raise invalid("name", f"there is no toolchain {name!r}", f"Toolchains: {', '.join(KNOWN)}.")
    return KNOWN[name]


def find(name: str, folder: Path) -> Environment | None:
    """The toolchain below `folder`, if it is there whole."""
    path = known(name).place(folder)
    if not (path / MARK).is_file():
        return None
    major, minor = sys.version_info[:2]
    packages = path / "lib" / f"python{major}.{minor}" / "site-packages"
    return Environment(path, path / "bin" / "python", packages)


def need(name: str, folder: Path, field: str) -> Environment:
    """The same. Raises `unavailable` that says how to install it."""
    found = find(name, folder)
    if found is None:
        chain = known(name)
        raise MeuseError(
            Code.UNAVAILABLE,
            f"this needs the toolchain {name!r}, which is not installed here",
            field=field,
            hint=f"The operator installs it by `meuse toolchains install {name}` "
            f"(downloads about {chain.download_mib} MiB).",
        )
    return found


def install(name: str, folder: Path, told: Callable[[str], None]) -> Environment:
    """Make it, unless it is there. What was left of an attempt that failed, and what other
    locks made, is removed. Raises `unavailable` with the installer's last words."""
    chain = known(name)
    found = find(name, folder)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove(name, folder)
    place = chain.place(folder)
    told(f"making {place}")
    try:
        _run([sys.executable, "-m", "venv", str(place)], told)
        told(f"downloading about {chain.download_mib} MiB")
        _run(
            [
                *(str(place / "bin" / "python"), "-m", "pip", "install", "--no-cache-dir"),
                *("--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps"),
                *("--only-binary", ":all:", "--progress-bar", "off", "-r", str(chain.lock)),
            ],
            told,
        )
    except BaseException:  # an interrupt too: nothing half stays
        shutil.rmtree(place, ignore_errors=True)
        raise
    # Written last: without it nobody takes the folder for a toolchain.
    (place / MARK).write_text(json.dumps({"name": name, "python": sys.version.split()[0]}))
    made = find(name, folder)
    assert made is not None
    return made


def remove(name: str, folder: Path) -> int:
    """Remove all environments of this name; how many there were."""
    places = [path for path in folder.glob(f"{known(name).name}-*") if path.is_dir()]
    for path in places:
        (path / MARK).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    return len(places)


def _run(command: list[str], told: Callable[[str], None]) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    last = ""
    try:
        with process.stdout as lines:
            for line in lines:
                if line.strip():
                    last = line.strip()
                    told(last[:200])
        status = process.wait(_LAST_S)
    finally:  # also when it is interrupted
        process.kill()
        process.wait()
    if status:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"the toolchain could not be installed: {last[:500]}",
            hint="It is downloaded by pip, which needs an index of packages that it can reach.",
        )
