"""core.clock"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core import clock
from meuse.core.errors import MeuseError

MOMENTS = st.integers(0, 4_000_000_000_000)


@given(MOMENTS)
def test_rfc3339_round_trip(ms: int) -> None:
    """A moment written and read is the same moment."""
    assert ms == clock.from_rfc3339(clock.to_rfc3339(ms), "t")


@given(MOMENTS)
def test_bucket_holds_its_moment(ms: int) -> None:
    """The bucket starts on a quarter of an hour, at or before the moment, less than one back."""
    start = clock.bucket_start(ms)
    assert start % clock.BUCKET_MS == 0
    assert 0 <= ms - start < clock.BUCKET_MS


def test_month_is_half_open_and_knows_december() -> None:
    """2026-12 runs to the first moment of 2027."""
    start, end = clock.parse_period("2026-12")
    assert (clock.day_of(start), clock.day_of(end)) == ("2026-12-01", "2027-01-01")


@pytest.mark.parametrize(
    "period",
    ["2026-13", "november", "", 2026, None, {"from": "2026-01-02", "to": "2026-01-01"}, {}],
)
def test_bad_period_names_its_field(period: object) -> None:
    """A period that cannot be is refused under its own name."""
    with pytest.raises(MeuseError) as refusal:
        clock.parse_period(period)
    assert str(refusal.value.field).startswith("period")


def test_a_period_has_two_years_at_most() -> None:
    """What is asked of a period is computed month by month."""
    two = {"from": "2026-01-01T00:00:00Z", "to": "2028-01-01T00:00:00Z"}
    assert clock.parse_period(two)[1] - clock.parse_period(two)[0] == 730 * 86_400_000
    with pytest.raises(MeuseError, match="longer than two years") as caught:
        clock.parse_period(two | {"to": "9998-01-01T00:00:00Z"})
    assert caught.value.field == "period"
