"""One POST to where a tenant says, which must not be inside the network.

The name is resolved for each attempt, every address of it is checked, and the connection goes to
the checked address: what the name says a moment later does not matter. Redirects are not
followed. Standard library only.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from meuse.core.addresses import family_of, is_public
from meuse.core.errors import Code, MeuseError, invalid

PORTS = {"https": 443, "http": 80}
MAX_URL = 2048
SILENCE_S = 10.0
_READ = 4096

Allowed = Mapping[tuple[str, str, int], int | None]
"""What the operator allows: (scheme, host, port) → the family of addresses (4, 6) that need not
be public; None: they must be. Without an entry only https to public addresses."""


@dataclass(frozen=True, slots=True)
class Target:
    scheme: str
    host: str
    port: int
    path: str


def target_of(url: object, allowed: Allowed) -> Target:
    """The place that a URL names. Raises `invalid_field`, `forbidden`."""
    parts = _parts(url)
    port = PORTS[parts.scheme] if parts.port is None else parts.port
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    target = Target(parts.scheme, (parts.hostname or "").lower(), port, path)
    if parts.scheme == "http" and (target.scheme, target.host, port) not in allowed:
        raise _forbidden(f"{target.host} is not reached by https")
    with contextlib.suppress(ValueError):  # a name, which is looked at when it is resolved
        family_of(target.host)
        _check([target.host], target, allowed)
    return target


def _parts(url: object) -> SplitResult:
    told = "Use https://host/path."
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise invalid("url", "this is not a URL", f"{told} Percent-encode what is not ASCII.")
    if len(url) > MAX_URL:
        raise invalid("url", f"the URL has more than {MAX_URL} characters", told)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise invalid("url", f"this is not a URL: {error}", told) from None
    if parts.scheme not in PORTS or not parts.hostname or parts.port == 0:
        raise invalid("url", f"{url[:200]!r} is not a URL of https", told)
    if parts.username is not None or parts.password is not None:
        raise invalid("url", "the URL holds a user or a password", "Leave them out.")
    return parts


def addresses_of(target: Target, allowed: Allowed) -> list[tuple[int, str]]:
    """(family, address) of a name, all of them good. Raises `forbidden` when one is not, and
    `unavailable` when it has none."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _unavailable(f"the name {target.host!r} cannot be resolved: {error}") from None
    addresses = [(int(family), str(where[0])) for family, _, _, _, where in found]
    _check([address for _, address in addresses], target, allowed)
    return addresses


def _check(addresses: list[str], target: Target, allowed: Allowed) -> None:
    family = allowed.get((target.scheme, target.host, target.port))
    for address in addresses:
        if not is_public(address) and family_of(address) != family:
            raise _forbidden(f"{target.host} has an address inside the network")


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    allowed: Allowed,
    silence_s: float = SILENCE_S,
) -> int:
    """Send it; the status of the answer. Raises `forbidden`, `unavailable`."""
    target = target_of(url, allowed)
    connection = _Connection(target, addresses_of(target, allowed)[0], silence_s)
    # One that sends a byte now and then is never silent.
    end = threading.Timer(2 * silence_s, connection.abort)
    end.daemon = True
    end.start()
    with contextlib.closing(connection):
        try:
            fields = {"content-type": "application/json", "user-agent": "meuse", **headers}
            connection.request("POST", target.path, body=body, headers=fields)
            answer = connection.getresponse()
            answer.read(_READ)
            return answer.status
        # ValueError: what TLS says of a socket that was shut down meanwhile.
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _unavailable(f"{target.host} does not answer: {error}") from None
        finally:
            end.cancel()


class _Connection(http.client.HTTPConnection):
    """To an address that was checked, under the host's own name."""

    def __init__(self, target: Target, address: tuple[int, str], silence_s: float) -> None:
        super().__init__(target.host, target.port, timeout=silence_s)
        self._target = target
        self._address = address
        self._silence_s = silence_s
        self._raw: socket.socket | None = None  # http.client lets go of `sock` before it has read
        self.default_port = PORTS[target.scheme]  # for the Host header

    def connect(self) -> None:
        family, address = self._address
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._silence_s)
            sock.connect((address, self._target.port))
            if self._target.scheme == "https":
                context = ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=self._target.host)
        except BaseException:
            sock.close()
            raise
        self.sock = self._raw = sock

    def abort(self) -> None:
        """From another thread: what waits for the socket ends."""
        if self._raw is not None:
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)


def _forbidden(why: str) -> MeuseError:
    return MeuseError(
        Code.FORBIDDEN,
        why,
        field="url",
        hint="Use https to a public host, or ask the operator to add it to webhook_hosts.",
    )


def _unavailable(why: str) -> MeuseError:
    return MeuseError(Code.UNAVAILABLE, why, field="url")
