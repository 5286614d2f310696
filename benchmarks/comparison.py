"""The platform beside one other server: A/B pairs of every kind of load that both take.

A pair is one run against the platform and one against the other, right after each other; the
ratio is the median over pairs, so that a machine whose speed drifts does not decide.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import clients
from servers import Server

Figures = dict[str, Any]
RATES = (200.0, 2_000.0, 8_000.0)
"""Open-loop rates; those above 0.7 of what a server did in the closed loop are left out."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of one run: saturation, one connection, open loop, warm-up."""

    saturation: float = 4.0
    single: float = 2.0
    open: float = 3.0
    warm: float = 1.0


def kinds(server: Server, lengths: Lengths) -> dict[str, Callable[[], Figures]]:
    """Every kind of load that a server takes, by name."""
    s = server
    found: dict[str, Callable[[], Figures]] = {
        "json 32": lambda: clients.saturate(s.port, s.json, s.group, lengths.saturation),
        "json 1": lambda: clients.closed(s.port, s.json, s.group, lengths.single),
    }
    if (oip := s.oip) is not None:
        found["oip 32"] = lambda: clients.saturate(s.port, oip, s.group, lengths.saturation)
    if (binary := s.binary) is not None:
        found["binary 32"] = lambda: clients.saturate(s.port, binary, s.group, lengths.saturation)
    if s.grpc is not None and s.grpc_port is not None:
        port, message = s.grpc_port, s.grpc
        found["grpc 8"] = lambda: clients.grpc(
            port, message, s.grpc_headers, s.group, lengths.saturation
        )
    return found


def pair(ours: Server, other: Server, lengths: Lengths) -> Figures:
    """One run of each kind against both: {kind: {meuse, other, ratio}}.

    Raises LoadError that starts with the name of the server whose requests failed.
    """
    mine, theirs = kinds(ours, lengths), kinds(other, lengths)
    figures: Figures = {}
    for server in (ours, other):
        warm = partial(clients.saturate, server.port, server.json, server.group, lengths.warm)
        _blamed(f"{server.name}, warm-up", warm)
    for kind, run in theirs.items():
        a = _blamed(f"{ours.name}, {kind}", mine[kind]) if kind in mine else None
        b = _blamed(f"{other.name}, {kind}", run)
        ratio = a["rate"] / b["rate"] if a else None
        figures[kind] = {"meuse": a, "other": b, "ratio": ratio}
    return figures


def _blamed(who: str, run: Callable[[], Figures]) -> Figures:
    try:
        return run()
    except clients.LoadError as error:
        raise clients.LoadError(f"{who}: {error}") from None


def latency(server: Server, saturation: float, lengths: Lengths) -> Figures:
    """Open-loop latency at the fixed rates that the server can take."""
    return {
        f"{rate:,.0f}/s": clients.open_loop(
            server.port, server.json, server.group, rate, lengths.open
        )
        for rate in RATES
        if rate <= 0.7 * saturation
    }


def summary(rounds: Sequence[Figures]) -> Figures:
    """Medians over rounds: of the ratios, and of every figure of both sides."""
    found: Figures = {}
    for kind in rounds[0]:
        pairs = [r[kind] for r in rounds if kind in r]
        ratios = [p["ratio"] for p in pairs if p["ratio"] is not None]
        found[kind] = {
            "ratio": statistics.median(ratios) if ratios else None,
            "ratios": ratios,
            "meuse": medians([p["meuse"] for p in pairs if p["meuse"]]),
            "other": medians([p["other"] for p in pairs]),
        }
    return found


def medians(runs: Sequence[Figures]) -> Figures:
    names = ("rate", "p50_us", "p95_us", "p99_us", "cpu_s_per_1000")
    return {
        name: statistics.median(r[name] for r in runs)
        for name in names
        if runs and all(r.get(name) is not None for r in runs)
    }
