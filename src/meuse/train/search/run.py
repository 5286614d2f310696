"""A search: proposals to processes, outcomes to the job and to files, the best to a version.

Finished runs lie in the job's folder and are not repeated; the sequence is proposed again from
the start, and is the same. Knows no dataset, no torch and no registry.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ports import JobContext, Paused
from meuse.train.parts import checkpoint_of, keep, kept, outcome_of
from meuse.train.search.methods import Method, method_of
from meuse.train.search.outcomes import FAILED, Outcome, Proposal, best, counts, trial_name
from meuse.train.search.pool import Command, Pool, Worker
from meuse.train.search.spec import SearchSpec
from meuse.train.selection import Monitor

SHARE = 0.97
"""The trials' share of a job's progress; the rest is the export and the judgement of the best."""
_LOOK_S = 0.2
_DEATHS = 2
"""How often a run's process may die before the run has failed."""


@dataclasses.dataclass(slots=True)
class _Search:
    """A search in progress."""

    job: JobContext
    spec: SearchSpec
    monitor: Monitor
    digest: str
    method: Method
    pool: Pool
    outcomes: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    proposals: dict[int, Proposal] = dataclasses.field(default_factory=dict)
    next: int = 0
    waiting: list[Proposal] = dataclasses.field(default_factory=list)
    deaths: dict[int, int] = dataclasses.field(default_factory=dict)
    runs: int = 0

    def path(self, run: int) -> Path:
        return outcome_of(self.job.folder, trial_name(run))


def search(
    job: JobContext, spec: SearchSpec, monitor: Monitor, digest: str, command: Command, size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make all runs, `size` at a time; (what the process made of the best, report).

    `digest` names spec, data and code: outcomes of another are not taken over. The report has
    every run, how many ended how, and which was best. Raises what the first run raised when
    none succeeded, and `Paused`.
    """
    began = time.monotonic()
    with Pool(command, size) as pool:
        method = method_of(spec, monitor.higher)
        state = _Search(job, spec, monitor, digest, method, pool, runs=method.runs)
        _take_over(state)
        while _propose(state) or pool.busy():
            for worker, kind, data in pool.reports(_LOOK_S):
                _hear(state, worker, kind, data)
            if job.paused():
                _pause(state)
        chosen = _best(state)
        made = _finish(state, chosen)
    return made, _report(state, chosen, time.monotonic() - began)


def _take_over(state: _Search) -> None:
    """Outcomes that an earlier process has kept."""
    for run in range(state.runs):
        body = kept(state.path(run), state.digest)
        if body is not None:
            state.outcomes[run] = Outcome.from_dict(body)
    if state.outcomes:
        state.job.log(f"going on: {len(state.outcomes)} of {state.runs} trials are finished")


def _propose(state: _Search) -> bool:
    """Start what can be started; whether anything is still to be proposed or started."""
    while True:
        while state.waiting:
            worker = state.pool.free()
            if worker is None:
                return True
            state.pool.give(worker, "run", dataclasses.asdict(state.waiting.pop(0)))
        if state.next == state.runs:
            return False
        needed = range(state.method.needs(state.next))
        if any(run not in state.outcomes for run in needed):
            return True
        if state.next not in state.outcomes and state.pool.free() is None:
            return True
        known = [state.outcomes[run] for run in needed]
        proposal = state.method.propose(state.next, known)
        if proposal is None:
            state.runs = state.next  # those that follow are of the same rung: they fall away too
            return False
        state.proposals[state.next] = proposal
        found = state.outcomes.get(state.next)
        if found is None or found.parameters != proposal.parameters:
            state.outcomes.pop(state.next, None)
            state.waiting.append(proposal)
        state.next += 1


def _hear(state: _Search, worker: Worker, kind: str, data: dict[str, Any]) -> None:
    if kind == "progress":
        worker.fraction = data["fraction"]
        _progress(state)
    elif kind == "log":
        state.job.log(data["message"], data["level"])
    elif kind == "outcome":
        worker.task = None
        _note(state, Outcome.from_dict(data))
    elif kind == "died" and worker.task is not None:
        _bury(state, worker.task, data["status"])
    elif kind == "error":
        raise MeuseError.from_dict(data)


def _bury(state: _Search, task: dict[str, Any], status: int) -> None:
    """A run's process is gone: once more, from its checkpoint; then the run has failed."""
    proposal = Proposal(**task)
    state.deaths[proposal.run] = state.deaths.get(proposal.run, 0) + 1
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    if state.deaths[proposal.run] < _DEATHS:
        state.job.log(f"trial {proposal.trial}: its process ended ({how}); once more", "warning")
        state.waiting.insert(0, proposal)
        return
    error = MeuseError(
        Code.INTERNAL,
        f"the process ended {_DEATHS} times, last by {how}",
        hint="It may need more memory than a trial has: lower parallel.",
    )
    _note(
        state,
        Outcome(
            proposal.run, proposal.trial, proposal.parameters, proposal.rung, FAILED,
            error=error.to_dict(),
        ),
    )  # fmt: skip


def _note(state: _Search, outcome: Outcome) -> None:
    """Keep an outcome, tell it, and let go of checkpoints that are no longer the best's."""
    error = outcome.error or {}
    if error.get("field") == "monitor":
        raise invalid("metric", error["message"], error["hint"])
    keep(state.path(outcome.run), state.digest, outcome.to_dict())
    state.outcomes[outcome.run] = outcome
    leading = best(state.outcomes.values(), state.monitor.higher)
    for run in state.outcomes:
        if leading is None or run != leading.run:
            checkpoint_of(state.job.folder, trial_name(run)).unlink(missing_ok=True)
    rung = f" (rung {outcome.rung})" if state.spec.budget is not None else ""
    found = (
        error.get("message", "")
        if outcome.score is None
        else f"{state.monitor.name} {outcome.score:.4f}" + (", best so far" * (leading == outcome))
    )
    told = ", ".join(f"{name}={_short(value)}" for name, value in outcome.parameters.items())
    level = "warning" if outcome.score is None else "info"
    state.job.log(f"trial {outcome.trial}{rung} {outcome.status}: {found}; {told}", level)
    figures = {} if outcome.score is None else {f"trial_{state.monitor.name}": outcome.score}
    if leading is not None and leading.score is not None:
        figures[f"best_{state.monitor.name}"] = leading.score
    said = {name: value for name, value in outcome.to_dict().items() if name != "figures"}
    state.job.metrics(figures, **said)
    _progress(state)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _progress(state: _Search) -> None:
    done = len(state.outcomes) + sum(worker.fraction for worker in state.pool.busy())
    note = f"trial {min(len(state.outcomes) + 1, state.runs)}/{state.runs}"
    state.job.progress(SHARE * min(1.0, done / max(1, state.runs)), note=note)


def _pause(state: _Search) -> None:
    """Let every process keep its checkpoint, then stop. Raises `Paused`."""
    for worker in state.pool.busy():
        worker.send("pause", {})
    while state.pool.busy():
        for worker, kind, data in state.pool.reports(_LOOK_S):
            if kind in ("paused", "died"):
                worker.task = None
            else:
                _hear(state, worker, kind, data)
    raise Paused


def _best(state: _Search) -> Outcome:
    found = best(state.outcomes.values(), state.monitor.higher)
    if found is not None:
        return found
    first = state.outcomes[0].error or {}
    raise MeuseError(
        MeuseError.from_dict(first).code,
        f"none of {len(state.outcomes)} trials succeeded; the first: {first.get('message')}",
        field=first.get("field"),
        hint=first.get("hint"),
    )


def _finish(state: _Search, chosen: Outcome) -> dict[str, Any]:
    """Have the best run exported, judged on the test rows and kept, by a process."""
    state.job.log(f"the best is trial {chosen.trial}: {state.monitor.name} {chosen.score:.4f}")
    task = dataclasses.asdict(state.proposals[chosen.run])
    deaths = 0
    while True:
        worker = state.pool.free()
        assert worker is not None
        state.pool.give(worker, "finish", task)
        while worker.task is not None:
            for speaker, kind, data in state.pool.reports(_LOOK_S):
                if kind == "finished":
                    return data
                if kind == "error":
                    raise MeuseError.from_dict(data)
                if kind == "paused":
                    raise Paused
                if kind == "died" and speaker is worker:
                    worker.task, deaths = None, deaths + 1
                elif kind == "metrics":
                    state.job.metrics(data["figures"], **data["labels"])
                elif kind == "log":
                    state.job.log(data["message"], data["level"])
            if state.job.paused() and worker.task is not None:
                worker.send("pause", {})
        if deaths == _DEATHS:
            raise MeuseError(
                Code.INTERNAL, "the process that exports the best trial ended without a result"
            )


def _report(state: _Search, chosen: Outcome, seconds: float) -> dict[str, Any]:
    ordered = [state.outcomes[run] for run in sorted(state.outcomes)]
    spec = state.spec
    return {
        "method": spec.method,
        "metric": state.monitor.name,
        "higher_is_better": state.monitor.higher,
        "seed": spec.seed,
        "parallel": spec.parallel,
        "space": {name: dimension.to_dict() for name, dimension in spec.space.items()},
        "counts": counts(ordered),
        "best": {"run": chosen.run, "trial": chosen.trial, "parameters": chosen.parameters,
                 "score": chosen.score},
        "runs": [outcome.to_dict() for outcome in ordered],
        "seconds": round(seconds, 3),
    }  # fmt: skip
