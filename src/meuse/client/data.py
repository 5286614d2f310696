"""The client's calls about datasets and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meuse.client.link import JSON, Link
from meuse.core.errors import MeuseError


class DataCalls(Link):
    """What `Client` has of data."""

    def upload(
        self,
        name: str,
        path: Path,
        *,
        format: str | None = None,
        later: bool = False,
        **reading: Any,
    ) -> JSON:
        """Upload a file of data in one request: the dataset version, or with `later` the answer
        202 with the id of an ingest job.

        `format` None takes the file's ending. `reading`: kinds, missing, encoding, delimiter,
        on_error, manifest.
        """
        said = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in reading.items()}
        params = {"name": name, "format": format or _format_of(path), **said}
        if later:
            params["async"] = "true"
        with path.open("rb") as file:
            answer: JSON = self.call(
                "POST",
                "/api/datasets",
                params={key: value for key, value in params.items() if value is not None},
                content=file,
                headers={"content-type": "application/octet-stream"},
            )
        return answer

    def upload_parts(
        self,
        name: str,
        path: Path,
        *,
        format: str | None = None,
        later: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
        **reading: Any,
    ) -> JSON:
        """Upload a file in parts; as `upload`. Called again after it was broken off, it sends
        only what is missing. `progress` gets bytes."""
        from meuse.client.parts import send

        said = {key: value for key, value in reading.items() if value is not None}
        return send(self, name, path, format or _format_of(path), later, progress, said)

    def fetch_data(self, name: str, url: str, **more: Any) -> JSON:
        """Let the platform fetch a dataset; the answer 202 with the id of an ingest job. `more`:
        format, and how it is read."""
        answer: JSON = self.call("POST", "/api/datasets", json={"name": name, "url": url, **more})
        return answer

    def dataset(self, name: str, version: int | None = None) -> JSON:
        """A version, by default the latest."""
        tail = "" if version is None else f"/versions/{version}"
        answer: JSON = self.call("GET", f"/api/datasets/{quote(name)}{tail}")
        return answer

    def profile(
        self, name: str, version: int, target: str | None = None, split: Any = None
    ) -> JSON:
        """The profile of a version; `split` as in a train job, or `time:day` and the like."""
        asked = {"target": target, "split": json.dumps(split) if isinstance(split, dict) else split}
        answer: JSON = self.call(
            "GET",
            f"/api/datasets/{quote(name)}/versions/{version}/profile",
            params={key: value for key, value in asked.items() if value is not None},
            timeout=660.0,
        )
        return answer

    def delete_dataset(self, name: str, version: int) -> None:
        self.call("DELETE", f"/api/datasets/{quote(name)}/versions/{version}")

    def datasets(self) -> list[JSON]:
        items: list[JSON] = self.call("GET", "/api/datasets")["items"]
        return items


def _format_of(path: Path) -> str | None:
    """By the file's ending; None leaves it to the bytes."""
    from meuse.data import formats

    try:
        return formats.parse(path.suffix.lstrip("."))
    except MeuseError:
        return None
