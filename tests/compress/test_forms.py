"""Zeros and shared values are measured before and after a step, and what went is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meuse.compress import forms
from meuse.compress.forms import Forms


def test_forms_are_read_off_the_weights() -> None:
    network = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 30))
    first, second = network[0], network[1]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(torch.arange(100).remainder(5).view(10, 10))  # 0 to 4
        second.weight.copy_(torch.randn(30, 10))
    assert forms.of(network) == Forms(zero=20 / 400, sharing=100 / 400)
    assert forms.of(nn.Sequential(nn.ReLU())) == Forms(0.0, 0.0)


@pytest.mark.parametrize(
    ("after", "count"),
    [(Forms(0.8, 1.0), 0), (Forms(0.5, 0.6), 0), (Forms(0.3, 1.0), 1), (Forms(0.0, 0.4), 2)],
)
def test_what_is_half_gone_is_told(after: Forms, count: int) -> None:
    assert len(forms.lost(Forms(0.8, 1.0), after)) == count
    assert forms.lost(Forms(0.0, 0.0), after) == []
