"""A model that another server runs, from its registration to its usage, with a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import Platform
from e2e.helpers import get, refused, until
from gateway.upstream.conftest import SECRET, THEIRS, Upstream
from meuse.access.sealing import Sealer


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory, external_port: int) -> Iterator[Upstream]:
    made = Upstream(tmp_path_factory.mktemp("upstream"), port=external_port)
    yield made
    made.close()


def registered(admin: httpx.Client, url: str, **more: Any) -> httpx.Response:
    body = {"url": url, "upstream_model": THEIRS, "context": 4096, **more}
    return admin.post("/api/models/e2e-far/external", json=body)


def status_of(admin: httpx.Client) -> str:
    return str(get(admin, "/api/deployments/e2e-far")["status"])


def test_from_registration_to_usage(
    platform: Platform, admin: httpx.Client, upstream: Upstream
) -> None:
    url = f"http://127.0.0.1:{upstream.port}/v1"
    refused(registered(admin, "http://10.0.0.1/v1", api_key=SECRET), 403, "forbidden", "url")
    refused(registered(admin, url, api_key="two words"), 400, "invalid_field", "api_key")
    made = registered(admin, url, api_key=SECRET)
    assert made.status_code == 201, made.text
    assert SECRET not in made.text
    ref = made.json()["ref"]
    name, number = ref.split(":")
    at = f"/api/models/{name}/versions/{number}"
    assert SECRET not in admin.get(at).text
    assert admin.get(f"{at}/artifacts/key.sealed").status_code == 404
    assert admin.get(f"{at}/artifacts/manifest.json").json()["url"] == url

    scaled = admin.put("/api/deployments/e2e-far", json={"model": ref, "scale": {"min": 2}})
    refused(scaled, 400, "invalid_field", "scale")
    response = admin.put("/api/deployments/e2e-far", json={"model": ref})
    assert response.status_code == 202, response.text
    until(lambda: status_of(admin) == "ready", "the server is found")
    with openai.OpenAI(
        api_key=platform.key("infer"), base_url=f"{platform.url}/v1", max_retries=0, timeout=60
    ) as client:
        messages: Any = [{"role": "user", "content": "say 4"}]
        answer = client.chat.completions.create(model="e2e-far", messages=messages)
        assert answer.choices[0].message.content == "w0 w1 w2 w3 "
        parts = client.chat.completions.create(model="e2e-far", messages=messages, stream=True)
        assert len([p for p in parts if p.choices[0].delta.content]) == 4
    asked = upstream.asked()[-1]
    assert asked["headers"]["authorization"] == f"Bearer {SECRET}"

    def counted() -> dict[str, int]:
        rows = get(admin, "/api/usage", by="model,meter", fresh="true")["rows"]
        return {row["meter"]: row["quantity"] for row in rows if row["model"].endswith("e2e-far")}

    until(lambda: counted().get("requests") == 2, "the usage is in")
    assert (counted()["completion_tokens"], counted()["prompt_tokens"]) == (8, 10)

    upstream.close()
    until(lambda: status_of(admin) == "failed", "its absence is seen")
    assert "cannot be reached" in get(admin, "/api/deployments/e2e-far")["error"]
    assert admin.delete("/api/deployments/e2e-far").status_code == 200
    assert_sealed(platform.home)


def assert_sealed(home: Path) -> None:
    """No file of the platform has the key; the one that opens it is the owner's alone."""
    sealing = home / "secrets" / "sealing"
    assert sealing.stat().st_mode & 0o077 == 0
    Sealer(sealing.read_bytes())
    found = [
        path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert found == []
