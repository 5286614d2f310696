"""Learning rate schedules at points that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meuse.train.options import Schedule
from meuse.train.schedules import factor

NAMES = st.sampled_from(["constant", "step", "cosine", "one_cycle"])


def points(schedule: Schedule, per_epoch: int, epochs: int) -> list[float]:
    total = per_epoch * epochs
    return [factor(schedule, update, per_epoch, total) for update in range(total)]


def test_constant() -> None:
    """The rate stays what it is."""
    assert points(Schedule(), 3, 4) == [1.0] * 12


def test_step() -> None:
    """After every `step_epochs` epochs the rate is multiplied."""
    found = points(Schedule("step", step_epochs=2, factor=0.5), 3, 5)
    assert found == [1.0] * 6 + [0.5] * 6 + [0.25] * 3


def test_cosine() -> None:
    """From the whole rate to the final share, half of the way in the middle."""
    found = points(Schedule("cosine", final=0.2), 1, 11)
    assert found[0] == 1
    assert found[5] == pytest.approx(0.6)
    assert found[10] == pytest.approx(0.2)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_warm_up(name: str) -> None:
    """The rate rises in equal steps and reaches the whole at the end of the warm-up."""
    found = points(Schedule(name, warmup_epochs=2), 2, 10)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]


def test_one_cycle_is_torchs() -> None:
    """The same curve as torch's OneCycleLR, which anneals by a cosine."""
    total = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False
    )
    for update in range(total):
        wanted = optimizer.param_groups[0]["lr"]
        assert factor(Schedule("one_cycle"), update, 4, total) == pytest.approx(wanted, abs=1e-9)
        optimizer.step()
        if update < total - 1:
            reference.step()


@given(NAMES, st.integers(1, 20), st.integers(1, 20), st.data())
def test_any_schedule_stays_between_nothing_and_all(
    name: str, per_epoch: int, epochs: int, data: st.DataObject
) -> None:
    """However long a run is, a share is a share, and some update has more than nothing."""
    found = points(Schedule(name), per_epoch, epochs)
    assert all(0 <= share <= 1 for share in found)
    assert max(found) > 0
