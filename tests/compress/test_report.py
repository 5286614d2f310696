"""What a report claims, and how it is drawn and shown."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from meuse.compress import latency, memory, plots, summary
from meuse.compress.claims import claims, pace, zeros
from meuse.compress.latency import Times
from meuse.compress.methods import ir
from meuse.compress.page import drawings, page
from meuse.core.errors import Code, MeuseError
from meuse.serve import packed

LAYER = {"name": "w", "op": "Gemm", "shape": [10, 10], "values": 100, "distinct": 90}


def side(**more: Any) -> dict[str, Any]:
    return {
        "format": "onnx", "bytes": 1000, "raw_bytes": 400, "coded_bytes": None,
        "parameters": 100, "nonzeros": 100, "macs": 100, "uncounted": {},
        "layers": [{**LAYER, "nonzeros": 100, "bits": 32}], "metric": 0.9,
        "metric_interval": [0.88, 0.92], "p50_ms": 1.0, "p95_ms": 1.2, "p50_ms_batch32": 9.0,
        "p95_ms_batch32": 9.9, "memory_bytes": 5000, "memory_bytes_batch32": 6000, **more,
    }  # fmt: skip


def ratio(value: float, spread: float = 0.01) -> dict[str, float]:
    return {"ratio": value, "low": value - spread, "high": value + spread}


def report(**more: Any) -> dict[str, Any]:
    body = {
        "schema": "meuse.compression", "format": 2, "parent": "m:1", "task": "classification",
        "method": "prune", "metric_name": "accuracy", "rows": {"test": 500, "validation": 500},
        "before": side(), "after": side(), "speed": {"1": ratio(1.0), "32": ratio(1.0)},
        "drop": 0.004, "interval": [-0.002, 0.01],
        "goal": {"max_drop": 0.01, "max_bytes": None, "max_latency_ms": None},
        "verdict": {"passed": True, "reason": "it held", "field": None},
        "steps": [], "sensitivity": [],
        "machine": {"processor": "p", "cores": 2, "threads": 1, "packages": {}}, **more,
    }  # fmt: skip
    return {**body, "claims": claims(body)}


SPARSE = side(nonzeros=10, layers=[{**LAYER, "nonzeros": 10, "bits": 32}])
INT8 = side(layers=[{**LAYER, "nonzeros": 98, "bits": 8}])


def test_what_a_step_undid_is_claimed() -> None:
    step = {"method": "low_rank", "config": {}, "lost": ["80% were zero, 2% are now"]}
    said = report(steps=[step])["claims"]
    assert "low_rank undid earlier work: 80% were zero, 2% are now." in said
    assert not any("undid" in line for line in report(steps=[{**step, "lost": []}])["claims"])


def test_zeros_that_bring_no_speed_are_said_to_bring_none() -> None:
    """Nine of ten weights are zero and the calls take as long: that is said."""
    told = " ".join(report(after=SPARSE)["claims"])
    assert "90.0% of the weights are zero; that brings no speed here" in told
    assert "No faster and no slower at batch 1" in told


def test_speed_of_integers_is_not_given_to_zeros() -> None:
    """Sparse integers that are faster owe it to the integers."""
    both = side(nonzeros=10, layers=[{**LAYER, "nonzeros": 10, "bits": 8}])
    faster = {"1": ratio(0.5), "32": ratio(0.4)}
    told = " ".join(report(after=both, speed=faster)["claims"])
    assert "so the speed comes from integers, not from them" in told
    fewer = side(nonzeros=10, macs=40)
    told = " ".join(report(after=fewer, speed=faster)["claims"])
    assert "so the speed comes from smaller shapes" in told


def test_zeros_of_another_format_get_no_speed_of_its_engine() -> None:
    """Counted in the graph that the file was made of, which is said; what only the file has, the
    bits that are stored, is not known."""
    layer = {**LAYER, "nonzeros": 10, "bits": None, "distinct": None}
    other = side(format="openvino", counted_in="source", nonzeros=10, layers=[layer])
    same = report(after=other)
    told = " ".join(same["claims"])
    assert "90.0% of the weights are zero; that brings no speed here" in told
    assert "counted in the ONNX graph that the openvino file was made of" in told
    faster = report(after=other, speed={"1": ratio(0.5), "32": ratio(0.4)})
    assert "from the other format and engine, not from them" in " ".join(faster["claims"])
    rows = {row.figure: row for row in summary.rows(same)}
    assert rows["most distinct values of a layer"].after == "not measured"
    assert "<td class=num>not measured" in page(same, "m:2")


@pytest.mark.parametrize("name", ["before", "after"])
def test_zeros_that_were_not_counted_are_said_not_to_be(name: str) -> None:
    """A file without any ONNX graph says nothing of zeros, so the report does not either."""
    blank: dict[str, Any] = {"parameters": None, "nonzeros": None, "macs": None, "layers": []}
    told = " ".join(report(**{name: side(format="openvino", **blank)})["claims"])
    assert f"Zeros were not counted: of the openvino file {name} compression" in told


def test_slow_integers_are_said_to_be_slow() -> None:
    """int8 that takes longer at batch 1 is told, with the ratio; at 32 it may be faster."""
    told = " ".join(report(after=INT8, speed={"1": ratio(1.1), "32": ratio(0.7)})["claims"])
    assert "Slower at batch 1: a call takes 1.10 times as long" in told
    assert "Integers are slower than floats here at batch 1:" in told
    assert "Faster at batch 32" in told


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.5, 0.9, "faster"), (0.9, 0.98, "same"), (0.99, 1.2, "same"), (1.04, 1.3, "slower")],
)
def test_a_ratio_counts_when_its_spread_leaves_one(low: float, high: float, word: str) -> None:
    """The whole interval decides, not its middle."""
    assert pace({"ratio": (low + high) / 2, "low": low, "high": high}) == word


def test_doubt_about_the_metric_is_told() -> None:
    """A drop whose interval includes 0 is said not to be told apart from none."""
    assert "cannot tell this from no change" in report()["claims"][1]
    assert "cannot" not in report(interval=[0.001, 0.01])["claims"][1]


def test_what_was_not_measured_says_so() -> None:
    """Entropy-coded bytes without a codec are "not measured", in the table too."""
    rows = {row.figure: row for row in summary.rows(report())}
    assert rows["bytes, entropy coded"].after == "not measured"
    assert rows["p50 at batch 1, ms"].change == "1.00×"
    assert zeros({"parameters": None}) is None


def test_memory_is_told_by_batch() -> None:
    """Reports of the first format had one figure for both."""
    told = {row.figure: row.after for row in summary.rows(report()) if "memory" in row.figure}
    assert told == {
        "peak memory at batch 1, bytes": "5,000", "peak memory at batch 32, bytes": "6,000",
    }  # fmt: skip
    old = summary.rows(report(format=1))
    assert [row.figure for row in old if "memory" in row.figure] == ["peak memory, bytes"]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


EVIL = "\"><script>alert(1)</script>&'<img src=x onerror=alert(1)>"


def test_the_page_shows_everything_and_runs_nothing() -> None:
    """Whatever names stand in a report, the page has no script, no handler and loads nothing."""
    trial = {
        "number": 0, "name": EVIL, "steps": [], "seconds": 1.0, "error": None, "metric": 0.89,
        "drop": 0.01, "bytes": 500, "p50_ms": 1.0, "p95_ms": 1.1, "front": True,
        "recommended": True,
    }  # fmt: skip
    step = {"method": EVIL, "config": {EVIL: EVIL}, "metric": 0.9, "drop": 0.0, "bytes": 7,
            "seconds": 1.0, "gate": None}  # fmt: skip
    full = report(
        method=EVIL, parent=EVIL, steps=[step],
        sensitivity=[{"layer": EVIL, "rate": 0.5, "figure": 0.8, "drop": 0.1}],
        after=side(layers=[{**LAYER, "name": EVIL, "nonzeros": 9, "bits": 8}],
                   uncounted={EVIL: 2}),
        verdict={"passed": False, "reason": EVIL, "field": "goal.max_drop"},
        metric_name=EVIL,
        auto={"metric": 0.9, "bytes": 900, "ended": EVIL,
              "trials": [trial, {**trial, "metric": None, "error": EVIL}]},
    )  # fmt: skip
    text = page(full, EVIL)
    tags = Tags()
    tags.feed(text)
    names = {name for name, _ in tags.seen}
    assert {"svg", "table", "h1"} <= names
    assert not names & {"script", "img", "iframe", "object", "link", "a"}
    for _, attributes in tags.seen:
        assert not any(name.startswith("on") for name in attributes)
        assert "src" not in attributes
    for heading in ("Figures", "Steps", "Search", "Sensitivity", "Layers"):
        assert f"<h2>{heading}</h2>" in text


@given(
    st.lists(
        st.tuples(
            st.text(max_size=20), st.integers(1, 10**9), st.floats(-2, 1),
            st.sampled_from([plots.FRONT, plots.BEATEN, plots.PARENT]), st.booleans(),
        ),
        min_size=1, max_size=12,
    ),
    st.floats(-2, 1),
)  # fmt: skip
def test_every_point_is_drawn_inside(models: Any, floor: float) -> None:
    """The plot is well-formed XML with a dot per model, all within the frame."""
    drawn = plots.pareto(
        [plots.Point(name, size, metric, (metric - 0.1, metric + 0.1), kind, best)
         for name, size, metric, kind, best in models],
        "accuracy", floor,
    )  # fmt: skip
    root = ET.fromstring(drawn)
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    dots = [e for e in circles if e.get("class") in (plots.FRONT, plots.BEATEN, plots.PARENT)]
    assert len(dots) == len(models)
    for dot in dots:
        assert 0 <= float(dot.get("cx", "-1")) <= plots.WIDTH
        assert 0 <= float(dot.get("cy", "-1")) <= plots.HEIGHT


def test_plots_of_a_report() -> None:
    """Bars before and after at both batch sizes, and both models against bytes."""
    drawn = drawings(report(after=side(bytes=100, p50_ms=0.5)))
    for name, count in (("latency", 4), ("pareto", 2)):
        root = ET.fromstring(drawn[name])
        kind = "rect" if name == "latency" else "circle"
        assert len([e for e in root.iter() if e.tag.endswith(kind)]) == count
    tall = [float(e.get("height", "0")) for e in ET.fromstring(drawn["latency"]).iter()
            if e.tag.endswith("rect")]  # fmt: skip
    assert tall[1] == pytest.approx(tall[0] / 2, abs=0.1)


def alone(layer: str, drop: float | None, **change: float) -> dict[str, Any]:
    return {"layer": layer, **change, "figure": drop and 0.9 - drop, "drop": drop}


def test_what_layers_bear_is_a_table_and_bars() -> None:
    """A row per layer with every change; bars of the hardest of each kind, as long as the drop."""
    rows = [
        alone("a", 0.1, rate=0.5), alone("a", 0.4, rate=0.9), alone("a", 0.2, bits=4),
        alone("b", -0.1, rate=0.9), alone("b", None, bits=4),
    ]  # fmt: skip
    body = report(sensitivity=rows)
    head, table = summary.sensitivity(body)
    assert head[1:] == ["rate 0.5", "rate 0.9", "4 bits"]
    assert table == [
        ["a", "0.1000", "0.4000", "0.2000"],
        ["b", "not measured", "-0.1000", "not measured"],
    ]
    drawn = [e for e in ET.fromstring(plots.layers(body)).iter() if e.tag.endswith("rect")]
    wide = [float(bar.get("width", "-1")) for bar in drawn[2:]]  # after two of the legend
    assert wide == [wide[0], pytest.approx(wide[0] / 2, abs=0.1), 0.0]
    assert plots.layers(report()) == ""
    assert "<h2>Sensitivity</h2>" not in page(report(), "m:2")


def test_many_layers_are_the_ones_that_bear_least() -> None:
    """In the network's order, within the frame."""
    rows = [alone(f"layer.{i}", i / 100, rate=0.9) for i in range(40)]
    root = ET.fromstring(plots.layers(report(sensitivity=rows)))
    told = [e.text for e in root.iter() if e.text and e.text.startswith("layer.")]
    assert [t for t in told if ":" not in t] == [f"layer.{i}" for i in range(24, 40)]
    low = max(float(e.get("y", "0")) for e in root.iter() if e.tag.endswith("text"))
    assert low < float(root.get("height", "0"))


def test_an_older_report_still_has_a_page() -> None:
    """Reports from before the schema have five figures a side, and are shown."""
    old = {"bytes": 9, "metric": 0.5, "p50_ms": 1.0, "p95_ms": 2.0, "p50_ms_batch32": 3.0}
    body = {"method": "quantize", "metric_name": "accuracy", "before": old, "after": old,
            "drop": 0.0, "interval": [0.0, 0.0], "goal": {"max_drop": 0.01}}  # fmt: skip
    text = page(body, "m:2")
    assert "<svg" in text
    assert "not measured" not in text


def test_a_ratio_of_times_has_a_spread() -> None:
    """Rounds that all take twice as long give 2 with no doubt; noise gives an interval."""
    base = [[1.0, 1.1, 0.9]] * 20
    twice = [[2 * v for v in times] for times in base]
    found = latency.compare(Times(base), Times(twice))
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)
    noise = np.random.default_rng(0).normal(1, 0.1, (20, 3))
    found = latency.compare(Times(base), Times(noise.tolist()))
    assert found.low < found.ratio < found.high


@pytest.mark.parametrize("format", ["onnx", "openvino", "packed"])
def test_memory_grows_with_the_batch(format: str) -> None:
    """A fresh process grows by more than the file at batch 1, and further by the 25 MB that 32
    rows of 200,000 numbers take."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["wide"]),
             helper.make_node("Softmax", ["wide"], ["y"])]  # fmt: skip
    value = helper.make_tensor_value_info
    weight = np.random.default_rng(0).normal(size=(4, 200_000)).astype(np.float32)
    graph = helper.make_graph(
        nodes, "wide", [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 200_000])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    made = {"onnx": lambda: model, "packed": lambda: packed.pack(model),
            "openvino": lambda: ir.pack(ir.model_of(model)).data}[format]()  # fmt: skip
    found = memory.peaks(format, made, {"x": np.ones((4, 4), np.float32)})
    assert len(made) < found[1] < 200 * 2**20
    assert 20 * 10**6 < found[32] - found[1] < 400 * 10**6


def test_why_memory_was_not_measured_is_told(classifier: Any) -> None:
    """The reason is the engine's own, in the log; the figures are open."""
    rows = {"input": classifier.splits.test.frame.numbers[:4]}
    with pytest.raises(
        MeuseError, match="not measured: not a model that ONNX Runtime can load"
    ) as caught:
        memory.peaks("onnx", b"no model", rows)
    assert caught.value.code == Code.INTERNAL
