"""What networks compute inside, and how far a student's is from its teacher's.

Knows torch modules; knows no data and no training. Hidden states: Romero et al., FitNets,
arXiv:1412.6550. Attention of feature maps: Zagoruyko and Komodakis, arXiv:1612.03928. Attention
of transformers: Jiao et al., TinyBERT, arXiv:1909.10351.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from meuse.core.errors import invalid
from meuse.train.recipes.attention import Block
from meuse.train.recipes.images import Residual

Kind = Literal["hidden", "maps", "attention"]

_UNITS = (Block, Residual)
_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a module gave for a batch: its output, and of a transformer's block the attention
    before its softmax [n, heads, length, length] with the mask (None: all are looked at)."""

    output: Tensor
    attention: Tensor | None = None
    mask: Tensor | None = None


class Watch:
    """Keeps what the named modules of a network give while it is entered, for the last batch in
    training mode, or in evaluation mode."""

    def __init__(self, network: nn.Module, names: Sequence[str], *, training: bool) -> None:
        self.seen: dict[str, Seen] = {}
        self._network, self._names, self._training = network, names, training
        self._handles: list[Any] = []

    def __enter__(self) -> Watch:
        modules = dict(self._network.named_modules())
        for name in self._names:
            self._watch(name, modules[name])
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.seen.clear()

    def _watch(self, name: str, module: nn.Module) -> None:
        parts: dict[str, Any] = {}

        def keep(_: nn.Module, given: Any, out: Any) -> None:
            if module.training != self._training:
                return
            if isinstance(module, Block):
                attention = _attention(module, parts["project"])
                self.seen[name] = Seen(out, attention, given[1])
            else:
                self.seen[name] = Seen(out)

        def project(_: nn.Module, given: Any, out: Any) -> None:
            parts["project"] = out

        if isinstance(module, Block):
            self._handles.append(module.project.register_forward_hook(project))
        self._handles.append(module.register_forward_hook(keep))


def _attention(block: Block, projected: Tensor) -> Tensor:
    """Query · key / √width [n, heads, length, length] of what the block has projected."""
    n, length, _ = projected.shape
    query, key, _ = projected.view(n, length, 3, block.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    scores: Tensor = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return scores


def points(network: nn.Module) -> list[str]:
    """Modules whose outputs are hidden states, from the first to the last: residual and
    transformer blocks, and the activations outside of them; where there are none, all linear and
    convolutional layers but the last."""
    found: list[str] = []
    inside: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, _UNITS):
            inside = (*inside, f"{name}.")
            found.append(name)
        elif isinstance(module, _ACTIVATIONS):
            found.append(name)
    if found:
        return found
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return [name for name, module in network.named_modules() if isinstance(module, kinds)][:-1]


def by_depth(student: Sequence[str], teacher: Sequence[str]) -> list[tuple[str, str]]:
    """Each of the student's points with the teacher's at the same share of its depth; the last
    with the last."""
    m, n = len(student), len(teacher)
    return [(name, teacher[-(-(i + 1) * n // m) - 1]) for i, name in enumerate(student)]


class Hints(nn.Module):
    """The distance between a student's hidden states and its teacher's.

    Each term is a mean over rows without a unit: squared distances are divided by the mean
    square of what they are to reach. Where widths differ, a linear map of the student's states
    is learned (1 x 1 convolutions for feature maps); it is no part of the student.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        example: tuple[Tensor, Tensor],
        hidden: float,
        attention: float,
        layers: Sequence[tuple[str, str]] | None,
    ) -> None:
        """`example` are two rows of features, as each of the two takes them. Raises
        `invalid_field` for names that there are not, and for networks that have no such states.
        """
        super().__init__()
        self.weights = {"hidden": hidden, "attention": attention}
        ours = _try(student, example[0], _chosen(student, layers, 0, "student"))
        theirs = _try(teacher, example[1], _chosen(teacher, layers, 1, "teacher"))
        self.pairs: list[tuple[Kind, str, str]] = []
        self.projections = nn.ModuleList()
        if hidden:
            for name, other in layers or _pairs("hidden", list(ours), list(theirs)):
                _check_states(name in ours, other in theirs, name, other)
                self.pairs.append(("hidden", name, other))
                self.projections.append(_projection(ours[name].output, theirs[other].output))
        if attention:
            kind, pairs = _attended(ours, theirs, layers)
            for name, other in pairs:
                self.pairs.append((kind, name, other))
                self.projections.append(nn.Identity())

    @property
    def of_student(self) -> list[str]:
        return list(dict.fromkeys(name for _, name, _ in self.pairs))

    @property
    def of_teacher(self) -> list[str]:
        return list(dict.fromkeys(name for _, _, name in self.pairs))

    def forward(self, ours: dict[str, Seen], theirs: dict[str, Seen]) -> Tensor:
        """The weighted sum over kinds, each the mean over its pairs."""
        terms: dict[str, list[Tensor]] = {}
        for (kind, name, other), project in zip(self.pairs, self.projections, strict=True):
            student, teacher = ours[name], theirs[other]
            if kind == "hidden":
                found = hidden_distance(project(student.output.float()), teacher.output)
            elif kind == "maps":
                found = map_distance(student.output.float(), teacher.output)
            else:
                found = attention_distance(student, teacher)
            terms.setdefault("hidden" if kind == "hidden" else "attention", []).append(found)
        parts = [self.weights[kind] * torch.stack(found).mean() for kind, found in terms.items()]
        return torch.stack(parts).sum()


def hidden_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared distance over the mean square of `theirs`. Both [n, width], [n, length, width]
    or [n, width, h, w]; larger maps are pooled to the smaller, other shapes to [n, width]."""
    ours, theirs = _alike(ours, theirs.float())
    return F.mse_loss(ours, theirs) / theirs.square().mean().clamp(min=1e-12)


def map_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """‖Q/‖Q‖ - Q'/‖Q'‖‖², where Q [n, h·w] is the sum of squares over the channels; from 0 to 2
    as nothing is negative. Channels may differ; larger maps are pooled to the smaller."""
    ours, theirs = _alike(ours.square().sum(1, keepdim=True), theirs.square().sum(1, keepdim=True))
    near = F.normalize(ours.flatten(1)) - F.normalize(theirs.flatten(1))
    return near.square().sum(dim=1).mean()


def attention_distance(student: Seen, teacher: Seen) -> Tensor:
    """Mean squared distance of the attention before its softmax, over the places that may be
    looked at, over the mean square of the teacher's. With another number of heads it is that of
    the probabilities, averaged over the heads."""
    ours, theirs, mask = student.attention, teacher.attention, student.mask
    assert ours is not None
    assert theirs is not None
    ours, theirs = ours.float(), theirs.float()
    seen = torch.ones_like(theirs[:, :1], dtype=torch.bool) if mask is None else mask
    if ours.shape[1] != theirs.shape[1]:
        ours = ours.masked_fill(~seen, -torch.inf).softmax(dim=3).mean(dim=1, keepdim=True)
        theirs = theirs.masked_fill(~seen, -torch.inf).softmax(dim=3).mean(dim=1, keepdim=True)
    weight = seen.expand_as(theirs).float()
    far = ((ours - theirs).square() * weight).sum()
    return far / (theirs.square() * weight).sum().clamp(min=1e-12)


def _alike(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one shape but for the width."""
    if ours.ndim == theirs.ndim == 4:
        size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
        return F.adaptive_avg_pool2d(ours, size), F.adaptive_avg_pool2d(theirs, size)
    if ours.ndim == theirs.ndim == 3 and ours.shape[1] == theirs.shape[1]:
        return ours, theirs
    return _pooled(ours), _pooled(theirs)


def _pooled(states: Tensor) -> Tensor:
    if states.ndim == 4:
        return states.mean(dim=(2, 3))
    return states.mean(dim=1) if states.ndim == 3 else states


def _projection(ours: Tensor, theirs: Tensor) -> nn.Module:
    """A learned map to the teacher's width, along the dimension that holds it."""
    own, wanted = (_width(t) for t in (ours, theirs))
    if own == wanted:
        return nn.Identity()
    if ours.ndim == 4:
        return nn.Conv2d(own, wanted, 1)
    return nn.Linear(own, wanted)


def _width(states: Tensor) -> int:
    return states.shape[1] if states.ndim == 4 else states.shape[-1]


def _chosen(
    network: nn.Module, layers: Sequence[tuple[str, str]] | None, side: int, whose: str
) -> list[str]:
    if layers is None:
        return points(network)
    names = list(dict.fromkeys(pair[side] for pair in layers))
    have = [name for name, _ in network.named_modules() if name]
    for name in names:
        if name not in have:
            raise invalid(
                "layers",
                f"the {whose} has no module {name!r}",
                f"It has: {', '.join(have[:60])}.",
            )
    return names


def _try(network: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Seen]:
    """What the named modules give for `x`, those that give states at all."""
    network.eval()
    with Watch(network, names, training=False) as watch, torch.no_grad():
        network(x)
        seen = {name: watch.seen[name] for name in names if name in watch.seen}
    return {n: s for n, s in seen.items() if isinstance(s.output, Tensor) and s.output.ndim > 1}


def _check_states(ours: bool, theirs: bool, name: str, other: str) -> None:
    if not (ours and theirs):
        whose, module = ("teacher's", other) if ours else ("student's", name)
        raise invalid("layers", f"the {whose} module {module!r} gives no states", "Name another.")


def _pairs(kind: str, ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str]]:
    for whose, names in (("student", ours), ("teacher", theirs)):
        if not names:
            what = "hidden layer" if kind == "hidden" else "feature maps and no attention"
            raise invalid(kind, f"the {whose} has no {what}", f"Leave {kind} at 0.")
    return by_depth(ours, theirs)


def _attended(
    ours: dict[str, Seen], theirs: dict[str, Seen], layers: Sequence[tuple[str, str]] | None
) -> tuple[Kind, list[tuple[str, str]]]:
    """What the two have in common: attention of transformers, or feature maps."""

    kinds: tuple[Kind, ...] = ("attention", "maps")
    for kind in kinds:
        own, its = ([n for n, s in seen.items() if _has(s, kind)] for seen in (ours, theirs))
        if layers is not None:
            pairs = [(a, b) for a, b in layers if a in own and b in its]
        else:
            pairs = by_depth(own, its) if own and its else []
        if pairs:
            return kind, pairs
    raise invalid(
        "attention",
        "student and teacher have neither feature maps nor a transformer's attention in common",
        "Leave attention at 0, or choose a student of the teacher's kind.",
    )


def _has(seen: Seen, kind: Kind) -> bool:
    return seen.attention is not None if kind == "attention" else seen.output.ndim == 4
