"""The response cache: what is one question, who waits for whom, what it costs; bounds."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.load import Load
from gateway.rig import Rig, target, until
from meuse.core.clock import now_ms
from meuse.core.nouns import Limit
from meuse.gateway.cache import Cache, Caches, key_of
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from meuse.meter.limits import spent
from meuse.serve.snapshot import CacheEntry, DeploymentEntry
from serve import models

KEEP = CacheEntry(60.0, 1 << 20)


def outputs(value: float, size: int = 1) -> list[tuple[str, np.ndarray[Any, Any]]]:
    return [("y", np.full(size, value, np.float32))]


def start(rig: Rig, model: bytes, cache: CacheEntry | None = KEEP, **more: Any) -> httpx.Client:
    rig.replica("r1", "m:1", model, wait=False)
    rig.deploy("acme/m", target("m:1", model, ["r1"]), cache=cache, **more)
    key = rig.key()
    rig.publish()
    worker = rig.worker()
    http = httpx.Client(base_url=worker.url, headers={"authorization": f"Bearer {key}"}, timeout=60)
    until(lambda: http.get("/v2/models/m/ready").status_code == 200)
    return http


def ask(http: httpx.Client, rows: list[Any]) -> tuple[Any, str | None]:
    answer = http.post("/predict", json={"model": "m", "input_data": rows})
    assert answer.status_code == 200, answer.text
    return answer.json()["output_data"], answer.headers.get("x-meuse-cache")


def meters(rig: Rig) -> list[tuple[int, int]]:
    """(rows, cache_hits) of every record."""
    return [(r.quantities["rows"], r.quantities.get("cache_hits", 0)) for r in rig.records()]


def test_a_hit_is_the_same_answer_under_another_meter(rig: Rig) -> None:
    """miss, then hit: equal, with rows counted as cache_hits; other inputs are a miss."""
    http = start(rig, models.doubled())
    assert ask(http, [[1, 2], [3, 4]]) == ([[2, 4], [6, 8]], "miss")
    assert ask(http, [[1, 2], [3, 4]]) == ([[2, 4], [6, 8]], "hit")
    assert ask(http, [[1, 2], [3, 5]]) == ([[2, 4], [6, 10]], "miss")
    assert meters(rig) == [(2, 0), (0, 2), (2, 0)]
    hit = rig.records()[1]
    assert hit.quantities == {"requests": 1, "rows": 0, "compute_ms": 0, "cache_hits": 2}
    until(lambda: rig.counted("acme/m").targets["m:1"].ok == 2)  # of the third: written last
    counted = rig.counted("acme/m")
    assert (counted.cache_misses, counted.cache_hits) == (2, 1)
    http.close()


def test_protocols_share_answers(rig: Rig) -> None:
    """Kept before they are dressed: what /predict asked answers Open Inference and gRPC."""
    with_cache = start(rig, models.doubled())
    ask(with_cache, [[1, 2]])
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    answer = with_cache.post("/v2/models/m/infer", json=body)
    assert answer.json()["outputs"][0]["data"] == [2, 4]
    assert answer.headers["x-meuse-cache"] == "hit"
    assert _infer(rig, with_cache, [1, 2], [1, 2]).result().outputs[0].contents.fp32_contents == [
        2, 4,
    ]  # fmt: skip
    assert meters(rig) == [(1, 0), (0, 1), (0, 1)]
    with_cache.close()


def test_without_the_option_nothing_is_kept(rig: Rig) -> None:
    """Opt-in: no header, and every request runs."""
    http = start(rig, models.doubled(), None)
    assert [ask(http, [[1, 2]]) for _ in range(2)] == [([[2, 4]], None)] * 2
    assert meters(rig) == [(1, 0), (1, 0)]
    http.close()


def test_another_version_never_answers(rig: Rig) -> None:
    """A rollout changes every key; a snapshot that changes nothing here keeps the answers."""
    http = start(rig, models.doubled())
    control = rig.listen()
    assert control.workers
    ask(http, [[1, 2]])
    rig.key("blue")
    rig.publish()
    assert ask(http, [[1, 2]]) == ([[2, 4]], "hit")
    other = models.identity(models.FLOAT, ["n", 2])
    rig.replica("r2", "m:2", other)
    rig.deploy("acme/m", target("m:2", other, ["r2"]), cache=KEEP)
    rig.publish()
    assert ask(http, [[1, 2]]) == ([[1, 2]], "miss")
    assert ask(http, [[1, 2]]) == ([[1, 2]], "hit")
    http.close()


def test_the_same_question_at_once_runs_once(rig: Rig) -> None:
    """Eight at once: one computes, seven wait for it and are metered as hits."""
    http = start(rig, models.slow())
    key = str(http.headers["authorization"]).split()[1]
    load = Load(rig.workers[0].url, key, [{"model": "m", "input_data": [[400.0]]}] * 8)
    assert [status for status, _ in load.wait()] == [200] * 8
    counts = Counter(meters(rig))
    assert counts[1, 0] == 1, counts
    assert counts[0, 1] == 7, counts
    http.close()


def limited(rig: Rig, *limits: Limit) -> httpx.Client:
    rig.limit(*limits)
    return start(rig, models.doubled(), timeout_ms=30_000)


def used(rig: Rig, limit: Limit) -> tuple[int, int]:
    found = spent(rig.limits_file, [limit], now_ms())[limit.id]
    return found.used, found.reserved


def code(http: httpx.Client, rows: list[Any]) -> str | None:
    answer = http.post("/predict", json={"model": "m", "input_data": rows})
    return None if answer.status_code == 200 else str(answer.json()["error"]["code"])


def test_hits_are_limited_like_others(rig: Rig) -> None:
    """A hit is a request: of a rate's burst and of a budget of requests it takes one."""
    rate = Limit("limit-r", "rate", 1, "hour", burst=4, tenant="acme")
    http = limited(rig, rate)
    assert [code(http, [[1, 2]]) for _ in range(4)] == [None] * 4
    assert code(http, [[1, 2]]) == "rate_limited"
    requests = Limit("budget-q", "budget", 3, meter="requests", tenant="acme")
    rig.listen()
    rig.limit(requests)
    rig.publish()
    assert [code(http, [[1, 2]]) for _ in range(3)] == [None] * 3
    assert code(http, [[1, 2]]) == "budget_exceeded"
    assert used(rig, requests) == (3, 0)
    assert Counter(meters(rig)) == {(1, 0): 1, (0, 1): 6}, "what was refused has no record"
    http.close()


def test_hits_use_no_rows(rig: Rig) -> None:
    """A budget of rows pays for what ran; what a hit had reserved it gives back. Still a hit
    must fit: nobody knows that it is one before it is admitted."""
    rows = Limit("budget-r", "budget", 6, meter="rows", tenant="acme")
    http = limited(rig, rows)
    assert code(http, [[1, 2], [3, 4]]) is None
    assert [code(http, [[1, 2], [3, 4]]) for _ in range(10)] == [None] * 10
    assert used(rig, rows) == (2, 0)
    assert code(http, [[i, i] for i in range(4)]) is None
    assert used(rig, rows) == (6, 0)
    assert code(http, [[1, 2], [3, 4]]) == "budget_exceeded"
    assert Counter(meters(rig)) == {(2, 0): 1, (0, 2): 10, (4, 0): 1}
    http.close()


def test_who_waits_for_the_same_answer_holds_a_place(rig: Rig) -> None:
    """Single flight under limits: of eight at once each is a request in flight; one pays rows."""
    requests = Limit("budget-q", "budget", 100, meter="requests", tenant="acme")
    rows = Limit("budget-r", "budget", 8, meter="rows", tenant="acme")
    places = Limit("limit-c", "concurrency", 8, tenant="acme")
    http = limited(rig, requests, rows, places)
    key = str(http.headers["authorization"]).split()[1]
    replica = rig.processes[0]
    replica.send_signal(signal.SIGSTOP)
    load = Load(rig.workers[0].url, key, [{"model": "m", "input_data": [[1, 2]]}] * 8)
    until(lambda: used(rig, rows) == (0, 8))
    assert code(http, [[1, 2]]) in ("rate_limited", "budget_exceeded"), "all places are taken"
    replica.send_signal(signal.SIGCONT)
    assert [status for status, _ in load.wait()] == [200] * 8
    assert used(rig, requests) == (8, 0)
    assert used(rig, rows) == (1, 0)
    assert Counter(meters(rig)) == {(1, 0): 1, (0, 1): 7}
    assert code(http, [[1, 2]]) is None
    http.close()


def test_a_leader_that_fails_gives_all_back(rig: Rig) -> None:
    """Those who waited go on by themselves and pay as if they had come alone: once."""
    requests = Limit("budget-q", "budget", 100, meter="requests", tenant="acme")
    rows = Limit("budget-r", "budget", 100, meter="rows", tenant="acme")
    http = limited(rig, requests, rows)
    rig.processes[0].send_signal(signal.SIGSTOP)  # the replica
    body = json.dumps({"model": "m", "input_data": [[1, 2]]})
    hurried = threading.Thread(
        target=lambda: http.post("/predict", content=body, headers={"x-timeout-ms": "3000"})
    )
    hurried.start()
    until(lambda: used(rig, requests) == (0, 1))
    key = str(http.headers["authorization"]).split()[1]
    load = Load(rig.workers[0].url, key, [{"model": "m", "input_data": [[1, 2]]}] * 3)
    until(lambda: used(rig, requests)[1] == 4)
    hurried.join()
    assert used(rig, requests) == (1, 3), "an error is a request too"
    rig.processes[0].send_signal(signal.SIGCONT)
    assert [status for status, _ in load.wait()] == [200] * 3
    assert used(rig, requests) == (4, 0)
    assert used(rig, rows) == (3, 0)
    assert Counter(r.status for r in rig.records()) == {"error": 1, "ok": 3}
    assert Counter(meters(rig)) == {(0, 0): 1, (1, 0): 3}
    http.close()


def test_a_leader_that_goes_takes_nobody_along(rig: Rig) -> None:
    """Its caller cancels; those who waited for it are answered all the same."""
    http = start(rig, models.slow(), timeout_ms=60_000)
    first = _infer(rig, http, [600.0], [1, 1])
    until(lambda: rig.counted("acme/m").ongoing == 1)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(http, [[600.0]])))]
    threads[0].start()
    until(lambda: rig.counted("acme/m").ongoing == 2)
    first.cancel()
    for thread in threads:
        thread.join()
    assert [rows for rows, _ in answers] == [[[600.0]]]
    assert answers[0][1] == "miss"  # it went on by itself
    http.close()


def test_a_failure_is_nobody_else_s(rig: Rig) -> None:
    """What fails is not kept, and each request that asks it gets its own answer."""
    http = start(rig, models.picky())
    key = str(http.headers["authorization"]).split()[1]
    load = Load(rig.workers[0].url, key, [{"model": "m", "input_data": [9]}] * 6)
    assert {(s, b["error"]["code"]) for s, b in load.wait()} == {(500, "engine_error")}
    assert ask(http, [1]) == ([11], "miss")
    assert len(rig.records()) == 7
    assert Counter(r.status for r in rig.records()) == {"error": 6, "ok": 1}
    http.close()


def test_who_waits_has_a_deadline_of_its_own(rig: Rig) -> None:
    """504 for both, each after its own time, and each has its record."""
    http = start(rig, models.slow(), timeout_ms=400)
    key = str(http.headers["authorization"]).split()[1]
    load = Load(rig.workers[0].url, key, [{"model": "m", "input_data": [[3000.0]]}] * 3)
    assert [status for status, _ in load.wait()] == [504] * 3
    assert [r.status for r in rig.records()] == ["error"] * 3
    http.close()


def test_answers_grow_old() -> None:
    """After ttl_s they are not given any more."""
    now = [0.0]
    cache = Cache(CacheEntry(10.0, 1 << 20), lambda: now[0])
    cache.put(b"k", outputs(1))
    now[0] = 9.9
    assert cache.get(b"k") is not None
    now[0] = 10.0
    assert cache.get(b"k") is None
    assert (cache.bytes, len(cache)) == (0, 0)


def test_the_least_recently_used_goes() -> None:
    """Bounded in bytes; what would not fit at all is not kept."""
    cache = Cache(CacheEntry(10.0, 3 * (512 + 400)))
    for key in (b"a", b"b", b"c"):
        cache.put(key, outputs(1, 100))
    assert cache.get(b"a") is not None
    cache.put(b"d", outputs(1, 100))
    assert [cache.get(k) is not None for k in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    cache.put(b"e", outputs(1, 100_000))
    assert cache.get(b"e") is None
    assert len(cache) == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300)), max_size=60))
def test_bytes_stay_within_the_bound(puts: list[tuple[int, int]]) -> None:
    """Whatever is put, and however often: counted right and never above it."""
    cache = Cache(CacheEntry(10.0, 4000))
    for key, size in puts:
        cache.put(bytes([key]), outputs(1, size))
        assert 0 <= cache.bytes <= 4000
    kept = [cache.get(bytes([key])) for key in range(10)]
    assert cache.bytes == sum(512 + found[0][1].nbytes for found in kept if found is not None)


def test_what_is_kept_is_ours_alone() -> None:
    """A copy that nobody can write to: frames share memory with other answers."""
    cache, given_outputs = Cache(KEEP), outputs(1, 4)
    cache.put(b"k", given_outputs)
    given_outputs[0][1][:] = 7
    kept = cache.get(b"k")
    assert kept is not None
    assert kept[0][1].tolist() == [1] * 4
    with pytest.raises(ValueError, match="read-only"):
        kept[0][1][0] = 5


@given(st.data())
def test_equal_keys_are_equal_questions(data: st.DataObject) -> None:
    """Version, names, datatypes, shapes and bytes all count; the order of inputs does not."""
    arrays = hnp.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=3),
    )
    inputs = st.lists(
        st.tuples(st.sampled_from("abc"), arrays), min_size=1, max_size=2, unique_by=lambda t: t[0]
    )
    one, other = data.draw(inputs), data.draw(inputs)
    versions = data.draw(st.tuples(st.sampled_from(["m:1", "m:2"]), st.sampled_from(["m:1"])))

    def canonical(version: str, given: Any) -> Any:
        return version, sorted((n, a.dtype.str, a.shape, a.tobytes()) for n, a in given)

    same = canonical(versions[0], one) == canonical(versions[1], other)
    assert (key_of(versions[0], one) == key_of(versions[1], other)) is same
    assert key_of("m:1", one) == key_of("m:1", list(reversed(one)))


def test_texts_count_by_their_bytes() -> None:
    """Elements of BYTES tensors are objects: their contents are hashed, with their lengths."""

    def of(*texts: bytes) -> bytes:
        return key_of("m:1", [("x", np.array(texts, object))])

    assert of(b"ab", b"c") != of(b"a", b"bc")
    assert of(b"ab", b"c") == of(bytes([97, 98]), b"c")


def test_a_cache_lives_as_long_as_its_spec() -> None:
    """Another owner, project, name or generation has another one; without the option, none."""

    def entry(tenant: str = "acme", generation: int = 1, cache: Any = KEEP) -> DeploymentEntry:
        return DeploymentEntry(
            tenant, "default", "m", generation, frozenset(), 1000, (), cache=cache
        )

    caches = Caches()
    caches.follow([entry(), entry("blue"), entry("green", cache=None)])
    first = caches.of(entry())
    assert first is not None
    assert caches.of(entry("blue")) not in (None, first)
    assert caches.of(entry("green", cache=None)) is None
    caches.follow([entry(), entry("blue", 2)])
    assert caches.of(entry()) is first
    assert caches.of(entry("blue")) is None
    caches.follow([])
    assert caches.of(entry()) is None


def test_one_runs_and_the_others_wait() -> None:
    """Until it ends, well or not; the next one runs anew, unless its answer is kept."""
    cache = Cache(KEEP)
    assert [cache.join(b"k", who) for who in ("one", "two", "three")] == [False, True, True]
    assert cache.end(b"k", None) == ["two", "three"]
    assert cache.get(b"k") is None
    assert not cache.join(b"k", "four")
    assert cache.end(b"k", outputs(1)) == []
    assert cache.get(b"k") is not None


def _infer(rig: Rig, http: httpx.Client, values: list[float], shape: list[int]) -> Any:
    """The same question over gRPC: a future."""
    channel = grpc.insecure_channel(rig.workers[0].grpc)
    given = pb.ModelInferRequest(model_name="m")
    tensor = given.inputs.add(name="x", datatype="FP32", shape=shape)
    tensor.contents.fp32_contents.extend(values)
    metadata = (("authorization", http.headers["authorization"]),)
    return GRPCInferenceServiceStub(channel).ModelInfer.future(given, metadata=metadata, timeout=60)
