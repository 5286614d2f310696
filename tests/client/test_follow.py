"""client.follow: how a job looks on a terminal"""

import io

import pytest
from rich.console import Console

from meuse.client.follow import Bar, duration, pace, summary

JOB = {
    "id": "job-1", "kind": "train", "status": "queued", "queue_position": 3, "progress": 0.25,
    "metrics": {}, "rate": None, "unit": None, "eta_s": 190.0, "note": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """Seconds, then minutes, then hours."""
    assert duration(seconds) == text


def test_pace_has_what_is_known() -> None:
    """Rate, time left, note and the last figures; nothing that was not said."""
    said = {"rate": 12345.6, "unit": "rows", "eta_s": 42.0, "note": "epoch 3"}
    figures = {"a": 1.0, "train_loss": 0.12345, "validation_loss": 0.2, "validation_accuracy": 0.9}
    line = pace(said, figures)
    assert line.startswith("12,346 rows/s, 42 s left, epoch 3, train_loss 0.1235")
    assert "a 1" not in line
    assert pace({"fraction": 0.5}, {}) == ""


def test_a_job_in_a_list_says_where_it_waits() -> None:
    """Place and time left in one short row."""
    row = summary(JOB)
    assert (row["status"], row["done"], row["left"]) == ("queued #3", "25%", "3 min 10 s")


def test_a_fine_tuning_says_so_and_how_it_goes() -> None:
    """Its kind in a list; its losses, whatever else it has figures of."""
    tuning = {**JOB, "spec": {"recipe": "llm-lora"}}
    assert (summary(tuning)["kind"], summary(JOB)["kind"]) == ("fine-tune", "train")
    figures = {"validation_loss": 1.5, "validation_accuracy": 0.5, "train_loss": 1.25,
               "learning_rate": 1e-4, "trained_tokens": 4096.0}  # fmt: skip
    said = {"rate": 900.0, "unit": "tokens"}
    assert pace(said, figures) == "900 tokens/s, train_loss 1.25, validation_loss 1.5"


def test_the_bar_follows_the_events() -> None:
    """State, progress and log lines reach the terminal, markup in them as it is."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with Bar(JOB, console) as bar:
        bar.tell("status", {"status": "running"})
        bar.tell("log", {"message": "weights [red]of[/red] 3", "level": "info"})
        bar.tell("progress", {"fraction": 0.5, "rate": 10.0, "unit": "rows", "eta_s": 5.0})
        bar.tell("metrics", {"figures": {"loss": 0.5}})
        bar._progress.refresh()
    out = text.getvalue()
    assert "weights [red]of[/red] 3" in out
    assert "train running" in out
    assert "50%" in out
    assert "10 rows/s, 5 s left, loss 0.5" in out
