"""Holds and the readable report, from made-up figures."""

from __future__ import annotations

from typing import Any

import holds
import tables


def side(rate: float, p50_us: float) -> dict[str, float]:
    return {
        **{"rate": rate, "p50_us": p50_us, "p95_us": p50_us * 2, "p99_us": p50_us * 3},
        "cpu_s_per_1000": 0.1,
    }


def figures(ratio: float) -> dict[str, Any]:
    kinds = {
        "json 32": {"ratio": ratio, "meuse": side(ratio * 1000, 900), "other": side(1000, 800)},
        "json 1": {"ratio": 0.5, "meuse": side(500, 300), "other": side(1000, 100)},
        "binary 32": {"ratio": None, "meuse": None, "other": side(1000, 100)},
    }
    return {
        "limits": "on",
        "clients": {"http": "wrk", "grpc": "h2load"},
        "seconds": 60.0,
        "idle_cpu": 0.01,
        "load_before": 0.2,
        "settings": {"meuse": "2 workers"},
        "resident_mb": {"control": 100.0},
        "peers": {"bare": {"kinds": kinds, "open": {}}, "ray": {"absent": "no wheel | here"}},
        "autoscale": {"why": "not available on this build: autoscaling"},
        "cold start": {"median_ms": 400.0, "all_ms": [400.0], "warm_ms": 2.0},
    }


def verdicts(body: dict[str, Any]) -> dict[str, str]:
    return {hold["what"]: hold["verdict"] for hold in holds.judged(body)}


def test_a_hold_is_met_missed_or_not_measured() -> None:
    """Absent peers and missing features are never taken for a figure."""
    found = verdicts(figures(0.61))
    assert found["MLP, JSON, 32 connections, of the bare ASGI app"] == "met"
    assert found["MLP, JSON, 1 connection: p50 above the bare app's"] == "missed"
    assert found["MLP, JSON, 32 connections, of Ray Serve"] == "not measured"
    assert found["step from 1 to 50 ongoing: desired is right after"] == "not measured"
    assert found["cold start from zero with the spare process"] == "met"
    found = verdicts(figures(0.59))
    assert found["MLP, JSON, 32 connections, of the bare ASGI app"] == "missed"


def test_an_autoscaler_that_never_got_it_right_missed_its_hold() -> None:
    """No right count at all is worse than a late one, not a gap in the report."""
    body = figures(1.0)
    body["autoscale"] = {"wanted": 5, "desired_right_after_s": None, "seen": []}
    assert verdicts(body)["step from 1 to 50 ongoing: desired is right after"] == "missed"


def test_the_page_shows_every_peer_and_why_one_is_absent() -> None:
    """Each table has its rows, and a reason cannot break a table."""
    body = figures(0.61)
    body["holds"] = holds.judged(body)
    page = tables.page(
        {
            **{"date": "2026-11-24", "commit": "abc", "figures": body},
            "machine": {"processor": "x", "cores": 2, "python": "3.11"},
        }
    )
    assert "| bare | json 32 | 1,000 | 0.80 | 2.40 | 0.100 | 610 req/s" in page
    assert "absent: no wheel / here" in page
    assert "not available on this build: autoscaling" in page
