"""Splits by column, time, group and strata; multi-label targets; what cannot be split so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.helpers_data import bad, picture, taken, zipped
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Splits
from meuse.data.split_spec import SplitSpec
from meuse.data.splits import TABLE, grouped, load_splits


def split(
    folder: Path,
    header: str,
    lines: list[str],
    how: dict[str, Any] | None = None,
    target: str | None = None,
    task: str | None = None,
    raw: bool = False,
) -> Splits:
    taken(folder, "\n".join([header, *lines]) + "\n", "csv")
    spec = None if how is None else SplitSpec.from_dict(how)
    return load_splits(
        folder / "table", TABLE, target=target, task=task, seed=0, split=spec, raw=raw
    )


def refused(*given: Any, **options: Any) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        split(*given, **options)
    assert caught.value.hint
    return caught.value


def parts(splits: Splits) -> list[list[float]]:
    """The first feature of each split, in order."""
    return [p.frame.numbers[:, 0].tolist() for p in (splits.train, splits.validation, splits.test)]


def test_by_column(tmp_path: Path) -> None:
    """Cells say where rows go, in any case; the column is no feature."""
    words = ["train", "Training", "val", "test", "TEST", "validation"] * 4
    lines = [f"{i},{w},{i // 6 % 2}" for i, w in enumerate(words)]
    splits = split(tmp_path, "a,part,y", lines, {"by": "column", "column": "part"})
    assert [c.name for c in splits.features] == ["a"]
    expected = {"train": "train", "training": "train", "test": "test"}
    for name, rows in zip(("train", "validation", "test"), splits.positions, strict=True):
        assert {expected.get(words[r].lower(), "validation") for r in rows} == {name}
    assert splits.spec == {
        "by": "column", "column": "part", "ratios": [0.7, 0.15, 0.15], "seed": 0,
    }  # fmt: skip


def test_a_column_called_split_is_taken_at_its_word(tmp_path: Path) -> None:
    """Without a spec; without validation rows some of each class are held out of training."""
    lines = [f"{i},{'test' if i % 5 == 0 else 'train'},{'ab'[i % 2]}" for i in range(100)]
    splits = split(tmp_path, "a,split,y", lines)
    assert splits.spec["by"] == "column"
    assert [len(p) for p in splits.positions] == [66, 14, 20]
    assert sorted(np.concatenate(splits.positions)) == list(range(100))
    assert all(row % 5 == 0 for row in splits.positions[2])
    assert np.bincount(splits.validation.y).tolist() == [7, 7]


def test_folders_of_images_split(tmp_path: Path) -> None:
    """train/ and test/ above the classes are kept to."""
    files = {
        f"{s}/{c}/{i}.png": picture((4, 4), seed=i)
        for s, n in (("train", 8), ("test", 3))
        for c in ("cat", "dog")
        for i in range(n)
    }
    taken(tmp_path, zipped(files), "zip")
    splits = load_splits(tmp_path / "table", TABLE, target="label", task=None, seed=0, raw=True)
    assert [len(p) for p in splits.positions] == [14, 2, 6]
    assert splits.features == (Column("image", "image", 0, (4, 4, 3)),)
    assert splits.train.frame.images["image"].shape == (14, 4, 4, 3)


@pytest.mark.parametrize("kind", ["number", "date", "instant"])
def test_by_time(tmp_path: Path, kind: str) -> None:
    """The oldest rows train, the newest test, whatever their order in the file."""
    order = np.random.default_rng(0).permutation(40)
    stamps = {
        "number": lambda i: str(i - 7),
        "date": lambda i: f"2026-{i // 20 + 1:02}-{i % 20 + 1:02}",
        "instant": lambda i: (
            f"2026-01-01T{i % 24:02}:00:00Z" if i < 24 else f"2026-02-{i - 20:02}T00:00Z"
        ),
    }
    lines = [f"{i},{stamps[kind](i)},{i / 7}" for i in order]
    splits = split(tmp_path, "a,at,y", lines, {"by": "time", "column": "at"}, raw=True)
    assert [len(p) for p in splits.positions] == [28, 6, 6]
    first, second, third = parts(splits)
    assert first == sorted(first)
    assert max(first) < min(second)
    assert max(second) < min(third)


def test_rows_of_one_moment_stay_together(tmp_path: Path) -> None:
    """A day's rows are not parted by a cut through it."""
    lines = [f"{i},{i // 10},{i / 7}" for i in range(100)]
    splits = split(tmp_path, "a,day,y", lines, {"by": "time", "column": "day"})
    days = [{int(v) // 10 for v in part} for part in parts(splits)]
    assert days[0] == set(range(7))
    assert not days[1] & days[2]


def test_by_group(tmp_path: Path) -> None:
    """No patient stands in two splits; the column is no feature."""
    lines = [f"{i},p{i % 17},{i % 2}" for i in range(200)]
    splits = split(tmp_path, "a,patient,y", lines, {"by": "group", "column": "patient", "seed": 5})
    assert [c.name for c in splits.features] == ["a"]
    groups = [{row % 17 for row in rows} for rows in splits.positions]
    assert sum(map(len, groups)) == 17
    assert abs(len(splits.train) - 140) <= 24


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    groups=st.lists(st.integers(0, 9), min_size=3, max_size=80).filter(lambda g: len(set(g)) >= 3),
    seed=st.integers(0, 99),
)
def test_groups_are_whole_and_splits_complete(groups: list[int], seed: int) -> None:
    """Every split has a row, every row one split, every group one split; a seed repeats it."""
    values = np.array(groups)
    spec = SplitSpec("group", "g", seed=seed)
    found = grouped(values, spec)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(groups)))
    assert all(len(rows) for rows in found)
    whole = [set(values[rows].tolist()) for rows in found]
    assert sum(map(len, whole)) == len(set(groups))
    assert [r.tolist() for r in found] == [r.tolist() for r in grouped(values, spec)]


def test_stratified_by_another_column(tmp_path: Path) -> None:
    """Each region is shared out by the ratios, and stays a feature."""
    lines = [f"{i},{i % 4},{i / 3}" for i in range(80)]
    splits = split(tmp_path, "a,region,y", lines, {"by": "stratify", "column": "region"})
    assert [c.name for c in splits.features] == ["a", "region"]
    for part in (splits.train, splits.validation, splits.test):
        counts = np.bincount(part.frame.numbers[:, 1].astype(int), minlength=4)
        assert np.ptp(counts) <= 1


def test_several_labels(tmp_path: Path) -> None:
    """Labels separated by | become columns of 0 and 1; a row may have none."""
    texts = ["red|round", "red", "", "round | red"] * 10
    lines = [f"{i},{t}" for i, t in enumerate(texts)]
    splits = split(tmp_path, "a,y", lines, task="multilabel")
    assert (splits.task, splits.classes) == ("multilabel", ("red", "round"))
    assert splits.train.y.dtype == np.float32
    for part, rows in zip(
        (splits.train, splits.test), (splits.positions[0], splits.positions[2]), strict=True
    ):
        expected = [[float("red" in texts[r]), float("round" in texts[r])] for r in rows]
        assert part.y.tolist() == expected


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 3)])
def test_names_of_tasks(tmp_path: Path, task: str, classes: int) -> None:
    """Binary and multi-class are classification; binary insists on two."""
    lines = [f"{i},{i % classes}" for i in range(30)]
    assert split(tmp_path, "a,y", lines, task=task).task == "classification"
    if task == "multiclass":
        bad(refused(tmp_path, "a,y", lines, task="binary"), "target", "3 classes")


def test_a_column_without_values_is_left_out(tmp_path: Path) -> None:
    """With a warning; as the target it is refused."""
    lines = [f"{i},,{i % 2}" for i in range(20)]
    splits = split(tmp_path, "a,b,y", lines)
    assert [c.name for c in splits.features] == ["a"]
    assert "'b' has no value" in splits.warnings[0]
    bad(refused(tmp_path, "a,b,y", lines, target="b"), "target", "no value at all")


def test_raw_features_of_every_kind(tmp_path: Path) -> None:
    """Text and missing numbers come as they are when asked for."""
    lines = [f"{i if i % 3 else ''},{'xyz'[i % 3]},{i % 2}" for i in range(30)]
    splits = split(tmp_path, "a,b,y", lines, raw=True)
    frame = splits.train.frame
    assert frame.names == ("a", "b")
    assert frame.numeric == ("a",)
    assert set(frame.texts["b"]) == {"x", "y", "z"}
    np.testing.assert_array_equal(np.isnan(frame.numbers[:, 0]), splits.positions[0] % 3 == 0)


ROWS = [f"{i},{i % 7},{i % 2}" for i in range(30)]
BY_B = {"by": "column", "column": "b"}
MARKED = ["train", "train", "test", "validation"]


@pytest.mark.parametrize(
    ("lines", "how", "field", "words"),
    [
        (["1,train,0", "2,test,1", "3,later,0"] * 5, BY_B, "columns.b", "'later' at line 4"),
        (["1,train,0", "2,validation,1", "3,train,0"] * 5, BY_B, "columns.b", "no row to test"),
        ([f"{i},{m},{m[:2]}" for i, m in enumerate(MARKED * 9)], BY_B, "target", "cannot be lear"),
        ([f"{i},{m},{9.5 if m == 'train' else i}" for i, m in enumerate(MARKED * 9)], BY_B,
         "target", "same in every training row"),
        (["1,x,0", "2,y,1"] * 9, {"by": "group", "column": "b"}, "columns.b", "2 groups"),
        (["1,x,0", "2,,1", "3,y,1"] * 9, {"by": "group", "column": "b"}, "columns.b", "line 3"),
        (["1,2026-01-01,0", "2,yesterday,1"] * 9, {"by": "time", "column": "b"}, "columns.b",
         "'yesterday' at line 3"),
        (["1,2026-01-01,0", "2,2026-01-01T00:00Z,1"] * 9, {"by": "time", "column": "b"},
         "columns.b", "zone"),
        (["1,2,7"] * 30, {"by": "ratio"}, "target", "two classes"),
        ([f"{i},2,7.5" for i in range(30)], {"by": "ratio"}, "target", "nothing to predict"),
        ([f"{i},{i},{i % 2}" for i in range(2)], {"by": "time", "column": "b"}, "rows", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_split_so(
    tmp_path: Path, lines: list[str], how: dict[str, Any], field: str, words: str
) -> None:
    """Each with the column or the target at fault and what to do."""
    bad(refused(tmp_path, "a,b,y", lines, how, raw=True), field, words)


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ("time", "split"),
        ({"by": "luck"}, "split.by"),
        ({"by": "time"}, "split.column"),
        ({"by": "ratio", "column": "a"}, "split.column"),
        ({"by": "time", "column": "z"}, "split.column"),
        ({"by": "group", "column": "y"}, "split.column"),
        ({"ratios": [0.5, 0.5]}, "split.ratios"),
        ({"ratios": [0.5, 0.6, -0.1]}, "split.ratios"),
        ({"ratios": ["a", 0.5, 0.5]}, "split.ratios"),
        ({"seed": -1}, "split.seed"),
        ({"shuffle": True}, "split.shuffle"),
    ],
)
def test_a_bad_spec_is_refused_by_field(tmp_path: Path, how: Any, field: str) -> None:
    """Before anything is read, but for the column."""
    error = refused(tmp_path, "a,b,y", ROWS, how)
    assert (error.code, error.field) == (Code.INVALID_FIELD, field)


def test_a_spec_round_trips() -> None:
    """What lineage keeps makes the same spec again."""
    spec = SplitSpec("time", "at", (0.8, 0.1, 0.1), 7)
    assert SplitSpec.from_dict(spec.to_dict()) == spec
    assert SplitSpec.from_dict(json.dumps(spec.to_dict())) == spec
    assert SplitSpec.from_dict({}, seed=9).seed == 9


def test_canonical_and_uploaded_files_split_alike(tmp_path: Path) -> None:
    """An upload of any format may be given in the place of the canonical file."""
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(60.0).reshape(30, 2), y=np.arange(30) % 3)
    taken(tmp_path, buffer.getvalue(), "npz")
    kwargs: dict[str, Any] = {"target": None, "task": None, "seed": 3}
    one = load_splits(tmp_path / "table", TABLE, **kwargs)
    other = load_splits(tmp_path / "upload.npz", "npz", **kwargs)
    np.testing.assert_array_equal(one.train.frame.numbers, other.train.frame.numbers)
