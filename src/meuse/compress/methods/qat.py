"""Training with 8-bit integers simulated. Knows the network and its data; the simulation itself
and its export are `train.fakequant` and `train.integers`."""

from __future__ import annotations

import itertools
from dataclasses import replace

import msgspec
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Qat
from meuse.compress.material import Material, check_rows
from meuse.compress.processor import sums_are_exact
from meuse.core.errors import Code, MeuseError
from meuse.train import convolution, fakequant, surgery
from meuse.train.batches import tensor_of

_PASSING = (nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Dropout, nn.Identity)
_BATCH = 64


def qat(network: nn.Module, material: Material, config: Qat) -> nn.Module | Artifact:
    """Train `network` on with linear layers and convolutions as if in 8-bit integers.

    Batch normalisation is folded into its convolution first. Ranges of what layers read come
    from `config.rows` training rows; then all weights are trained for `config.epochs`, with the
    scales (`learned`, Esser et al., arXiv:1902.08153) or with scales that follow the values
    (`minmax`, Jacob et al., arXiv:1712.05877). Zeros stay zeros. The exported graph has the
    scales as quantize-dequantize pairs. With the backend `nncf` the simulation is NNCF's, scales
    are trained, and the result is OpenVINO IR.

    Raises `invalid_data` (field `model`) when there is no layer to quantize, and (`data`) for
    fewer than 16 training rows; with `nncf` also `unavailable` (`backend`) without its packages
    and `invalid_data` (`model`) for what it or OpenVINO lacks.
    """
    check_rows(material.train, "")
    if config.backend == "nncf":
        return _by_nncf(network, material, config)
    network.eval()
    _fold_norms(network)
    chosen = _insert(network, learned=config.scales == "learned")
    if not chosen:
        raise _nothing()
    _find_ranges(network, material, config.rows)
    _train(network, material, config, len(chosen))
    for layer in chosen:
        layer.settle()
    return network


def _by_nncf(network: nn.Module, material: Material, config: Qat) -> Artifact:
    from meuse.compress.methods import qat_nncf

    qat_nncf.check(material)
    network.eval()
    count = sum(type(module) in fakequant.KINDS for module in network.modules())
    if not count:
        raise _nothing()
    _fold_norms(network)
    network = qat_nncf.simulated(network, material, config.rows)
    _train(network, material, config, count)
    return qat_nncf.exported(network, material)


def _nothing() -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA,
        "the network has no layer that can be quantized",
        field="model",
        hint="Linear layers and 2-D convolutions can.",
    )


def _train(network: nn.Module, material: Material, config: Qat, layers: int) -> None:
    before = material.score(network)
    figures = _with_adam(material).fine_tune(
        network, config.epochs, learning_rate=config.learning_rate, name="qat"
    )
    told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    material.job.log(f"{layers} layers in 8 bits: {before:.4f} before training; {told}")


def _with_adam(material: Material) -> Material:
    """Scales and weights have gradients of very different sizes, whatever the parent took."""
    options = msgspec.structs.replace(
        material.loop, optimizer="adam", momentum=None, nesterov=False, weight_decay=0.0
    )
    return replace(material, loop=options)


def _fold_norms(network: nn.Module) -> None:
    for path, module in list(network.named_modules()):
        if not isinstance(module, nn.Sequential):
            continue
        children = list(module.named_children())
        for (first, conv), (second, norm) in itertools.pairwise(children):
            if not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
                continue
            if type(conv) not in convolution.KINDS:
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip
            names = [f"{path}.{name}" if path else name for name in (first, second)]
            edit = {"kind": "fold_norm", "module": names[0], "norm": names[1]}
            surgery.apply(network, [edit])
            conv.weight = nn.Parameter(weight.detach().clone())
            conv.bias = nn.Parameter(bias.detach().clone())


def _insert(network: nn.Module, *, learned: bool) -> list[fakequant.Layer]:
    levels = 127 if sums_are_exact() else 63
    passing = _read_at_once(network)
    for path, module in list(network.named_modules()):
        if type(module) not in fakequant.KINDS:
            continue
        output = isinstance(module, nn.Conv2d) and path not in passing
        edit = {"kind": "fake_quant", "module": path, "levels": levels}
        surgery.apply(network, [{**edit, "learned": learned, "output": output}])
    found = fakequant.layers(network)
    for layer in found:
        layer.fit()
    return found


def _read_at_once(network: nn.Module) -> set[str]:
    """Convolutions whose output reaches the next quantized layer through layers that keep to
    the same values: that layer's own rounding is enough."""
    found = set()
    for path, module in network.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        waiting = ""
        for name, child in module.named_children():
            if type(child) in fakequant.KINDS:
                found.add(waiting)
                waiting = f"{path}.{name}" if path else name
            elif not isinstance(child, _PASSING):
                waiting = ""
    return found


@torch.no_grad()
def _find_ranges(network: nn.Module, material: Material, rows: int) -> None:
    watchers = [m for m in network.modules() if isinstance(m, fakequant.Activation)]
    for watcher in watchers:
        watcher.watching = True
    x = tensor_of(material.train.x[:rows])
    for start in range(0, len(x), _BATCH):
        network(x[start : start + _BATCH])
    for watcher in watchers:
        watcher.watching = False
