"""Tree-structured Parzen estimator (Bergstra et al. 2011), by optuna's sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from meuse.train.search.outcomes import Outcome, Proposal
from meuse.train.search.space import Choices, Dimension
from meuse.train.search.spec import SearchSpec
from meuse.train.seeds import derive

STARTUP = 10
"""Random trials at first: as many, or a third of all if that is less."""


class Tpe:
    """Run n knows the outcomes of runs 0 to n - `parallel`, told in their order, whenever they
    came in: so the sequence does not depend on how long trials take."""

    def __init__(self, spec: SearchSpec, higher: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = TPESampler(
            seed=derive(spec.seed, "tpe") % 2**32,
            n_startup_trials=max(1, min(STARTUP, spec.trials // 3)),
        )
        self._study = optuna.create_study(
            direction="maximize" if higher else "minimize", sampler=sampler
        )
        self._spec = spec
        self._asked: list[Trial] = []
        self._told = 0

    @property
    def runs(self) -> int:
        return self._spec.trials

    def needs(self, run: int) -> int:
        return max(0, run - self._spec.parallel + 1)

    def propose(self, run: int, outcomes: Sequence[Outcome]) -> Proposal | None:
        for outcome in outcomes[self._told :]:
            self._tell(outcome)
        trial = self._study.ask()
        self._asked.append(trial)
        parameters = {name: _value(trial, name, d) for name, d in self._spec.space.items()}
        return Proposal(run, run, parameters)

    def _tell(self, outcome: Outcome) -> None:
        trial = self._asked[outcome.run]
        if outcome.score is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, outcome.score)
        self._told += 1


def _value(trial: Trial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choices):
        # By index: optuna's choices cannot be lists.
        index = trial.suggest_categorical(name, list(range(len(dimension.values))))
        return dimension.values[int(index)]
    if dimension.whole:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
