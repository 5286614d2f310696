"""app.work.compress: what stands between a compress job and data that is not its model's"""

import numpy as np
import pytest

from meuse.app.work.compress import check_same_kind
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Examples, Frame, Signature, Splits, TensorSpec


def splits(features: int, classes: tuple[str, ...]) -> Splits:
    rows = Examples(Frame.of_numbers(np.zeros((3, features), np.float32)), np.zeros(3, np.int64))
    names = tuple(Column(f"f{i}", "float") for i in range(features))
    return Splits(rows, rows, rows, names, "y", "classification", classes)


SIGNATURE = Signature(
    (TensorSpec("input", "FP32", (-1, 4)),),
    (TensorSpec("label", "INT64", (-1,)),),
    ("a", "b", "c"),
)


def test_data_of_the_models_kind_is_taken() -> None:
    """As many features and the same classes are fine."""
    check_same_kind(SIGNATURE, splits(4, ("a", "b", "c")))


@pytest.mark.parametrize(("features", "classes"), [(5, ("a", "b", "c")), (4, ("b", "c"))])
def test_data_of_another_kind_is_refused(features: int, classes: tuple[str, ...]) -> None:
    """Other features or other labels are named: class indices would not mean the same."""
    with pytest.raises(MeuseError) as refusal:
        check_same_kind(SIGNATURE, splits(features, classes))
    assert (refusal.value.code, refusal.value.field) == (Code.INVALID_DATA, "data")
