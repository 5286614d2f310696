"""Rows are named by all of their columns, whatever kind these are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meuse.compress import digests
from meuse.core.nouns import Examples, Frame


def frame() -> Frame:
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2)
    texts = {"note": np.array(["a", "bc", ""], object)}
    images = {"photo": np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)}
    return Frame(("x0", "x1", "note", "photo"), ("x0", "x1"), numbers, texts, images)


def test_every_column_counts() -> None:
    """Numbers, texts, images, their shape, names and targets; equal rows have one name."""
    one = frame()
    changed = [
        replace(one, numbers=one.numbers + np.float32(1)),
        replace(one, texts={"note": np.array(["ab", "c", ""], object)}),
        replace(one, images={"photo": one.images["photo"][:, ::-1]}),
        replace(one, images={"photo": one.images["photo"].reshape(3, 4, 1, 1)}),
        replace(one, names=("x1", "x0", "note", "photo")),
        one.take(slice(0, 2)),
        one.select(["x0", "note", "photo"]),
    ]
    names = {digests.of_frame(each) for each in changed}
    assert len(names | {digests.of_frame(one)}) == 1 + len(changed)
    assert digests.of_frame(frame()) == digests.of_frame(one)
    y = np.array([0, 1, 0])
    assert digests.of_examples(Examples(one, y)) == digests.of_examples(Examples(frame(), y))
    assert digests.of_examples(Examples(one, y)) != digests.of_examples(Examples(one, 1 - y))


def test_the_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of a library, one that is missing, and another processor: each is another."""
    here = digests.of_place(exact_sums=True)
    assert here == digests.of_place(exact_sums=True) != digests.of_place(exact_sums=False)
    given = digests.version

    def upgraded(package: str) -> str:
        return "999" if package == "onnxruntime" else given(package)

    def without(package: str) -> str:
        if package == "nncf":
            raise digests.PackageNotFoundError(package)
        return given(package)

    monkeypatch.setattr(digests, "version", upgraded)
    later = digests.of_place(exact_sums=True)
    monkeypatch.setattr(digests, "version", without)
    assert len({here, later, digests.of_place(exact_sums=True)}) == 3
