"""Events of usage in batches that the platform takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meuse.client.link import Link

MOST, MOST_BYTES = 1_000, 900_000
_BATCH = {"content-type": "application/cloudevents-batch+json"}


def push(client: Link, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Send all of them, a batch after the other. Raises `MeuseError` at the first batch that is
    refused: the ones before it are taken, and are recognised when they come again."""
    sums: dict[str, Any] = {"accepted": 0, "duplicates": 0, "late": []}
    for first, body in batches(events):
        answer = client.call("POST", "/api/usage/events", content=body, headers=_BATCH)
        sums["accepted"] += answer["accepted"]
        sums["duplicates"] += answer["duplicates"]
        sums["late"] += [{**row, "index": row["index"] + first} for row in answer["late"]]
    return sums


def batches(events: Sequence[dict[str, Any]]) -> Iterator[tuple[int, bytes]]:
    """(place of the first, JSON array) of each batch."""
    first, size, texts = 0, 0, list[bytes]()
    for number, event in enumerate(events):
        text = json.dumps(event).encode()
        if texts and (len(texts) == MOST or size + len(text) > MOST_BYTES):
            yield first, b"[" + b",".join(texts) + b"]"
            first, size, texts = number, 0, []
        texts.append(text)
        size += len(text) + 1
    if texts:
        yield first, b"[" + b",".join(texts) + b"]"
