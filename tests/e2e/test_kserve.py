"""kserve's inference clients against the platform.

kserve's pins collide with ours (python-dateutil, psutil), so it is kept in a folder of its own,
without what it depends on and we have: made on demand under `MEUSE_TEST_CACHE` (default
~/.cache/meuse-tests) and used again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from e2e.conftest import Digits, Platform
from e2e.helpers import JSON

pytestmark = pytest.mark.slow

PACKAGES = (
    "kserve==0.21.0",
    "cloudevents==1.12.0",
    "deprecation==2.1.0",
    "orjson==3.13.0",
    "pandas==2.3.3",
    "psutil==5.9.8",
    "pytz==2026.6",
    "six==1.17.0",
)
INSTALL_S = 300
ROWS = 5


@pytest.fixture(scope="module")
def kserve() -> Path:
    """The folder with kserve; skipped with the reason when it can be had from nowhere."""
    default = Path.home() / ".cache" / "meuse-tests"
    cache = Path(os.environ.get("MEUSE_TEST_CACHE") or default)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = cache / f"{PACKAGES[0].replace('==', '-')}-{tag}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        fresh = Path(made) / "packages"
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        options = ["--no-deps", "--only-binary", ":all:", "--target", str(fresh)]
        try:
            done = subprocess.run(
                [*pip, *options, *PACKAGES],
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
            reason = "" if done.returncode == 0 else done.stderr.strip()[-300:]
        except subprocess.TimeoutExpired:
            reason = f"pip took more than {INSTALL_S} s"
        if reason:
            pytest.skip(f"kserve cannot be installed: {reason}")
        try:
            fresh.rename(folder)
        except OSError:  # another session was faster
            assert folder.exists()
    return folder


@pytest.mark.timeout(INSTALL_S + 120)
def test_kserves_clients(
    kserve: Path, platform: Platform, admin: httpx.Client, served: JSON, digits: Digits
) -> None:
    """REST and gRPC: readiness, JSON and binary tensors, ids, and errors as it reads them."""
    rows = digits.rows[:ROWS]
    labels = admin.post("/predict", json={"model": "digits", "input_data": rows}).json()
    given = {
        "url": platform.url,
        "grpc": platform.grpc,
        "key": platform.key("infer"),
        "model": "digits",
        "rows": rows,
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kserve_client.py")), json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(kserve)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    for protocol, status in (("rest", 404), ("grpc", "NOT_FOUND")):
        got = seen[protocol]
        assert got["live"] is got["ready"] is got["model_ready"] is True
        for form in ("json", "binary"):
            assert got[form] == [form, labels["output_data"]], (protocol, form)
        assert got["error"][0] == status
        assert "there is no model 'nothing'" in got["error"][1]
