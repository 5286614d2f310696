"""The gate of an alias: whether a version may take the place of another. Pure.

Knows records of evaluations as JSON (`evaluate.record`), newest first; no store, no numpy.
Decides by the point estimates, tells the intervals: a wide one asks for more rows, not for
another answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import known, real
from meuse.core.figures import PER_TOKEN, higher_is_better, primary
from meuse.core.references import parse_data

Evaluations = Sequence[Mapping[str, Any]]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Gate:
    """What an alias asks of a version: `metric` (None: the task's first figure) may be worse
    by at most `max_drop`, in the unit of the metric, on `data` (None: any that both know)."""

    metric: str | None = None
    max_drop: float = 0.0
    data: str | None = None

    @classmethod
    def from_dict(cls, body: object, field: str = "gate") -> Gate:
        """Raises `invalid_field` at `gate` or `gate.<name>`."""
        if not isinstance(body, Mapping):
            raise invalid(field, "a gate is an object", "{metric?, max_drop?, data?}")
        known(body, ("metric", "max_drop", "data"), f"{field}.")
        given = {name: value for name, value in body.items() if value is not None}
        metric = given.get("metric")
        if metric is not None and (not isinstance(metric, str) or not metric):
            raise invalid(f"{field}.metric", f"{metric!r} is no figure", "Such as accuracy.")
        told = "Use a number from 0 up: how much worse is still accepted."
        drop = real(f"{field}.max_drop", given.get("max_drop", 0.0), told)
        if drop < 0:
            raise invalid(f"{field}.max_drop", f"{drop:g} is negative", told)
        data = given.get("data")
        return cls(metric, drop, None if data is None else str(parse_data(data, f"{field}.data")))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`drop`: by how much the candidate is worse (negative: better), `interval` of the drop,
    paired by row when both were judged in one job, else None. `reason` says it in words."""

    passed: bool
    reason: str
    metric: str | None = None
    candidate: float | None = None
    current: float | None = None
    drop: float | None = None
    interval: Interval | None = None
    rows: int | None = None
    dataset: str | None = None
    split: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide(
    candidate: str,
    current: str | None,
    of_candidate: Evaluations,
    of_current: Evaluations,
    gate: Gate,
    data_digest: str | None = None,
    *,
    language: bool = False,
) -> Verdict:
    """Whether `candidate` ("digits:2") may replace `current`.

    Compares their newest evaluations on the same rows (of the data with `data_digest`, when
    given). Raises `gate_refused` with the job to run when there is no such pair (`language`
    models are judged on a file, others on a dataset), and
    `invalid_field` (`gate.metric`) for a figure that they do not have.
    """
    if current is None:
        return Verdict(True, f"the alias names no version yet; {candidate} is the first")
    if current == candidate:
        return Verdict(True, f"the alias names {candidate} already")
    pair = newest_pair(of_candidate, of_current, data_digest)
    if pair is None:
        raise _no_evaluation(candidate, current, gate, language)
    one, other = pair
    common = set(one["figures"]) & set(other["figures"])
    metric = gate.metric or primary(one["task"], common)
    if metric not in common:
        raise invalid(
            "gate.metric",
            f"{candidate} and {current} have no common figure {metric!r}",
            f"They have: {', '.join(sorted(common))}.",
        )
    tokens = one.get("tokens"), other.get("tokens")
    if metric in PER_TOKEN and tokens[0] != tokens[1]:
        raise invalid(
            "gate.metric",
            f"{candidate} reads {tokens[0]} tokens where {current} reads {tokens[1]}: of different "
            f"tokenizers {metric} does not compare",
            "Judge both by choice or exact_match.",
        )
    return _judge(candidate, current, one, other, metric, gate)


def newest_pair(
    of_candidate: Evaluations, of_current: Evaluations, data_digest: str | None
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The newest evaluations of both on the same rows for the same task; lists are newest
    first, and the candidate's age decides."""
    for one in of_candidate:
        if data_digest is not None and one["rows"]["dataset_digest"] != data_digest:
            continue
        for other in of_current:
            if one["task"] == other["task"] and _rows(one) == _rows(other):
                return one, other
    return None


def _rows(evaluation: Mapping[str, Any]) -> tuple[Any, ...]:
    """What `evaluate.record.Rows.same_as` compares."""
    rows = evaluation["rows"]
    return rows["dataset_digest"], rows["positions"], rows["target"], rows["rows"]


def _judge(
    candidate: str,
    current: str,
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    metric: str,
    gate: Gate,
) -> Verdict:
    sign = 1 if higher_is_better(metric) else -1
    new, old = one["figures"][metric], other["figures"][metric]
    drop = sign * (old - new) + 0.0  # not -0.0
    interval = _paired(one, current, metric, sign) or _paired(other, candidate, metric, -sign)
    # A drop of 0.01 summed in floats may be 0.010000000000000009.
    passed = drop <= gate.max_drop + 1e-9
    rows = one["rows"]
    moved = "the same as"
    if drop:
        moved = f"{drop:.4f} worse than" if drop > 0 else f"{-drop:.4f} better than"
    doubt = (
        f"95% interval of the drop {interval[0]:.4f} to {interval[1]:.4f}, paired"
        if interval is not None
        else f"95% intervals {_told(one, metric)} against {_told(other, metric)}, not paired"
    )
    engines = one.get("engine"), other.get("engine")
    if all(engines) and engines[0] != engines[1]:
        doubt += f"; judged by {engines[0]} and by {engines[1]}, which alone may make a difference"
    reason = (
        f"{metric} of {candidate} is {moved} that of {current} ({new:.4f} against {old:.4f} "
        f"on {rows['rows']} rows of {rows['dataset']}, split {rows['split']}; {doubt}); "
        f"the gate allows a drop of at most {gate.max_drop:g}"
    )
    return Verdict(
        passed, reason, metric, new, old, drop, interval,
        rows["rows"], rows["dataset"], rows["split"],
    )  # fmt: skip


def _paired(evaluation: Mapping[str, Any], than: str, metric: str, sign: int) -> Interval | None:
    """The interval of the drop, from the differences that the evaluate job has kept.

    A difference is this version minus `than`; `sign` turns it into a drop.
    """
    for found in evaluation.get("differences", ()):
        if found["than"] == than and found["figure"] == metric and found["interval"]:
            low, high = sorted(-sign * bound for bound in found["interval"])
            return low + 0.0, high + 0.0
    return None


def _told(evaluation: Mapping[str, Any], metric: str) -> str:
    interval = evaluation["intervals"].get(metric)
    return "unknown" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _no_evaluation(candidate: str, current: str, gate: Gate, language: bool) -> MeuseError:
    data = f', "data": "{gate.data or ("file-…" if language else "<dataset>")}"'
    where = f" on {gate.data}" if gate.data else ""
    return MeuseError(
        Code.GATE_REFUSED,
        f"{candidate} and {current} were never judged on the same rows{where}",
        field="version",
        hint='Run POST /api/jobs {"kind": "evaluate", "spec": '
        f'{{"models": ["{candidate}", "{current}"]{data}}}}}, then ask again; or force=true.',
    )


def refused(verdict: Verdict) -> MeuseError:
    """The error that a caller gets for a verdict that did not pass."""
    return MeuseError(
        Code.GATE_REFUSED,
        verdict.reason,
        field="version",
        hint="Promote a better version, allow more (gate.max_drop), or send force=true.",
    )
