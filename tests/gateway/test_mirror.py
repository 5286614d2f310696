"""Shadow targets through a real worker: compared, counted, metered, never felt."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from gateway.rig import Rig, target, until
from meuse.gateway.mirror import MAX_PENDING, agree
from meuse.serve.snapshot import ShadowEntry
from serve import models


@contextlib.contextmanager
def start(
    rig: Rig, shadow: bytes, percent: int = 100, given: bytes | None = None
) -> Iterator[httpx.Client]:
    """acme/m answers by m:1, with m:2 as its shadow; the client is blue's."""
    first = models.doubled() if given is None else given
    rig.replica("r1", "m:1", first, wait=False)
    rig.replica("r2", "m:2", shadow)
    mirrored = ShadowEntry(target("m:2", shadow, ["r2"], weight=percent), percent)
    rig.deploy("acme/m", target("m:1", first, ["r1"]), shadow=mirrored, access=["blue"])
    key = rig.key("blue")
    rig.publish()
    worker = rig.worker()
    until((rig.sockets / "r1.sock").exists)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=worker.url, headers=headers, timeout=30) as http:
        until(lambda: http.get("/v2/models/acme/m/ready").status_code == 200)
        yield http


def ask(http: httpx.Client, rows: list[object]) -> httpx.Response:
    answer = http.post("/predict", json={"model": "acme/m", "input_data": rows})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "m:1"
    return answer


def test_equal_answers_agree_and_the_owner_pays(rig: Rig) -> None:
    """Every caller's record has one of tier internal beside it, paid by acme, with no key."""
    with start(rig, models.doubled()) as http:
        ask(http, [[0, 0]])
        until(lambda: rig.counted("acme/m").targets["m:2"].agreed)  # both are connected
        before = rig.counted("acme/m").targets["m:2"].agreed
        for i in range(20):
            ask(http, [[i, 0.5]] * 3)
        until(lambda: rig.counted("acme/m").targets["m:2"].agreed == before + 20)
    shadow = rig.counted("acme/m").targets["m:2"]
    assert (shadow.differed, shadow.ok, sum(shadow.failed.values())) == (0, 0, 0)
    records = rig.records()
    standard = [r for r in records if r.tier == "standard"]
    internal = [r for r in records if r.tier == "internal" and r.quantities["rows"] == 3]
    assert {r.tenant for r in standard} == {"blue"}
    assert len(internal) == 20
    assert {(r.tenant, r.owner, r.key, r.version, r.plan_version) for r in internal} == {
        ("acme", "acme", "", "m:2", "basic:3")
    }


def test_other_answers_and_failures_differ(rig: Rig) -> None:
    """The caller never sees them."""
    with start(rig, models.picky(), given=models.identity(models.INT64, ["n"])) as http:
        url = "/predict"
        until(lambda: ask(http, [1]) and rig.counted("acme/m").targets["m:2"].differed)
        answer = http.post(url, json={"model": "acme/m", "input_data": [9]})  # picky refuses 9
        assert (answer.status_code, answer.json()["output_data"]) == (200, [9])
        until(lambda: rig.counted("acme/m").targets["m:2"].shadow_failed == {"engine_error": 1})


def test_a_share_is_asked(rig: Rig) -> None:
    """percent is of the requests."""
    with start(rig, models.doubled(), percent=25) as http:
        for _ in range(200):
            ask(http, [[1, 2]])
        until(lambda: rig.counted("acme/m").targets["m:1"].ok == 200)
        time.sleep(0.3)  # what is on its way arrives; more than this is not coming
    stats = rig.counted("acme/m").targets["m:2"]
    assert 20 <= stats.agreed + stats.shadow_dropped <= 85


def test_a_stuck_shadow_costs_nobody_anything(rig: Rig) -> None:
    """Stopped in the middle: callers go on, a bounded number is pending, the rest is dropped."""
    with start(rig, models.doubled()) as http:
        until(lambda: ask(http, [[1, 2]]) and rig.counted("acme/m").targets["m:2"].agreed)
        stuck = rig.processes[1].pid
        os.kill(stuck, signal.SIGSTOP)
        try:
            for _ in range(MAX_PENDING + 50):
                ask(http, [[1, 2]])
            until(lambda: rig.counted("acme/m").targets["m:2"].shadow_dropped >= 50)
        finally:
            os.kill(stuck, signal.SIGCONT)
        os.kill(stuck, signal.SIGKILL)
        for _ in range(20):
            ask(http, [[1, 2]])


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (np.float32([1, 2]), np.float32([1.0005, 2]), True),
        (np.float32([1, 2]), np.float32([1.01, 2]), False),
        (np.float32([np.nan]), np.float32([np.nan]), True),
        (np.float32([1]), np.float64([1]), False),
        (np.float32([[1]]), np.float32([1]), False),
        (np.int64([1]), np.int64([1]), True),
        (np.int64([1000]), np.int64([1001]), False),
        (np.bool_([True]), np.bool_([False]), False),
        (np.array([b"a", b"b"], object), np.array([b"a", b"b"], object), True),
        (np.array([b"a"], object), np.array([b"c"], object), False),
    ],
)
def test_what_agrees(a: np.ndarray, b: np.ndarray, same: bool) -> None:
    """Floats within a thousandth, all else exactly; shapes, datatypes and names as well."""
    assert agree([("y", a)], [("y", b)]) is same
    assert not agree([("y", a)], [("z", a)])
    assert not agree([("y", a)], [("y", a), ("z", a)])
