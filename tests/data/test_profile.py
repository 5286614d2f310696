"""Profiles: figures against numpy and plain Python, bounds of memory, suspicions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.test_memory import MIB, generated
from meuse.core.errors import MeuseError
from meuse.data import profile as profiling
from meuse.data.ingest import ingest
from meuse.data.leaks import RowHashes
from meuse.data.profile import chosen_rows, profile
from meuse.data.profile_page import page
from meuse.data.sketches import COUNTED, Distinct, hashed, mix
from meuse.data.sketches import Counter as Counted
from meuse.data.split_spec import SplitSpec
from meuse.data.splits import load_splits


def seen(tmp_path: Path, text: str, **asked: Any) -> dict[str, Any]:
    path = tmp_path / "t.csv"
    path.write_text(text)
    ingest(path, "csv", tmp_path / "table")
    found = profile(tmp_path / "table", **asked)
    json.dumps(found, allow_nan=False)
    assert page(found, "t:1").endswith("</html>")
    return found


def column(found: dict[str, Any], name: str) -> dict[str, Any]:
    named: dict[str, Any] = next(c for c in found["columns"] if c["name"] == name)
    return named


def warned(found: dict[str, Any]) -> set[tuple[str, str | None]]:
    return {(w["kind"], w["column"]) for w in found["warnings"]}


numbers = st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=2, max_size=60)


@settings(max_examples=30, deadline=None)
@given(values=numbers, size=st.sampled_from([64, 16 << 20]))
def test_figures_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None], size: int
) -> None:
    """Counts and quantiles of small tables are exact, in one row group or in many."""
    there = [v for v in values if v is not None]
    if not there:
        return
    rows = "".join(f"{'' if v is None else v},1\n" for v in values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meuse.data.canonical.GROUP_BYTES", size)
        found = seen(tmp_path_factory.mktemp("p"), "x,y\n" + rows)
    x = column(found, "x")
    assert (x["missing"], x["distinct"]) == (len(values) - len(there), len(set(there)))
    assert (x["min"], x["max"]) == (min(there), max(there))
    assert x["mean"] == pytest.approx(np.mean(there), rel=1e-9, abs=1e-6)
    if len(there) > 1:
        assert x["std"] == pytest.approx(np.std(there, ddof=1), rel=1e-6, abs=1e-6)
    assert x["quantiles"]["0.5"] == pytest.approx(np.median(there), rel=1e-9, abs=1e-6)
    assert {e["value"]: e["count"] for e in x["top"]}.items() <= Counter(there).items()


def test_equal_values_have_equal_hashes() -> None:
    """In any chunk and any type of text or bytes; missing is like nothing else."""
    texts = pa.array(["b", None, "a", "b", ""])
    found = hashed(texts)
    assert found[0] == found[3] == hashed(pa.array(["b"]))[0]
    assert len(set(found.tolist())) == 4
    zeros = hashed(pa.array([0.0, -0.0, None, 1.0]))
    assert zeros[0] == zeros[1] != zeros[2]
    raw = pa.array([b"ab", b"cd", b"ab"], pa.binary(2))
    assert hashed(raw)[0] == hashed(raw)[2] != hashed(raw)[1]
    assert len(hashed(pa.array([None, None], pa.string()))) == 2


@pytest.mark.parametrize("count", [900, 20_000, 300_000, 2_000_000])
def test_distinct_is_exact_and_then_close(count: int) -> None:
    """Exact up to the bound, within four standard errors beyond, said which."""
    found = Distinct(1000)
    for block in np.array_split(mix(np.arange(count, dtype=np.uint64)), 7):
        found.add(block)
        found.add(block[: len(block) // 2])
    if count < 1000:
        assert (found.count(), found.exact) == (count, True)
    else:
        assert abs(found.count() / count - 1) < 0.033
        assert not found.exact


def test_counts_beyond_the_bound_are_at_least_so_many() -> None:
    """Frequent values survive among many rare ones."""
    counter = Counted()
    random = np.random.default_rng(0)
    for block in range(5):
        rare = random.integers(10**6, 10**9, COUNTED)
        counter.add(pa.array(np.concatenate([rare, np.full(500, 7), np.full(400, block % 2)])))
    top = dict(counter.top(3))
    assert not counter.exact
    assert top[7] == 2500
    assert top[0] == 1200
    plain = Counted()
    plain.add(pa.array(np.arange(3 * COUNTED)))
    assert (plain.given_up, plain.top(1)) == (True, [])


def test_duplicates_of_many_rows_are_estimated() -> None:
    """Of more rows than are held, a fair share: the estimate is close, and says so."""
    rows = RowHashes(400_000, 50_000, False)
    unique = mix(np.arange(300_000, dtype=np.uint64))
    rows.add(0, unique, unique)
    rows.add(300_000, unique[:100_000], unique)
    found = rows.duplicates()
    assert not found["exact"]
    assert abs(found["rows"] / 100_000 - 1) < 0.05


@pytest.mark.parametrize(("rows", "wanted"), [(5, 9), (1000, 40), (10**9, 500)])
def test_sampled_rows_are_distinct_and_in_order(rows: int, wanted: int) -> None:
    found = chosen_rows(rows, wanted)
    assert len(found) == min(rows, wanted)
    assert (np.diff(found) > 0).all()
    assert 0 <= found[0] <= found[-1] < rows


def test_suspicions_and_what_is_none(tmp_path: Path) -> None:
    """Identifiers, dates, constants and empty columns; a measurement and a text are none."""
    random = np.random.default_rng(1)
    ids = random.permutation(500)
    lines = [
        f"{ids[i]},u{i:04},{1_700_000_000 + 977 * (i * 7 % 500)},{i % 28 + 1}.03.2024,x,,"
        f"{random.normal():.6f},{random.integers(0, 10**6)},some words of row {i},{i % 2}"
        for i in range(500)
    ]
    header = "order_id,code,created_at,day,same,empty,size,income,note,label"
    found = seen(tmp_path, header + "\n" + "\n".join(lines) + "\n")
    assert warned(found) == {
        ("identifier", "order_id"), ("identifier", "code"), ("date", "created_at"),
        ("date", "day"), ("constant", "same"), ("empty", "empty"),
    }  # fmt: skip


def test_leaks_are_found_and_good_features_are_not_suspected(tmp_path: Path) -> None:
    """A copy of the target, as text, as a scaled number or with noise, is suspected; a strong
    feature and an identifier are not."""
    random = np.random.default_rng(2)
    y = random.normal(size=3000)
    label = (y > 0).astype(int)
    noisy = np.where(random.random(3000) < 0.1, 1 - label, label)
    lines = [
        f"{i},{'yes' if label[i] else 'no'},{y[i] * 3 + 1:.6f},{noisy[i]},{y[i]:.6f},{label[i]}"
        for i in range(3000)
    ]
    text = "id,copy,scaled,strong,y,label\n" + "\n".join(lines) + "\n"
    by_class = seen(tmp_path, text, target="label")
    leaks = {name for kind, name in warned(by_class) if kind == "leakage"}
    assert leaks == {"copy", "scaled", "y"}
    scores = {e["name"]: e["score"] for e in by_class["target"]["predicted_by"]}
    assert 0.7 < scores["strong"] < 0.9
    assert scores["id"] < 0.2
    by_value = seen(tmp_path, text, target="y")
    assert by_value["target"]["task"] == "regression"
    assert {name for kind, name in warned(by_value) if kind == "leakage"} == {"scaled"}


def test_the_split_is_the_one_of_training(tmp_path: Path) -> None:
    """Shared rows are counted on the very rows that training would get."""
    random = np.random.default_rng(3)
    lines = [f"{a},{b},{(a + b) % 2}" for a, b in random.integers(0, 12, (300, 2))]
    text = "a,b,label\n" + "\n".join(lines) + "\n"
    spec = SplitSpec(seed=5)
    found = seen(tmp_path, text, target="label", split=spec)
    splits = load_splits(tmp_path / "table", "table", target="label", task=None, seed=5, split=spec)
    parts = [{tuple(r) for r in s.frame.numbers.tolist()} for s in (splits.train, splits.test)]
    rows = [tuple(r) for r in splits.test.frame.numbers.tolist()]
    pair = next(
        p for p in found["split"]["shared"] if (p["first"], p["second"]) == ("train", "test")
    )
    assert pair["rows"] == sum(r in parts[0] for r in rows) > 0
    assert found["split"]["rows"]["train"] == len(splits.train)


def test_odd_columns_do_not_break_it(tmp_path: Path) -> None:
    """Infinite numbers, the ends of 64 bits, one row, long texts, one value that is missing."""
    long = "y" * 5000
    text = f"inf,big,t\ninf,{2**63 - 1},{long}\n1e308,{-(2**63)},\n-1e308,5,z\n"
    found = seen(tmp_path, text)
    assert column(found, "inf")["infinite"] == 1
    assert (column(found, "big")["min"], column(found, "big")["max"]) == (-(2**63), 2**63 - 1)
    assert column(found, "t")["length"]["max"] == 5000
    assert not column(found, "t")["top_exact"]
    assert seen(tmp_path, "a,b\n1,x\n", target="b")["rows"] == 1
    with pytest.raises(MeuseError) as refusal:
        seen(tmp_path, "a,b\n1,x\n", target="c")
    assert refusal.value.field == "target"
    with pytest.raises(MeuseError) as refusal:
        seen(tmp_path, "a,b\n1,\n2,x\n3,x\n", target="b", split=SplitSpec())
    assert refusal.value.field == "target"


CHILD = """
import re, sys
from pathlib import Path
from meuse.data.ingest import ingest
from meuse.data.profile import profile
if sys.argv[2] == "ingest":
    ingest(Path(sys.argv[1]), "csv", Path(sys.argv[1] + ".table"))
else:
    found = profile(Path(sys.argv[1] + ".table"), "city")
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(found["rows"], int(peak[1]) << 10)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Four times the rows, the same memory but for the hash of each row."""
    peaks = []
    for size in (5, 20):
        path = str(generated(tmp_path / f"{size}.csv", size * MIB))
        for step in ("ingest", "profile"):
            done = subprocess.run(
                [sys.executable, "-c", CHILD, path, step],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        peaks.append([int(word) for word in done.stdout.split()])
    (rows, small), (more, large) = peaks
    assert more > 3.5 * rows
    assert large < 400 * MIB
    assert large - small < 80 * MIB
    assert profiling.ROW_HASHES * 16 <= 64_000_000
