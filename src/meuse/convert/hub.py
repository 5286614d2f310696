"""Fetch a checkpoint of one commit from the Hugging Face hub: weights and text files only.

Knows the hub's API by huggingface_hub. The files come by our own download: a job can stop it at
any byte, and it goes on from there. Nothing that is fetched is executed.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.version import __version__
from meuse.pull import download as downloads
from meuse.pull.bring import Snapshot, client
from meuse.pull.download import BUSY, Progress, asked_wait_s, check_digest, download, wait

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
"""No pickle, no code."""
MOST_LICENCE = 200
_SILENCE_S = 30.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ELSEWHERE = (
    "Try the job again later; or fetch the checkpoint elsewhere and upload a zip of its folder, or "
    "name its path in a folder that the operator allows."
)
_ACCESS = (
    "Ask for access on its page; the operator gives the platform a token that has it (HF_TOKEN)."
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a commit, of `size` bytes. One of the digests is empty: files in Git LFS have a
    SHA-256, others git's own digest of a blob."""

    path: str
    size: int
    sha256: str = ""
    blob: str = ""


def fetch(
    reference: str,
    folder: Path,
    patterns: Sequence[str] = PATTERNS,
    *,
    max_bytes: int,
    progress: Progress = lambda done, total: None,
    endpoint: str | None = None,
) -> Snapshot:
    """What fits the patterns of `owner/name` or `owner/name@revision`, into a folder in `folder`.

    What is there of the same commit, from a try that was broken off, is not asked for again.
    `endpoint`: the hub's URL; by default HF_ENDPOINT's, or the public one.

    Raises `unavailable` when the hub cannot be reached or makes no sense, `not_found` when it has
    no such checkpoint, `forbidden` when it does not give it to us, `too_large`, `invalid_data`
    for names that lead out of the folder and for files of another digest, and what `progress`
    raises.
    """
    name, _, revision = reference.partition("@")
    info = _patiently(name, revision or None, endpoint, progress)
    try:
        commit, files = _matched(_COMMIT, info.sha), chosen(info.siblings or (), patterns)
    except (TypeError, ValueError) as error:
        raise _unavailable(f"the hub's list of {reference!r} cannot be read: {error}") from None
    if not files:
        raise MeuseError(
            Code.NOT_FOUND,
            f"{reference!r} has no file that fits {', '.join(patterns)}",
            field="source",
            hint="Look at the files on its page. Pickle and code are not fetched.",
        )
    total = sum(file.size for file in files)
    if total > max_bytes:
        raise MeuseError(
            Code.TOO_LARGE,
            f"the checkpoint has {total:,} bytes, and at most {max_bytes:,} are allowed",
            field="source",
            hint="The operator can raise max_pull_bytes.",
        )
    # Of the repository's and the commit's name: what another commit left is of no use.
    here = folder / f"{name.rpartition('/')[2]}@{commit}"
    if folder.exists():
        for other in folder.iterdir():
            if other != here:
                shutil.rmtree(other)
    _bring(name, commit, files, here, max_bytes, progress, endpoint)
    return Snapshot(here, commit, licence(info.card_data))


def chosen(siblings: Iterable[Any], patterns: Sequence[str]) -> list[Listed]:
    """Those of the hub's files (`RepoSibling`) that fit a pattern.

    Raises `invalid_data` for a name that leads out of the folder, ValueError for a file without
    a size or a digest.
    """
    files = []
    for each in siblings:
        path = str(each.rfilename)
        if not any(fnmatchcase(path, pattern) for pattern in patterns):
            continue
        if not path.isprintable() or "\\" in path or {"", ".", ".."} & set(path.split("/")):
            raise MeuseError(
                Code.INVALID_DATA,
                f"the repository names a file outside of it: {path[:200]!r}",
                field="source",
            )
        size = each.lfs.size if each.lfs else each.size
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"the size of {path} is {size!r}")
        if each.lfs:
            files.append(Listed(path, size, sha256=_matched(_SHA256, each.lfs.sha256)))
        else:
            files.append(Listed(path, size, blob=_matched(_COMMIT, each.blob_id)))
    return files


def licence(card: object) -> str:
    """As the data of a model card (`ModelCardData`) tell; "" when they do not."""
    told = getattr(card, "license", None)
    if told == "other":  # then it has a name of its own
        told = getattr(card, "license_name", None) or told
    if isinstance(told, list):
        told = ", ".join(str(each) for each in told)
    return told.strip()[:MOST_LICENCE] if isinstance(told, str) else ""


def blob_digest_of(path: Path) -> str:
    """What git calls the file: the SHA-1 of its length and its content."""
    sha1 = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: sha1).hexdigest()


def _matched(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not a digest")
    return value


def _patiently(
    name: str, revision: str | None, endpoint: str | None, progress: Progress
) -> ModelInfo:
    """A hub that is busy is asked again, when it says, within reason."""
    try:
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"the hub needs the package {error.name!r}, which is not installed",
            field="source",
            hint="pip install 'meuse[import]'",
        ) from None
    waits = iter(downloads.WAIT_S)
    while True:
        try:
            return _info(name, revision, endpoint)
        except errors.HfHubHTTPError as error:
            wait_s = next(waits, math.inf)
            if wait_s != math.inf:
                asked_s = asked_wait_s(error.response.headers)
                wait_s = wait_s if asked_s is None else asked_s
            if error.response.status_code not in BUSY or wait_s > downloads.MOST_WAIT_S:
                raise _refused(f"{name}@{revision}" if revision else name, error) from None
            wait(wait_s, lambda: progress(0, None))


def _info(name: str, revision: str | None, endpoint: str | None) -> ModelInfo:
    from huggingface_hub import HfApi, errors

    try:
        return HfApi(endpoint).model_info(
            name, revision=revision, files_metadata=True, timeout=_SILENCE_S
        )
    except errors.HFValidationError as error:
        raise invalid("source", f"{name!r} is not of the hub: {error}") from None
    except errors.HfHubHTTPError:
        raise
    # Of httpx or httpx2, by the version of huggingface_hub.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise _unavailable(
            f"the hub cannot be reached from this machine ({type(error).__name__})"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unavailable(f"the hub's answer cannot be read: {error}") from None


def _refused(asked: str, error: HfHubHTTPError) -> MeuseError:
    """What the hub's answer means; its words tell more than the status, where it has them."""
    from huggingface_hub import errors

    status = error.response.status_code
    is_missing = isinstance(error, errors.RepositoryNotFoundError) or status == 404
    if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and not is_missing):
        return _forbidden(asked)
    if not is_missing:
        return _unavailable(f"the hub answers {status}")
    what = "revision" if isinstance(error, errors.RevisionNotFoundError) else "repository"
    return MeuseError(
        Code.NOT_FOUND,
        f"the hub has no {what} {asked!r} that may be read from here",
        field="source",
        hint=f"Check the name; it may be private. {_ACCESS}",
    )


def _bring(
    name: str,
    commit: str,
    files: Sequence[Listed],
    folder: Path,
    max_bytes: int,
    progress: Progress,
    endpoint: str | None,
) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    total, before = sum(file.size for file in files), 0
    with client() as http:
        # The token is for the hub alone: httpx leaves it out where a redirect leads elsewhere.
        http.headers.update(build_hf_headers(library_name="meuse", library_version=__version__))
        for file in files:
            progress(before, total)  # also where nothing of the file is missing
            path = folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                download(
                    http,
                    hf_hub_url(name, file.path, revision=commit, endpoint=endpoint),
                    path,
                    sha256=file.sha256,
                    size=file.size,
                    max_bytes=max_bytes - before,
                    progress=_after(before, total, progress),
                )
            except MeuseError as error:
                if error.code is Code.FORBIDDEN:
                    raise _forbidden(f"{name}/{file.path}") from None
                raise
            if file.blob:
                check_digest(path, blob_digest_of(path), file.blob, "git blob digest")
            before += file.size


def _after(before: int, total: int, progress: Progress) -> Progress:
    """Of one file, told as of all of them."""
    return lambda done, _: progress(before + done, total)


def _forbidden(what: str) -> MeuseError:
    return MeuseError(
        Code.FORBIDDEN,
        f"the hub does not give {what!r} to this platform: access to it is restricted",
        field="source",
        hint=_ACCESS,
    )


def _unavailable(message: str) -> MeuseError:
    return MeuseError(Code.UNAVAILABLE, message, field="source", hint=_ELSEWHERE)
