"""`meuse demo`, as who has just installed Meuse runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meuse.tour.language import ASKED, CAPITALS

MEUSE = Path(sys.executable).with_name("meuse")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_ends_with_a_model_that_answers_as_it_was_taught() -> None:
    """On questions that it was not taught; its loss on others falls; every token is metered."""
    done = subprocess.run(
        [str(MEUSE), "demo", "--json"], capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["after"]["bytes"] < figures["before"]["bytes"] / 3
    assert figures["rows_metered"] > 2000
    talk = figures["chat"]
    assert talk["skipped"] == ""
    assert 0 < talk["training_seconds"] < 600
    before, after = talk["validation_loss"]
    assert after < 0.5 * before
    assert len(talk["answers"]) == len(ASKED)
    assert not set(ASKED) & set(CAPITALS)
    for plain, taught in talk["answers"].values():
        assert taught.startswith("Ahoy! It is ")
        assert taught.endswith("says the ferryman.")
        assert "Ahoy" not in plain
    assert talk["tokens_metered"] > 0


def test_the_second_half_can_be_left_out() -> None:
    done = subprocess.run(
        [str(MEUSE), "demo", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--no-chat" in done.stdout
