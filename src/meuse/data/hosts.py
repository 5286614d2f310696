"""Which hosts datasets may be fetched from, as the operator lists them.

An entry is `[scheme://]host[:port][@ipv4|@ipv6]`, entries are parted by commas. Without a scheme
only https is allowed, without a port only the scheme's own. An address that is not public
(loopback, private, link-local, …) is refused unless the entry names its family: `@ipv4`.
Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from meuse.core.addresses import family_of, is_public
from meuse.core.errors import Code, MeuseError, invalid

PORTS = {"https": 443, "http": 80}
MAX_URL = 4096
_ENTRY = re.compile(
    r"((?P<scheme>https?)://)?(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"(:(?P<port>[0-9]{1,5}))?(@(?P<family>ipv[46]))?"
)
_TOLD = "For example data.example.org, or http://files.internal:8080@ipv4."


@dataclass(frozen=True, slots=True)
class Host:
    """One that the operator allows. `private` is a family of addresses (4, 6) that need not be
    public."""

    scheme: str
    name: str
    port: int
    private: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A checked URL: where to connect, and what to ask for there."""

    host: Host
    target: str
    """Path and query."""


def parse(text: str) -> tuple[Host, ...]:
    """The entries of the setting. Raises `invalid_field`."""
    return tuple(_host(entry.strip()) for entry in text.split(",") if entry.strip())


def _host(entry: str) -> Host:
    match = _ENTRY.fullmatch(entry)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise invalid("data_allowed_hosts", f"{entry!r} is not a host", _TOLD)
    scheme = match["scheme"] or "https"
    family = match["family"]
    return Host(
        scheme,
        match["host"].strip("[]").lower(),
        port or PORTS[scheme],
        int(family[-1]) if family else None,
    )


def check(url: object, allowed: Iterable[Host]) -> Source:
    """The source that a URL names, when it is allowed. Raises `invalid_field`, `forbidden`."""
    parts, name, port = _parts(url)
    hosts = tuple(allowed)
    for host in hosts:
        if (host.scheme, host.name, host.port) == (parts.scheme, name, port):
            target = parts.path or "/"
            return Source(host, f"{target}?{parts.query}" if parts.query else target)
    raise MeuseError(
        Code.FORBIDDEN,
        f"this platform does not fetch from {parts.scheme}://{name}:{port}"
        if hosts
        else "this platform fetches nothing by URL",
        field="url",
        hint="Upload the file, or ask the operator to add the host to data_allowed_hosts.",
    )


def _parts(url: object) -> tuple[SplitResult, str, int]:
    told = "Use https://host/path."
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise invalid("url", "this is not a URL", told + " Percent-encode what is not ASCII.")
    if len(url) > MAX_URL:
        raise invalid("url", f"the URL has more than {MAX_URL} characters", told)
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid("url", f"this is not a URL: {error}", told) from None
    if parts.scheme not in PORTS or not name:
        raise invalid("url", f"{url[:200]!r} is not a URL of https", told)
    if parts.username is not None or parts.password is not None:
        raise invalid("url", "the URL holds a user or a password", "Leave them out.")
    return parts, name.lower(), PORTS[parts.scheme] if port is None else port


def allowed_address(host: Host, address: str) -> bool:
    """Whether this address of the host may be connected to."""
    return is_public(address) or host.private == family_of(address)
