"""Fixtures of the tests of pulling."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import httpx
import pytest

from helpers_hub import Hub, name_it, serving
from meuse.pull import download
from pull.shop import Handler, Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    handler = type("Bound", (Handler,), {"shop": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that pulls ask, without a pause before they ask again."""
    monkeypatch.setattr(download, "WAIT_S", (0.0,) * 4)
    with serving() as found:
        name_it(monkeypatch, found)
        yield found


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, follow_redirects=True) as client:
        yield client
