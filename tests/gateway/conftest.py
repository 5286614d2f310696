"""One platform for the protocol tests: a worker, and a replica per model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway.rig import Rig, Worker, target
from serve import models

LABELS = tuple(f"digit {i}" for i in range(10))


class Platform:
    """`acme` and `blue` with their keys; deployments by what they are for."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.key = rig.key("acme", scopes=("infer", "deploy"))
        self.blue = rig.key("blue", scopes=("infer", "deploy"))
        self.green = rig.key("green")  # a tenant without anything
        self.no_infer = rig.key("acme", scopes=("data",))
        self.admin = rig.key("acme", scopes=("admin",))
        self.expired = rig.key("acme", expires_ms=1)
        self._deploy("acme/digits", "digits:1", models.classifier(), classes=LABELS)
        self._deploy("acme/scores", "scores:1", models.scores())
        self._deploy("acme/pair", "pair:1", models.pair())
        self._deploy("acme/ints", "ints:1", models.identity(models.TensorProto.INT8, ["n", 2]))
        self._deploy("acme/bools", "bools:1", models.identity(models.BOOL, ["n", 2]))
        self._deploy("acme/halves", "halves:1", models.identity(models.TensorProto.FLOAT16, ["n"]))
        self._deploy("acme/texts", "texts:1", models.identity(models.STRING, ["n"]))
        self._deploy("acme/cubes", "cubes:1", models.identity(models.FLOAT, ["n", 2, 2]))
        self._deploy("acme/table", "table:1", models.picky())
        self._deploy("blue/shared", "shared:1", models.doubled(), access=["acme"])
        self._deploy("blue/private", "private:1", models.doubled())
        rig.replica("two", "double:2", models.doubled())
        rig.replica("three", "double:3", models.identity(models.FLOAT, ["n", 2]))
        rig.deploy(
            "acme/double",
            target("double:2", models.doubled(), ["two"], weight=100),
            target("double:3", models.identity(models.FLOAT, ["n", 2]), ["three"], weight=0),
        )
        rig.deploy("acme/empty")
        rig.publish()
        self.worker: Worker = rig.worker()
        self.http = httpx.Client(
            base_url=self.worker.url, headers={"authorization": f"Bearer {self.key}"}
        )

    def _deploy(self, name: str, version: str, model: bytes, **more: Any) -> None:
        replica = version.replace(":", "-")
        self.rig.replica(replica, version, model, wait=False)
        access = more.pop("access", ())
        self.rig.deploy(name, target(version, model, [replica], **more), access=access)

    def as_(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.worker.url, headers={"authorization": f"Bearer {key}"})


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    rig = Rig()
    try:
        platform = Platform(rig)
        yield platform
        platform.http.close()
    finally:
        rig.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()
