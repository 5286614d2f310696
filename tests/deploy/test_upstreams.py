"""deploy.upstreams against a real server: ready, gone, forbidden, and back again"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.rig import free_port
from gateway.upstream.conftest import Upstream
from meuse.access.sealing import Sealer
from meuse.data import hosts
from meuse.deploy.plan import Wanted
from meuse.deploy.upstreams import ENOUGH, Upstreams
from meuse.serve.snapshot import UpstreamEntry

SEALER = Sealer(b"s" * 32)


def watched(port: int, allowed: str = "http://127.0.0.1:{port}@ipv4") -> tuple[Upstreams, Any]:
    url = f"http://127.0.0.1:{port}/v1"
    clock = iter(range(0, 10**6, 100))
    blobs: Any = type("Blobs", (), {"read": staticmethod(lambda *_: b"")})
    made = Upstreams(
        blobs, SEALER, hosts.parse(allowed.format(port=port)), clock=lambda: float(next(clock))
    )
    entry = UpstreamEntry(url, "m", SEALER.seal("sk-1", url))
    return made, (Wanted("acme/default/far", 1, (), 1), "far:1", entry)


def test_it_comes_and_goes(tmp_path: Path) -> None:
    port = free_port()
    upstreams, wanted = watched(port)
    (replica,) = upstreams.replicas([wanted])
    assert (replica.ready, replica.version) == (False, "far:1")
    assert upstreams.look()
    assert "cannot be reached" in upstreams.problem(wanted[2])
    server = Upstream(tmp_path, port=port)
    try:
        assert upstreams.look()
        assert upstreams.replicas([wanted])[0].ready
        assert upstreams.failing([wanted[2]]) is None
    finally:
        server.close()
    for n in range(ENOUGH):
        assert upstreams.replicas([wanted])[0].ready, n
        upstreams.look()
    assert not upstreams.replicas([wanted])[0].ready
    assert upstreams.replicas([]) == []
    assert upstreams.failing([wanted[2]]) is None


@pytest.mark.parametrize("allowed", ["", "http://127.0.0.1:{port}", "https://127.0.0.1:{port}"])
def test_what_is_not_allowed_is_not_asked(allowed: str) -> None:
    """A host that is not listed, or listed without leave for a private address."""
    upstreams, wanted = watched(free_port(), allowed)
    problem = upstreams.problem(wanted[2])
    assert "external_hosts" in problem or "reached: OSError" in problem
