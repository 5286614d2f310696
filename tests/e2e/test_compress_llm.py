"""A language model is made smaller, through the public API and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import pytest

from e2e.conftest import Platform
from e2e.helpers import ended, get, refused, start, succeeded
from helpers_llama import checkpoint, learned

SLOW_S = 600.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TEXTS = [{"text": f"The {n}th of many lines has words of its own: {n * n}, {n}."} for n in range(9)]


def test_a_checkpoint_becomes_a_smaller_version(platform: Platform, admin: httpx.Client) -> None:
    """`meuse compress` with a file of held-out lines; the child has its parent in
    its lineage, and a report of its own."""
    folder = platform.home / "import" / "compressed"
    folder.mkdir(parents=True, exist_ok=True)
    source = checkpoint(folder / "e2e-small", width=64)
    spec = {"source": f"file:{source}", "model_name": "e2e-small"}
    succeeded(admin, start(admin, "import", **spec), SLOW_S)
    lines = folder / "held-out.jsonl"
    lines.write_text("".join(json.dumps(line) + "\n" for line in TEXTS))
    step = "weights(precision=int8)"
    there = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    there |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}
    done = subprocess.run(
        [sys.executable, "-m", "meuse", "compress", "e2e-small:1", "--data", str(lines),
         "--steps", step, "--max-drop", "0.9"],
        env=there, capture_output=True, text=True, timeout=SLOW_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "e2e-small:2" in done.stdout
    assert "tokens/s, one stream" in done.stdout
    made = get(admin, "/api/models/e2e-small/versions/2")
    assert made["lineage"]["parent"] == "e2e-small:1"
    assert made["report"]["generation"]["layout"] == "ir"
    page = admin.get("/api/models/e2e-small/versions/2/report.html")
    assert page.status_code == 200
    assert "bits a parameter" in page.text
    error = refused(
        admin.post("/api/jobs", json={"kind": "compress", "spec": {"model": "e2e-small:1"}}),
        400, "invalid_field", "data",
    )  # fmt: skip
    assert "held-out texts" in error["message"]


def test_a_gate_that_is_not_met_leaves_a_report_and_no_version(
    platform: Platform, admin: httpx.Client
) -> None:
    folder = platform.home / "import" / "compressed"
    folder.mkdir(parents=True, exist_ok=True)
    source = learned(folder / "e2e-knowing", [line["text"] for line in TEXTS])
    spec = {"source": f"file:{source}", "model_name": "e2e-knowing"}
    parent = succeeded(admin, start(admin, "import", **spec), SLOW_S)["model"]
    body = "".join(json.dumps(line) + "\n" for line in TEXTS).encode()
    files = {"file": ("held-out.jsonl", body)}
    sent = admin.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()
    before = get(admin, "/api/models/e2e-knowing")
    steps = [{"method": "weights", "precision": "int4", "group_size": 16}]
    asked = {"model": parent, "data": sent["id"], "steps": steps}
    done = ended(admin, start(admin, "compress", goal={"max_drop": 0}, **asked), SLOW_S)
    assert (done["status"], done["error"]["code"]) == ("failed", "gate_refused"), done
    assert done["error"]["field"] == "goal.max_drop"
    report = get(admin, f"/api/jobs/{done['id']}/report")
    old, new = report["before"]["metric"], report["after"]["metric"]
    assert new > old
    assert f"perplexity {old:.3f} → {new:.3f}" in done["error"]["message"]
    assert "Refused" in admin.get(f"/api/jobs/{done['id']}/report.html").text
    assert get(admin, "/api/models/e2e-knowing") == before
