"""Which addresses are anybody's: not this machine's, its network's or the cloud's own. Pure."""

from __future__ import annotations

import ipaddress


def family_of(address: str) -> int:
    """4 or 6; of an address inside another one the inner one's. Raises ValueError."""
    return _inner(address).version


def is_public(address: str) -> bool:
    """Whether it is of the public internet: not loopback, private, link-local, shared, reserved
    or multicast, also when it stands inside another one. Raises ValueError."""
    found = _inner(address)
    odd = found.is_multicast or found.is_reserved or getattr(found, "is_site_local", False)
    return found.is_global and not odd


def _inner(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64:
            return ipaddress.IPv4Address(found.packed[-4:])
        return found.ipv4_mapped or found.sixtofour or found
    return found


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
