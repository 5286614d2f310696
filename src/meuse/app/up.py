"""`meuse up`: check what may be bound, prepare the home, become the supervisor.

Standard library only: this process runs for years and must not fail.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import ipaddress
import os
import resource
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.version import __version__
from meuse.data import hosts
from meuse.runtime import takeover
from meuse.runtime.home import AlreadyRunningError
from meuse.runtime.listening import PortError
from meuse.runtime.plan import Plan
from meuse.runtime.supervisor import Supervisor
from meuse.settings import Settings, load


def main(argv: Sequence[str]) -> int:
    parser = options_of_up()
    parser.add_argument("--state", type=int)
    options = vars(parser.parse_args(argv))
    memory = options.pop("state")
    os.umask(0o077)  # databases, logs and blobs are the owner's alone
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # every connection is one
    try:
        settings = load(**options)
        up(settings, _without_state(argv), lambda what: greet(settings, what), memory)
    except MeuseError as error:
        sys.stderr.write(f"meuse: {error}\n")
        return 1
    return 0


def options_of_up() -> argparse.ArgumentParser:
    """The options that a user gives; a `None` was not given."""
    parser = argparse.ArgumentParser(prog="meuse up")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--host")
    for number in ("http-port", "grpc-port", "workers"):
        parser.add_argument(f"--{number}", type=int)
    parser.add_argument("--insecure", action="store_true", default=None)
    return parser


def _without_state(argv: Sequence[str]) -> list[str]:
    """What to execute the next image with; ours was told its state last."""
    return list(argv[: argv.index("--state")] if "--state" in argv else argv)


def greet(settings: Settings, what: dict[str, Any]) -> None:
    host = f"[{what['host']}]" if ":" in what["host"] else what["host"]
    sys.stdout.write(
        f"Meuse listens on http://{host}:{what['http_port']} and grpc://{host}:{what['grpc_port']}\n"
        f"  home               {settings.home}\n"
        f"  administrator key  {settings.admin_key}\n"
        f"  logs               {settings.logs}\n"
        "Ctrl-C drains and stops.\n"
    )
    sys.stdout.flush()


def up(
    settings: Settings,
    argv: Sequence[str],
    ready: Callable[[dict[str, Any]], None],
    memory: int | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. `ready` is told the ports once they are bound.

    `argv` are the options that led to `settings`; `memory` is what an earlier image of this
    process left.

    Raises `invalid_field` for a binding that would be open to the network in clear text,
    `conflict` when this home is running already.
    """
    check_binding(settings)
    check_tracing(settings)
    hosts.parse(settings.data_allowed_hosts)
    hosts.parse(settings.pull_allowed_hosts)
    hosts.parse(settings.external_hosts)
    prepare(settings)
    plan = Plan(
        home=settings.home,
        host=settings.host,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        roles=commands.roles(settings),
        worker=commands.worker(settings),
        workers=settings.worker_count,
        again=commands.up(argv),
        check=commands.check(argv, takeover.FORMAT),
        version=__version__,
        run_file=settings.run_file,
        logs=settings.logs,
    )
    try:
        Supervisor(plan, ready, memory).run()
    except AlreadyRunningError:
        raise MeuseError(
            Code.CONFLICT,
            f"a platform with the home {settings.home} is running already",
            hint="Stop it, or choose another home with MEUSE_HOME.",
        ) from None
    except PortError as error:
        raise invalid("port", str(error), "Use another port, or 0.") from None


def check_binding(settings: Settings) -> None:
    """Only loopback is served without TLS, unless the operator says so aloud."""
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        raise invalid("host", f"{settings.host!r} is not an address", "Use 127.0.0.1.") from None
    if not loopback and not settings.insecure:
        raise invalid(
            "host",
            f"{settings.host} is not loopback and there is no TLS",
            "Put a TLS proxy in front of 127.0.0.1, or say --insecure.",
        )


def check_tracing(settings: Settings) -> None:
    """Traces need packages that the base installation has not."""
    if not settings.otlp_endpoint:
        return
    for package in ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"):
        try:
            importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            raise invalid(
                "otlp_endpoint",
                f"traces are exported by {package}, which is not installed",
                "pip install 'meuse[otel]', or leave otlp_endpoint empty.",
            ) from None


def prepare(settings: Settings) -> None:
    """Make the home's folders, the pepper of keys and the key that seals others' secrets."""
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (settings.journal, settings.blobs, settings.jobs, settings.pepper.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for secret in (settings.pepper, settings.sealing_key):
        if not secret.exists():
            write_secret(secret, secrets.token_bytes(32))


def write_secret(path: os.PathLike[str], data: bytes) -> None:
    """Write a file that only its owner can read; it is there whole or not at all."""
    fresh = f"{os.fspath(path)}.new"
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)  # noqa: PTH105  a PathLike, not a Path
