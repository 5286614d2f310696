"""The platform under measurement: started afresh, authenticated, metered and rate-limited.

Everything goes through the public API. What a build does not have yet raises `NotAvailableError`,
which a report shows as such.
"""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bodies
from bodies import Model
from clients import LoadError, once, saturate
from processes import Group, cpu_seconds, resident_mb
from servers import Server

from meuse.client import Client
from meuse.core.errors import Code, MeuseError
from meuse.tour.platform import running

LIMIT = 100_000
"""Requests a second that the benchmark's key may make: checked for each, never reached."""


class NotAvailableError(Exception):
    """This build lacks what is to be measured; the message says what."""


@dataclass(slots=True)
class Platform:
    """A running platform; `limits` says whether the key is rate-limited."""

    client: Client
    home: Path
    port: int
    grpc_port: int
    key: str
    limits: str
    group: Group

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}"}


@contextlib.contextmanager
def platform(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Platform]:
    """A platform in `folder`; `settings` are lines of its meuse.toml, name to value."""
    home = folder / "home"
    if settings:
        home.mkdir(mode=0o700)
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (home / "meuse.toml").write_text("".join(lines))
    with running(home) as (url, grpc_address, admin), Client(url, admin) as client:
        made = client.make_key("bench", ["infer"])
        root = int(json.loads((home / "run.json").read_text())["pid"])
        yield Platform(
            client,
            home,
            int(url.rpartition(":")[2]),
            int(grpc_address.rpartition(":")[2]),
            made["key"],
            limited(client, made["id"]),
            Group(root),
        )


def limited(client: Client, key: str) -> str:
    """Give the key a rate limit so high that it never refuses; what the report says of it."""
    try:
        body = {"key": key, "requests": LIMIT, "per": "second"}
        client.call("POST", "/api/limits", json=body)
    except MeuseError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return "off: this build has no /api/limits"
    return f"on: {LIMIT:,} requests a second for the key"


def register(platform: Platform, name: str, onnx: bytes) -> str:
    """A version of `name` from an ONNX file; its reference."""
    try:
        made = platform.client.call(
            "POST",
            f"/api/models/{name}/versions",
            content=onnx,
            headers={"content-type": "application/octet-stream"},
        )
    except MeuseError as error:
        if error.code not in (Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED):
            raise
        raise NotAvailableError("POST /api/models/{name}/versions") from None
    return str(made["ref"])


def deploy(platform: Platform, name: str, model: str, **spec: Any) -> None:
    """Deploy and wait until it serves; raises NotAvailableError for an unknown field."""
    try:
        platform.client.deploy(name, model, **spec)
    except MeuseError as error:
        if error.code is Code.INVALID_FIELD and error.field:
            raise NotAvailableError(f"{error.field} of a deployment: {error.message}") from None
        raise
    if spec.get("scale", {}).get("min") != 0:
        platform.client.wait_ready(name)


def remove(platform: Platform, name: str) -> None:
    """Take a deployment down, if it is there."""
    with contextlib.suppress(MeuseError):
        platform.client.undeploy(name)


def server(platform: Platform, model: Model, deployment: str) -> Server:
    """The platform as a server of this deployment, checked to answer rightly."""
    headers = platform.headers()
    infer = f"/v2/models/{deployment}/infer"
    oip = bodies.oip_json(infer, model).with_headers(headers)
    plain = oip
    if len(model.inputs) == 1:
        plain = bodies.simple(f"/predictions/{deployment}", model).with_headers(headers)
    binary: bodies.Request | None = bodies.oip_binary(infer, model).with_headers(headers)
    once(platform.port, plain, model, 60.0)
    once(platform.port, oip, model, 10.0)
    try:
        assert binary is not None
        once(platform.port, binary, model, 0.0)
    except LoadError:
        binary = None  # the report says that this build has no binary tensors
    return Server(
        "meuse",
        platform.port,
        platform.group,
        plain,
        oip=oip,
        binary=binary,
        grpc_port=platform.grpc_port,
        grpc=bodies.grpc_message(model, deployment),
        grpc_headers=tuple(headers.items()),
    )


def processes(platform: Platform) -> dict[str, int]:
    """The platform's processes by name, without the supervisor."""
    document = json.loads((platform.home / "run.json").read_text())
    return {name: process["pid"] for name, process in document["processes"].items()}


def resident(platform: Platform) -> dict[str, float]:
    """Resident MB of each process of the platform."""
    return {name: resident_mb([pid]) for name, pid in processes(platform).items()}


def idle_cpu(platform: Platform, seconds: float = 3.0) -> float:
    """CPU seconds per second that the platform takes while nobody asks it anything."""
    before = platform.group.cpu_seconds()
    time.sleep(seconds)
    return (platform.group.cpu_seconds() - before) / seconds


def cpu_by_process(platform: Platform, request: bodies.Request, seconds: float) -> dict[str, float]:
    """CPU seconds for 1,000 requests of each of the platform's processes, under saturation."""
    pids = {"supervisor": platform.group.root} | processes(platform)
    before = {name: cpu_seconds([pid]) for name, pid in pids.items()}
    figures = saturate(platform.port, request, platform.group, seconds)
    per = 1000 / figures["requests"]
    spent = {name: (cpu_seconds([pid]) - before[name]) * per for name, pid in pids.items()}
    return {name: value for name, value in spent.items() if value > 0}


def deployed(client: Client, folder: Path, name: str = "digits") -> Path:
    """Train digits and deploy it as `name`; the model file, as the registry has it."""
    from sklearn.datasets import load_digits

    path = folder / "digits.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p{i}" for i in range(64)), "digit"])
        data = load_digits()
        writer.writerows([*map(int, r), t] for r, t in zip(data.data, data.target, strict=True))
    client.upload("digits", path)
    client.wait(client.train(name, "digits", epochs=5)["id"])
    client.deploy(name, f"{name}:1")
    client.wait_ready(name)
    artifact = client.version(name, 1)["artifacts"][0]["name"]
    model = folder / "model.onnx"
    model.write_bytes(client.download(name, 1, artifact))
    return model
