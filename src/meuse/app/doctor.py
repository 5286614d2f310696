"""`meuse doctor`: what is on this machine, what of it works, and what to do where not."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from meuse.core.errors import MeuseError
from meuse.meter import segments
from meuse.runtime import sandbox, toolchains
from meuse.runtime.toolchains import Toolchain
from meuse.settings import Settings
from meuse.store.database import Database

GIB = 1 << 30

EXTRAS = {
    "serve ONNX models": (("onnxruntime",), "pip install 'meuse[onnx]'"),
    "train and compress": (("torch", "onnxscript", "safetensors"), "pip install 'meuse[train]'"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    finding: str


def examine(settings: Settings) -> list[Finding]:
    """Run every check; a check that fails says how to mend it. Changes nothing."""
    checks: dict[str, Callable[[Settings], tuple[bool, str]]] = {
        "python": _python,
        "home": _home,
        "disk": _disk,
        "secrets": _secrets,
        "database": _database,
        "platform": _platform,
        "journal": _journal,
        "sandbox": _sandbox,
    }
    findings = []
    for name, check in checks.items():
        try:
            ok, text = check(settings)
        except (OSError, ValueError, MeuseError, sa.exc.SQLAlchemyError) as error:
            ok, text = False, f"{type(error).__name__}: {error}"
        findings.append(Finding(name, ok, text))
    for name, (modules, fix) in EXTRAS.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        text = f"missing {', '.join(missing)}: {fix}" if missing else "installed"
        findings.append(Finding(name, not missing, text))
    for name, chain in toolchains.KNOWN.items():
        there = toolchains.find(name, settings.toolchains)
        text = f"installed in {there.path}" if there else _absent(chain)
        findings.append(Finding(f"toolchain {name}", True, text))  # on demand: no fault either way
    return findings


def _absent(chain: Toolchain) -> str:
    return (
        f"not installed; {chain.summary}: meuse toolchains install {chain.name} "
        f"(downloads about {chain.download_mib} MiB)"
    )


def _python(_: Settings) -> tuple[bool, str]:
    version = platform.python_version_tuple()
    supported = ("3", "11") <= version[:2] <= ("3", "13") and platform.system() == "Linux"
    return supported, f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} cores"


def _home(settings: Settings) -> tuple[bool, str]:
    if not settings.home.exists():
        return True, f"{settings.home} will be made by `meuse up`"
    return os.access(settings.home, os.W_OK), str(settings.home)


def _disk(settings: Settings) -> tuple[bool, str]:
    place = settings.home if settings.home.exists() else settings.home.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return free > GIB, f"{free / GIB:.1f} GiB free" + ("" if free > GIB else ": make room")


def _secrets(settings: Settings) -> tuple[bool, str]:
    there = [path for path in (settings.admin_key, settings.pepper) if path.exists()]
    wide = [path for path in there if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if wide:
        return False, f"others can read {wide[0]}: chmod 600 it"
    return True, "only the owner reads them" if there else "none yet"


def _database(settings: Settings) -> tuple[bool, str]:
    url = settings.database("meuse")
    if url.startswith("sqlite") and not (settings.home / "meuse.db").exists():
        return True, "SQLite; made at the first start"
    database = Database(url)
    with database.read() as connection:
        jobs = connection.execute(sa.text("SELECT count(*) FROM job")).scalar()
    database.close()
    return True, f"{database.url.get_backend_name()}, {jobs} jobs"


def _platform(settings: Settings) -> tuple[bool, str]:
    if not settings.run_file.exists():
        return True, "not running"
    what = json.loads(settings.run_file.read_text())
    dead = [n for n, p in what["processes"].items() if not _alive(p["pid"])]
    if not _alive(what["pid"]):
        return False, "the supervisor was killed; `meuse up` cleans up after it"
    if dead:
        return False, f"not running: {', '.join(dead)}; see {settings.logs}"
    return True, f"http://{what['host']}:{what['http_port']}, {len(what['processes'])} processes"


def _journal(settings: Settings) -> tuple[bool, str]:
    """Where usage waits, by what rules, and whether any of it is stuck."""
    waiting = segments.list_segments(settings.journal) if settings.journal.exists() else []
    size = sum(path.stat().st_size for path in waiting)
    live = sum(not segments.is_released(path) for path in waiting)
    told = (
        f"{settings.journal_mode}, on a full disk {settings.journal_full}; {len(waiting)} "
        f"segments ({live} written now), {size} bytes"
    )
    stuck = _quarantined(settings, {path.name for path in waiting})
    if stuck:
        return False, f"{told}; quarantined: {', '.join(stuck)}: mend or remove the file"
    return True, told


def _quarantined(settings: Settings, waiting: set[str]) -> list[str]:
    """Segments whose rest the ledger could not read, of those that are still there."""
    url = settings.database("money")
    if not waiting or (url.startswith("sqlite") and not (settings.home / "money.db").exists()):
        return []
    database = Database(url)
    try:
        with database.read() as connection:
            query = sa.text("SELECT segment FROM journal_cursor WHERE state = 'quarantined'")
            return sorted(waiting.intersection(connection.execute(query).scalars()))
    finally:
        database.close()


def _sandbox(settings: Settings) -> tuple[bool, str]:
    found = sandbox.survey()
    ok = found.tier >= settings.sandbox_tier
    refused = "" if ok else f"; imports and custom code are refused below {settings.sandbox_tier}"
    return ok, found.text + refused


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
