"""app.estimates: not below what was measured, nor far above"""

import pytest

from meuse.app.estimates import of_judging, of_judging_served, of_training

MIB = 1 << 20


@pytest.mark.parametrize(("rows", "columns", "measured_mib"), [(1000, 11, 418), (300_000, 41, 467)])
def test_measured_peaks_are_covered(rows: int, columns: int, measured_mib: int) -> None:
    """Peaks of real trainings, of tables as CSV files."""
    assert measured_mib * MIB <= of_training(rows, columns) <= 1.5 * measured_mib * MIB


def test_parameters_count() -> None:
    """Adam keeps two numbers beside each weight and its gradient."""
    assert of_training(0, 0, 10 * MIB) - of_training(0, 0) == 160 * MIB


def test_the_measured_peak_of_judging_a_checkpoint_is_covered() -> None:
    """135 million parameters, a window of 2,048 tokens over 49,152 words."""
    assert 1385 * MIB <= of_judging(134_515_008, 49_152, 2048) <= 1.5 * 1385 * MIB


@pytest.mark.parametrize(
    ("layout", "weights_mib", "vocabulary", "measured_mib"),
    [("ir", 257, 49_152, 1170), ("ir", 132, 49_152, 842), ("gguf", 234, 259, 2106)],
)
def test_measured_peaks_of_judging_by_the_engine_are_covered(
    layout: str, weights_mib: int, vocabulary: int, measured_mib: int
) -> None:
    """In halves, 8 bits and halves; no answers were written."""
    found = of_judging_served(layout, weights_mib * MIB, vocabulary, 0)
    assert measured_mib * MIB <= found <= 1.5 * measured_mib * MIB
