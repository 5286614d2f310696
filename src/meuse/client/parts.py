"""A file in parts: announce, send what is missing, complete. Holds one part at a time."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from meuse.core.errors import Code, MeuseError, invalid

if TYPE_CHECKING:
    from meuse.client.data import DataCalls

ROOT = "/api/datasets/uploads"
TRIES = 6
_AGAIN = (Code.UNAVAILABLE, Code.INTERNAL, Code.OVERLOADED)


def send(
    client: DataCalls,
    name: str,
    path: Path,
    format: str | None,
    later: bool,
    progress: Callable[[int, int], None],
    reading: dict[str, Any],
) -> dict[str, Any]:
    """The dataset version, or the answer 202. The whole file's digest says which upload that was
    broken off is this one, and that what arrives is what was sent."""
    total = path.stat().st_size
    if total == 0:
        raise invalid("file", f"{path} is empty")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    body = {"name": name, "bytes": total, "sha256": digest, **reading}
    if format is not None:
        body["format"] = format
    upload = client.call("POST", ROOT, json=body)
    where, size = f"{ROOT}/{quote(upload['id'])}", upload["part_size"]
    have = {part["number"] for part in upload["parts"]}
    done = sum(part["bytes"] for part in upload["parts"])
    progress(done, total)
    with path.open("rb") as file:
        for number in range(1, upload["part_count"] + 1):
            if number in have:
                continue
            file.seek((number - 1) * size)
            piece = file.read(size)
            _put(client, f"{where}/parts/{number}", piece)
            done += len(piece)
            progress(done, total)
    answer: dict[str, Any] = client.call(
        "POST", f"{where}/complete", params={"async": "true"} if later else {}, timeout=660.0
    )
    return answer


def _put(client: DataCalls, where: str, piece: bytes) -> None:
    """Send a part, again when the connection or the platform was away for a moment."""
    digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
    for attempt in range(TRIES):
        try:
            headers = {"content-digest": f"sha-256=:{digest}:"}
            client.call("PUT", where, content=piece, headers=headers, timeout=300.0)
            return
        except MeuseError as error:
            if error.code not in _AGAIN or attempt == TRIES - 1:
                raise
            time.sleep(min(8.0, 0.5 * 2**attempt))
