"""W3C Trace Context (level 1, https://www.w3.org/TR/trace-context/): which trace a call is of.

Pure and strict: what is malformed counts as absent, as the specification asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# What later versions append must be set off by a dash; version 00 appends nothing.
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER = re.compile(rb"(" + _KEY + rb")=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MEMBERS = 32


@dataclass(frozen=True, slots=True)
class Trace:
    """The caller's span. Ids are lower-case hexadecimal; `state` is empty where there is none."""

    trace_id: str
    parent_id: str
    sampled: bool
    state: str = ""


def read(headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """The trace that headers (names in lower case) belong to; None without a valid one."""
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value.strip(b" \t"))
        elif name == b"tracestate":
            states.append(value)
    if len(parents) != 1:
        return None
    found = _PARENT.fullmatch(parents[0])
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not parent_id.strip(b"0"):
        return None
    sampled = bool(int(flags, 16) & 1)
    return Trace(trace_id.decode(), parent_id.decode(), sampled, _state(states))


def _state(values: list[bytes]) -> str:
    """Members of all headers in their order; empty when one is malformed or a key comes twice."""
    kept: list[bytes] = []
    keys: set[bytes] = set()
    for member in b",".join(values).split(b","):
        # Spaces around a member are not its own.
        member = member.strip(b" \t")  # noqa: PLW2901
        if not member:
            continue
        found = _MEMBER.fullmatch(member)
        if found is None or found[1] in keys:
            return ""
        keys.add(found[1])
        kept.append(member)
    return b",".join(kept).decode() if len(kept) <= _MEMBERS else ""
