"""The numbers that the platform has to hold, each against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hold:
    """One number to hold: at least (`">="`), at most (`"<="`) or below (`"<"`) the bound."""

    what: str
    sign: str
    bound: float
    value: Callable[[Figures], float | None]
    unit: str = "×"

    def met(self, figures: Figures) -> bool | None:
        value = self.measured(figures)
        if value is None:
            return None
        if self.sign == ">=":
            return value >= self.bound
        return value <= self.bound if self.sign == "<=" else value < self.bound

    def measured(self, figures: Figures) -> float | None:
        """None where this run or this build has no such figure."""
        try:
            return self.value(figures)
        except (KeyError, TypeError):
            return None


def _ratio(peer: str, kind: str = "json 32") -> Callable[[Figures], float | None]:
    return lambda f: f["peers"][peer]["kinds"][kind]["ratio"]


def _more_us(f: Figures) -> float:
    single = f["peers"]["bare"]["kinds"]["json 1"]
    return float(single["meuse"]["p50_us"] - single["other"]["p50_us"])


def _p50_triton(f: Figures) -> float:
    single = f["peers"]["triton"]["kinds"]["json 1"]
    return float(single["meuse"]["p50_us"] / single["other"]["p50_us"])


def _batching(figure: Callable[[Figures], float]) -> Callable[[Figures], float]:
    """Of the model that gains most: the hold speaks of an encoder or a CNN."""

    def best(f: Figures) -> float:
        runs = [r for r in f["batching"].values() if "ratio" in r]
        return figure(max(runs, key=lambda r: r["ratio"])) if runs else f["batching"]["none"]

    return best


def _autoscale_late(f: Figures) -> float | None:
    right: float | None = f["autoscale"]["desired_right_after_s"]
    return right if right is not None or "why" in f["autoscale"] else float("inf")


HOLDS = (
    Hold("MLP, JSON, 32 connections, of the bare ASGI app", ">=", 0.6, _ratio("bare")),
    Hold("MLP, JSON, 1 connection: p50 above the bare app's", "<=", 120, _more_us, "µs"),
    Hold("MLP, JSON, 32 connections, of Triton", ">=", 0.95, _ratio("triton")),
    Hold("MLP, JSON, 1 connection: p50 of Triton's", "<", 1.0, _p50_triton),
    Hold("MLP, JSON, 32 connections, of MLServer", ">=", 8, _ratio("mlserver")),
    Hold("MLP, JSON, 32 connections, of LitServe", ">=", 16, _ratio("litserve")),
    Hold("MLP, JSON, 32 connections, of BentoML", ">=", 29, _ratio("bentoml")),
    Hold("MLP, JSON, 32 connections, of Ray Serve", ">=", 70, _ratio("ray")),
    Hold("gRPC ModelInfer, 8 channels, of MLServer", ">=", 2, _ratio("mlserver", "grpc 8")),
    Hold(
        "dynamic batching against batch 1, 32 clients: throughput",
        ">=",
        1.5,
        _batching(lambda r: float(r["ratio"])),
    ),
    Hold(
        "dynamic batching against batch 1, 32 clients: p95",
        "<=",
        1.0,
        _batching(lambda r: float(r["batched_p95_us"] / r["single_p95_us"])),
    ),
    Hold(
        "overload at 3× the knee: goodput, of the knee's",
        ">=",
        0.8,
        lambda f: float(f["overload"]["goodput_ratio"]),
    ),
    Hold(
        "overload: another tenant's p99, of its objective",
        "<=",
        1.0,
        lambda f: float(
            f["overload"]["neighbour"]["p99_us"] / f["overload"]["neighbour_objective_ms"] / 1000
        ),
    ),
    Hold(
        "cold start from zero with the spare process",
        "<=",
        500,
        lambda f: float(f["cold start"]["median_ms"]),
        "ms",
    ),
    Hold("step from 1 to 50 ongoing: desired is right after", "<=", 3, _autoscale_late, "s"),
)


def judged(figures: Figures, holds: Sequence[Hold] = HOLDS) -> list[Figures]:
    """Every hold with its measured value and met, missed or not measured."""
    words = {True: "met", False: "missed", None: "not measured"}
    return [
        {
            "what": hold.what,
            "hold": f"{hold.sign} {hold.bound:g} {hold.unit}",
            "measured": hold.measured(figures),
            "unit": hold.unit,
            "verdict": words[hold.met(figures)],
        }
        for hold in holds
    ]
