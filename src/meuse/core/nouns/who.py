"""Who acts, for whom, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TENANT = "default"

DEFAULT_PROJECT = "default"

USAGE_WRITE = "usage:write"

SCOPES = frozenset(
    {"infer", "data", "train", "models", "deploy", "keys", "usage", USAGE_WRITE, "billing", "admin"}
)
"""What a key may be allowed to do. `admin` acts for every tenant; `usage:write` reports usage of
services elsewhere, for the key's own tenant."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose things: every row and every blob belongs to a tenant and a project."""

    tenant: str
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts: the key that called, for whom, and what it may do."""

    key: str
    tenant: str
    project: str
    scopes: frozenset[str]

    @property
    def scope(self) -> Scope:
        return Scope(self.tenant, self.project)

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key at rest: `hash` is HMAC-SHA-256(pepper, key). The key itself is never stored."""

    id: str
    hash: bytes
    name: str
    scope: Scope
    scopes: frozenset[str]
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    plan: str | None
    created_ms: int
