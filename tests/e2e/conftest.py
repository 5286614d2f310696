"""One platform for all end-to-end tests, driven through its public API only."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

import fake_vllm
from e2e.helpers import JSON, csv_bytes, ready, start, succeeded, upload
from e2e.llm import chat, encoder, smollm2  # noqa: F401  fixtures
from e2e.web import Certificate, certified
from gateway.rig import free_port

START_S = 60.0
STOP_S = 30.0
EXTERNAL_PORT = free_port()
"""Where the platform may find a server of language models."""
WEB_PORT = free_port()
"""Where it may pull models from, over TLS; its hub is there, too."""
MAX_BODY = 1 << 20
MAX_UPLOAD = 2 << 20
MAX_MODEL = 4 << 20
ALL_SCOPES = ("infer", "data", "train", "models", "deploy", "keys", "usage", "billing")
"""All but admin."""
MODULE = [sys.executable, "-m", "meuse.app", "up"]


@dataclass(slots=True)
class Platform:
    """Where it listens, its home, and clients of it by key."""

    url: str
    grpc: str
    home: Path
    admin_key: str
    _clients: list[httpx.Client] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def client(self, key: str | None) -> httpx.Client:
        """A client with this key, closed at the end of the session."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        made = httpx.Client(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)
        self._clients.append(made)
        return made

    def key(self, *scopes: str, **more: Any) -> str:
        """A new key; `more`: tenant, expires."""
        made: str = self.made_key(*scopes, **more)["key"]
        return made

    def made_key(self, *scopes: str, **more: Any) -> JSON:
        body = {"name": f"k{next(self._names)}", "scopes": list(scopes), **more}
        with httpx.Client(trust_env=False) as client:
            response = client.post(
                f"{self.url}/api/keys",
                json=body,
                headers={"authorization": f"Bearer {self.admin_key}"},
            )
        assert response.status_code == 201, response.text
        answer: JSON = response.json()
        assert answer["published"] is True
        return answer

    def close(self) -> None:
        for client in self._clients:
            client.close()


def logs_of(home: Path, log: Path) -> str:
    """The tails of everything that a platform wrote."""
    files = [log, *sorted((home / "logs").glob("*.log"))]
    return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files)


@pytest.fixture(scope="session")
def external_port() -> int:
    """As `EXTERNAL_PORT`; for tests, which import this module a second time."""
    return EXTERNAL_PORT


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of a server on loopback, which the platform trusts."""
    return certified(tmp_path_factory.mktemp("certificate"), WEB_PORT)


@pytest.fixture(scope="session")
def platform(
    tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Platform]:
    """A platform with small limits and two jobs at once, in a home of its own."""
    folder = tmp_path_factory.mktemp("platform")
    home, log = folder / "home", folder / "up.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")} | {
        "MEUSE_MAX_BODY_BYTES": str(MAX_BODY),
        "MEUSE_MAX_UPLOAD_BYTES": str(MAX_UPLOAD),
        "MEUSE_MAX_MODEL_BYTES": str(MAX_MODEL),
        "MEUSE_IMPORT_FOLDERS": str(home / "import"),
        "MEUSE_JOB_CONCURRENCY": "2",
        "MEUSE_WORKERS": "2",
        "MEUSE_EXTERNAL_HOSTS": f"http://127.0.0.1:{EXTERNAL_PORT}@ipv4",
        "MEUSE_PULL_ALLOWED_HOSTS": f"https://127.0.0.1:{WEB_PORT}@ipv4",
        "HF_ENDPOINT": f"https://127.0.0.1:{WEB_PORT}",
        "MEUSE_LOG_REQUESTS": "1",
        "MEUSE_VLLM_PYTHON": str(fake_vllm.interpreter(folder)),
        "SSL_CERT_FILE": str(certificate.trusted),
    }
    options = ["--home", str(home), "--http-port", "0", "--grpc-port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*MODULE, *options], stdout=output, stderr=output, env=environment
        )
    running: Platform | None = None
    try:
        running = _started(process, home, log)
        before = _processes(home)
        yield running
        assert _processes(home) == before, f"a process died\n{logs_of(home, log)}"
    finally:
        if running is not None:
            running.close()
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"the platform did not stop within {STOP_S} s\n{logs_of(home, log)}")
    assert status == 0, f"the platform ended with status {status}\n{logs_of(home, log)}"


def _processes(home: Path) -> dict[str, int]:
    """The processes that no test may bring down, by name: their pids."""
    found = json.loads((home / "run.json").read_text())["processes"]
    return {name: p["pid"] for name, p in found.items() if not name.startswith("replica-")}


def _started(process: subprocess.Popen[bytes], home: Path, log: Path) -> Platform:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            what = json.loads((home / "run.json").read_text())
            key = (home / "admin.key").read_text().strip()
            url = f"http://127.0.0.1:{what['http_port']}"
            headers = {"authorization": f"Bearer {key}"}
            with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
                for path in ("/health/ready", "/api/models", "/api/usage"):
                    client.get(path).raise_for_status()
            return Platform(url, f"127.0.0.1:{what['grpc_port']}", home, key)
        except (FileNotFoundError, ValueError, httpx.HTTPError):
            time.sleep(0.05)
    pytest.fail(f"the platform did not start (status {process.poll()})\n{logs_of(home, log)}")


@pytest.fixture(scope="session")
def admin(platform: Platform) -> httpx.Client:
    """The administrator, of the tenant `default`."""
    return platform.client(platform.admin_key)


@dataclass(frozen=True, slots=True)
class Digits:
    """scikit-learn's digits: 1797 rows of 64 pixels, and the file that holds them."""

    rows: list[list[float]]
    labels: list[int]
    csv: bytes


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    rows, labels = found.data.tolist(), found.target.tolist()
    header = [*(f"p{i}" for i in range(64)), "digit"]
    table = [[*map(int, row), label] for row, label in zip(rows, labels, strict=True)]
    return Digits(rows, labels, csv_bytes(header, table))


@pytest.fixture(scope="session")
def dataset(admin: httpx.Client, digits: Digits) -> JSON:
    """`digits:1`, as the upload described it."""
    return upload(admin, "digits", digits.csv)


@pytest.fixture(scope="session")
def trained(admin: httpx.Client, dataset: JSON) -> JSON:
    """The result of training `digits:1`."""
    return succeeded(admin, start(admin, "train", model_name="digits", data="digits", epochs=12))


@pytest.fixture(scope="session")
def compressed(admin: httpx.Client, trained: JSON) -> JSON:
    """The result of compressing `digits:1` into `digits:2`."""
    goal = {"max_drop": 0.01}
    return succeeded(admin, start(admin, "compress", model=trained["model"], goal=goal))


@pytest.fixture(scope="session")
def served(admin: httpx.Client, compressed: JSON, tenant: Callable[[str], str]) -> JSON:
    """The deployment `digits` of `digits@champion`, open to acme, globex, initech and those whose
    money is spent (`test_limits`)."""
    names = [tenant(name) for name in ("acme", "globex", "initech", "initrode", "soylent")]
    number = int(compressed["model"].partition(":")[2])
    response = admin.put("/api/models/digits/aliases/champion", json={"version": number})
    assert response.status_code == 200, response.text
    access = {"tenants": names}
    response = admin.put(
        "/api/deployments/digits", json={"model": "digits@champion", "access": access}
    )
    assert response.status_code == 202, response.text
    return ready(admin, "digits")


@pytest.fixture(scope="session")
def private(admin: httpx.Client, trained: JSON) -> JSON:
    """The deployment `private` of the first version, open to its owner alone."""
    response = admin.put("/api/deployments/private", json={"model": trained["model"]})
    assert response.status_code == 202, response.text
    return ready(admin, "private")


@pytest.fixture(scope="session")
def tenant(admin: httpx.Client) -> Callable[[str], str]:
    """Make a tenant, once, with the price list `standard`: 0.50 EUR per 1000 rows."""
    prices = [{"meter": "rows", "model": "*", "per": 1000, "amount": "0.50"}]
    response = admin.put("/api/plans/standard", json={"currency": "EUR", "prices": prices})
    assert response.status_code == 200, response.text

    def make(name: str) -> str:
        response = admin.put(f"/api/tenants/{name}", json={"plan": "standard"})
        assert response.status_code == 200, response.text
        assert response.json()["published"] is True
        return name

    return make


@pytest.fixture(scope="session")
def stranger(platform: Platform, tenant: Callable[[str], str]) -> httpx.Client:
    """Another tenant's key with every scope but admin; nothing is open to it."""
    return platform.client(platform.key(*ALL_SCOPES, tenant=tenant("stranger")))
