"""The card of a version: everything that was measured, nothing that was not, all escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import MeuseError
from meuse.core.nouns import Artifact, Lineage, ModelVersion, Signature, TensorSpec
from meuse.evaluate.judge import final_evaluation, rows_of
from meuse.evaluate.seen import limits_of
from meuse.registry.card import GIVEN, check_given, compose, note, to_html, to_markdown

JSON = dict[str, Any]


def version(name: str = "digits") -> ModelVersion:
    return ModelVersion(
        model=name,
        version=3,
        task="classification",
        artifacts=(Artifact("model.onnx", "onnx", "b" * 64, 12345),),
        signature=Signature(
            (TensorSpec("input", "FP32", (-1, 2)),),
            (TensorSpec("label", "INT64", (-1,)),),
            ("cat", "dog"),
        ),
        metrics={"test_accuracy": 0.75},
        lineage=Lineage("job-1", "digits:1", "a" * 64, "c" * 64, 7, "kind", parent="digits:2"),
        created_ms=0,
    )


def noted(**more: Any) -> JSON:
    columns = {"age": np.array([3.0, 9.5, np.nan]), "sex": np.array(["f", "m", ""], object)}
    parts: JSON = {
        "data": {
            "name": "digits:1", "digest": "a" * 64, "rows": 40, "target": "kind",
            "columns": [{"name": "age", "kind": "float", "missing": 1}],
            "split": {"by": "ratio", "ratios": [0.7, 0.15, 0.15], "seed": 7},
            "split_rows": {"train": 28, "validation": 6, "test": 6},
        },
        "training": {
            "recipe": "mlp", "options": {"optimizer": "adam", "learning_rate": 0.002},
            "epochs": 12, "seconds": 3.5, "cpu_seconds": 3.25, "energy_joules": None,
            "energy": "not measured: this machine shows no RAPL counters",
        },
        "limits": limits_of(columns, "the median of training"),
        "given": {"licence": "CC-BY-4.0", "contact": "ml@example.org"},
    }  # fmt: skip
    return note(**(parts | more))


def evaluation() -> JSON:
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 1.0]] * 20)
    y = np.array([0, 1, 1, 1] * 20)
    columns = {"site": np.array((["north"] * 3 + ["south"]) * 20, object)}
    rows = rows_of("digits:1", "a" * 64, "test", "kind", np.arange(80))
    return final_evaluation(
        logits, y, "classification", rows,
        classes=["cat", "dog"], columns=columns, slices_by=["site"],
    ).to_dict()  # fmt: skip


def test_the_card_has_what_was_measured() -> None:
    """Data, training, figures with intervals, slices, limits, licence and lineage."""
    card = compose(version(), noted(), [evaluation()])
    card = json.loads(json.dumps(card, allow_nan=False))
    for text in (to_markdown(card), to_html(card)):
        for said in (
            "digits:3", "a" * 64, "adam", "0.002", "3.25", "accuracy", "0.75", "north",
            "CC-BY-4.0", "9.5", "cat, dog", "the median of training", "digits:2", "12,345",
        ):  # fmt: skip
            assert said in text.replace("\\", ""), said
    low, high = card["evaluations"][0]["intervals"]["accuracy"]
    assert f"{low:.4f} to {high:.4f}" in to_html(card)


def test_what_was_not_measured_says_so() -> None:
    """No energy is made up; a field that nobody filled in is named; an old version has a card."""
    card = compose(version(), noted(), [])
    assert "not measured: this machine shows no RAPL counters" in to_html(card)
    assert to_html(card).count("not given") == len(GIVEN) - 2
    bare = to_html(compose(version(), {}, []))
    for said in ("Nothing is known of the data", "Nothing is known of the training", "No eval"):
        assert said in bare
    measured = noted(training={"energy_joules": 1234.5, "energy": "RAPL, all packages"})
    assert "1,234.5 J (RAPL, all packages)" in to_html(compose(version(), measured, []))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert {name for name, _ in attrs} <= {"lang", "charset", "scope"}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(text=st.one_of(st.text(min_size=1), st.sampled_from(["<script>alert(1)</script>", '"><b>'])))
def test_no_text_becomes_markup(text: str) -> None:
    """Whatever users call things: the page has the tags of any other card, and the text."""
    plain, hostile = Tags(), Tags()
    for parser, word in ((plain, "x"), (hostile, text)):
        data = {"name": word, "columns": [{"name": word, "kind": "string", "missing": 0}]}
        card = noted(data=data, given={"notes": word}, limits={"values": {word: [word]}})
        parser.feed(to_html(compose(version(), card, [])))
        parser.close()
    assert hostile.tags == plain.tags


def test_markdown_tables_hold() -> None:
    """A bar, a line break or a tag in a name neither ends a cell nor becomes markup."""
    card = noted(given={"notes": "a|b\n| --- |\n<img src=x> [l](u) `c`"})
    text = to_markdown(compose(version(), card, []))
    line = next(line for line in text.splitlines() if line.startswith("| notes"))
    assert line.replace("\\|", "").count("|") == 3
    assert "<img" not in text
    assert "[l](u)" not in text


def test_long_tables_are_cut_and_say_so() -> None:
    """A thousand columns stand in the JSON."""
    columns = [{"name": f"c{i}", "kind": "float", "missing": 0} for i in range(1000)]
    card = compose(version(), noted(data={"name": "wide:1", "columns": columns}), [])
    assert len(card["data"]["columns"]) == 1000
    assert "and 900 more rows" in to_html(card)
    assert "c999" not in to_html(card)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("MIT", "card"),
        ({"license": "MIT"}, "card.license"),
        ({"licence": 3}, "card.licence"),
        ({"licence": " "}, "card.licence"),
        ({"notes": "x" * 4001}, "card.notes"),
    ],
)
def test_given_fields_are_checked(body: object, field: str) -> None:
    """The field and the fix."""
    with pytest.raises(MeuseError) as caught:
        check_given(body)
    assert caught.value.field == field


def test_given_fields_are_trimmed() -> None:
    """None is as good as absent."""
    assert check_given({"licence": " MIT ", "contact": None}) == {"licence": "MIT"}


def test_limits_are_those_of_the_rows() -> None:
    """Ranges of numbers, values of text; many values are counted, missing ones left out."""
    columns = {
        "x": np.array([np.nan, 2.0, -1.0]),
        "none": np.array([np.nan] * 3),
        "id": np.array([f"i{n:03}" for n in range(60)], object),
    }
    found = limits_of(columns, "refused")
    assert found["ranges"] == {"x": [-1.0, 2.0]}
    assert found["values"]["id"][-1] == "… and 10 more"
    assert len(found["values"]["id"]) == 51
    assert found["missing"] == "refused"


def test_a_limit_of_tokens_is_told() -> None:
    """Of an imported encoder, which has no columns."""
    told = to_markdown(compose(version(), note(limits={"tokens": 256}), []))
    assert "| tokens of a text | 256: what follows is cut off |" in told
