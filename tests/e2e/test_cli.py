"""The command line, as a subprocess: every verb against the running platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.conftest import Digits, Platform
from e2e.helpers import JSON, csv_bytes, get

MEUSE = Path(sys.executable).with_name("meuse")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(platform: Platform) -> Run:
    """Run `meuse …` as the administrator; `env` changes the environment (None removes)."""

    def run(*words: str, given: str = "", **env: str | None) -> subprocess.CompletedProcess[str]:
        there = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
        wanted = {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key, **env}
        there |= {k: v for k, v in wanted.items() if v is not None}
        return subprocess.run(
            [str(MEUSE), *words],
            input=given, env=there, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    return run


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """Standard output of a command that must succeed."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    return json.loads(ok(done))


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit status 1, nothing on standard output, and two or three lines that say why."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert 1 <= len(done.stderr.splitlines()) <= 3, done.stderr
    assert done.stderr.startswith("meuse: ")
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """A CSV file of some digits."""
    path = tmp_path_factory.mktemp("cli") / "Pages.csv"
    rows = zip(digits.rows[:300], digits.labels[:300], strict=True)
    header = [*(f"p{i}" for i in range(64)), "digit"]
    path.write_bytes(csv_bytes(header, [[*row, label] for row, label in rows]))
    return path


@pytest.fixture(scope="module")
def model(run: Run, table: Path) -> JSON:
    """The job of `meuse train`, of data that `meuse data` uploaded, as JSON."""
    made = answer(run("data", str(table), "--json"))
    assert (made["ref"], made["rows"]) == ("pages:1", 300)  # by default the file's name
    words = ["train", "cli", "--data", "pages", "--epochs", "6", "--optimizer", "adam"]
    job: JSON = answer(run(*words, "--seed", "3", "--json"))
    assert (job["status"], job["result"]["model"]) == ("succeeded", "cli:1")
    assert (job["spec"]["epochs"], job["spec"]["seed"]) == (6, 3)
    return job


def test_data(run: Run, table: Path, model: JSON) -> None:
    """`meuse data` uploads under a name and lists what there is."""
    out = ok(run("data", str(table), "--name", "named"))
    assert out.strip() == "named:1: 300 rows, 65 columns"
    listed = answer(run("data", "--json"))
    assert {"named:1", "pages:1"} <= {d["ref"] for d in listed}
    assert "named:1" in ok(run("data"))


def test_train(run: Run, admin: httpx.Client, model: JSON) -> None:
    """`meuse train --no-wait` prints the job at once; `meuse jobs --cancel` ends it."""
    job = answer(
        run("train", "long", "--data", "pages", "--epochs", "10000", "--no-wait", "--json")
    )
    assert job["status"] in ("queued", "running")
    said = answer(run("jobs", job["id"], "--cancel", "--json"))
    assert said["id"] == job["id"]
    out = ok(run("jobs", job["id"], "--follow"))
    assert out.startswith(f"{job['id']} cancelled: the job was cancelled")
    assert get(admin, f"/api/jobs/{job['id']}")["status"] == "cancelled"


def test_jobs(run: Run, model: JSON) -> None:
    """`meuse jobs` lists, shows and follows jobs."""
    assert model["id"] in [job["id"] for job in answer(run("jobs", "--json"))]
    assert model["id"][:12] in ok(run("jobs"))
    assert answer(run("jobs", model["id"])) == model
    lines = ok(run("jobs", model["id"], "--follow", "--json")).splitlines()
    kinds = {json.loads(line)["event"] for line in lines}
    assert kinds == {"status", "progress", "metrics", "log"}


def test_models_compress_and_deploy(run: Run, model: JSON, digits: Digits) -> None:
    """`meuse models`, `compress`, `deploy` and `predict` lead from a version to an answer."""
    steps = "prune(rounds=1,epochs=1),share(epochs=1),quantize"
    goal = ("--goal", "max_drop=0.5")
    out = ok(run("compress", "cli:1", *goal, "--steps", steps))
    assert out.startswith("cli:2\n")
    lines = out.split("\n\n")[1].splitlines()
    assert {"options", "drop", "bytes", "seconds"} <= set(lines[0].split())
    named = [line.split()[0] for line in lines if not line.startswith(" ")]  # options wrap
    assert named == ["method", "prune", "share", "quantize"]
    assert "accuracy" in out
    assert "p95 at batch 32" in out
    assert "The file is" in out
    assert "layer alone: drop at" in out
    assert "quantize" in ok(run("compress", "--list"))
    both = run("compress", "cli:1", *goal, "--max-drop", "0.1")
    refused(both, "--max-drop and --goal max_drop", "field: max_drop")
    said = run("compress", "cli:1", "--goal", "max_bytes=10", "--no-sensitivity")
    assert said.returncode == 1
    assert "p95 at batch 32" in said.stdout
    assert "layer alone: drop at" not in said.stdout
    assert "goal.max_bytes" in said.stderr
    versions = answer(run("models", "cli", "--json"))
    assert [(v["ref"], v["parent"]) for v in versions] == [("cli:1", None), ("cli:2", "cli:1")]
    assert "cli:2" in ok(run("models", "cli"))
    assert ok(run("models", "cli", "--alias", "best=2")).strip() == "cli@best is now cli:2"
    listed = {m["name"]: m for m in answer(run("models", "--json"))}
    assert listed["cli"]["aliases"] == {"best": 2}
    words = [
        "deploy",
        "cli-best",
        "--model",
        "cli@best",
        "--allow",
        "*",
        "--min",
        "0",
        "--max",
        "2",
    ]
    state = answer(run(*words, "--json"))
    assert (state["status"], state["access"]) == ("ready", {"tenants": "*"})
    assert "cli-best" in ok(run("deploy"))
    assert "no canary" in ok(run("rollout", "cli-best"))
    shown = answer(run("deploy", "cli-best"))
    assert (shown["name"], shown["scale"]["min"], shown["scale"]["max"]) == ("cli-best", 0, 2)
    assert shown["scaling"]["desired"] == shown["scaling"]["ready"] == 1
    assert shown["scaling"]["reason"]
    rows = json.dumps(digits.rows[:2])
    said = answer(run("predict", rows, "--model", "cli-best", "--json"))
    assert (said["model"], len(said["output_data"])) == ("cli:2", 2)
    assert (
        json.loads(ok(run("predict", "-", "--model", "cli-best", given=rows)))
        == (said["output_data"])
    )
    gone = answer(run("deploy", "cli-best", "--delete", "--json"))
    assert gone == {"name": "cli-best"}
    refused(run("predict", rows, "--model", "cli-best"), "no model 'cli-best'", "field: model")


def test_evaluate_promote_card_and_predict_data(run: Run, model: JSON) -> None:
    """`meuse evaluate`, `promote`, `models --card` and `predict --data`, one version at hand."""
    out = ok(run("evaluate", "cli:1", "--data", "pages", "--slice", "p10"))
    assert "accuracy" in out
    assert "41 rows of pages:1, split test" in out  # shared out by class
    job = answer(run("evaluate", "cli:1", "--data", "pages", "--split", "all", "--json"))
    assert job["result"]["rows"] == 300
    assert "names no version yet" in ok(run("promote", "cli:1", "--alias", "cli-first"))
    said = answer(run("promote", "cli:1", "--alias", "cli-first", "--max-drop", "0", "--json"))
    assert said["verdict"]["passed"] is True
    refused(run("promote", "cli", "--alias", "cli-first"), "field: version")
    refused(run("promote", "cli:99", "--alias", "cli-first"), "field: model")
    assert ok(run("models", "cli", "--card", "1")).startswith("# Model card: cli:1")
    assert answer(run("models", "cli", "--card", "1", "--json"))["model"] == "cli:1"
    words = ["predict", "--data", "pages", "--model", "cli:1", "--output", "cli-answers"]
    assert ok(run(*words, "--keep", "digit")).strip() == "cli-answers:1"
    refused(run(*words[:5]), "field: data")
    refused(run("predict"), "field: rows")


def test_predict_reads_a_file(run: Run, served: JSON, digits: Digits, tmp_path: Path) -> None:
    """`meuse predict rows.json` sends the rows of the file."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(digits.rows[:3]))
    said = answer(run("predict", str(path), "--model", "digits", "--json"))
    assert len(said["output_data"]) == 3


def test_usage_and_invoice(
    run: Run, platform: Platform, served: JSON, digits: Digits, tenant: Callable[[str], str]
) -> None:
    """`meuse usage` and `invoice` show what a tenant used and what it costs."""
    name = tenant("globex")
    key = platform.key("infer", tenant=name)
    rows = json.dumps(digits.rows[:10])
    ok(run("predict", rows, "--model", "default/digits", MEUSE_KEY=key))
    found = answer(run("usage", "--tenant", name, "--by", "meter", "--json"))
    rows_used = next(r["quantity"] for r in found["rows"] if r["meter"] == "rows")
    assert rows_used >= 10
    assert str(rows_used) in ok(run("usage", "--tenant", name, "--by", "meter"))
    made = answer(run("invoice", name, "--json"))
    assert (made["status"], made["currency"]) == ("draft", "EUR")
    amounts = [Decimal(line["amount"]) for line in made["lines"]]
    assert Decimal(made["total"]) == sum(amounts)
    out = ok(run("invoice", name, "--period", datetime.now(UTC).strftime("%Y-%m")))
    assert out.startswith("draft ")
    assert f"total {made['total']} EUR" in out


def test_invoices_and_reports(run: Run, tmp_path: Path, tenant: Callable[[str], str]) -> None:
    """`meuse invoice` lists, shows and writes documents; `forecast`, `reconcile`, `usage --cost`
    tell of the month. What cannot be done says why."""
    name = tenant("umbrella")
    made = answer(run("invoice", "make", name, "--period", "2026-02", "--json"))
    assert (made["status"], made["total"]) == ("paid", "0.00")
    number = made["number"]
    assert number in ok(run("invoice", "list", "--tenant", name))
    assert answer(run("invoice", "list", "--tenant", "*", "--status", "void", "--json")) == []
    assert ok(run("invoice", "show", number)).startswith(f"paid {number} for {name}")
    page = tmp_path / "page.html"
    ok(run("invoice", "show", number, "--format", "html", "--output", str(page)))
    assert number in page.read_text()
    sheet = ok(run("invoice", "show", number, "--format", "csv", "--output", "-"))
    assert sheet.startswith("number,")
    for verb, field in (
        (("show", number, "--format", "doc"), "format"), (("issue", number), "status"),
        (("pay", number, "1.00", "--reference", "b"), "amount"),
        (("credit", number, "--reason", "x"), "amount"),
        (("void", number, "--reason", "x"), "status"),
    ):  # fmt: skip
        refused(run("invoice", *verb), f"field: {field}")
    assert "expected" in ok(run("forecast", "--tenant", name))
    assert "0 differences" in ok(run("reconcile"))
    assert "total" in ok(run("usage", "--tenant", name, "--by", "week,model", "--cost"))


def test_plans(run: Run, tmp_path: Path, tenant: Callable[[str], str]) -> None:
    """`meuse plans` puts a plan, lists and shows it, and says what a month had come to."""
    name = tenant("globex")
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"currency": "EUR", "prices": [],
                                "fees": [{"name": "base", "amount": "49"}]}))  # fmt: skip
    assert ok(run("plans", "put", "cli-flat", str(file))) == "cli-flat:1\n"
    assert "cli-flat" in ok(run("plans", "list"))
    assert answer(run("plans", "show", "cli-flat"))["fees"][0]["amount"] == "49"
    asked = ("plans", "what-if", "cli-flat", "--tenant", name, "--period", "2026-02")
    assert answer(run(*asked, "--json"))["difference"] == "49.00"
    told = ok(run(*asked)).splitlines()
    assert told[-1].split() == ["difference", "49.00", "EUR"]
    assert told[-2].split() == ["under", "cli-flat:1", "49.00", "EUR"]


def test_keys(run: Run, platform: Platform) -> None:
    """`meuse keys` makes a key that works, lists it without its secret, and revokes it."""
    words = ["--new", "cli-key", "--scope", "models", "--scope", "data", "--expires", "2099-01-01"]
    made = answer(run("keys", *words, "--json"))
    assert made["scopes"] == ["data", "models"]
    assert answer(run("models", "--json", MEUSE_KEY=made["key"])) is not None
    refused(run("jobs", MEUSE_KEY=made["key"]), "lacks the scope 'train'", "field: scope")
    listed = ok(run("keys", "--json"))
    assert made["id"] in listed
    assert made["key"] not in listed
    assert ok(run("keys", "--revoke", made["id"])).strip() == f"{made['id']} is revoked"
    refused(run("models", MEUSE_KEY=made["key"]), "field: authorization", "Bearer")


def test_doctor(run: Run, platform: Platform, tmp_path: Path) -> None:
    """`meuse doctor` finds the platform of its home well, and a missing home no fault."""
    found = answer(run("doctor", "--json", MEUSE_HOME=str(platform.home)))
    assert {f["check"] for f in found} >= {"python", "home", "disk", "secrets", "platform"}
    assert all(f["ok"] for f in found), found
    told = {f["check"]: f["finding"] for f in found}
    assert platform.url in told["platform"]
    assert told["sandbox"].startswith("tier ")
    assert "meuse toolchains install tensorflow" in told["toolchain tensorflow"]
    out = ok(run("doctor", MEUSE_HOME=str(tmp_path / "none")))
    assert "FAIL" not in out
    assert not (tmp_path / "none").exists()


def test_the_home_is_enough(run: Run, platform: Platform, model: JSON) -> None:
    """Without MEUSE_URL and MEUSE_KEY a verb finds the platform by MEUSE_HOME."""
    home = str(platform.home)
    listed = answer(run("models", "--json", MEUSE_URL=None, MEUSE_KEY=None, MEUSE_HOME=home))
    assert "cli" in [m["name"] for m in listed]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("data", "no-such-file.csv"), ("no file", "field: file")),
        (("train", "m", "--data", "nothing"), ("no data 'nothing'", "field: data")),
        (("train", "Bad", "--data", "digits"), ("not a valid name", "field: model_name")),
        (("train", "m", "--data", "digits", "--epochs", "0"), ("field: epochs",)),
        (("train", "m", "--data", "digits", "--optimizer", "x"), ("field: optimizer", "adam")),
        (("jobs", "job-none"), ("no job", "field: job")),
        (("jobs", "job-none", "--follow"), ("no job", "field: job")),
        (("jobs", "job-none", "--cancel"), ("no job", "field: job")),
        (("models", "nothing"), ("no model", "field: model")),
        (("models", "digits", "--alias", "best"), ("field: alias",)),
        (("models", "digits", "--alias", "best=²"), ("field: alias",)),
        (("models", "digits", "--alias", "best=99"), ("field: model",)),
        (("compress", "digits"), ("names no version", "field: model")),
        (("deploy", "d", "--model", "nothing:1"), ("field: model",)),
        (("deploy", "nothing"), ("no deployment", "field: deployment")),
        (("rollout", "nothing", "--promote"), ("no deployment", "field: deployment")),
        (("deploy", "nothing", "--delete"), ("no deployment", "field: deployment")),
        (("predict", "[[1", "--model", "digits"), ("not JSON", "field: rows")),
        (("predict", "no-such-rows.json"), ("cannot read", "field: rows")),
        (("predict", "[[1]]", "--model", "digits"), ("expected 64", "field: input_data[0]")),
        (("usage", "--by", "colour"), ("field: by",)),
        (("usage", "--from", "yesterday"), ("field: from",)),
        (("invoice", "nothing"), ("no tenant", "field: tenant")),
        (("invoice", "default", "--period", "soon"), ("field: period",)),
        (("keys", "--new", "k", "--scope", "root"), ("field: scopes",)),
        (("keys", "--revoke", "none"), ("no key", "field: key")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_are_a_few_lines(
    run: Run, served: JSON, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    """An error is two or three lines that name the field, with exit status 1."""
    refused(run(*words), *parts)


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"MEUSE_URL": "http://127.0.0.1:1"}, "Is `meuse up` running there?"),
        ({"MEUSE_URL": "nonsense"}, "nonsense"),
        ({"MEUSE_URL": "http://[::"}, "field: url"),
        ({"MEUSE_KEY": "nonsense"}, "field: authorization"),
        ({"MEUSE_KEY": "clé"}, "field: key"),
        ({"MEUSE_URL": None, "MEUSE_HOME": "/nowhere"}, "no platform runs from /nowhere"),
        ({"MEUSE_HTTP_PORT": "many"}, "field: http_port"),
    ],
)
def test_a_bad_environment_is_told(run: Run, env: dict[str, str | None], part: str) -> None:
    """A URL, key, home or setting that leads nowhere is told in a few lines."""
    refused(run("models", **env), part)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--host", "0.0.0.0"), "host"),
        (("--host", "::"), "host"),
        (("--host", "example.com"), "host"),
        (("--port", "99999"), "http_port"),
        (("--grpc-port", "-1"), "grpc_port"),
        (("--workers", "-1"), "workers"),
    ],
)
def test_up_refuses_what_it_should(
    run: Run, tmp_path: Path, words: tuple[str, ...], field: str
) -> None:
    """`meuse up` refuses the open network without --insecure, and ports that are none."""
    home = tmp_path / "home"
    refused(run("up", *words, MEUSE_HOME=str(home)), f"(field: {field})")
    assert not home.exists()


def test_limits_are_set_listed_and_removed(run: Run, platform: Platform) -> None:
    """`meuse limits` sets a limit and a budget on a key, lists both and takes them away."""
    key = platform.made_key("infer")["id"]
    limit = answer(run("limits", "--key", key, "--requests", "9", "--per", "hour", "--json"))
    assert (limit["requests"], limit["per"], limit["key"]) == (9, "hour", key)
    words = ("--budget", "100", "--meter", "rows", "--period", "day", "--no-hard")
    assert "100 rows per day" in ok(run("limits", "--key", key, *words))
    listed = [item for item in answer(run("limits", "--json")) if item["key"] == key]
    assert [item.get("hard") for item in listed] == [None, False]
    refused(run("limits", "--key", key, "--budget", "5", "--meter", "cost"), "field: currency")
    words = ("--budget", "12.50", "--meter", "cost", "--currency", "EUR", "--json")
    listed.append(answer(run("limits", "--key", key, *words)))
    assert "0.00 used" in ok(run("limits", "--recount", listed[-1]["id"]))
    for item in listed:
        assert item["id"] in ok(run("limits", "--remove", item["id"]))
    assert key not in ok(run("limits"))
    hook = answer(run("webhooks", "add", "https://hooks.example.org/", "--json"))["id"]
    assert hook in [item["id"] for item in answer(run("webhooks", "list", "--json"))]
    assert hook in ok(run("webhooks", "test", hook))
    (sent,) = answer(run("webhooks", "deliveries", hook, "--json"))
    assert sent["status"] == "pending"  # there is no such host
    assert hook in ok(run("webhooks", "remove", hook))


def test_a_home_runs_once(run: Run, platform: Platform, admin: httpx.Client, served: JSON) -> None:
    """A second `meuse up` on a home that runs is refused, and the first goes on."""
    words = ("up", "--port", "0", "--grpc-port", "0")
    refused(run(*words, MEUSE_HOME=str(platform.home)), "is running already")
    assert get(admin, "/health/ready") == {"ready": True}
    assert get(admin, "/api/models")["items"]


def test_a_port_in_use_is_told(run: Run, platform: Platform, tmp_path: Path) -> None:
    """`meuse up` on a port that is taken says so and leaves."""
    port = platform.url.rpartition(":")[2]
    done = run("up", "--port", port, "--grpc-port", "0", MEUSE_HOME=str(tmp_path / "home"))
    refused(done, "cannot listen", "(field: port)")
