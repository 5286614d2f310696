"""A file over HTTP that goes on where it was broken off, checked by its digest at the end."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from meuse.core.errors import Code, MeuseError

TRIES = 5
WAIT_S = (0.5, 2.0, 5.0, 10.0)
MOST_WAIT_S = 60.0
"""A host that asks for more than this is not waited for: the job can be tried again later."""
BUSY = (429, 500, 502, 503, 504)
"""Answers that may be others in a moment."""

_REFUSALS = {401: Code.FORBIDDEN, 403: Code.FORBIDDEN, 404: Code.NOT_FOUND}
"""What a host's answer means; all others, that the file does not come for now."""

Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all if known). May raise, to stop for now."""


class _BusyError(Exception):
    """The host answers one of `BUSY`; `wait_s` is what it asks for, None where it does not."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"the file's host answers {response.status_code}")
        self.wait_s = asked_wait_s(response.headers)


def download(
    client: httpx.Client,
    url: str,
    out: Path,
    *,
    sha256: str = "",
    size: int | None = None,
    max_bytes: int,
    progress: Progress = lambda done, total: None,
) -> str:
    """Write the file at `url` to `out`; its SHA-256. What `out` holds of it already is kept and
    not asked for again.

    A host that is busy or broken is asked again, when it says, within reason.

    Raises `too_large`, `unavailable` when it does not come, `forbidden` or `not_found` when the
    host says so, `invalid_data` when it is another file than announced: then `out` is gone.
    """
    if urlsplit(url).scheme == "file":
        shutil.copyfile(Path(url2pathname(urlsplit(url).path)), out)
    else:
        _bring(client, url, out, size, max_bytes, progress)
    found = digest_of(out)
    if sha256:
        check_digest(out, found, sha256)
    return found


def check_digest(path: Path, found: str, announced: str, name: str = "SHA-256") -> None:
    """Raises `invalid_data` when it is another file than announced: then `path` is gone."""
    if found == announced:
        return
    path.unlink()
    raise MeuseError(
        Code.INVALID_DATA,
        f"the file has the {name} {found}, where {announced} was announced",
        field="source",
        hint="Try the job again; if it stays so, whoever announced it, the host or a proxy is at "
        "fault.",
    )


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bring(
    client: httpx.Client,
    url: str,
    out: Path,
    size: int | None,
    max_bytes: int,
    progress: Progress,
) -> None:
    """Several tries; one that brought something does not count."""
    failed = 0
    while True:
        before = out.stat().st_size if out.exists() else 0
        if size is not None and out.exists() and before >= size:
            return
        try:
            _once(client, url, out, before, max_bytes, progress)
        except (httpx.TransportError, _BusyError) as error:
            have = out.stat().st_size if out.exists() else 0
            failed = 1 if have > before else failed + 1
            asked = error.wait_s if isinstance(error, _BusyError) else None
            if failed >= TRIES or (asked or 0) > MOST_WAIT_S:
                raise MeuseError(
                    Code.UNAVAILABLE,
                    f"the file does not come: {_said(error)}",
                    field="source",
                    hint="Try the job again: it goes on where it was broken off.",
                ) from None
            wait_s = WAIT_S[failed - 1] if asked is None else asked
            wait(wait_s, partial(progress, have, size))
        else:
            return


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, _BusyError) else f"{type(error).__name__}: {error}"


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of `Retry-After`; None where there is none, or a date."""
    after = headers.get("retry-after", "")
    return float(after) if after.isdecimal() else None


def wait(wait_s: float, often: Callable[[], None]) -> None:
    """`often` may raise: whoever stops or pauses the job need not wait as long."""
    ends = time.monotonic() + wait_s
    while (left := ends - time.monotonic()) > 0:
        often()
        time.sleep(min(left, 0.5))


def _once(
    client: httpx.Client, url: str, out: Path, have: int, max_bytes: int, progress: Progress
) -> None:
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # it was whole; the digest will tell
            return
        if response.status_code in BUSY:
            raise _BusyError(response)
        if response.status_code not in (200, 206):
            raise MeuseError(
                _REFUSALS.get(response.status_code, Code.UNAVAILABLE),
                f"the file's host answers {response.status_code}",
                field="source",
                hint="Try the job again later.",
            )
        partial = response.status_code == 206 and bool(have)
        done = have if partial else 0
        length = response.headers.get("content-length", "")
        total = done + int(length) if length.isdecimal() else None
        _check(max(done, total or 0), max_bytes)
        with out.open("ab" if partial else "wb") as file:
            for piece in response.iter_raw():
                done += len(piece)
                _check(done, max_bytes)
                file.write(piece)
                progress(done, total)


def _check(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise MeuseError(
            Code.TOO_LARGE,
            f"the file is larger than {max_bytes:,} bytes",
            field="source",
            hint="The operator can raise max_pull_bytes.",
        )
