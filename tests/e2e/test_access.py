"""Who may do what: every route and method, with no key, a wrong key and another's key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest

from e2e.conftest import ALL_SCOPES, Digits, Platform
from e2e.helpers import (
    JSON,
    get,
    ready,
    refused,
    refused_rpc,
    rpc,
    rpc_infer,
    rpc_request,
    tensor,
    until,
)
from meuse.access import keys
from meuse.gateway import paths
from meuse.gateway import rpc as gateway_rpc
from meuse.gateway.wire import inference_pb2 as wire

# The scope that each control route needs; a route that is not here fails the walk.
NEEDS = {
    "/api/datasets": "data",
    "/train_model": "train",
    "/api/files": "train",
    "/api/recipes": "train",
    "/api/methods": "train",
    "/api/jobs": "train",
    "/api/models": "models",
    "/api/deployments": "deploy",
    "/api/keys": "keys",
    "/api/limits": "keys",
    "/api/budgets": "keys",
    "/api/webhooks": "keys",
    "/api/tenants": "admin",
    "/v1/files": "data",
    "/v1/batches": "infer",
    "/v1/fine_tuning": "train",
    "GET /api/plans": "billing",
    "PUT /api/plans": "admin",
    "POST /api/plans": "billing",
    "/api/usage": "usage",
    "/api/usage/events": "usage:write",
    "/api/usage/journal": "admin",
    "/api/usage/recount": "admin",
    "/api/invoices": "billing",
    "/api/credit": "billing",
    "/api/forecast": "billing",
    "/api/reconciliations": "admin",
    "GET /api/wallets": "billing",
    "POST /api/wallets": "admin",
}
MONTH = datetime.now(UTC).strftime("%Y-%m")


def wrong_headers() -> list[dict[str, str]]:
    """No key, no kind of key, and keys of the right form that are not known."""
    strange = keys.mint()[1]
    return [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer nonsense"},
        {"authorization": f"Basic {strange}"},
        {"authorization": f"Bearer {strange}"},
        {"authorization": f"Bearer {strange[:-1]}é"},
    ]


def control_routes(client: httpx.Client) -> Iterator[tuple[str, str, str]]:
    """(method, path, scope) of everything that /openapi.json lists."""
    for path, methods in get(client, "/openapi.json")["paths"].items():
        for method in methods:
            root = re.match(r"/(?:api|v1)/\w+|/\w+", path)
            assert root, path
            scope = (
                NEEDS.get(path) or NEEDS.get(root[0]) or NEEDS.get(f"{method.upper()} {root[0]}")
            )
            assert scope, f"{method} {path} has no line in NEEDS"
            yield method.upper(), path, scope


def filled(path: str, **known: Any) -> str:
    """A path with its parameters filled in; those not known get something."""
    return re.sub(r"\{(\w+)\}", lambda m: str(known.get(m[1], 1)), path)


def ask(client: httpx.Client, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    encoded = [(k.encode(), v.encode("latin-1")) for k, v in headers.items()]
    return client.request(method, path, headers=encoded)


def test_control_refuses_wrong_keys(platform: Platform, admin: httpx.Client) -> None:
    """Every control route answers 401 without a key and with a key that is not valid."""
    nobody = platform.client(None)
    walked = 0
    for method, path, _ in [*control_routes(admin), ("GET", "/openapi.json", "any")]:
        for headers in wrong_headers():
            answer = ask(nobody, method, filled(path), headers)
            refused(answer, 401, "unauthenticated", "authorization")
            walked += 1
    assert walked > 100


def test_control_refuses_keys_without_the_scope(platform: Platform, admin: httpx.Client) -> None:
    """Every control route answers 403 to a key with every scope but the one it needs."""
    without: dict[str, httpx.Client] = {}
    for method, path, scope in control_routes(admin):
        if scope not in without:
            others = [s for s in ALL_SCOPES if s != scope]
            without[scope] = platform.client(platform.key(*others))
        refused(without[scope].request(method, filled(path)), 403, "forbidden", "scope")


def test_the_data_plane_refuses_wrong_keys(platform: Platform, served: JSON) -> None:
    """Every data plane route but the public ones answers 401 without a valid key."""
    nobody = platform.client(None)
    for route in paths.ROUTES:
        path = filled(route.pattern, model="digits", deployment="digits")
        for headers in wrong_headers():
            answer = ask(nobody, route.method, path, headers)
            if route.scope == "public":
                assert answer.status_code == 200, (path, answer.text)
            else:
                refused(answer, 401, "unauthenticated", "authorization")
                assert answer.headers["www-authenticate"] == "Bearer"


def test_the_data_plane_refuses_keys_without_the_scope(platform: Platform, served: JSON) -> None:
    """Every data plane route that needs a scope answers 403 to a key without it."""
    for route in paths.ROUTES:
        if route.scope != "public":
            others = [s for s in ALL_SCOPES if s != route.scope]
            client = platform.client(platform.key(*others))
            path = filled(route.pattern, model="digits", deployment="digits")
            refused(client.request(route.method, path), 403, "forbidden", "scope")


def test_grpc_refuses_wrong_keys_and_scopes(platform: Platform, served: JSON) -> None:
    """Every gRPC method but the public ones refuses wrong keys and keys without the scope."""
    lacking = platform.key("data", "train", "usage")
    with grpc.insecure_channel(platform.grpc) as channel:
        for path, method in gateway_rpc.METHODS.items():
            call = channel.stream_stream(path)  # the same on the wire as a unary call
            for key in (None, "nonsense", keys.mint()[1], lacking):
                metadata = [] if key is None else [("authorization", f"Bearer {key}")]
                answers = call(iter([b""]), metadata=metadata, timeout=10.0)
                if method.scope == "public":
                    assert next(answers) is not None
                    answers.cancel()
                    continue
                status, code, field = (
                    grpc.StatusCode.UNAUTHENTICATED,
                    "unauthenticated",
                    "authorization",
                )
                if key == lacking:
                    status, code, field = grpc.StatusCode.PERMISSION_DENIED, "forbidden", "scope"
                refused_rpc(lambda a=answers: next(a), status, code, field)


def test_nothing_else_is_public(platform: Platform) -> None:
    """Beside health and the server's name nothing answers without a key; any key reads the API."""
    nobody = platform.client(None)
    for path in ("/", "/api", "/api/nothing", "/admin", "/docs", "/redoc", "/.env", "/metrics"):
        assert nobody.get(path).status_code in (401, 404), path
    assert get(platform.client(platform.key("infer")), "/openapi.json")["info"]["title"] == "Meuse"


def test_others_things_do_not_exist(
    platform: Platform,
    admin: httpx.Client,
    stranger: httpx.Client,
    served: JSON,
    private: JSON,
    trained: JSON,
) -> None:
    """Every control route on another tenant's existing thing answers 404, never more."""
    artifact = get(admin, "/api/models/digits/versions/1")["artifacts"][0]["name"]
    job_id = get(admin, "/api/models/digits/versions/1")["lineage"]["job"]
    key_id = platform.made_key("infer")["id"]
    made = admin.post("/api/invoices", json={"tenant": "globex", "period": MONTH}).json()
    wallet = admin.post("/api/wallets", json={"tenant": "globex", "currency": "EUR"}).json()
    terms: JSON = {"tenant": "globex", "meter": "requests", "limit": 10**9, "period": "total"}
    limits = [
        ("budgets", admin.post("/api/budgets", json=terms).json()["id"]),
        (
            "limits",
            admin.post("/api/limits", json={"model": "private", "concurrency": 99}).json()["id"],
        ),
    ]
    webhook = admin.post("/api/webhooks", json={"url": "https://hooks.example.org/"}).json()["id"]
    known = {
        "budget_id": limits[0][1], "limit_id": limits[1][1], "webhook_id": webhook,
        "job_id": job_id, "version": 1, "artifact": artifact, "alias": "champion",
        "key_id": key_id, "invoice_id": made["id"], "plot": "latency",
        "wallet_id": wallet["id"],
    }  # fmt: skip
    walked = 0
    for method, path, scope in control_routes(admin):
        own = (
            method == "POST"
            and path.startswith("/api/models/{name}/")
            and path.endswith(("/versions", "/external"))
        )
        if "{" not in path or scope == "admin" or path == "/api/plans/{name}" or own:
            continue  # lists and admin routes are tested apart; plans are the platform's, and
            # an upload, or a server, makes a model of one's own, whatever others call theirs
        name = "private" if "deployments" in path else "digits"
        body = {"version": 1} if "aliases" in path else {"model": "digits:1"}
        answer = stranger.request(
            method, filled(path, name=name, **known), json=body if method == "PUT" else None
        )
        # What administrators alone do to an invoice is refused whether there is one or not.
        alone = method == "POST" and path.startswith("/api/invoices/")
        told = (403, "forbidden") if alone else (404, "not_found")
        assert (answer.status_code, answer.json()["error"]["code"]) == told, path
        walked += 1
    assert walked >= 16
    for kind, limit_id in (*limits, ("webhooks", webhook)):
        assert admin.delete(f"/api/{kind}/{limit_id}").status_code == 200
    assert get(admin, "/api/models/digits")["aliases"]["champion"] == 2
    assert get(admin, "/api/deployments/private")["status"] == "ready"


def test_lists_hold_only_ones_own(stranger: httpx.Client, served: JSON, private: JSON) -> None:
    """Lists of another tenant show none of these datasets, jobs, models, deployments, keys."""
    for path in ("datasets", "jobs", "models", "deployments"):
        assert get(stranger, f"/api/{path}")["items"] == [], path
    assert get(stranger, "/v2/models/stats") == {"model_stats": []}
    assert stranger.post("/v2/repository/index").json() == []
    assert {k["tenant"] for k in get(stranger, "/api/keys")["items"]} == {"stranger"}


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("train", {"model_name": "m", "data": "digits"}, "data"),
        ("train", {"model_name": "m", "data": "digits:1"}, "data"),
        ("compress", {"model": "digits:1"}, "model"),
        ("compress", {"model": "digits@champion"}, "model"),
    ],
)
def test_jobs_cannot_use_others_things(
    stranger: httpx.Client, served: JSON, kind: str, spec: JSON, field: str
) -> None:
    """A job that names another tenant's data or model is refused with 404 at that field."""
    answer = stranger.post("/api/jobs", json={"kind": kind, "spec": spec})
    refused(answer, 404, "not_found", field)


def test_deployments_are_closed_to_others(
    platform: Platform, stranger: httpx.Client, private: JSON, served: JSON, digits: Digits
) -> None:
    """A deployment that is not open to a tenant is unknown to it, by every protocol."""
    key = stranger.headers["authorization"].removeprefix("Bearer ")
    rows = digits.rows[:1]
    for name in ("private", "default/private", "digits", "default/digits"):
        body = {"model": name, "input_data": rows}
        refused(stranger.post("/predict", json=body), 404, "not_found", "model")
        refused(stranger.post(f"/predictions/{name}", json=rows), 404, "not_found", "model")
        v2 = f"/v2/models/{name}"
        answer = stranger.post(f"{v2}/infer", json={"inputs": [tensor(rows)]})
        refused(answer, 404, "not_found", "model")
        for path in (
            v2, f"{v2}/ready", f"{v2}/stats",
            f"{v2}/versions/1", f"{v2}/versions/1/ready", f"{v2}/versions/1/stats",
        ):  # fmt: skip
            refused(stranger.get(path), 404, "not_found", "model")
        for verb in ("load", "unload"):
            answer = stranger.post(f"/v2/repository/models/{name}/{verb}")
            refused(answer, 404, "not_found", "model")
        named = {"name": name}
        for method, request in (
            ("ModelInfer", rpc_request(name, rows)),
            ("ModelReady", wire.ModelReadyRequest(**named)),
            ("ModelMetadata", wire.ModelMetadataRequest(**named)),
            ("ModelStatistics", wire.ModelStatisticsRequest(**named)),
            ("RepositoryModelLoad", wire.RepositoryModelLoadRequest(model_name=name)),
            ("RepositoryModelUnload", wire.RepositoryModelUnloadRequest(model_name=name)),
        ):
            refused_rpc(
                lambda m=method, r=request: rpc(platform.grpc, key, m, r),
                grpc.StatusCode.NOT_FOUND, "not_found", "model",
            )  # fmt: skip


def test_access_opens_and_closes(
    platform: Platform,
    admin: httpx.Client,
    trained: JSON,
    tenant: Callable[[str], str],
    digits: Digits,
) -> None:
    """Access "*" opens a deployment to all, a list to those on it, none to its owner alone."""
    ones = {t: platform.client(platform.key("infer", tenant=tenant(t))) for t in ("ann", "bob")}
    rows = digits.rows[:1]
    for access, may in (
        ({"tenants": "*"}, {"ann", "bob"}),
        ({"tenants": ["bob"]}, {"bob"}),
        ({}, set()),
        ("*", {"ann", "bob"}),
        ({"tenants": []}, set()),
    ):
        body = {"model": trained["model"], "access": access}
        answer = admin.put("/api/deployments/doors", json=body)
        assert (answer.status_code, answer.json()["published"]) == (202, True)
        ready(admin, "doors")
        for name, client in ones.items():
            asked = {"model": "default/doors", "input_data": rows}
            answer = client.post("/predict", json=asked)
            if name in may:
                assert answer.status_code == 200, answer.text
            else:
                refused(answer, 404, "not_found", "model")
        mine = admin.post("/predict", json={"model": "doors", "input_data": rows})
        assert mine.status_code == 200
    assert admin.delete("/api/deployments/doors").json()["published"] is True
    gone = admin.post("/predict", json={"model": "doors", "input_data": rows})
    refused(gone, 404, "not_found", "model")


def test_keys_cannot_be_escalated(platform: Platform, tenant: Callable[[str], str]) -> None:
    """A key makes keys of its own scopes and tenant only; an administrator's makes any."""
    maker = platform.client(platform.key("keys", "infer", tenant=tenant("maker")))

    def make(**body: Any) -> httpx.Response:
        return maker.post("/api/keys", json={"name": "k", **body})

    refused(make(scopes=["admin"]), 403, "forbidden", "scopes")
    refused(make(scopes=["infer", "billing"]), 403, "forbidden", "scopes")
    for other in ("default", "stranger", "does-not-exist"):
        refused(make(scopes=["infer"], tenant=other), 403, "forbidden", "tenant")
    made = make(scopes=["infer"])
    assert (made.status_code, made.json()["tenant"]) == (201, "maker")
    assert make(scopes=["infer"], tenant="maker").status_code == 201
    refused(maker.put("/api/tenants/mine", json={}), 403, "forbidden", "scope")
    boss = platform.client(platform.key("admin"))
    made = boss.post("/api/keys", json={"name": "k", "scopes": ["admin"], "tenant": "maker"})
    assert (made.status_code, made.json()["tenant"]) == (201, "maker")


def test_deploying_from_a_job_needs_the_scope(platform: Platform, dataset: JSON) -> None:
    """A key that may train but not deploy cannot deploy by training with deploy=true."""
    trainer = platform.client(platform.key("train"))
    params = {"model_name": "m", "data": "digits", "deploy": "true"}
    refused(trainer.post("/train_model", params=params), 403, "forbidden", "deploy")


def test_a_key_expires(platform: Platform, served: JSON, digits: Digits) -> None:
    """A key works until the moment it expires, and from then on nowhere."""
    refused(
        platform.client(platform.admin_key).post(
            "/api/keys", json={"name": "k", "scopes": ["infer"], "expires": "2020-01-01"}
        ),
        400, "invalid_field", "expires",
    )  # fmt: skip
    end = datetime.now(UTC) + timedelta(seconds=3)
    key = platform.key("infer", "models", expires=end.isoformat())
    client = platform.client(key)
    body = {"model": "digits", "input_data": digits.rows[:1]}
    assert client.post("/predict", json=body).status_code == 200
    assert client.get("/api/models").status_code == 200
    until(lambda: client.post("/predict", json=body).status_code == 401, "it expires", 10)
    assert datetime.now(UTC) >= end
    refused(client.post("/predict", json=body), 401, "unauthenticated", "authorization")
    refused(client.get("/api/models"), 401, "unauthenticated", "authorization")
    refused_rpc(
        lambda: rpc_infer(platform.grpc, key, rpc_request("digits", digits.rows[:1])),
        grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", "authorization",
    )  # fmt: skip


def test_a_revoked_key_is_refused_at_once(
    platform: Platform, admin: httpx.Client, served: JSON, digits: Digits
) -> None:
    """Once the answer to a revocation says published, no worker takes the key any more."""
    made = platform.made_key("infer", "models")
    body = {"model": "digits", "input_data": digits.rows[:1]}
    # Connections are shared out over the workers; those that are open stay with theirs.
    clients = [platform.client(made["key"]) for _ in range(24)]
    assert {c.post("/predict", json=body).status_code for c in clients} == {200}
    answer = admin.delete(f"/api/keys/{made['id']}")
    assert (answer.status_code, answer.json()) == (200, {"id": made["id"], "published": True})
    for client in [*clients, *(platform.client(made["key"]) for _ in range(24))]:
        answer = client.post("/predict", json=body)
        refused(answer, 401, "unauthenticated", "authorization")
    refused(clients[0].get("/api/models"), 401, "unauthenticated", "authorization")
    for _ in range(8):
        refused_rpc(
            lambda: rpc_infer(platform.grpc, made["key"], rpc_request("digits", digits.rows[:1])),
            grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", "authorization",
        )  # fmt: skip
    refused(admin.delete(f"/api/keys/{made['id']}"), 404, "not_found", "key")
    assert made["id"] not in [k["id"] for k in get(admin, "/api/keys")["items"]]


def test_a_key_is_shown_once(platform: Platform, admin: httpx.Client) -> None:
    """No list shows a key or its hash again."""
    made = platform.made_key("infer")
    listed = admin.get("/api/keys")
    assert made["key"] not in listed.text
    assert made["key"].split("_")[3] not in listed.text
    (mine,) = [k for k in listed.json()["items"] if k["id"] == made["id"]]
    assert mine.keys() == {"id", "name", "tenant", "project", "scopes", "created", "expires"}


def test_usage_and_invoices_are_ones_own(
    platform: Platform, admin: httpx.Client, stranger: httpx.Client, served: JSON, digits: Digits
) -> None:
    """A tenant sees its own usage and invoices, and cannot ask for another's."""
    globex = platform.client(platform.key("infer", "usage", "billing", tenant="globex"))
    body = {"model": "default/digits", "input_data": digits.rows[:3]}
    assert globex.post("/predict", json=body).status_code == 200
    rows = get(globex, "/api/usage", fresh="true", by="tenant,meter")["rows"]
    assert {r["tenant"] for r in rows} == {"globex"}
    assert get(stranger, "/api/usage", fresh="true")["rows"] == []
    preview = globex.post("/api/invoices", json={"period": MONTH}).json()
    assert (preview["tenant"], preview["id"]) == ("globex", None)
    made = admin.post("/api/invoices", json={"tenant": "globex", "period": MONTH}).json()
    assert made["id"] in [i["id"] for i in get(globex, "/api/invoices")["invoices"]]
    assert get(globex, f"/api/invoices/{made['id']}") == made
    assert get(stranger, "/api/invoices")["invoices"] == []
    answer = stranger.get(f"/api/invoices/{made['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    for other in ("globex", "*", "does-not-exist"):
        for path in ("/api/usage", "/api/invoices", f"/api/invoices/{made['id']}"):
            answer = stranger.get(path, params={"tenant": other})
            refused(answer, 404, "not_found", "tenant")
        answer = stranger.post("/api/invoices", json={"tenant": other, "period": MONTH})
        refused(answer, 404, "not_found", "tenant")
    everyone = get(admin, "/api/usage", tenant="*", by="tenant", fresh="true")["rows"]
    assert {"globex", "default"} <= {r["tenant"] for r in everyone}
    mine = get(admin, f"/api/invoices/{made['id']}", tenant="globex")
    assert mine["id"] == made["id"]
