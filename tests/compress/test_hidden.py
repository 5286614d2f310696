"""Hidden states and attention of real recipes' networks, and how far two are apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from meuse.compress.methods.hidden import (
    Hints,
    Seen,
    Watch,
    attention_distance,
    by_depth,
    hidden_distance,
    map_distance,
    points,
)
from meuse.core.errors import MeuseError
from meuse.train import recipes

IMAGES = torch.randint(0, 255, (2, 12, 12, 1), dtype=torch.uint8)
TOKENS = torch.tensor([[4, 5, 6, 0], [7, 0, 0, 0]])


def build(recipe: str, shape: tuple[int, ...], **config: Any) -> nn.Module:
    torch.manual_seed(len(str(config)))
    found = recipes.find(recipe)
    network: nn.Module = found.builder()(shape, 3, found.configure(config))
    return network.eval()


def cnn(*widths: int) -> nn.Module:
    return build("cnn", (12, 12, 1), widths=list(widths))


def text(width: int, depth: int, heads: int) -> nn.Module:
    return build("text-classifier", (4,), vocabulary=9, width=width, depth=depth, heads=heads)


def hints(student: nn.Module, teacher: nn.Module, x: torch.Tensor, **weights: Any) -> Hints:
    wanted: dict[str, Any] = {"hidden": 0.0, "attention": 0.0, "layers": None, **weights}
    return Hints(student, teacher, (x, x), **wanted)


def apart(found: Hints, student: nn.Module, teacher: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with (
        Watch(student, found.of_student, training=False) as ours,
        Watch(teacher, found.of_teacher, training=False) as theirs,
    ):
        student(x), teacher(x)
        value: torch.Tensor = found(ours.seen, theirs.seen)
        return value


@given(m=st.integers(1, 9), n=st.integers(1, 9))
def test_points_are_matched_by_depth(m: int, n: int) -> None:
    """Every point of the student has one of the teacher's, in order, the last with the last."""
    pairs = by_depth([f"s{i}" for i in range(m)], [f"t{i}" for i in range(n)])
    places = [int(other[1:]) for _, other in pairs]
    assert [name for name, _ in pairs] == [f"s{i}" for i in range(m)]
    assert places == sorted(places)
    assert places[-1] == n - 1
    if m == n:
        assert places == list(range(n))


def test_where_hidden_states_are() -> None:
    """Blocks whole, activations outside of them; without any, layers but the last."""
    assert points(cnn(8, 12)) == ["body.2", "body.3", "body.4"]
    assert points(text(8, 2, 2)) == ["encoder.encoder.blocks.0", "encoder.encoder.blocks.1"]
    plain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert points(plain) == ["0"]


@pytest.mark.parametrize("kind", ["hidden", "attention"])
@pytest.mark.parametrize("what", ["cnn", "text"])
def test_a_network_is_at_no_distance_from_itself(kind: str, what: str) -> None:
    """And at some from another; the distance has a gradient into the student alone."""
    x = IMAGES if what == "cnn" else TOKENS
    one, other = (cnn(8, 12), cnn(12, 16)) if what == "cnn" else (text(8, 2, 2), text(16, 3, 4))
    same = hints(one, one, x, **{kind: 1.0})
    assert float(apart(same, one, one, x).detach()) == pytest.approx(0, abs=1e-6)
    found = hints(one, other, x, **{kind: 1.0})
    value = apart(found, one, other, x)
    assert float(value.detach()) > 1e-3
    value.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters())


def test_widths_are_bridged_by_learned_maps() -> None:
    """A projection where widths differ, none where they agree; they are parameters."""
    assert not list(hints(cnn(8, 12), cnn(8, 12), IMAGES, hidden=1.0).parameters())
    found = hints(cnn(8, 12), cnn(10, 12), IMAGES, hidden=1.0)
    assert [tuple(p.shape) for p in found.parameters() if p.ndim > 1] == [(10, 8, 1, 1)] * 2
    words = hints(text(8, 1, 2), text(16, 2, 2), TOKENS, hidden=1.0)
    assert [tuple(p.shape) for p in words.parameters() if p.ndim > 1] == [(16, 8)]


def test_the_hidden_distance_has_no_unit() -> None:
    """Both ten times larger: the same. Zeros are at distance 1."""
    ours, theirs = torch.randn(2, 6, 5).unbind()
    near = hidden_distance(ours, theirs)
    torch.testing.assert_close(hidden_distance(10 * ours, 10 * theirs), near)
    assert float(hidden_distance(torch.zeros(6, 5), theirs)) == pytest.approx(1)


def test_maps_of_other_sizes_and_channels_compare() -> None:
    """Attention says where, not how much: scale and channels do not matter."""
    maps = torch.rand(3, 4, 6, 6)
    assert float(map_distance(5 * maps, maps)) == pytest.approx(0, abs=1e-6)
    repeated = maps.repeat_interleave(3, dim=1)
    assert float(map_distance(repeated, maps)) == pytest.approx(0, abs=1e-6)
    large = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert float(map_distance(large, maps)) == pytest.approx(0, abs=1e-6)
    assert 0 < float(map_distance(torch.rand(3, 2, 6, 6), maps)) <= 2


def test_padding_has_no_attention() -> None:
    """What may not be looked at does not count, with any number of heads."""
    ours, theirs = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)
    mask = (TOKENS != 0)[:, None, None, :]
    spoiled = torch.where(mask, ours, torch.full_like(ours, 1e4))
    for heads in (2, 1):
        pair = [Seen(ours, a[:, :heads], mask) for a in (ours, spoiled)]
        one, other = (attention_distance(s, Seen(theirs, theirs, mask)) for s in pair)
        torch.testing.assert_close(one, other)
        assert float(one) > 0


@pytest.mark.parametrize(
    ("student", "weights", "field"),
    [
        (nn.Linear(12, 3), {"hidden": 1.0}, "hidden"),
        (nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)), {"attention": 1.0}, "attent"),
        (None, {"hidden": 1.0, "layers": (("body.9", "body.3"),)}, "layers"),
        (None, {"hidden": 1.0, "layers": (("body.3", "tail"),)}, "layers"),
    ],
)
def test_what_is_not_there_is_named(
    student: nn.Module | None, weights: dict[str, Any], field: str
) -> None:
    """A student without hidden layers or maps, and modules that there are not."""
    wanted: dict[str, Any] = {"hidden": 0.0, "attention": 0.0, "layers": None, **weights}
    x = IMAGES if student is None else torch.randn(2, 12)
    with pytest.raises(MeuseError) as caught:
        Hints(student or cnn(8, 12), cnn(8, 12), (x, IMAGES), **wanted)
    assert str(caught.value.field).startswith(field)
    assert caught.value.hint
