"""Each method alone beside its library's own: metric and bytes of both, on Fashion-MNIST.

    python benchmarks/compression_peers.py [--cache FOLDER]

A library's way is made a method for the time of the benchmark, so that both run through the same
pipeline: same base, same rows, same training afterwards, same export, same engine. Nothing was
tuned; the test rows judge both, by the same paired bootstrap as a gate. "Worse" is said where
ours loses on the metric by more than the rows leave in doubt, by more than 2 % on bytes, or by
more than 5 % on latency: where even the low end of the interval of the paired ratio is above
1.05. Where both train in ways of their own, that a rounding makes part, five seeds of training
judge: Student's interval of their paired differences. `clip` is not here: no library clips weights
where rounding errs least.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import statistics
import tempfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import compression_base as bases
import compression_peer_methods as ways
import torch
import training_data
from scipy import stats  # type: ignore[import-untyped]
from training_tables import table

from meuse.compress import catalog, latency
from meuse.compress.answers import outputs_of, rows_of
from meuse.compress.artifact import Artifact
from meuse.compress.gate import Scored, judge, score
from meuse.compress.method import Method
from meuse.compress.methods.quantize.openvino import load_nncf
from meuse.compress.pipeline import Pipeline
from meuse.compress.spec import steps_from
from meuse.core.nouns import Splits
from meuse.evaluate.metrics import for_task
from meuse.serve.packed import pack
from meuse.train.batches import Arrays

Figures = dict[str, Any]

ABSENT = "skipped: the Debian package dataset-fashion-mnist is absent"
ROWS = 12_000
"""Training rows: enough to tell methods apart, few enough for a minute."""
TRAINING = {"epochs": 8, "augment": None, "learning_rate": 0.002}
BASES: dict[str, Figures] = {"lenet": {}, "mlp": {"hidden": [300, 100]}}
"""By recipe: its config."""
BYTES, LATENCY = 1.02, 1.05
"""Times the library's from which on it is worse."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A method of ours beside a library's: the steps of each, the recipe of their base, and over
    how many seeds of training they are judged."""

    name: str
    ours: list[Figures]
    peer: str
    theirs: list[Figures]
    base: str = "lenet"
    seeds: int = 1


def register() -> None:
    """Make the libraries' ways known as methods, for this process."""
    load_nncf()  # before openvino: see there whom it would tell
    for stage, peers in (("network", ways.NETWORK), ("graph", ways.GRAPH)):
        for peer in peers:
            name, at = f"peer-{peer.__name__}", f"{ways.__name__}:{peer.__name__}"
            told = Method(name, peer.__doc__ or "", "", stage, ways.Options, at)  # type: ignore[arg-type]
            catalog.METHODS[name] = told


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
        "low_rank 8, untrained", [{"method": "low_rank", "rank": 8, "epochs": 0}],
        "torch.linalg.svd, blind to inputs: a baseline",
        [{"method": "peer-torch_svd", "rank": 8}],
    ),
    Pair(
        "quantize int8_static", [{"method": "quantize", "mode": "int8_static"}],
        "onnxruntime.quantization", [{"method": "peer-ort_int8", "mode": "MinMax"}],
    ),
    Pair(
        "quantize int8_static, percentile",
        [{"method": "quantize", "mode": "int8_static", "calibration": "percentile"}],
        "onnxruntime.quantization", [{"method": "peer-ort_int8", "mode": "Percentile"}],
    ),
    Pair(
        "quantize int8_dynamic", [{"method": "quantize", "mode": "int8_dynamic"}],
        "onnxruntime.quantization", [{"method": "peer-ort_int8", "mode": "dynamic"}],
    ),
    Pair(
        "quantize openvino_int8_weights", [{"method": "quantize", "mode": "openvino_int8_weights"}],
        "nncf.compress_weights", [{"method": "peer-nncf_weights"}],
    ),
    Pair(
        "quantize openvino_int8",
        [{"method": "quantize", "mode": "openvino_int8", "rows": ways.ROWS}],
        "nncf.quantize", [{"method": "peer-nncf_int8"}],
    ),
    Pair(
        "quantize float16", [{"method": "quantize", "mode": "float16"}],
        "onnxruntime.transformers.float16", [{"method": "peer-ort_float16"}],
    ),
    Pair(
        "quantize int4, 128 a scale",
        [{"method": "quantize", "mode": "int4", "group_size": 128, "uneven": "pad"}],
        "onnxruntime MatMulNBitsQuantizer", [{"method": "peer-ort_int4"}], "mlp",
    ),
    # NNCF's file is an archive; ours is one once it is packed.
    Pair(
        "qat, 3 epochs", [{"method": "qat", "epochs": 3}, PACK],
        "nncf.quantize, trained, stripped",
        [{"method": "peer-nncf_qat", "epochs": 3, "learning_rate": 5e-4}], seeds=5,
    ),
    Pair(
        "qat by nncf, 3 epochs", [{"method": "qat", "backend": "nncf", "epochs": 3}],
        "nncf.quantize, trained, stripped",
        [{"method": "peer-nncf_qat", "epochs": 3, "learning_rate": 5e-4}], seeds=5,
    ),
]  # fmt: skip


def peers(asked: argparse.Namespace) -> Figures | str:
    """Every pair, and the packed file beside general codecs."""
    splits = _splits()
    if splits is None:
        return ABSENT
    torch.set_num_threads(1)
    folder = Path(asked.cache) / "peers"
    found = {
        recipe: bases.base(splits, recipe, config, TRAINING, 0, folder / f"base-{recipe}")
        for recipe, config in BASES.items()
    }
    rows = []
    for pair in PAIRS:
        rows.append(measured(pair, found[pair.base], splits))
        print(json.dumps(rows[-1]), flush=True)
    told = {
        recipe: {"metric": base.metrics["test_accuracy"], "bytes": len(base.parent.artifact.data)}
        for recipe, base in found.items()
    }
    return {"bases": told, "pairs": rows, "codecs": _codecs(found["lenet"], splits)}


def measured(pair: Pair, base: bases.Base, splits: Splits, *, max_seconds: float = 2.0) -> Figures:
    """Both sides made anew, and which figures of ours are worse."""
    register()
    runs = [
        [made(base, splits, steps, seed) for steps in (pair.ours, pair.theirs)]
        for seed in range(pair.seeds)
    ]
    ours, theirs = runs[0]
    low, high = interval([(theirs[0], ours[0]) for ours, theirs in runs])
    metric, peer = (statistics.mean(run[side][0].value for run in runs) for side in (0, 1))
    sizes = len(ours[1].data), len(theirs[1].data)
    rows = rows_of(splits.test.frame.take(slice(0, 64)), base.parent.signature)
    engines = {"ours": bases.engine(ours[1]), "theirs": bases.engine(theirs[1])}
    taken = latency.in_turns(engines, rows, 1, max_seconds=max_seconds)
    ratio = latency.compare(taken["theirs"], taken["ours"])
    return {
        "method": pair.name, "peer": pair.peer, "base": pair.base,
        "seeds": pair.seeds, "metric": metric, "peer_metric": peer,
        "drop_from_peer": peer - metric, "interval": [low, high],
        "bytes": sizes[0], "peer_bytes": sizes[1],
        "p50_ms": taken["ours"].percentile(50), "peer_p50_ms": taken["theirs"].percentile(50),
        "latency": asdict(ratio),
        "worse": worse(low, sizes[0] / sizes[1], ratio.low),
    }  # fmt: skip


def interval(pairs: list[tuple[Scored, Scored]]) -> tuple[float, float]:
    """95% of the drop from the first of a pair to the second: over the test rows where there is
    one pair, over the seeds where there are several."""
    if len(pairs) == 1:
        verdict = judge(*pairs[0], 1.0)
        return verdict.interval or (verdict.drop, verdict.drop)
    drops = [before.value - after.value for before, after in pairs]
    error = statistics.stdev(drops) / math.sqrt(len(drops))
    reach = float(stats.t.ppf(0.975, len(drops) - 1)) * error
    return statistics.mean(drops) - reach, statistics.mean(drops) + reach


def worse(drop: float, size: float, time: float) -> list[str]:
    """What ours is worse in. `drop` of the metric and `time` (a ratio) are the low ends of
    their intervals; `size` is how many times the library's bytes ours has."""
    found = {"metric": drop > 0, "bytes": size > BYTES, "latency": time > LATENCY}
    return [name for name, lost in found.items() if lost]


def _splits() -> Splits | None:
    data = training_data.fashion(0)
    if data is None:
        return None
    train = Arrays(data.train.x[:ROWS], data.train.y[:ROWS])
    return bases.image_splits(train, data.validation, data.test)


def made(
    base: bases.Base, splits: Splits, steps: list[Figures], seed: int = 0
) -> tuple[Scored, Artifact]:
    """What steps make of the base, and its score on the test rows."""
    with tempfile.TemporaryDirectory() as folder:
        job = bases.Told(Path(folder), quiet=True)
        pipeline = Pipeline(job, base.parent, splits, seed, for_task(splits.task), bases.engine)
        artifact = pipeline.apply(steps_from(steps), lambda step, outputs: None).artifact
    rows = rows_of(splits.test.frame, base.parent.signature)
    outputs = outputs_of(bases.engine(artifact), rows, splits.task)
    return score(splits.task, outputs, splits.test.y), artifact


def _codecs(base: bases.Base, splits: Splits) -> Figures:
    """Bytes of one pruned and shared graph: packed, and by codecs that know nothing of weights."""
    import pyarrow

    steps: list[Figures] = [
        {"method": "prune", "rate": 0.9, "rounds": 1, "epochs": 0},
        {"method": "share", "bits": 4, "epochs": 0},
    ]
    data = made(base, splits, steps)[1].data
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
    head = ["method", "library", "seeds", "metric", "library's", "95% of the difference", "bytes",
            "library's", "p50 µs", "library's", "times the library's", ""]  # fmt: skip
    rows = [
        [
            row["method"],
            row["peer"],
            row["seeds"],
            f"{row['metric']:.4f}",
            f"{row['peer_metric']:.4f}",
            f"{0 - row['interval'][1]:+.4f} to {0 - row['interval'][0]:+.4f}",
            f"{row['bytes']:,}",
            f"{row['peer_bytes']:,}",
            f"{1000 * row['p50_ms']:.0f}",
            f"{1000 * row['peer_p50_ms']:.0f}",
            "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**row["latency"]),
            f"worse: {' and '.join(row['worse'])}" if row["worse"] else "not worse",
        ]
        for row in found["pairs"]
    ]
    codecs = [[name, f"{size:,}"] for name, size in found["codecs"].items()]
    scores = " and ".join(f"{base['metric']:.4f} ({n})" for n, base in found["bases"].items())
    lines = [
        f"Accuracy of the bases on the test rows: {scores}. The last ratio is of paired rounds of "
        "calls with one row, with its 95% interval.", "",
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
