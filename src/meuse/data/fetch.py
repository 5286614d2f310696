"""A file from an allowed host, within bounds of size and time.

The name is resolved once, every address is checked, and the connection goes to the checked
address: what the name says a moment later does not matter. Redirects stay on the same host.
Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

from meuse.core.errors import Code, MeuseError, invalid
from meuse.data.hosts import PORTS, Host, Source, allowed_address, check

SILENCE_S = 30.0
MOST_REDIRECTS = 5
_PIECE = 1 << 20
Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all if known)."""


def fetch(
    url: str,
    allowed: tuple[Host, ...],
    out: Path,
    *,
    max_bytes: int,
    max_seconds: float,
    progress: Progress = lambda done, total: None,
    resume: bool = False,
) -> str:
    """Write the file at `url` to `out`; its SHA-256. `resume`: what `out` holds from a call
    that was broken off is kept, if the host says that the file is still the same.

    Raises `forbidden` for a host or an address that is not allowed, `too_large`,
    `deadline_exceeded`, and `unavailable` when it does not answer as it should.
    """
    source = check(url, allowed)
    deadline = time.monotonic() + max_seconds
    address = _resolve(source.host)
    if not resume:
        _mark(out).unlink(missing_ok=True)
    for _ in range(MOST_REDIRECTS + 1):
        part = _kept(out)
        with (
            contextlib.closing(_connect(source.host, address)) as connection,
            contextlib.closing(_ask(connection, source, part)) as answer,
        ):
            if answer.status == 416 and part:  # nothing is missing, or it is another file
                _mark(out).unlink()
            elif answer.status not in (301, 302, 303, 307, 308):
                return _keep(answer, out, max_bytes, deadline, progress)
            else:
                source = _redirected(source, answer)
    raise _unavailable(f"there are more than {MOST_REDIRECTS} redirects")


def _resolve(host: Host) -> tuple[int, str]:
    """(family, address): the first of the name, when all of them are allowed."""
    try:
        found = socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _unavailable(f"the name {host.name!r} cannot be resolved: {error}") from None
    addresses = [(int(family), str(where[0])) for family, _, _, _, where in found]
    good = [each for each in addresses if allowed_address(host, each[1])]
    if not good:
        raise MeuseError(
            Code.FORBIDDEN,
            f"{host.name} has no public address",
            field="url",
            hint="The operator can allow it with the family of its address: "
            "data_allowed_hosts = '…@ipv4'.",
        )
    return good[0]


class _Connection(http.client.HTTPConnection):
    """To an address that was checked, under the host's own name."""

    def __init__(self, host: Host, address: tuple[int, str]) -> None:
        super().__init__(host.name, host.port, timeout=SILENCE_S)
        self._checked = host
        self._address = address
        self.default_port = PORTS[host.scheme]  # for the Host header

    def connect(self) -> None:
        family, address = self._address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(SILENCE_S)
            sock.connect((address, self._checked.port))
            if self._checked.scheme == "https":
                context = ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=self._checked.name)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _connect(host: Host, address: tuple[int, str]) -> _Connection:
    connection = _Connection(host, address)
    try:
        connection.connect()
    except OSError as error:
        raise _unavailable(f"{host.name}:{host.port} cannot be reached: {error}") from None
    return connection


def _mark(out: Path) -> Path:
    """Where the host's word for this very file is kept, beside what came of it."""
    return out.with_name(f"{out.name}.etag")


def _kept(out: Path) -> dict[str, str]:
    """What to ask for the rest of a file with; empty when nothing is there to go on from."""
    if not (out.exists() and _mark(out).exists()):
        return {}
    return {"range": f"bytes={out.stat().st_size}-", "if-range": _mark(out).read_text()}


def _ask(connection: _Connection, source: Source, part: dict[str, str]) -> http.client.HTTPResponse:
    headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "meuse", **part}
    try:
        connection.request("GET", source.target, headers=headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _unavailable(f"{source.host.name} does not answer: {error}") from None


def _redirected(source: Source, answer: http.client.HTTPResponse) -> Source:
    host = source.host
    name = f"[{host.name}]" if ":" in host.name else host.name
    here = f"{host.scheme}://{name}:{host.port}{source.target}"
    there = urljoin(here, answer.headers.get("location", ""))
    try:
        target = check(there, (host,))
    except MeuseError:
        raise MeuseError(
            Code.FORBIDDEN,
            f"{host.name} redirects to another place: {there[:200]!r}",
            field="url",
            hint="Use the URL that it leads to, if its host is allowed.",
        ) from None
    return target


def _keep(
    answer: http.client.HTTPResponse,
    out: Path,
    max_bytes: int,
    deadline: float,
    progress: Progress,
) -> str:
    done = _continued(answer, out)
    if answer.status != 200 and not done:
        raise _unavailable(f"the answer is {answer.status} {answer.reason[:80]}")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise _unavailable("the answer is encoded, which was not asked for")
    digest = hashlib.sha256()
    if done:
        with out.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    else:
        _remember(answer, out)
    length = answer.headers.get("content-length", "")
    total = done + int(length) if length.isdecimal() else None
    if total is not None and total > max_bytes:
        raise _too_large(max_bytes)
    with out.open("ab" if done else "wb") as file:
        while True:
            try:
                piece = answer.read1(_PIECE)
            except (OSError, http.client.HTTPException) as error:
                raise _unavailable(f"it breaks off after {done:,} bytes: {error}") from None
            if not piece:
                break
            done += len(piece)
            if done > max_bytes:
                raise _too_large(max_bytes)
            if time.monotonic() > deadline:
                raise MeuseError(
                    Code.DEADLINE_EXCEEDED,
                    f"only {done:,} bytes came in the time that is allowed",
                    field="url",
                    hint="The operator can raise data_fetch_seconds.",
                )
            digest.update(piece)
            file.write(piece)
            progress(done, total)
    if total is not None and done != total:
        raise _unavailable(f"it breaks off after {done:,} of {total:,} bytes")
    _mark(out).unlink(missing_ok=True)
    return digest.hexdigest()


def _continued(answer: http.client.HTTPResponse, out: Path) -> int:
    """The bytes that `out` has already, when the answer is the rest of the file; else 0."""
    if answer.status != 206 or not _mark(out).exists():
        return 0
    have = out.stat().st_size
    return have if answer.headers.get("content-range", "").startswith(f"bytes {have}-") else 0


def _remember(answer: http.client.HTTPResponse, out: Path) -> None:
    """Keep the host's word for this file, if it gives one that means every byte."""
    tag = answer.headers.get("etag", "")
    if tag.startswith('"'):
        _mark(out).write_text(tag)
    else:
        _mark(out).unlink(missing_ok=True)


def _too_large(max_bytes: int) -> MeuseError:
    return MeuseError(
        Code.TOO_LARGE,
        f"the file is larger than {max_bytes:,} bytes",
        field="url",
        hint="The operator can raise max_dataset_bytes.",
    )


def _unavailable(message: str) -> MeuseError:
    return MeuseError(
        Code.UNAVAILABLE, message, field="url", hint="Check the URL; then try the job again."
    )


def check_url(url: object, allowed: tuple[Host, ...]) -> str:
    """The URL, when it may be fetched from. Raises `invalid_field`, `forbidden`."""
    check(url, allowed)
    if not isinstance(url, str):
        raise invalid("url", "this is not a URL")
    return url
