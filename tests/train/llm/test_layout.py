"""Rows: packed or not, each example's loss is its own."""

from __future__ import annotations

import pytest
import torch

from helpers_llama import model
from meuse.train.llm import layout
from meuse.train.llm.examples import Example
from meuse.train.llm.loop import Sum, losses

LENGTHS = (5, 40, 17, 9, 120, 33, 8)


def example(length: int, seed: int) -> Example:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 259, (length,), generator=generator).tolist()
    return Example(seed, tuple(tokens), tuple(i > length // 2 for i in range(length)))


EXAMPLES = [example(length, seed) for seed, length in enumerate(LENGTHS)]


def total(packed: bool, **more: float) -> tuple[float, int, torch.Tensor]:
    """(summed loss, tokens counted, gradient of the first projection)."""
    net = model()
    found = Sum()
    for rows in layout.step(EXAMPLES, 512, packed):
        losses(net, rows, found).backward()  # type: ignore[no-untyped-call]
    return found.loss, found.count, net.model.layers[0].self_attn.q_proj.weight.grad


def test_packing_changes_no_loss_and_no_gradient() -> None:
    alone, together = total(packed=False), total(packed=True)
    assert together[1] == alone[1] == sum(e.answers for e in EXAMPLES)
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    torch.testing.assert_close(together[2], alone[2], rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_model_itself() -> None:
    """Each example by itself, with labels, as transformers computes it."""
    net, sums = model(), 0.0
    for each in EXAMPLES:
        ids = torch.tensor([each.tokens])
        labels = torch.where(torch.tensor([each.taught]), ids, layout.IGNORED)
        with torch.no_grad():
            sums += float(net(input_ids=ids, labels=labels).loss) * each.answers
    assert total(packed=True)[0] == pytest.approx(sums, rel=1e-4)


def test_one_example_never_sees_another() -> None:
    """Changing one changes no logit of those beside it; without the mask it would."""
    net = model()
    (rows,) = layout.step(EXAMPLES[:4], 512, True)
    assert rows.tokens.shape[0] == 1
    places = (rows.positions[0] == 0).nonzero()[:, 0].tolist()
    first, second = places[0], places[1]
    changed = rows.tokens.clone()
    changed[0, first:second] = (changed[0, first:second] + 1) % 259

    def logits(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            out = net(input_ids=tokens, attention_mask=mask, position_ids=rows.positions)
        found: torch.Tensor = out.logits[0, second : second + 9]
        return found

    torch.testing.assert_close(logits(rows.tokens, rows.mask), logits(changed, rows.mask))
    causal = torch.ones_like(rows.mask).tril()
    difference = logits(rows.tokens, causal) - logits(changed, causal)
    assert difference.abs().max() > 1e-4


def test_rows_have_room_for_the_longest_and_memory_is_bounded() -> None:
    parts = list(layout.step([example(300, i) for i in range(9)], 512, True))
    assert all(part.tokens.numel() <= layout.STEP_TOKENS for part in parts)
    assert sum(part.real for part in parts) == 9 * 300
    (long,) = layout.step([example(3000, 1)], 4096, True)
    assert long.tokens.shape == (1, 3000)


def test_few_rows_for_many_short_examples() -> None:
    parts = list(layout.step([example(25, i) for i in range(40)], 512, True))
    assert sum(len(part.tokens) for part in parts) == 4  # of 256 tokens, ten in each
    assert not torch.isnan(parts[0].mask.float()).any()
    assert parts[0].mask.any(-1).all()
