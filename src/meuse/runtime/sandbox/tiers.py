"""The tiers: how a command is put into each, and which of them this machine offers."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from meuse.runtime.sandbox import landlock
from meuse.runtime.sandbox.order import Ended, Limits, NoSandboxError, Order

NAMES = {
    2: "bubblewrap (own namespaces), seccomp and rlimits",
    1: "seccomp, Landlock and rlimits, in one process",
    0: "rlimits only",
}
INSIDE = "/job"
"""Where tier 2 shows the folder."""
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_PROC = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm")
_SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
_FIRST_USER, _USERS = 61184, 4336
"""Identities that nobody else has, the range that systemd gives to dynamic users."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The best tier that works, and why each better one does not."""

    tier: int
    refused: dict[int, str]

    @property
    def text(self) -> str:
        told = [f"tier {n} does not work: {why}" for n, why in sorted(self.refused.items())]
        return "; ".join([f"tier {self.tier}: {NAMES[self.tier]}", *reversed(told)])


@functools.cache
def survey() -> Survey:
    """Try the tiers, best first; 0.2 s the first time, then known to this process."""
    refused: dict[int, str] = {}
    for tier in (2, 1):
        why = _missing(tier) or _try(tier)
        if not why:
            return Survey(tier, refused)
        refused[tier] = why
    return Survey(0, refused)


def _missing(tier: int) -> str:
    if tier == 2 and shutil.which("bwrap", path=_search()) is None:
        return "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
    if tier == 1 and landlock.abi() < 1:
        return "the kernel has no Landlock"
    return ""


def _try(tier: int) -> str:
    from meuse.runtime.sandbox.run import run_in

    with tempfile.TemporaryDirectory(prefix="meuse-probe-") as name:
        folder, secret = Path(name) / "in", Path(name) / "secret"
        folder.mkdir()
        secret.write_text("secret")
        order = Order(
            "meuse.runtime.sandbox.probe",
            folder,
            (str(secret),),
            limits=Limits(wall_s=20.0, memory_bytes=1 << 30, processes=8),
        )
        try:
            ended: Ended = run_in(tier, order)
        except OSError as error:
            return str(error)
        said = ended.output.strip().splitlines()
        return "" if ended.ok else (said[-1] if said else ended.why(order.limits))


def good_enough(least: int) -> int:
    """The tier to use. Raises `NoSandboxError` when the machine's best is below `least`."""
    found = survey()
    if found.tier < least:
        raise NoSandboxError(found.text)
    return found.tier


def command(tier: int, order: Order, user: int | None) -> tuple[list[str], dict[str, str]]:
    """(argument list, environment) that run `order` in `tier`, as `user` when we are root."""
    interpreter = str(order.interpreter or sys.executable)
    private = "/tmp" if tier == 2 else str(order.folder / "tmp")  # noqa: S108  its own in tier 2
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": private,
        "TMPDIR": private,
        "USER": "meuse",
        "LOGNAME": "meuse",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_source()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        **order.environment,
    }
    readable = [*_SYSTEM, *_ETC, *map(str, (*_python(), *order.readable))]
    what = {
        "tier": tier,
        "parent": os.getpid(),
        "user": user,
        "folder": INSIDE if tier == 2 else str(order.folder),
        "limits": _rlimits(tier, order.limits, user),
        "readable": [*readable, *_PROC, *_SYS],
        "writable": [str(order.folder), *_DEVICES],
        "argv": [interpreter, "-m", order.module, *order.arguments],
    }
    # Entered by our own interpreter: another one need not know this package.
    enter = [sys.executable, "-m", "meuse.runtime.sandbox.enter", json.dumps(what)]
    outside = _bubblewrap(order, readable, user) if tier == 2 else []
    return [*outside, *enter], environment


def free_user() -> int | None:
    """An identity for one sandbox, when this process may take one."""
    if os.geteuid() != 0:
        return None
    return _FIRST_USER + int.from_bytes(os.urandom(4)) % _USERS


def _bubblewrap(order: Order, readable: list[str], user: int | None) -> list[str]:
    size = str(min(order.limits.memory_bytes, order.limits.file_bytes))
    bwrap = shutil.which("bwrap", path=_search())
    if bwrap is None:
        raise NoSandboxError("bubblewrap is not installed")
    own = ["--unshare-user", "--disable-userns"] if user is None else _capabilities()
    argv = [bwrap, *own, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    argv += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    argv += ["--proc", "/proc", "--dev", "/dev"]
    private = ("/dev/shm", "/tmp")  # noqa: S108  its own; before what is read, which may lie in it
    for path in private:
        argv += ["--perms", "1777", "--size", size, "--tmpfs", path]
    ordered = _outermost(readable)
    above = {str(parent) for path in ordered for parent in Path(path).parents}
    for path in sorted(above - {"/", *private} - set(ordered)):
        argv += ["--perms", "0755", "--dir", path]  # or only root could pass through
    for path in ordered:
        if Path(path).is_symlink():
            argv += ["--symlink", str(Path(path).readlink()), path]
        else:
            argv += ["--ro-bind-try", path, path]
    for path in _SYS:
        argv += ["--ro-bind-try", path, path]
    argv += ["--bind", str(order.folder), INSIDE, "--remount-ro", "/"]
    return [*argv, "--"]


def _capabilities() -> list[str]:
    """Just enough for `enter` to become another user, which gives them up."""
    return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]


def _rlimits(tier: int, limits: Limits, user: int | None) -> dict[str, int]:
    found = {
        "RLIMIT_DATA": limits.memory_bytes,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_CPU": limits.cpu_s,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 1 << 16,
    }
    # Counted per user: of its own in tier 2; in tier 1 no process can be started at all.
    if tier == 2:
        found["RLIMIT_NPROC"] = limits.processes
    elif tier == 0:
        found["RLIMIT_NPROC"] = limits.processes + _threads_of_user()
    return found


def _threads_of_user() -> int:
    """What the kernel counts against this user's limit by now."""
    count, me = 0, os.getuid()
    for status in Path("/proc").glob("[0-9]*"):
        try:
            if status.stat().st_uid == me:
                count += sum(1 for _ in (status / "task").iterdir())
        except OSError:
            continue
    return count


def _outermost(paths: list[str]) -> list[str]:
    """Each once, outer folders before what lies in them."""
    return sorted(dict.fromkeys(paths))


def _python() -> list[Path]:
    """What this interpreter needs to run and to import its packages."""
    places = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent]
    return list(dict.fromkeys([*places, *(p.resolve() for p in places), _source()]))


def _source() -> Path:
    return Path(__file__).resolve().parents[3]


def _search() -> str:
    return "/usr/local/bin:/usr/bin:/bin"
