"""The gate of an alias: a worse version does not pass, and the reason has the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.registry.gate import Gate, decide, refused

JSON = dict[str, Any]


def evaluation(accuracy: float, **more: Any) -> JSON:
    rows = {
        "dataset": "digits:1", "dataset_digest": "d", "split": "test", "positions": "p",
        "target": "digit", "rows": 270,
    }  # fmt: skip
    rows |= more.pop("rows", {})
    figures = {"accuracy": accuracy, "log_loss": 1 - accuracy} | more.pop("figures", {})
    intervals = {"accuracy": (accuracy - 0.02, accuracy + 0.02)}
    body = {"task": "classification", "rows": rows, "figures": figures, "intervals": intervals}
    return {**body, "differences": [], **more}


def test_a_worse_version_is_refused_with_the_numbers() -> None:
    """Both figures, the rows, and how sure it is."""
    verdict = decide("m:2", "m:1", [evaluation(0.95)], [evaluation(0.97)], Gate())
    assert not verdict.passed
    assert verdict.drop == pytest.approx(0.02)
    for said in ("m:2", "m:1", "0.9500", "0.9700", "270 rows", "digits:1", "test", "0.9900"):
        assert said in verdict.reason
    error = refused(verdict)
    assert (error.code, error.http_status) == (Code.GATE_REFUSED, 422)
    assert error.message == verdict.reason


def test_a_better_one_passes_and_one_as_good() -> None:
    """At a drop of 0 equal is enough."""
    better = decide("m:2", "m:1", [evaluation(0.98)], [evaluation(0.97)], Gate())
    assert better.passed
    assert "0.0100 better" in better.reason
    same = decide("m:2", "m:1", [evaluation(0.97)], [evaluation(0.97)], Gate())
    assert same.passed
    assert "the same as" in same.reason


@given(old=st.floats(0, 1), drop=st.floats(0, 1), allowed=st.floats(0, 1))
def test_the_limit_is_exact(old: float, drop: float, allowed: float) -> None:
    """A drop passes up to what is allowed, for figures where more is better or less."""
    expected = drop <= allowed + 1e-9
    if abs(drop - allowed) < 2e-9:
        return
    for metric, new in (("accuracy", old - drop), ("log_loss", old + drop)):
        pair = [[evaluation(0.5, figures={metric: figure})] for figure in (new, old)]
        gate = Gate(metric=metric, max_drop=allowed)
        assert decide("m:2", "m:1", *pair, gate).passed is expected


def test_the_newest_common_rows_decide() -> None:
    """Evaluations of other rows, other data or another target are passed over."""
    other_rows = evaluation(0.10, rows={"positions": "q"})
    other_data = evaluation(0.10, rows={"dataset_digest": "e"})
    other_target = evaluation(0.10, rows={"target": "odd"})
    mine = [other_rows, other_data, evaluation(0.98), evaluation(0.20)]
    theirs = [other_target, evaluation(0.97), evaluation(0.99)]
    verdict = decide("m:2", "m:1", mine, theirs, Gate())
    assert (verdict.candidate, verdict.current) == (0.98, 0.97)


def test_the_gates_data_narrows_it() -> None:
    """Only evaluations of that data count, however old."""
    mine = [evaluation(0.98), evaluation(0.5, rows={"dataset_digest": "e"})]
    theirs = [evaluation(0.97), evaluation(0.6, rows={"dataset_digest": "e"})]
    assert decide("m:2", "m:1", mine, theirs, Gate(), "d").passed
    assert not decide("m:2", "m:1", mine, theirs, Gate(), "e").passed


def test_without_a_common_evaluation_the_job_is_named() -> None:
    """What to run stands in the hint, ready to send."""
    with pytest.raises(MeuseError) as caught:
        decide("m:2", "m:1", [], [evaluation(0.9)], Gate(data="digits:1"))
    assert caught.value.code == Code.GATE_REFUSED
    assert '"models": ["m:2", "m:1"], "data": "digits:1"' in str(caught.value.hint)


def test_language_models_are_judged_on_a_file() -> None:
    """So the hint does not ask for a dataset."""
    for language, data in ((True, "file-…"), (False, "<dataset>")):
        with pytest.raises(MeuseError) as caught:
            decide("m:2", "m:1", [], [], Gate(), language=language)
        assert f'"models": ["m:2", "m:1"], "data": "{data}"' in str(caught.value.hint)


def test_figures_of_two_engines_are_told_as_such() -> None:
    """An adapter is judged by transformers, what the engine serves by the engine."""
    mine, theirs = (evaluation(0.9, engine=name) for name in ("transformers", "openvino"))
    told = "judged by transformers and by openvino"
    assert told in decide("m:2", "m:1", [mine], [theirs], Gate()).reason
    for same in (theirs, evaluation(0.9), evaluation(0.9, engine="")):
        assert "judged by" not in decide("m:2", "m:1", [theirs], [same], Gate()).reason


def test_pairs_of_one_job_give_the_interval_of_the_drop() -> None:
    """Whichever of the two records keeps the difference."""
    kept = {"figure": "accuracy", "than": "m:1", "difference": 0.01, "interval": (-0.01, 0.03)}
    mine, theirs = evaluation(0.98, differences=[kept]), evaluation(0.97)
    assert decide("m:2", "m:1", [mine], [theirs], Gate()).interval == (-0.03, 0.01)
    turned = {"figure": "accuracy", "than": "m:2", "difference": -0.01, "interval": (-0.03, 0.01)}
    mine, theirs = evaluation(0.98), evaluation(0.97, differences=[turned])
    verdict = decide("m:2", "m:1", [mine], [theirs], Gate())
    assert verdict.interval == (-0.03, 0.01)
    assert "paired" in verdict.reason
    assert "not paired" not in verdict.reason


def test_the_first_version_and_the_same_pass() -> None:
    """There is nothing to be worse than."""
    assert decide("m:2", None, [], [], Gate()).passed
    assert decide("m:2", "m:2", [], [], Gate()).passed


def test_an_unknown_metric_is_refused_by_name() -> None:
    """With those that both have."""
    with pytest.raises(MeuseError) as caught:
        decide("m:2", "m:1", [evaluation(0.9)], [evaluation(0.9)], Gate(metric="bleu"))
    assert caught.value.field == "gate.metric"
    assert "accuracy" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (3, "gate"),
        ({"drop": 1}, "gate.drop"),
        ({"max_drop": -0.1}, "gate.max_drop"),
        ({"max_drop": "much"}, "gate.max_drop"),
        ({"metric": 4}, "gate.metric"),
        ({"data": "digits@champion"}, "gate.data"),
    ],
)
def test_a_bad_gate_names_the_field(body: object, field: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(MeuseError) as caught:
        Gate.from_dict(body)
    assert caught.value.field == field


def test_a_gate_is_json() -> None:
    """What is kept with an alias is what was asked."""
    gate = Gate("log_loss", 0.01, "digits:1")
    assert Gate.from_dict(gate.to_dict()) == gate
    assert Gate.from_dict({}) == Gate()


def test_language_models_are_gated_by_what_was_measured() -> None:
    """Accuracy first, then matches; of a perplexity more is worse."""

    def spoken(**figures: float) -> JSON:
        return evaluation(0.5) | {"task": "text-generation", "figures": figures, "intervals": {}}

    pair = [[spoken(perplexity=21.0, nats_per_token=3.04)], [spoken(perplexity=20.0)]]
    verdict = decide("m:2", "m:1", *pair, Gate())
    assert (verdict.passed, verdict.metric) == (False, "perplexity")
    assert verdict.drop == pytest.approx(1)
    assert decide("m:2", "m:1", *pair, Gate(max_drop=1)).passed
    pair = [[spoken(perplexity=9.0, accuracy=0.5)], [spoken(perplexity=20.0, accuracy=0.6)]]
    verdict = decide("m:2", "m:1", *pair, Gate())
    assert (verdict.passed, verdict.metric) == (False, "accuracy")
    assert decide("m:2", "m:1", *pair, Gate(metric="perplexity")).passed
    ours, theirs = (spoken(perplexity=9.0) | {"tokens": count} for count in (100, 90))
    with pytest.raises(MeuseError) as caught:
        decide("m:2", "m:1", [ours], [theirs], Gate())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "gate.metric")
    assert "100 tokens where m:1 reads 90" in caught.value.message
