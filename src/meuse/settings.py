"""Settings: MEUSE_HOME/meuse.toml and the environment, read once into one frozen record.

Standard library only; every process reads the same record. The environment wins over the
file: `http_port` is `MEUSE_HTTP_PORT`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from meuse.core.errors import invalid

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator can turn. Ports of 0 take a free port."""

    home: Path
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081
    workers: int = 0
    """Gateway workers; 0 takes one per core."""
    insecure: bool = False
    """Allow a binding other than loopback without TLS."""
    database_url: str = ""
    """A postgresql:// URL; empty keeps SQLite files in the home."""
    environment: str = "live"
    """The middle of every key: meuse_<environment>_…"""
    max_body_bytes: int = 16 * MIB
    """Largest inference request, REST and gRPC alike."""
    max_upload_bytes: int = 1024 * MIB
    """Largest dataset in one request; larger ones come in parts."""
    max_dataset_bytes: int = 16 * 1024 * MIB
    """Largest dataset that comes in parts or by URL, as it is uploaded."""
    max_open_uploads: int = 16
    """Most uploads in parts of one tenant at once; together they hold `max_dataset_bytes` × 2 at
    most."""
    upload_expiry_s: float = 86400.0
    """How long an upload in parts may rest before it is thrown away."""
    data_allowed_hosts: str = ""
    """Hosts that datasets may be fetched from, parted by commas; empty: none. An entry is
    [http://]host[:port][@ipv4|@ipv6]: https unless it says http, and public addresses only
    unless it names a family."""
    data_fetch_seconds: float = 3600.0
    """Longest time that fetching a dataset by URL may take."""
    max_model_bytes: int = 1024 * MIB
    """Largest model in one request."""
    max_file_bytes: int = 512 * MIB
    """Largest file of the OpenAI API (`/v1/files`)."""
    max_tenant_file_bytes: int = 16 * 1024 * MIB
    """Most bytes of a tenant's files of the OpenAI API together; 0: no limit."""
    job_concurrency: int = 0
    """Jobs that run at once; 0: one per two cores."""
    job_memory_bytes: int = 0
    """Most data memory of one job; 0: three quarters of the machine's."""
    jobs_memory_bytes: int = 0
    """Most memory of all running jobs together, by their estimates; 0: three quarters of the
    machine's."""
    jobs_running_per_tenant: int = 0
    """Most jobs of one tenant at once; 0: as many as there is room for."""
    jobs_queued_per_tenant: int = 1000
    """Most jobs of one tenant that wait or are paused; 0: no limit."""
    job_nursery_s: float = 300.0
    """How long after a job the process is kept that jobs are forked from, so that they need not
    import anything; it has some 400 MB. 0: there is none."""
    job_pause_grace_s: float = 30.0
    """How long a job that is paused has to keep its checkpoint, before its process is ended."""
    sandbox_tier: int = 1
    """The least tier of sandbox in which foreign code may run: custom training code, pickled
    models on their way to ONNX. 0 allows it with resource limits alone."""
    sandbox_wall_s: float = 3600.0
    """Longest run of custom code or of a conversion."""
    import_folders: str = ""
    """Folders that models may be imported from by path, parted by colons; empty: none."""
    pull_index: str = ""
    """URL of the package index that models are pulled from; empty: as pip is configured,
    "none": no index."""
    pull_allowed_hosts: str = ""
    """Hosts that models may be pulled from by URL, as `data_allowed_hosts`; empty: none."""
    max_pull_bytes: int = 64 * 1024 * MIB
    """Largest model that is pulled."""
    pull_seconds: float = 24 * 3600.0
    """Longest time that pulling a model by URL may take."""
    external_hosts: str = ""
    """Hosts of servers that deployments may stand in front of, as `data_allowed_hosts`; empty:
    none."""
    webhook_hosts: str = ""
    """Hosts that webhooks may point to although they are not https or not public, as
    `data_allowed_hosts`. Public hosts need no entry."""
    vllm_python: str = ""
    """The interpreter of the environment that vLLM is installed in; empty: there is none."""
    replica_threads: int = 1
    """Engine threads of one replica."""
    max_replicas: int = 32
    """Most replicas of all deployments together."""
    spare_replicas: int = 1
    """Processes per engine that wait without a model, so that one starts at once; 0: none."""
    replica_memory_bytes: int = 0
    """Most memory of all replicas together; 0: three quarters of the machine's."""

    seller_name: str = ""
    """Who invoices are from, as it stands on them."""
    seller_address: str = ""
    """Its lines, parted by semicolons."""
    seller_tax_id: str = ""
    seller_email: str = ""
    payment_terms: str = ""
    """How to pay, as it stands on invoices: an account, a link."""
    invoice_due_days: int = 30
    """From the day that an invoice is issued, unless its tenant's billing details say other."""
    invoice_grace_s: float = 3 * 86400.0
    """How long after a period's end late records are waited for, before it is invoiced."""
    invoice_series: str = "INV"
    """The begin of invoice numbers: INV-2026-000001, without gaps in each year."""
    credit_note_series: str = "CN"
    """The begin of credit notes' numbers."""
    invoice_font: str = ""
    """A TrueType file for invoices as PDF; empty: DejaVu Sans where the system has it."""
    reconcile_hour: int = 3
    """The hour of UTC at which records, invoices and ledger are compared; -1: never by itself."""
    journal_mode: str = "group"
    """When a usage record is on the disk. group: within 50 ms (it survives kill -9 at once);
    strict: before the answer ends, which costs each answer an fsync that it shares."""
    journal_full: str = "refuse"
    """What is done when the disk takes no usage record. refuse: 503; serve: answer, and count
    what is lost. Whoever has a hard budget is refused in any case."""

    log_requests: bool = False
    """One JSON line per inference request in the worker's log."""
    otlp_endpoint: str = ""
    """Base URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces."""
    trace_ratio: float = 1.0
    """The share of requests traced among those that come without a trace of their own."""

    @property
    def worker_count(self) -> int:
        return self.workers or os.cpu_count() or 1

    @property
    def jobs_at_once(self) -> int:
        return self.job_concurrency or max(1, (os.cpu_count() or 1) // 2)

    @property
    def journal(self) -> Path:
        return self.home / "journal"

    @property
    def limits(self) -> Path:
        """The cells that this host's workers count limits in."""
        return self.home / "limits" / "cells"

    @property
    def snapshot(self) -> Path:
        return self.home / "snapshot" / "current.msgpack"

    @property
    def blobs(self) -> Path:
        return self.home / "blobs"

    @property
    def files(self) -> Path:
        """Blobs of the OpenAI API's files: they are deleted without a look at other blobs."""
        return self.home / "files"

    @property
    def archive(self) -> Path:
        """Blobs of usage records that have left the database."""
        return self.home / "usage"

    @property
    def jobs(self) -> Path:
        return self.home / "jobs"

    @property
    def toolchains(self) -> Path:
        return self.home / "toolchains"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def admin_key(self) -> Path:
        return self.home / "admin.key"

    @property
    def pepper(self) -> Path:
        return self.home / "secrets" / "pepper"

    @property
    def sealing_key(self) -> Path:
        """What secrets of other servers are encrypted with."""
        return self.home / "secrets" / "sealing"

    @property
    def run_file(self) -> Path:
        """What `meuse up` started: ports and processes, for the CLI of the same home."""
        return self.home / "run.json"

    def database(self, name: str) -> str:
        """The URL of one of the databases: meuse, jobs or money."""
        return self.database_url or f"sqlite:///{self.home / name}.db"


_BOUNDS = (
    ("http_port", 0, 65535),
    ("grpc_port", 0, 65535),
    ("workers", 0, 256),
    ("max_body_bytes", 1024, 512 * MIB),
    ("max_upload_bytes", 1024, 16 * 1024 * MIB),
    ("max_dataset_bytes", 1024, 16 * 1024 * MIB),
    ("max_open_uploads", 1, 4096),
    ("upload_expiry_s", 1.0, 365 * 86400.0),
    ("data_fetch_seconds", 1.0, 7 * 86400.0),
    ("max_pull_bytes", 1024, 1 << 50),
    ("pull_seconds", 1.0, 30 * 86400.0),
    ("max_file_bytes", 1024, 16 * 1024 * MIB),
    ("max_tenant_file_bytes", 0, 1 << 60),
    ("max_model_bytes", 1024, 2 * 1024 * MIB),  # what a single ONNX file can hold
    ("job_concurrency", 0, 64),
    ("job_memory_bytes", 0, 1 << 50),
    ("jobs_memory_bytes", 0, 1 << 50),
    ("jobs_running_per_tenant", 0, 4096),
    ("jobs_queued_per_tenant", 0, 1_000_000),
    ("job_nursery_s", 0.0, 30 * 86400.0),
    ("job_pause_grace_s", 0.0, 86400.0),
    ("sandbox_tier", 0, 2),
    ("sandbox_wall_s", 1.0, 30 * 86400.0),
    ("replica_threads", 1, 256),
    ("max_replicas", 1, 4096),
    ("spare_replicas", 0, 16),
    ("replica_memory_bytes", 0, 1 << 50),
    ("invoice_due_days", 0, 365),
    ("invoice_grace_s", 0.0, 90 * 86400.0),
    ("reconcile_hour", -1, 23),
    ("trace_ratio", 0.0, 1.0),
)

_CHOICES = (("journal_mode", ("group", "strict")), ("journal_full", ("refuse", "serve")))


def default_home() -> Path:
    return Path(os.environ.get("MEUSE_HOME") or Path.home() / ".meuse").absolute()


def load(home: Path | None = None, env: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Read the file and the environment; `given` (command-line options, None = not given) wins.

    Raises `invalid_field` for an unknown key or a value of the wrong type.
    """
    home = (home or default_home()).absolute()
    env = os.environ if env is None else env
    path = home / "meuse.toml"
    values: dict[str, Any] = {}
    known = {f.name: f for f in fields(Settings) if f.name != "home"}
    if path.exists():
        try:
            values = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise invalid("meuse.toml", f"{path} is not TOML: {error}") from None
    for key in values:
        if key not in known:
            raise invalid(key, f"{path} has an unknown setting", f"Known: {', '.join(known)}.")
    for key in known:
        text = env.get(f"MEUSE_{key.upper()}")
        if text is not None:
            values[key] = text
    values.update({key: value for key, value in given.items() if value is not None})
    settings = Settings(
        home=home, **{k: _typed(k, v, type(known[k].default)) for k, v in values.items()}
    )
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if re.fullmatch(r"[a-z]{1,16}", settings.environment) is None:
        raise invalid(
            "environment", f"{settings.environment!r} cannot stand in a key", "Use a to z, 1 to 16."
        )
    if (
        settings.otlp_endpoint
        and re.fullmatch(r"https?://[^\s/]+\S*", settings.otlp_endpoint) is None
    ):
        raise invalid(
            "otlp_endpoint", f"{settings.otlp_endpoint!r} is not a URL",
            "For example http://127.0.0.1:4318.",
        )  # fmt: skip
    for name in ("invoice_series", "credit_note_series"):
        if re.fullmatch(r"[A-Z][A-Z0-9-]{0,15}", getattr(settings, name)) is None:
            raise invalid(
                name, f"{getattr(settings, name)!r} cannot begin a number",
                "Use a capital letter, then capital letters, digits and dashes, 16 at most.",
            )  # fmt: skip
    if settings.invoice_series == settings.credit_note_series:
        raise invalid(
            "credit_note_series", "invoices are numbered with it", "Number credit notes apart."
        )
    for name, allowed in _CHOICES:
        if getattr(settings, name) not in allowed:
            raise invalid(name, f"{getattr(settings, name)!r} is not {' or '.join(allowed)}")
    for name, low, high in _BOUNDS:
        if not low <= getattr(settings, name) <= high:
            raise invalid(name, f"{getattr(settings, name)} is not from {low} to {high}")


def _typed(key: str, value: Any, wanted: type) -> Any:
    try:
        if wanted is bool:
            return {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
        if wanted in (int, float) and isinstance(value, bool):
            raise ValueError
        return wanted(value)
    except (ValueError, KeyError):
        raise invalid(key, f"{value!r} is not a {wanted.__name__}") from None
