"""What gateway workers know: an immutable picture of keys, tenants and routes.

Control writes it (`write`), workers read it (`read`) and swap it whole. A file, so that a
worker that starts while control is down still serves.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from meuse.core.nouns import Limit, PriceTable


class KeyEntry(msgspec.Struct, frozen=True):
    hash: bytes
    tenant: str
    project: str
    scopes: frozenset[str]
    expires_ms: int | None = None


class TenantEntry(msgspec.Struct, frozen=True):
    plan_version: str | None = None  # "basic:3", stamped on every usage record


class TensorEntry(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    nullable: bool = False


class ReplicaEntry(msgspec.Struct, frozen=True):
    """One replica: listens on `<sockets>/<id>.sock`, marks its batch in `<sockets>/<id>.page`."""

    id: str


class AdapterEntry(msgspec.Struct, frozen=True):
    """A LoRA adapter: its version, and the digest of its manifest, by which replicas know it."""

    version: str
    digest: str
    created_ms: int = 0


class GenerationEntry(msgspec.Struct, frozen=True):
    """What a version that produces text can take; fields as in `generation.manifest`."""

    context: int
    tokens_per_byte: float = 1.0
    template_tokens: int = 64
    family: str = ""
    loras: dict[str, AdapterEntry] = {}
    """By the name that follows the deployment's."""


class UpstreamEntry(msgspec.Struct, frozen=True):
    """A server that answers for a version by HTTP: what it calls the model, under which URL
    (`https://host/v1`), and the sealed key that it is asked with, empty for none.

    Our own replica (`own`) is on loopback; without a URL, requests wait for the next one."""

    url: str
    model: str
    sealed: bytes = b""
    own: bool = False


class TargetEntry(msgspec.Struct, frozen=True):
    """A version that takes traffic. `version` is `model:number`."""

    version: str
    weight: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    replicas: tuple[ReplicaEntry, ...]
    classes: tuple[str | int, ...] | None = None
    platform: str = "onnx"
    created_ms: int = 0
    generation: GenerationEntry | None = None
    upstream: UpstreamEntry | None = None


class ShadowEntry(msgspec.Struct, frozen=True):
    """A version that is asked as well; never one that callers are given answers of."""

    target: TargetEntry
    percent: int


class CacheEntry(msgspec.Struct, frozen=True):
    ttl_s: float
    max_bytes: int


class DeploymentEntry(msgspec.Struct, frozen=True):
    tenant: str
    project: str
    name: str
    generation: int
    access: frozenset[str]  # tenants besides the owner; "*" is everyone
    timeout_ms: int
    # Only ready ones, or, where nothing runs, those that wait for a replica.
    targets: tuple[TargetEntry, ...]
    objective_ms: int | None = None
    sticky: str | None = None  # "key", "header:<name>"
    shadow: ShadowEntry | None = None
    cache: CacheEntry | None = None
    wake: bool = False
    """At zero replicas a request waits, and control is told that it does."""

    def allows(self, tenant: str) -> bool:
        return tenant == self.tenant or tenant in self.access or "*" in self.access


class Snapshot(msgspec.Struct, frozen=True):
    number: int = 0
    keys: dict[str, KeyEntry] = {}
    tenants: dict[str, TenantEntry] = {}
    deployments: dict[str, DeploymentEntry] = {}  # by "owner/name"
    limits: tuple[Limit, ...] = ()
    prices: dict[str, PriceTable] = {}
    """By plan version; of those in force, where a budget counts money."""


EMPTY = Snapshot()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the file as a whole; it is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.msgpack.encode(snapshot))
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(0o600)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> Snapshot:
    """The last published snapshot; `EMPTY` (number 0) when there is none yet."""
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return EMPTY
