"""jobs.pace"""

import pytest

from meuse.jobs.pace import HORIZON_S, Pace


def test_steady_growth_gives_the_time_left() -> None:
    """Nothing can be said from one report; from two on the rest follows."""
    pace = Pace()
    assert pace.add(100.0, 0.1) is None
    assert pace.add(110.0, 0.2) == pytest.approx(80.0)
    assert pace.add(120.0, 0.3) == pytest.approx(70.0)


def test_a_standstill_and_a_step_back_say_nothing() -> None:
    """No growth, no estimate; a child that goes on from its checkpoint begins anew."""
    pace = Pace()
    pace.add(0.0, 0.5)
    assert pace.add(10.0, 0.5) is None
    assert pace.add(20.0, 0.3) is None
    assert pace.add(30.0, 0.4) == pytest.approx(60.0)


def test_recent_growth_counts() -> None:
    """A job that has become slower is judged by its present speed, however often it reports."""
    pace = Pace()
    fraction, at = 0.0, 0.0
    for _ in range(1000):
        at, fraction = at + 0.1, fraction + 0.0005
        pace.add(at, fraction)
    for _ in range(2000):
        at, fraction = at + HORIZON_S / 500, fraction + 0.00001
        left = pace.add(at, fraction)
    slow = 0.00001 / (HORIZON_S / 500)
    assert left == pytest.approx((1 - fraction) / slow, rel=0.05)
