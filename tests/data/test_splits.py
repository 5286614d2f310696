"""Splits: deterministic, disjoint, complete, stratified; and what cannot be split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Splits
from meuse.data.splits import RATIOS, allocate, load_splits, shuffled, stratified


def table(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "t.csv"
    path.write_text(header + "\n" + "\n".join(rows) + "\n")
    return path


def split(
    path: Path, *, target: str | None = None, task: str | None = None, seed: int = 0
) -> Splits:
    return load_splits(path, "csv", target=target, task=task, seed=seed)


def refused(path: Path, **options: str) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        split(path, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def test_text_labels_become_sorted_classes(tmp_path: Path) -> None:
    """Features are float32, targets int64 indices into the sorted classes."""
    rows = [f"{i},{i * 2},{'oak' if i % 2 else 'ash'}" for i in range(20)]
    splits = split(table(tmp_path, "a,b,tree", rows))
    assert (splits.task, splits.target) == ("classification", "tree")
    assert [column.name for column in splits.features] == ["a", "b"]
    assert splits.classes == ("ash", "oak")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [14, 4, 2]
    for part in (splits.train, splits.validation, splits.test):
        assert part.frame.numbers.dtype == np.float32
        assert part.y.dtype == np.int64
        np.testing.assert_array_equal(part.frame.numbers[:, 0] % 2, part.y)


def test_integer_labels_stay_integers(tmp_path: Path) -> None:
    """Classes of an integer column are Python ints, sorted as numbers."""
    splits = split(table(tmp_path, "a,y", [f"{i},{[10, 9, -1][i % 3]}" for i in range(30)]))
    assert splits.classes == (-1, 9, 10)
    assert all(type(c) is int for c in splits.classes)


def test_the_target_may_be_any_column(tmp_path: Path) -> None:
    """A named target is set apart; the other columns keep their order."""
    path = table(tmp_path, "a,y,b", [f"{i},{i % 2},{-i}" for i in range(20)])
    splits = split(path, target="y")
    assert [column.name for column in splits.features] == ["a", "b"]
    np.testing.assert_array_equal(
        splits.train.frame.numbers[:, 0], -splits.train.frame.numbers[:, 1]
    )


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([str(i % 2) for i in range(40)], "classification"),
        ([f"c{i % 4}" for i in range(40)], "classification"),
        ([f"{i}.5" for i in range(40)], "regression"),
        ([str(i) for i in range(40)], "regression"),
        ([str(i % 20) for i in range(40)], "regression"),
        ([str(i % 19) for i in range(57)], "classification"),
        ([str(i % 101) for i in range(404)], "regression"),
    ],
)
def test_the_task_is_inferred(tmp_path: Path, values: list[str], task: str) -> None:
    """Few distinct integers or texts mean classification, anything else regression."""
    path = table(tmp_path, "a,y", [f"{i},{v}" for i, v in enumerate(values)])
    assert split(path).task == task


def test_a_chosen_task_wins(tmp_path: Path) -> None:
    """An integer target with few values is regressed on demand, whole floats are classes."""
    path = table(tmp_path, "a,y", [f"{i},{i % 2}.0" for i in range(40)])
    assert split(path).task == "regression"
    assert split(path, task="classification").classes == (0, 1)
    ints = table(tmp_path, "a,y", [f"{i},{i % 2}" for i in range(40)])
    splits = split(ints, task="regression")
    assert splits.classes is None
    assert splits.train.y.dtype == np.float32


NUMBERS = [f"{i},{i % 7},{i % 2}" for i in range(20)]


@pytest.mark.parametrize(
    ("header", "rows", "options", "code", "field", "words"),
    [
        ("a,b,y", NUMBERS, {"target": "z"}, Code.INVALID_FIELD, "target", "'z'"),
        ("a,b,y", NUMBERS, {"task": "ranking"}, Code.INVALID_FIELD, "task", "'ranking'"),
        ("y", ["1", "2", "3"], {}, Code.INVALID_DATA, "columns", "only column"),
        ("a,b,y", ["1,x,0", *NUMBERS], {}, Code.INVALID_DATA, "columns.b", "text"),
        ("a,b,y", [*NUMBERS, "1,,0"], {}, Code.INVALID_DATA, "columns.b", "line 22"),
        ("a,b,y", ["1,nan,0", *NUMBERS], {}, Code.INVALID_DATA, "columns.b", "line 2"),
        ("a,b,y", ["1,inf,0", *NUMBERS], {}, Code.INVALID_DATA, "columns.b", "line 2"),
        ("a,b,y", ["1,1e39,0", *NUMBERS], {}, Code.INVALID_DATA, "columns.b", "line 2"),
        ("a,b,y", [*NUMBERS, "1,1,"], {}, Code.INVALID_DATA, "target", "line 22"),
        ("a,y", ["1,a", "2,", "3,a"], {}, Code.INVALID_DATA, "target", "line 3"),
        ("a,y", ["1,0.5", "2,inf"], {}, Code.INVALID_DATA, "target", "line 3"),
        ("a,y", ["1,a"] * 9 + ["2,b"], {}, Code.INVALID_DATA, "target", "'b' has 1 row;"),
        ("a,y", ["1,5"] * 9 + ["2,7"] * 2, {}, Code.INVALID_DATA, "target", "7 has 2 rows;"),
        ("a,y", ["1,a"] * 9, {}, Code.INVALID_DATA, "target", "two classes"),
        ("a,y", ["1,a", "2,b"] * 9, {"task": "regression"}, Code.INVALID_DATA, "target", "text"),
        ("a,y", [f"1,n{i}" for i in range(20)], {}, Code.INVALID_DATA, "target", "text"),
        ("a,y", ["1,.5"] * 9, {"task": "classification"}, Code.INVALID_DATA, "target", "fractions"),
        ("a,y", ["1,0.5"] * 9, {}, Code.INVALID_DATA, "rows", "at least 10"),
    ],
)
def test_what_cannot_be_split_is_refused(
    tmp_path: Path,
    header: str,
    rows: list[str],
    options: dict[str, str],
    code: Code,
    field: str,
    words: str,
) -> None:
    """Every refusal names the column or the parameter, and the line where there is one."""
    error = refused(table(tmp_path, header, rows), **options)
    assert (error.code, error.field) == (code, field)
    assert words in error.message


def test_an_unknown_target_lists_the_columns(tmp_path: Path) -> None:
    """The hint for a wrong target names the columns that there are."""
    error = refused(table(tmp_path, "a,b,y", NUMBERS), target="label")
    assert "a, b, y" in str(error.hint)


def test_a_bad_value_in_an_npz_names_its_row(tmp_path: Path) -> None:
    """Arrays have no lines; the row is counted from 1."""
    x = np.zeros((12, 2), np.float32)
    x[4, 1] = np.nan
    np.savez(tmp_path / "t.npz", x=x, y=np.arange(12) % 2)
    with pytest.raises(MeuseError) as caught:
        load_splits(tmp_path / "t.npz", "npz", target=None, task=None, seed=0)
    assert caught.value.field == "columns.x_1"
    assert "row 5" in caught.value.message


def test_line_numbers_count_blank_and_continued_lines(tmp_path: Path) -> None:
    """The first bad line is found also below blank lines and text that spans lines."""
    path = table(tmp_path, "a,y", ['1,"x\nz"', "", "2,x", ",x", "3,x"])
    error = refused(path)
    assert "line 6" in error.message


counts = st.lists(st.integers(3, 60), min_size=2, max_size=8)
seeds = st.integers(0, 2**31 - 1)


@settings(deadline=None)
@given(counts=counts, seed=seeds)
def test_stratified_splits(counts: list[int], seed: int) -> None:
    """Splits are disjoint and complete, and classes keep their share within one row."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = stratified(y, len(counts), seed, RATIOS)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(y)))
    for part, ratio in zip(parts, RATIOS, strict=True):
        found = np.bincount(y[part], minlength=len(counts))
        assert (found >= 1).all()
        for rows, share in zip(counts, found, strict=True):
            # Below 7 rows a class must take one row from its train share to stand everywhere.
            assert abs(share - rows * ratio) < (1 if rows >= 7 else 2)


@settings(deadline=None)
@given(counts=counts, seed=seeds)
def test_the_same_seed_gives_the_same_split(counts: list[int], seed: int) -> None:
    """A split is a function of rows and seed alone."""
    y = np.repeat(np.arange(len(counts)), counts)
    for once, again in zip(
        stratified(y, len(counts), seed, RATIOS),
        stratified(y, len(counts), seed, RATIOS),
        strict=True,
    ):
        np.testing.assert_array_equal(once, again)


@settings(deadline=None)
@given(rows=st.integers(3, 500), seed=seeds)
def test_shuffled_splits(rows: int, seed: int) -> None:
    """Splits without classes are disjoint, complete and repeatable too."""
    parts = shuffled(rows, seed, RATIOS)
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    assert all(len(part) for part in parts)
    assert [p.tolist() for p in parts] == [p.tolist() for p in shuffled(rows, seed, RATIOS)]


@given(rows=st.integers(3, 10_000), cut=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.95)))
def test_allocation_is_complete(rows: int, cut: tuple[float, float]) -> None:
    """Every row is shared out once and no split stays empty, for any ratios."""
    first = cut[0]
    second = (1 - first) * cut[1]
    shares = allocate(rows, (first, second, 1 - first - second))
    assert sum(shares) == rows
    assert min(shares) >= 1


def test_a_known_split_does_not_move() -> None:
    """The rows of a seed are part of the contract: versions of numpy must agree on them."""
    train, validation, test = shuffled(20, 3, RATIOS)
    assert train.tolist() == [16, 12, 18, 8, 3, 13, 15, 10, 6, 1, 2, 11, 17, 0]
    assert validation.tolist() == [14, 9, 4]
    assert test.tolist() == [7, 5, 19]
