"""A real Postgres for tests: its own folder, its own process, gone at the end.

Knows where Debian and PATH keep the programs, and nothing of the tests that use it.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


class PostgresMissingError(Exception):
    """There is no Postgres on this machine, or no user to run it as; the text says which."""


@contextmanager
def temporary_postgres(durable: bool = False) -> Iterator[Callable[[], str]]:
    """Start a server on a unix socket; yields a function that makes a database → its URL.

    Nothing is fsynced unless it is `durable`, as one is that keeps money. The server ends with
    the block, and with the death of this process.
    Raises `PostgresMissingError`.
    """
    programs, user = _programs(), _user()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=None if durable else _fastest_disk()))
    data = folder / "data"
    try:
        if user is not None:
            shutil.chown(folder, user)
        as_user = {} if user is None else {"user": user, "extra_groups": []}
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "meuse", "--auth=trust", "--no-sync",
             "--encoding=UTF8", "--locale=C", "--no-instructions"],
            check=True, capture_output=True, cwd=folder, **as_user,
        )  # fmt: skip
        options = {
            "listen_addresses": "", "unix_socket_directories": str(folder),
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "max_connections": "60", "shared_buffers": "64MB",
        }  # fmt: skip
        if durable:
            options |= dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "on")
            options["shared_buffers"] = "512MB"
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data]
                + [part for key, value in options.items() for part in ("-c", f"{key}={value}")],
                stdout=log, stderr=log, cwd=folder, **as_user,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - before any thread of ours
            )  # fmt: skip
        try:
            yield _database_maker(server, folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # immediate: there is nothing worth saving
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    on_path = shutil.which("postgres")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in ([Path(on_path).resolve().parent] if on_path else []) + found:
        if all((folder / name).exists() for name in ("initdb", "postgres")):
            return folder
    raise PostgresMissingError("no initdb and postgres on PATH or in /usr/lib/postgresql/*/bin")


def _fastest_disk() -> str:
    """Memory where there is plenty. Short paths: a unix socket's name has at most 107 bytes."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 1024**3
    return str(memory) if roomy and os.access(memory, os.W_OK) else "/tmp"


def _user() -> str | None:
    """Postgres refuses to run as root; None keeps the user we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise PostgresMissingError("we are root, and there is no user postgres or nobody to run as")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


def _database_maker(server: subprocess.Popen[bytes], folder: Path) -> Callable[[], str]:
    def url(name: str) -> str:
        return f"postgresql://meuse@/{name}?host={folder}"

    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url("postgres")).close()
            break
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log").read_text()) from None
            time.sleep(0.05)
    made = 0

    def new_database() -> str:
        nonlocal made
        made += 1
        with psycopg.connect(url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE test{made} TEMPLATE template0")
        return url(f"test{made}")

    return new_database
