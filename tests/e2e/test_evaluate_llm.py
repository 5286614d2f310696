"""Language models are judged, and an alias is gated, through the public API alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.conftest import Platform
from e2e.helpers import JSON, ended, get, refused, start, succeeded
from helpers_llm import CHATML, weights
from helpers_tiny_llm import write_gguf

SLOW_S = 600.0
"""Real weights on a machine that others use."""

pytestmark = pytest.mark.timeout(900)

FACTS = [
    ("The capital of France is", " Paris", " Rome"),
    ("The opposite of hot is", " cold", " green"),
    ("The sun rises in the", " east", " spoon"),
    ("Two plus two is", " four", " Monday"),
    ("Cats and dogs are", " animals", " numbers"),
    ("Water freezes into", " ice", " wood"),
]


@pytest.fixture(scope="module")
def folder(platform: Platform) -> Path:
    """One that the operator allows imports from."""
    found = platform.home / "import" / "judged"
    found.mkdir(parents=True, exist_ok=True)
    return found


@pytest.fixture(scope="module")
def tiny(admin: httpx.Client, folder: Path) -> str:
    """Two versions of a model of random weights."""
    for seed in (0, 1):
        path = write_gguf(folder / f"e2e-judged{seed}.gguf", seed, CHATML)
        spec = {"source": f"file:{path}", "model_name": "e2e-judged"}
        succeeded(admin, start(admin, "import", **spec))
    return "e2e-judged"


def uploaded(client: httpx.Client, *bodies: Any) -> str:
    lines = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    response = client.post(
        "/v1/files",
        data={"purpose": "fine-tune"},
        files={"file": ("lines.jsonl", "\n".join(lines).encode())},
    )
    assert response.status_code == 200, response.text
    found: str = response.json()["id"]
    return found


def choices() -> list[JSON]:
    return [{"prompt": p, "choices": [wrong, right], "answer": 1} for p, right, wrong in FACTS]


def test_an_alias_takes_no_worse_language_model(admin: httpx.Client, tiny: str) -> None:
    """Judged side by side on a file, kept with each version, refused with the numbers."""
    texts = [{"text": f"{p}{right}."} for p, right, _ in FACTS]
    file = uploaded(admin, *texts)
    models = [f"{tiny}:1", f"{tiny}:2"]
    result = succeeded(admin, start(admin, "evaluate", models=models, data=file), SLOW_S)
    assert (result["measured"], result["rows"]) == (["perplexity"], 6)
    figures = {m["model"]: m["figures"]["perplexity"] for m in result["models"]}
    better, worse = sorted(models, key=lambda ref: figures[ref])
    for ref in models:
        kept = get(admin, f"/api/models/{tiny}/versions/{ref[-1]}/evaluations")["items"]
        assert kept[0]["figures"]["perplexity"] == figures[ref]
        assert kept[0]["rows"]["dataset"] == file
        assert kept[0]["tokens"] == result["models"][0]["tokens"]
    path = f"/api/models/{tiny}/aliases/champion"
    admin.put(path, json={"version": int(better[-1]), "gated": True}).raise_for_status()
    body = {"version": int(worse[-1]), "alias": "champion"}
    answer = admin.post(f"/api/models/{tiny}/promote", json=body)
    error = refused(answer, 422, "gate_refused", "version")
    assert f"perplexity of {worse}" in error["message"]
    assert f"{figures[worse]:.4f} against {figures[better]:.4f}" in error["message"]
    assert get(admin, path)["version"] == int(better[-1])
    gate = {"metric": "perplexity", "max_drop": 1e9, "data": file}
    done = admin.post(f"/api/models/{tiny}/promote", json=body | {"gate": gate})
    assert done.status_code == 200, done.text
    assert done.json()["verdict"]["interval"] is not None
    other = uploaded(admin, *texts[:2])
    answer = admin.post(f"/api/models/{tiny}/promote", json={
        "version": int(better[-1]), "alias": "champion", "gate": {"data": other}
    })  # fmt: skip
    error = refused(answer, 422, "gate_refused", "version")
    assert "never judged on the same rows" in error["message"]
    assert f'"data": "{other}"' in error["hint"]
    card = admin.get(f"/api/models/{tiny}/versions/1/card", params={"format": "markdown"})
    assert "perplexity" in card.text


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        ([{"text": "a b"}] * 16 + ['{"text": '], "line 17: it is not JSON"),
        ([{"text": "a b"}, {"text": ""}], "line 2: text is empty"),
        ([choices()[0] | {"answer": 2}], "line 1: answer: 2 is out of range"),
        ([choices()[0] | {"choices": [" a"]}], "line 1: choices: there is one"),
        ([""], "the file has no lines"),
        ([{"prompt": "word " * 99, "completion": " x"}], "the model's context window 128"),
    ],
)
def test_a_faulty_file_fails_with_the_line(
    admin: httpx.Client, tiny: str, bodies: list[Any], said: str
) -> None:
    file = uploaded(admin, *bodies) if bodies != [""] else uploaded(admin, "\n\n")
    done = ended(admin, start(admin, "evaluate", model=f"{tiny}:1", data=file), SLOW_S)
    assert (done["status"], done["error"]["code"]) == ("failed", "invalid_data")
    assert said in done["error"]["message"]
    assert done["error"]["field"] == "data"


def test_what_cannot_be_judged_is_refused_at_once(admin: httpx.Client, tiny: str) -> None:
    file = uploaded(admin, *choices())
    spec: JSON = {"models": [f"{tiny}:1"], "data": file}
    for change, status, code, field in [
        ({"data": "file-" + "0" * 32}, 404, "not_found", "data"),
        ({"data": "lines", "metrics": ["choice"]}, 400, "invalid_field", "data"),
        ({"models": ["e2e-no:1"]}, 404, "not_found", "models[0]"),
        ({"metrics": ["bleu"]}, 400, "invalid_field", "metrics[0]"),
        ({"window": 129}, 400, "invalid_field", "window"),
        ({"split": "test"}, 400, "invalid_field", "split"),
    ]:
        answer = admin.post("/api/jobs", json={"kind": "evaluate", "spec": {**spec, **change}})
        refused(answer, status, code, field)


@pytest.mark.slow
def test_real_weights_know_the_world(
    admin: httpx.Client, platform: Platform, folder: Path, tmp_path: Path
) -> None:
    """SmolLM2 tells right from wrong, finds sense likelier than nonsense, and answers; with the
    command line."""
    (folder / "smollm2.gguf").write_bytes(weights().read_bytes())
    spec = {"source": f"file:{folder / 'smollm2.gguf'}", "model_name": "e2e-smollm2"}
    model = succeeded(admin, start(admin, "import", **spec), SLOW_S)["model"]
    there = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    there |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}

    def evaluate(name: str, bodies: list[JSON], *words: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(body) + "\n" for body in bodies))
        done = subprocess.run(
            [sys.executable, "-m", "meuse", "evaluate", model, "--data", str(path), *words],
            env=there, capture_output=True, text=True, timeout=SLOW_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    done = json.loads(evaluate("choices", choices(), "--json").stdout)
    figures = done["result"]["models"][0]["figures"]
    assert figures["accuracy"] == figures["accuracy_norm"] == 1
    asked = {"role": "user", "content": "What is the capital of France?"}
    told = ("The capital of France is Paris.", "The capital of France is Rome.")
    chat = [{"messages": [asked, {"role": "assistant", "content": text}]} for text in told]
    done = evaluate(
        "chat", chat, "--metric", "exact_match", "--metric", "perplexity", "--stop", ".",
        "--stop", ",", "--max-tokens", "16", "--json",  # in bfloat16 it goes on after Paris
    )  # fmt: skip
    one = json.loads(done.stdout)["result"]["models"][0]
    assert one["figures"]["perplexity"] < 50
    assert one["figures"]["exact_match"] == 0.5
    written = told[0].removesuffix(".")
    assert one["wrong"]["exact_match"] == [{"line": 2, "written": written, "right": told[1]}]
    shown = evaluate("texts", [{"text": f"{p}{right}."} for p, right, _ in FACTS]).stdout
    assert "perplexity" in shown
    assert " to " in shown
    assert "6 lines of file-" in shown
