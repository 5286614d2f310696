"""Bad requests get a precise 4xx that names the field, and nothing is half-written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.conftest import MAX_BODY, MAX_UPLOAD, Digits
from e2e.helpers import (
    CSV,
    JSON,
    get,
    refused,
)

NAMES = ["", "Upper", "-dash", "a b", "ä", "a" * 64, "a\n", 5, ["a"]]
TRAIN = {"model_name": "bad", "data": "digits"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"target": "there-is-none"}, "target"),
        ({"target": ""}, "target"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"optimizer": 7}, "optimizer"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"learning_rate": "-0.1"}, "learning_rate"),
        ({"learning_rate": "nan"}, "learning_rate"),
        ({"learning_rate": "inf"}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate": True}, "learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": "0"}, "epochs"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"epochs": "many"}, "epochs"),
        ({"epochs": 10**9}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"task": "clustering"}, "task"),
        ({"recipe": "transformer"}, "recipe"),
        ({"config": "wide"}, "config"),
        ({"config": {"hidden": []}}, "config.hidden"),
        ({"config": {"dropout": 1}}, "config.dropout"),
        ({"config": {"depth": 3}}, "config.depth"),
        ({"deploy": "perhaps"}, "deploy"),
        ({"wait": "a while"}, "wait"),
        ({"learning_ratio": 0.1}, "learning_ratio"),
        ({"data": None}, "data"),
        ({"data": "digits:0"}, "data"),
        ({"data": "digits:x"}, "data"),
        ({"data": "digits@champion"}, "data"),
        *(({"model_name": name}, "model_name") for name in [*NAMES, None]),
    ],
)
def test_train_model_names_the_bad_field(
    admin: httpx.Client, dataset: JSON, change: JSON, field: str
) -> None:
    """A bad field of /train_model is refused by name, and no job is made."""
    before = get(admin, "/api/jobs")["items"]
    refused(admin.post("/train_model", json={**TRAIN, **change}), 400, "invalid_field", field)
    assert get(admin, "/api/jobs")["items"] == before


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/train_model", {**TRAIN, "data": "nothing"}, "data"),
        ("POST", "/train_model", {**TRAIN, "data": "digits:99"}, "data"),
        ("POST", "/api/jobs", {"kind": "compress", "spec": {"model": "nothing:1"}}, "model"),
        ("POST", "/api/jobs", {"kind": "compress", "spec": {"model": "digits:99"}}, "model"),
        ("POST", "/api/jobs", {"kind": "compress", "spec": {"model": "digits@none"}}, "model"),
        ("GET", "/api/jobs/job-none", None, "job"),
        ("GET", "/api/jobs/job-none/events", None, "job"),
        ("POST", "/api/jobs/job-none/cancel", None, "job"),
        ("GET", "/api/datasets/nothing", None, "data"),
        ("GET", "/api/datasets/digits/versions/99", None, "data"),
        ("GET", "/api/models/nothing", None, "model"),
        ("GET", "/api/models/digits/versions/99", None, "model"),
        ("GET", "/api/models/digits/versions/1/artifacts/none", None, "artifact"),
        ("GET", "/api/models/digits/aliases/none", None, "alias"),
        ("PUT", "/api/models/digits/aliases/a", {"version": 99}, "model"),
        ("DELETE", "/api/models/digits/aliases/none", None, "alias"),
        ("PUT", "/api/deployments/d", {"model": "nothing:1"}, "model"),
        ("PUT", "/api/deployments/d", {"model": "digits@none"}, "model"),
        (
            "PUT",
            "/api/deployments/d",
            {"targets": [{"model": "digits:1", "weight": 50}, {"model": "none", "weight": 50}]},
            "targets[1].model",
        ),
        ("GET", "/api/deployments/nothing", None, "deployment"),
        ("DELETE", "/api/deployments/nothing", None, "deployment"),
        ("DELETE", "/api/keys/none", None, "key"),
        ("GET", "/api/tenants/nothing", None, "tenant"),
        ("PUT", "/api/tenants/someone", {"plan": "nothing"}, "plan"),
        ("GET", "/api/plans/nothing", None, "plan"),
        ("POST", "/api/invoices", {"tenant": "nothing", "period": "2026-01"}, "tenant"),
        ("POST", "/api/keys", {"name": "k", "scopes": ["infer"], "tenant": "nothing"}, "tenant"),
        ("GET", "/api/nothing", None, "path"),
        ("GET", "/api/models/a/b", None, "path"),
        ("GET", "/v2/nothing", None, "path"),
    ],
)
def test_what_is_not_there(
    admin: httpx.Client, trained: JSON, method: str, path: str, body: Any, field: str
) -> None:
    """Every reference to something that does not exist answers 404 with its kind or field."""
    refused(admin.request(method, path, json=body), 404, "not_found", field)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/api/jobs", {"kind": "dance", "spec": {}}, "kind"),
        ("POST", "/api/jobs", {"kind": ["train"], "spec": {}}, "kind"),
        ("POST", "/api/jobs", {"kind": "train"}, "spec"),
        ("POST", "/api/jobs", {"kind": "train", "spec": [1]}, "spec"),
        ("POST", "/api/jobs", {"kind": "train", "spec": {}, "when": "now"}, "when"),
        ("GET", "/api/jobs?limit=0", None, "limit"),
        ("GET", "/api/jobs?limit=many", None, "limit"),
        ("GET", "/api/jobs/job-none/events?after=x", None, "after"),
        ("GET", f"/api/jobs/job-none/events?after={10**30}", None, "after"),
        ("GET", "/api/datasets/digits/versions/first", None, "version"),
        ("GET", f"/api/datasets/digits/versions/{10**30}", None, "version"),
        ("GET", f"/api/models/digits/versions/{10**30}", None, "version"),
        ("PUT", "/api/models/digits/aliases/a", {"version": "2"}, "version"),
        ("PUT", "/api/models/digits/aliases/a", {"version": True}, "version"),
        ("PUT", "/api/models/digits/aliases/a", {"version": 10**30}, "version"),
        ("PUT", "/api/models/digits/aliases/a", {}, "version"),
        ("PUT", "/api/models/digits/aliases/A", {"version": 1}, "alias"),
        ("PUT", "/api/models/digits/aliases/a%20b", {"version": 1}, "alias"),
        ("PUT", "/api/deployments/Upper", {"model": "digits:1"}, "name"),
        ("PUT", "/api/deployments/d", {}, "model"),
        ("PUT", "/api/deployments/d", {"model": "digits:1", "targets": []}, "model"),
        ("PUT", "/api/deployments/d", {"model": "digits:zero"}, "model"),
        ("PUT", "/api/deployments/d", {"model": 3}, "model"),
        ("PUT", "/api/deployments/d", {"targets": []}, "targets"),
        (
            "PUT",
            "/api/deployments/d",
            {"targets": [{"model": "digits:1", "weight": 99}]},
            "targets",
        ),
        ("PUT", "/api/deployments/d", {"targets": [{"model": "digits:1"}] * 2}, "targets"),
        (
            "PUT",
            "/api/deployments/d",
            {"targets": [{"model": "digits:1", "weight": "all"}]},
            "targets[0].weight",
        ),
        ("PUT", "/api/deployments/d", {"model": "digits:1", "sacle": {}}, "sacle"),
        ("PUT", "/api/deployments/d", {"model": "digits:1", "scale": {"min": -1}}, "scale.min"),
        ("PUT", "/api/deployments/d", {"model": "digits:1", "scale": {"min": 10**9}}, "scale.min"),
        (
            "PUT",
            "/api/deployments/d",
            {"model": "digits:1", "scale": {"min": 2, "max": 1}},
            "scale.max",
        ),
        ("PUT", "/api/deployments/d", {"model": "digits:1", "timeout_ms": 0}, "timeout_ms"),
        ("PUT", "/api/deployments/d", {"model": "digits:1", "access": ["acme"]}, "access"),
        (
            "PUT",
            "/api/deployments/d",
            {"model": "digits:1", "access": {"tenants": "acme"}},
            "access.tenants",
        ),
        (
            "PUT",
            "/api/deployments/d",
            {"model": "digits:1", "access": {"tenants": ["No Name"]}},
            "access.tenants[0]",
        ),
        (
            "PUT",
            "/api/deployments/d",
            {"model": "digits:1", "access": {"tenants": ["default", "nothing"]}},
            "access.tenants[1]",
        ),
        (
            "PUT",
            "/api/deployments/d",
            {"model": "digits:1", "access": {"users": []}},
            "access.users",
        ),
        *(("POST", "/api/keys", {"name": n, "scopes": ["infer"]}, "name") for n in NAMES),
        ("POST", "/api/keys", {"name": "k"}, "scopes"),
        ("POST", "/api/keys", {"name": "k", "scopes": []}, "scopes"),
        ("POST", "/api/keys", {"name": "k", "scopes": "infer"}, "scopes"),
        ("POST", "/api/keys", {"name": "k", "scopes": [{}]}, "scopes"),
        ("POST", "/api/keys", {"name": "k", "scopes": ["root"]}, "scopes"),
        ("POST", "/api/keys", {"name": "k", "scopes": ["infer"], "tenant": "No"}, "tenant"),
        ("POST", "/api/keys", {"name": "k", "scopes": ["infer"], "project": []}, "project"),
        ("POST", "/api/keys", {"name": "k", "scopes": ["infer"], "expires": "soon"}, "expires"),
        ("POST", "/api/keys", {"name": "k", "scopes": ["infer"], "expiry": "x"}, "expiry"),
        ("PUT", "/api/tenants/No%20Name", {}, "tenant"),
        ("PUT", "/api/tenants/someone", {"plan": "No Plan"}, "plan"),
        ("PUT", "/api/tenants/someone", {"price": 1}, "price"),
        ("GET", "/api/usage?from=yesterday", None, "from"),
        ("GET", "/api/usage?from=0001-01-01T00:00:00%2B23:59", None, "from"),
        ("GET", "/api/usage?from=2026-02-01&to=2026-01-01", None, "to"),
        ("GET", "/api/usage?by=colour", None, "by"),
        ("GET", "/api/usage?fresh=very", None, "fresh"),
        *(
            ("POST", "/api/invoices", {"period": p}, "period")
            for p in ("2026-13", "26-1", "9999-12", 202601, None, {"from": 1, "to": 2}, {})
        ),
        ("POST", "/api/invoices", {"period": {"from": "x", "to": "2026-01-01"}}, "period.from"),
        ("POST", "/api/invoices", {"period": {"from": "2026-02-01", "to": "2026-01-01"}}, "period"),
        ("POST", "/api/invoices", {"tenant": 5, "period": "2026-01"}, "tenant"),
        ("POST", "/api/invoices", {"period": "2026-01", "draft": True}, "draft"),
    ],
)
def test_control_names_the_bad_field(
    admin: httpx.Client, trained: JSON, method: str, path: str, body: Any, field: str
) -> None:
    """Every bad field of the control plane is refused by its name."""
    refused(admin.request(method, path, json=body), 400, "invalid_field", field)


@pytest.mark.parametrize(
    ("price", "field"),
    [
        ({"amount": "-1"}, "prices[0].amount"),
        ({"amount": 0.5}, "prices[0].amount"),
        ({"amount": "1e3"}, "prices[0].amount"),
        ({"amount": "cheap"}, "prices[0].amount"),
        ({"amount": None}, "prices[0].amount"),
        ({"meter": "smiles"}, "prices[0].meter"),
        ({"meter": []}, "prices[0].meter"),
        ({"per": 0}, "prices[0].per"),
        ({"per": "1000"}, "prices[0].per"),
        ({"model": "No Name"}, "prices[0].model"),
        ({"model": ""}, "prices[0].model"),
        ({"tax": "0.2"}, "prices[0].tax"),
    ],
)
def test_bad_prices(admin: httpx.Client, price: JSON, field: str) -> None:
    """A price that is negative, inexact, unknown or unclear is refused, and no plan is made."""
    body = {"currency": "EUR", "prices": [{"meter": "rows", "amount": "1", **price}]}
    refused(admin.put("/api/plans/bad", json=body), 400, "invalid_field", field)
    refused(admin.get("/api/plans/bad"), 404, "not_found", "plan")


def test_bad_price_lists(admin: httpx.Client) -> None:
    """A meter priced twice, a bad currency, a bad name and no list at all are refused."""
    one = {"meter": "rows", "amount": "1"}
    for path, body, field in (
        ("bad", {"currency": "EUR", "prices": [one, one]}, "prices"),
        ("bad", {"currency": "EUR"}, "prices"),
        ("bad", {"currency": "EUR", "prices": [5]}, "prices[0]"),
        ("bad", {"currency": "euro", "prices": [one]}, "currency"),
        ("bad", {"currency": "EUR", "prices": [one], "vat": 1}, "vat"),
        ("No", {"currency": "EUR", "prices": [one]}, "plan"),
    ):
        refused(admin.put(f"/api/plans/{path}", json=body), 400, "invalid_field", field)


@pytest.mark.parametrize("path", ["/train_model", "/api/jobs", "/api/keys", "/api/invoices"])
@pytest.mark.parametrize(
    "body", [b"{", b"\xff", b"[1]", b'"text"', b"null", b'{"a":' * 9000, b'{"\\ud800": 1}']
)
def test_control_reads_json_objects_only(admin: httpx.Client, path: str, body: bytes) -> None:
    """A body that is not a JSON object is refused as that."""
    refused(admin.post(path, content=body), 400, "invalid_json", "body")


def test_if_match_guards_a_deployment(admin: httpx.Client, served: JSON) -> None:
    """If-Match with another generation answers 412, with no generation 400; nothing changes."""
    body = {"model": "digits@champion"}
    path = "/api/deployments/digits"
    for match in (str(served["generation"] + 1), f'"{served["generation"] + 5}"', "0"):
        answer = admin.put(path, json=body, headers={"if-match": match})
        refused(answer, 412, "precondition_failed", "If-Match")
    for odd in (b"x", b"-1", b"\xb2"):
        answer = admin.put(path, json=body, headers=[(b"if-match", odd)])
        refused(answer, 400, "invalid_field", "If-Match")
    assert get(admin, path)["generation"] == served["generation"]


def test_an_alias_in_use_stays(admin: httpx.Client, served: JSON) -> None:
    """Deleting an alias that a deployment names answers 409 with its users."""
    error = refused(admin.delete("/api/models/digits/aliases/champion"), 409, "conflict", "alias")
    assert "digits" in error["message"]


def test_other_methods_are_told(admin: httpx.Client) -> None:
    """A method that a path does not have answers 405 with those it has."""
    for method, path, allowed in (
        ("GET", "/predict", "POST"),
        ("DELETE", "/v2/models/digits", "GET"),
        ("GET", "/train_model", "POST"),
        ("PATCH", "/api/deployments/digits", None),
    ):
        answer = admin.request(method, path)
        if path.startswith("/v2"):
            assert answer.status_code == 405
        else:
            refused(answer, 405, "method_not_allowed", "method")
        assert allowed is None or answer.headers["allow"] == allowed


def _chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536 + 1):
        yield b"1" * 65536


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/predict", MAX_BODY),
        ("/predictions/digits", MAX_BODY),
        ("/v2/models/digits/infer", MAX_BODY),
        ("/api/datasets?name=large", MAX_UPLOAD),
        ("/api/keys", MAX_UPLOAD),
    ],
)
def test_large_bodies_are_refused(
    admin: httpx.Client, served: JSON, path: str, limit: int, announced: bool
) -> None:
    """A body over the limit answers 413, whether its length was announced or not."""
    content = b"1" * (limit + 1) if announced else _chunks(limit)
    refused(admin.post(path, content=content, headers=CSV), 413, "too_large", "body")


def test_the_server_still_answers(admin: httpx.Client, served: JSON, digits: Digits) -> None:
    """After all of this the platform predicts, and nothing was deployed by a refused call."""
    answer = admin.post("/predict", json={"model": "digits", "input_data": digits.rows[:2]})
    assert answer.status_code == 200
    known = [d["name"] for d in get(admin, "/api/deployments")["items"]]
    assert "d" not in known
