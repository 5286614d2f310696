"""Each method alone beside its library's own: metric and bytes of both, on Fashion-MNIST.

    python benchmarks/compression_peers.py [--cache FOLDER]

A library's way is made a method for the time of the benchmark, so that both run through the same
pipeline: same base, same rows, same training afterwards, same export, same engine. Nothing was
tuned; the test rows judge both, by the same paired bootstrap as a gate. "Worse" is said where
ours loses on the metric by more than the rows leave in doubt, or by more than 2 % on bytes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compression_base as bases
import msgspec
import numpy as np
import torch
import training_data
from torch import nn
from torch.nn.utils import prune as torch_prune
from training_tables import table

from meuse.compress import catalog, latency
from meuse.compress.answers import outputs_of, rows_of
from meuse.compress.artifact import Artifact
from meuse.compress.gate import Scored, judge, score
from meuse.compress.material import GraphMaterial, Material
from meuse.compress.method import Method
from meuse.compress.methods import ir
from meuse.compress.methods.quantize.openvino import load_nncf
from meuse.compress.pipeline import Pipeline
from meuse.compress.spec import steps_from
from meuse.compress.weights import layers
from meuse.core.nouns import Splits
from meuse.evaluate.metrics import for_task
from meuse.serve.packed import pack
from meuse.train import surgery
from meuse.train.batches import Arrays, tensor_of

Figures = dict[str, Any]

ABSENT = "skipped: the Debian package dataset-fashion-mnist is absent"
ROWS = 12_000
"""Training rows: enough to tell methods apart, few enough for a minute."""
TRAINING = {"epochs": 8, "augment": None, "learning_rate": 0.002}
BYTES = 1.02


class Options(msgspec.Struct, frozen=True):
    """Of a library's way: what it takes of ours, and the epochs of training after it."""

    rate: float = 0.0
    bits: int = 0
    mode: str = ""
    epochs: int = 0


def torch_magnitude(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """`torch.nn.utils.prune`: the least magnitudes of all layers, at once."""
    chosen = [(layer.module, layer.tensor) for layer in layers(network)]
    torch_prune.global_unstructured(
        chosen, pruning_method=torch_prune.L1Unstructured, amount=config.rate
    )
    for module, tensor in chosen:
        torch_prune.remove(module, tensor)  # type: ignore[no-untyped-call]
    return _trained(network, material, config)


def torch_pruning(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """torch-pruning's own pruner by group magnitude, at once."""
    import torch_pruning as tp

    sizes, last = surgery.sizes(network), layers(network)[-1].module
    pruner = tp.pruner.BasePruner(
        network.eval(),
        tensor_of(material.train.x[:2]),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=config.rate,
        ignored_layers=[last],
    )
    pruner.step()
    surgery.edits_of(network).extend(surgery.changes(sizes, network))
    return _trained(network, material, config)


def sklearn_kmeans(network: nn.Module, material: Material, config: Options) -> nn.Module:
    """scikit-learn's KMeans of every layer's weights."""
    from sklearn.cluster import KMeans

    for layer in layers(network):
        flat = layer.weight.reshape(-1, 1).double().numpy()
        found = KMeans(2**config.bits, n_init=1, random_state=0).fit(flat)
        values = found.cluster_centers_[found.labels_, 0].astype(np.float32)
        layer.set(torch.from_numpy(values).reshape(layer.weight.shape))
    return network


def _trained(network: nn.Module, material: Material, config: Options) -> nn.Module:
    if config.epochs:
        material.fine_tune(network, config.epochs, name="peer")
    return network


def ort_int8(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """onnxruntime.quantization as its documentation calls it: pre-processed, all else default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = min(512, len(next(iter(material.rows.values()))))
            self._feeds: Iterator[dict[str, Any]] = iter(
                {name: rows[at : at + 32] for name, rows in material.rows.items()}
                for at in range(0, count, 32)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        names = ("model.onnx", "ready.onnx", "int8.onnx")
        source, ready, target = (str(Path(folder) / name) for name in names)
        Path(source).write_bytes(artifact.data)
        quant_pre_process(source, ready)
        if config.mode == "static":
            quantize_static(ready, target, Reader())
        else:
            quantize_dynamic(ready, target)
        return Artifact("onnx", Path(target).read_bytes())


def nncf_weights(artifact: Artifact, material: GraphMaterial, config: Options) -> Artifact:
    """`nncf.compress_weights` with its defaults."""
    return ir.pack(load_nncf().compress_weights(ir.model_of(artifact.data)))


@dataclass(frozen=True, slots=True)
class Pair:
    """A method of ours beside a library's: the steps of each."""

    name: str
    ours: list[Figures]
    peer: str
    theirs: list[Figures]


def _register(stage: Any, *peers: Callable[..., Any]) -> None:
    for peer in peers:
        at = f"{__name__}:{peer.__name__}"
        name = f"peer-{peer.__name__}"
        catalog.METHODS[name] = Method(name, peer.__doc__ or "", "", stage, Options, at)


PACK: Figures = {"method": "pack"}
PAIRS = [
    Pair(
        "prune 0.7, untrained", [{"method": "prune", "rate": 0.7, "rounds": 1, "epochs": 0}, PACK],
        "torch.nn.utils.prune", [{"method": "peer-torch_magnitude", "rate": 0.7}, PACK],
    ),
    Pair(
        "prune 0.95, 4 epochs", [{"method": "prune", "rate": 0.95, "rounds": 4, "epochs": 1}, PACK],
        "torch.nn.utils.prune",
        [{"method": "peer-torch_magnitude", "rate": 0.95, "epochs": 4}, PACK],
    ),
    Pair(
        "prune_structured 0.5, 2 epochs",
        [{"method": "prune_structured", "rate": 0.5, "rounds": 1, "epochs": 2}],
        "torch-pruning", [{"method": "peer-torch_pruning", "rate": 0.5, "epochs": 2}],
    ),
    Pair(
        "share 3 bits, untrained", [{"method": "share", "bits": 3, "epochs": 0}, PACK],
        "scikit-learn KMeans", [{"method": "peer-sklearn_kmeans", "bits": 3}, PACK],
    ),
    Pair(
        "quantize int8_static", [{"method": "quantize", "mode": "int8_static"}],
        "onnxruntime.quantization", [{"method": "peer-ort_int8", "mode": "static"}],
    ),
    Pair(
        "quantize int8_dynamic", [{"method": "quantize", "mode": "int8_dynamic"}],
        "onnxruntime.quantization", [{"method": "peer-ort_int8", "mode": "dynamic"}],
    ),
    Pair(
        "quantize openvino_int8_weights", [{"method": "quantize", "mode": "openvino_int8_weights"}],
        "nncf.compress_weights", [{"method": "peer-nncf_weights"}],
    ),
]  # fmt: skip


def peers(asked: argparse.Namespace) -> Figures | str:
    """Every pair, and the packed file beside general codecs."""
    splits = _splits()
    if splits is None:
        return ABSENT
    torch.set_num_threads(1)
    _register("network", torch_magnitude, torch_pruning, sklearn_kmeans)
    _register("graph", ort_int8, nncf_weights)
    folder = Path(asked.cache) / "peers"
    base = bases.base(splits, "lenet", {}, TRAINING, 0, folder / "base")
    rows = []
    for place, pair in enumerate(PAIRS):
        made = [
            _made(base, splits, steps, folder / f"{place}-{side}")
            for side, steps in (("ours", pair.ours), ("theirs", pair.theirs))
        ]
        rows.append(_row(pair, *made) | _times(base, splits, made[0][1], made[1][1]))
        print(json.dumps(rows[-1]), flush=True)
    codecs = _codecs(base, splits, folder)
    return {"base": base.metrics["test_accuracy"], "pairs": rows, "codecs": codecs}


def _splits() -> Splits | None:
    data = training_data.fashion(0)
    if data is None:
        return None
    train = Arrays(data.train.x[:ROWS], data.train.y[:ROWS])
    return bases.image_splits(train, data.validation, data.test)


def _made(
    base: bases.Base, splits: Splits, steps: list[Figures], folder: Path
) -> tuple[Scored, Artifact]:
    job = bases.Told(folder, quiet=True)
    pipeline = Pipeline(job, base.parent, splits, 0, for_task(splits.task), bases.engine)
    artifact = pipeline.apply(steps_from(steps), lambda step, outputs: None).artifact
    rows = rows_of(splits.test.frame, base.parent.signature)
    outputs = outputs_of(bases.engine(artifact), rows, splits.task)
    return score(splits.task, outputs, splits.test.y), artifact


def _row(pair: Pair, ours: tuple[Scored, Artifact], theirs: tuple[Scored, Artifact]) -> Figures:
    verdict = judge(theirs[0], ours[0], 1.0)
    low, high = verdict.interval or (verdict.drop, verdict.drop)
    sizes = len(ours[1].data), len(theirs[1].data)
    worse = [
        *(["metric"] if low > 0 else []),
        *(["bytes"] if sizes[0] > BYTES * sizes[1] else []),
    ]
    return {
        "method": pair.name, "peer": pair.peer,
        "metric": ours[0].value, "peer_metric": theirs[0].value,
        "drop_from_peer": verdict.drop, "interval": [low, high],
        "bytes": sizes[0], "peer_bytes": sizes[1],
        "worse": worse,
    }  # fmt: skip


def _times(base: bases.Base, splits: Splits, ours: Artifact, theirs: Artifact) -> Figures:
    """p50 of a call with one row, in turns: {p50_ms, peer_p50_ms}."""
    rows = rows_of(splits.test.frame.take(slice(0, 64)), base.parent.signature)
    engines = {"p50_ms": bases.engine(ours), "peer_p50_ms": bases.engine(theirs)}
    taken = latency.in_turns(engines, rows, 1, max_seconds=2.0)
    return {name: times.percentile(50) for name, times in taken.items()}


def _codecs(base: bases.Base, splits: Splits, folder: Path) -> Figures:
    """Bytes of one pruned and shared graph: packed, and by codecs that know nothing of weights."""
    import pyarrow

    steps: list[Figures] = [
        {"method": "prune", "rate": 0.9, "rounds": 1, "epochs": 0},
        {"method": "share", "bits": 4, "epochs": 0},
    ]
    data = _made(base, splits, steps, folder / "codecs")[1].data
    zstd = pyarrow.Codec("zstd", compression_level=22)
    return {
        "onnx": len(data),
        "pack": len(pack(data)),
        "zlib 9": len(zlib.compress(data, 9)),
        "lzma 9": len(lzma.compress(data, preset=9)),
        "zstd 22": len(zstd.compress(data, asbytes=True)),
    }


def told(found: Figures) -> str:
    """The tables of a report."""
    head = ["method", "library", "metric", "library's", "95% of the difference", "bytes",
            "library's", "p50 µs", "library's", ""]  # fmt: skip
    rows = [
        [
            row["method"],
            row["peer"],
            f"{row['metric']:.4f}",
            f"{row['peer_metric']:.4f}",
            f"{0 - row['interval'][1]:+.4f} to {0 - row['interval'][0]:+.4f}",
            f"{row['bytes']:,}",
            f"{row['peer_bytes']:,}",
            f"{1000 * row['p50_ms']:.0f}",
            f"{1000 * row['peer_p50_ms']:.0f}",
            f"worse: {' and '.join(row['worse'])}" if row["worse"] else "not worse",
        ]
        for row in found["pairs"]
    ]
    codecs = [[name, f"{size:,}"] for name, size in found["codecs"].items()]
    lines = [
        f"The base has an accuracy of {found['base']:.4f} on the test rows.", "",
        table(head, rows), "",
        "One graph, 90 % zeros and 16 values a layer, in bytes:", "",
        table(["codec", "bytes"], codecs),
    ]  # fmt: skip
    return "\n".join(lines)


def worst(found: Figures) -> int:
    """How many methods are worse than their library's, the codec of weights among them."""
    codecs = found["codecs"]
    others = [size for name, size in codecs.items() if name not in ("onnx", "pack")]
    worse = [bool(row["worse"]) for row in found["pairs"]]
    return sum([*worse, codecs["pack"] > min(others)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", default="/tmp/compression-bench")
    found = peers(parser.parse_args())
    print(found if isinstance(found, str) else told(found))


if __name__ == "__main__":
    main()
