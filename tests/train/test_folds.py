"""Folds share rows out as the split does, and no row is judged by what it was chosen on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.train.folds import Pool, folds_of

HOWS = ("random", "strata", "group", "time")


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    how = draw(st.sampled_from(HOWS))
    codes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=80))
    if how == "random":
        codes = [0] * len(codes)
    return Pool(how, np.array(sorted(codes) if how == "time" else codes, np.int64))


@settings(max_examples=200, deadline=None)
@given(pool=pools(), k=st.integers(2, 8), share=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_folds_are_disjoint_and_complete(pool: Pool, k: int, share: float, seed: int) -> None:
    """Every part has rows, none twice; groups stay whole, time runs forward, strata are even."""
    try:
        folds = folds_of(pool, k, share, seed)
    except MeuseError as error:
        refused: MeuseError | None = error
    else:
        refused = None
    if refused is not None:
        assert (refused.code, refused.field) == (Code.INVALID_FIELD, "cv")
        units = len(set(pool.codes.tolist())) if pool.how in ("group", "time") else len(pool)
        few = units < max(k + (pool.how == "time"), 3) or len(pool) < 2 * k
        assert few or (pool.how == "time" and units == k + 1)  # the first moment has one row
        return
    assert len(folds) == k
    everything = np.arange(len(pool))
    held = np.concatenate([fold.held for fold in folds])
    assert len(set(held.tolist())) == len(held)
    for fold in folds:
        parts = (fold.train, fold.validation, fold.held)
        assert all(len(part) for part in parts)
        used = np.concatenate(parts)
        assert len(set(used.tolist())) == len(used)
        codes = [set(pool.codes[part].tolist()) for part in parts]
        if pool.how == "time":
            assert fold.validation.max() < fold.held.min()
            assert fold.train.max() < fold.validation.min()
            assert not (codes[0] | codes[1]) & codes[2]
        else:
            np.testing.assert_array_equal(np.sort(used), everything)
        if pool.how == "group":
            assert not codes[0] & codes[1] or len(codes[0] | codes[1]) == 1
            assert not (codes[0] | codes[1]) & codes[2]
    if pool.how != "time":
        np.testing.assert_array_equal(np.sort(held), everything)
    if pool.how == "strata":
        for code in np.unique(pool.codes):
            counts = [int((pool.codes[fold.held] == code).sum()) for fold in folds]
            assert max(counts) - min(counts) <= 1
        sizes = [len(fold.held) for fold in folds]
        assert max(sizes) - min(sizes) <= 1


def test_folds_follow_from_the_seed() -> None:
    """Equal seeds give equal folds, others give others."""
    pool = Pool("strata", np.arange(60) % 3)
    first, again, other = (folds_of(pool, 5, 0.2, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.held, b.held) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.held, b.held) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("how", "codes"), [("group", [0] * 30), ("time", [1] * 30)])
def test_too_few_units_name_what_is_missing(how: str, codes: list[int]) -> None:
    """One group, or one moment, cannot be folded however many rows it has."""
    with pytest.raises(MeuseError, match="than the 1 besides") as caught:
        folds_of(Pool(how, np.array(codes)), 3, 0.2, 0)
    assert caught.value.field == "cv"
