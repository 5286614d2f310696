"""Events of usage: how files are read, and how many go in one request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from meuse.cli.usage import read_events
from meuse.client import Client
from meuse.client.events import MOST, MOST_BYTES, batches, push
from meuse.core.errors import MeuseError


def events(count: int, size: int = 1) -> list[dict[str, Any]]:
    return [{"id": f"e-{n}", "note": "x" * size} for n in range(count)]


@pytest.mark.parametrize(
    ("count", "size", "firsts"),
    [(0, 1, []), (1, 1, [0]), (MOST, 1, [0]), (MOST + 1, 1, [0, MOST]),
     (3, MOST_BYTES // 2, [0, 1, 2])],
)  # fmt: skip
def test_batches_hold_all_events_in_order(count: int, size: int, firsts: list[int]) -> None:
    """As many as a request may have, and no more bytes."""
    given = events(count, size)
    found = list(batches(given))
    assert [first for first, _ in found] == firsts
    assert [event for _, body in found for event in json.loads(body)] == given
    assert all(len(body) <= MOST_BYTES + 100 for _, body in found)


class Platform:
    """Answers that one event of each batch is late."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def call(self, method: str, path: str, *, content: bytes, headers: dict[str, str]) -> Any:
        assert (method, path) == ("POST", "/api/usage/events")
        assert headers == {"content-type": "application/cloudevents-batch+json"}
        count = len(json.loads(content))
        self.asked.append(count)
        return {"accepted": count - 1, "duplicates": 1, "late": [{"index": 7, "id": "x"}]}


def test_what_became_of_all_is_added_up() -> None:
    """Places are those in the list that was given."""
    platform = Platform()
    done = push(cast("Client", platform), events(2 * MOST + 8))
    assert platform.asked == [MOST, MOST, 8]
    assert (done["accepted"], done["duplicates"]) == (2 * MOST + 5, 3)
    assert [row["index"] for row in done["late"]] == [7, MOST + 7, 2 * MOST + 7]


@pytest.mark.parametrize(
    ("text", "count"),
    [('{"id": "1"}', 1), ('[{"id": "1"}, {"id": "2"}]', 2), ('{"id": "1"}\n\n{"id": "2"}\n', 2),
     ("[]", 0), ("", 0)],
)  # fmt: skip
def test_a_file_is_one_event_an_array_or_lines(tmp_path: Path, text: str, count: int) -> None:
    path = tmp_path / "events.json"
    path.write_text(text)
    assert [event["id"] for event in read_events(path)] == [str(n + 1) for n in range(count)]


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot read"), (b"\xff\xfe\xfd", "cannot read"), (b'{"id": 1}\n{', "line 2 of")],
)
def test_a_file_that_is_no_events_is_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "events.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeuseError, match=told) as caught:
        read_events(path)
    assert caught.value.field == "file"
