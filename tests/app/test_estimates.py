"""app.estimates: not below what was measured, nor far above"""

import pytest

from meuse.app.estimates import of_training

MIB = 1 << 20


@pytest.mark.parametrize(("rows", "columns", "measured_mib"), [(1000, 11, 418), (300_000, 41, 467)])
def test_measured_peaks_are_covered(rows: int, columns: int, measured_mib: int) -> None:
    """Peaks of real trainings, of tables as CSV files."""
    assert measured_mib * MIB <= of_training(rows, columns) <= 1.5 * measured_mib * MIB


def test_parameters_count() -> None:
    """Adam keeps two numbers beside each weight and its gradient."""
    assert of_training(0, 0, 10 * MIB) - of_training(0, 0) == 160 * MIB
