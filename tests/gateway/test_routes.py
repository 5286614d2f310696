"""The table of HTTP routes is dispatched and guarded; what a caller's names lead to."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from meuse.access import keys
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import SCOPES
from meuse.gateway.counters import Counters
from meuse.gateway.links import Pool
from meuse.gateway.paths import ROUTES, HttpRoute, match
from meuse.gateway.routes import Route, Routes
from meuse.gateway.rpc import METHODS
from meuse.serve.snapshot import (
    AdapterEntry,
    DeploymentEntry,
    GenerationEntry,
    KeyEntry,
    Snapshot,
    TargetEntry,
)

if TYPE_CHECKING:
    from gateway.conftest import Platform


def path_of(pattern: str, model: str) -> str:
    return (
        pattern.replace("{model}", model).replace("{deployment}", model).replace("{version}", "1")
    )


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.pattern}")
def test_every_route_is_guarded(platform: Platform, route: HttpRoute) -> None:
    """No key and a wrong key: 401; a key without the scope: 403; another tenant's: 404."""
    path = path_of(route.pattern, "acme/digits")
    with httpx.Client(base_url=platform.worker.url) as client:

        def status(key: str | None) -> int:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            body = {"predict": b'{"model":"acme/digits","input_data":[[1]]}',
                    "predictions": b"[[1]]", "infer": b'{"inputs":[]}',
                    "chat": b'{"model":"acme/digits","messages":[{"role":"user","content":"x"}]}',
                    "completions": b'{"model":"acme/digits","prompt":"x"}',
                    "embeddings": b'{"model":"acme/digits","input":"x"}'}  # fmt: skip
            content = body.get(route.handler) if route.method == "POST" else None
            answer = client.request(route.method, path, headers=headers, content=content)
            assert route.scope == "public" or "acme" not in answer.text.replace("acme/digits", "")
            return answer.status_code

        if route.scope == "public":
            assert [status(None), status("wrong")] == [200, 200]
        else:
            assert route.scope in SCOPES
            assert [status(None), status("wrong"), status(platform.no_infer)] == [401, 401, 403]
            # Lists have only what is one's own.
            is_list = route.handler in ("statistics", "repository_index", "models")
            expected = 200 if is_list else 404
            assert status(platform.blue) == (403 if route.scope == "usage" else expected)


def test_only_health_and_server_metadata_are_public() -> None:
    """The list of what needs no key is short and known."""
    assert {r.pattern for r in ROUTES if r.scope == "public"} == {
        "/v2", "/v2/health/live", "/v2/health/ready", "/health/live", "/health/ready",
    }  # fmt: skip
    assert {path.split("/")[2] for path, m in METHODS.items() if m.scope == "public"} == {
        "ServerLive", "ServerReady", "ServerMetadata", "Check", "Watch",
    }  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.pattern}")
def test_other_methods_are_refused(platform: Platform, route: HttpRoute) -> None:
    """405 with the methods that are possible."""
    answer = platform.http.request("DELETE", path_of(route.pattern, "digits"))
    assert answer.status_code == 405
    assert answer.headers["allow"] == route.method


@pytest.mark.parametrize(
    ("path", "pattern", "model", "version"),
    [
        ("/v2/models/m", "/v2/models/{model}", "m", None),
        ("/v2/models/o/m", "/v2/models/{model}", "o/m", None),
        ("/v2/models/o%2Fm/infer", "/v2/models/{model}/infer", "o/m", None),
        ("/v2/models/o/m/ready", "/v2/models/{model}/ready", "o/m", None),
        ("/v2/models/m/ready", "/v2/models/{model}/ready", "m", None),
        ("/v2/models/ready", "/v2/models/{model}", "ready", None),
        ("/v2/models/ready/ready", "/v2/models/{model}/ready", "ready", None),
        ("/v2/models/m/versions/2", "/v2/models/{model}/versions/{version}", "m", "2"),
        ("/v2/models/o/m/versions/m%3A2/infer", "/v2/models/{model}/versions/{version}/infer",
         "o/m", "m:2"),
        ("/v2/models/a%20b", "/v2/models/{model}", "a b", None),
        ("/predictions/o/m", "/predictions/{deployment}", "o/m", None),
    ],
)  # fmt: skip
def test_paths_are_read_from_the_right(
    path: str, pattern: str, model: str, version: str | None
) -> None:
    """Names may hold a slash, as it is or encoded."""
    found = match(path.encode())
    assert found is not None
    assert {route.pattern for route in found.methods.values()} == {pattern}
    assert (found.model, found.version) == (model, version)


@pytest.mark.parametrize(
    "path", ["/v2/models/a/b/c", "/v2/nothing", "/predictions/", "/v2/models/"]
)
def test_unknown_paths_of_ours(platform: Platform, path: str) -> None:
    """They are not found here, and not handed to control."""
    assert platform.http.get(path).status_code == 404


PEPPER = b"pepper" * 6


def routes_of(*deployments: tuple[str, str]) -> tuple[Routes, bytes]:
    """Routes with these deployments ("owner/name", who else may call), and acme's header."""
    key_id, key = keys.mint()
    entry = KeyEntry(keys.digest(PEPPER, key), "acme", "default", frozenset({"infer"}))
    entries = {
        name: DeploymentEntry(
            tenant=name.split("/")[0], project="default", name=name.split("/")[1], generation=1,
            access=frozenset(filter(None, [access])), timeout_ms=1000, targets=(),
        )
        for name, access in deployments
    }  # fmt: skip
    snapshot = Snapshot(number=1, keys={key_id: entry}, deployments=entries)
    counters = Counters(Path("/nowhere"), 0, 1)
    routes = Routes(snapshot, PEPPER, lambda name, version: Pool(name, Path(), print), counters)
    return routes, f"Bearer {key}".encode()


def test_what_others_share_never_changes_what_no_name_means() -> None:
    """The only own deployment is meant, whoever opens theirs to everyone."""
    routes, header = routes_of(("acme/mine", ""), ("blue/open", "*"), ("blue/given", "acme"))
    assert routes.find(routes.authenticate(header), None).full_name == "acme/mine"


@pytest.mark.parametrize(
    ("deployments", "own", "hint"),
    [
        ([], 0, "Deploy a model first."),
        ([("blue/private", "")], 0, "Deploy a model first."),
        ([("blue/given", "acme")], 0, "One of: blue/given."),
        ([("blue/open", "*")], 0, "One of: blue/open."),
        ([("blue/a", "*"), ("acme/z", ""), ("acme/y", ""), ("blue/b", "green")], 2,
         "One of: y, z, blue/a."),
    ],
)  # fmt: skip
def test_without_one_own_deployment_a_name_is_asked_for(
    deployments: list[tuple[str, str]], own: int, hint: str
) -> None:
    """A shared one is listed after the own ones, and never called unasked."""
    routes, header = routes_of(*deployments)
    with pytest.raises(MeuseError) as caught:
        routes.find(routes.authenticate(header), None)
    error = caught.value
    assert (error.code, error.field, error.hint) == (Code.INVALID_FIELD, "model", hint)
    assert f"{own} deployments of your own" in error.message


def test_a_caller_does_not_keep_its_snapshot() -> None:
    """A call in flight holds the key and what it called, not all that was routed then."""
    routes, header = routes_of(("acme/mine", ""))
    caller = routes.authenticate(header)
    assert routes.find(caller, None)
    gone = weakref.ref(routes)
    del routes
    assert gone() is None
    assert caller.tenant == "acme"


def test_an_adapter_that_one_version_has_not_is_asked_of_one_that_takes_traffic() -> None:
    """Not of the first that has it: that may be one of weight 0, or without a replica."""

    class Linked(Pool):
        @property
        def is_ready(self) -> bool:
            return self.name != "m:3"

    lora = {"polite": AdapterEntry("p:1", "d" * 64)}
    targets = tuple(
        TargetEntry(
            version=f"m:{number}", weight=weight, inputs=(), outputs=(), replicas=(),
            generation=GenerationEntry(64, loras=loras),
        )
        for number, weight, loras in ((1, 50, {}), (2, 0, lora), (3, 25, lora), (4, 25, lora))
    )  # fmt: skip
    entry = DeploymentEntry("acme", "default", "chat", 1, frozenset(), 1000, targets)
    counters = Counters(Path("/nowhere"), 0, 1)
    route = Route("acme/chat", entry, lambda _, v: Linked(v, Path(), print), counters)
    first, zero, idle, ready = route.targets
    assert route.adapted(zero, "polite") is zero.adapters["polite"]
    assert route.adapted(idle, "polite") is idle.adapters["polite"]
    assert route.adapted(first, "polite") is ready.adapters["polite"]
    with pytest.raises(MeuseError, match="no adapter 'rude'"):
        route.adapted(first, "rude")
