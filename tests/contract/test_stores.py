"""One suite over every adapter of the store ports: SQLite and Postgres must not differ."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    Adapter,
    Artifact,
    Batch,
    Batching,
    Cache,
    Canary,
    Column,
    DatasetVersion,
    Deployment,
    DeploymentTarget,
    Draft,
    EngineOptions,
    Job,
    Limit,
    LimitRecord,
    Lineage,
    NewVersion,
    PromptLookup,
    QueuedJob,
    Scale,
    Scope,
    Shadow,
    Signature,
    StoredFile,
    TensorSpec,
    Upload,
)
from meuse.core.states import JobStatus
from meuse.store.batches import SqlBatches
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.files import SqlFiles
from meuse.store.jobs import SqlJobs
from meuse.store.limits import SqlLimits
from meuse.store.registry import SqlRegistry
from meuse.store.rollouts import SqlRollouts
from meuse.store.uploads import SqlUploads

MINE, OTHER = Scope("acme"), Scope("other")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate("meuse")
    yield database
    database.close()


def dataset(digest: str = "a" * 64) -> DatasetVersion:
    return DatasetVersion("digits", 0, digest, "csv", 3, (Column("x", "integer"),), 10, 1)


def new_version(job: str, model: str = "digits") -> NewVersion:
    tensor = TensorSpec("input", "FP32", (-1, 64))
    return NewVersion(
        model=model,
        task="classification",
        artifacts=(Artifact("model.onnx", "onnx", "b" * 64, 5),),
        signature=Signature((tensor,), (TensorSpec("label", "INT64", (-1,)),), ("a", "b")),
        metrics={"test_accuracy": 0.9},
        lineage=Lineage(job, "digits:1", "a" * 64, "c" * 64, 0, "y"),
        report={"before": {"bytes": 9}},
        card={"given": {"licence": "CC0"}},
    )


def job(job_id: str, scope: Scope = MINE) -> Job:
    return Job(
        id=job_id, scope=scope, kind="train", spec={"epochs": 1}, status=JobStatus.QUEUED,
        progress=0.0, attempt=1, metrics={}, result=None, error=None, cancel_requested=False,
        created_ms=1, updated_ms=1,
    )  # fmt: skip


def deployment(name: str = "digits") -> Deployment:
    target = DeploymentTarget("digits:1", 100)
    engine = EngineOptions(
        "openvino", 2, prefix_cache=True, kv_precision="f16",
        prompt_lookup=PromptLookup(4, 2), draft_model=Draft("small:1", 3, "d" * 64, 9),
    )  # fmt: skip
    return Deployment(
        name, MINE, 0, (target,), Scale(1, 1), ("other",), 1000, 0,
        engine=engine, adapters=(Adapter("law", "law:1", ("q_proj", "v_proj")),),
    )  # fmt: skip


def test_the_same_digest_is_the_same_version(database: Database) -> None:
    """Equal bytes under a name are one version, other bytes the next."""
    store = SqlDatasets(database)
    first, new = store.add_version(MINE, dataset())
    assert (first.version, new) == (1, True)
    assert (first, False) == store.add_version(MINE, dataset())
    second, _ = store.add_version(MINE, dataset("d" * 64))
    assert second.version == 2
    assert second == store.get(MINE, "digits")
    assert first == store.get(MINE, "digits", 1)
    assert [second] == store.list(MINE)


def test_things_of_others_are_not_there(database: Database) -> None:
    """Another tenant finds nothing, by not_found, in every store."""
    SqlDatasets(database).add_version(MINE, dataset())
    SqlRegistry(database).add_version(MINE, new_version("job-1"))
    SqlJobs(database).add(job("job-1"))
    SqlDeployments(database).put(deployment())
    assert SqlDatasets(database).list(OTHER) == []
    assert SqlRegistry(database).models(OTHER) == []
    assert SqlJobs(database).page(OTHER, 10, None) == []
    assert SqlDeployments(database).list(OTHER) == []
    for look in (
        lambda: SqlDatasets(database).get(OTHER, "digits"),
        lambda: SqlRegistry(database).get_version(OTHER, "digits", 1),
        lambda: SqlRegistry(database).set_alias(OTHER, "digits", "x", 1),
        lambda: SqlJobs(database).get(OTHER, "job-1"),
        lambda: SqlDeployments(database).get(OTHER, "digits"),
        lambda: SqlDeployments(database).delete(OTHER, "digits"),
    ):
        with pytest.raises(MeuseError) as refusal:
            look()
        assert refusal.value.code == Code.NOT_FOUND


def test_a_job_registers_one_version_however_often_it_completes(database: Database) -> None:
    """The same job twice gives the same version; another job the next number."""
    store = SqlRegistry(database)
    first = store.add_version(MINE, new_version("job-1"))
    assert first == store.add_version(MINE, new_version("job-1"))
    assert store.add_version(MINE, new_version("job-2")).version == 2
    assert first == store.get_version(MINE, "digits", 1)
    assert first.signature.classes == ("a", "b")


def test_a_job_registers_each_of_its_versions_once(database: Database) -> None:
    """The parts of one job are versions of their own that name it, however often they come."""
    store = SqlRegistry(database)
    for _ in range(2):
        for part in range(3):
            made = store.add_version(MINE, replace(new_version("job-1"), part=part))
            assert (made.version, made.lineage.job) == (part + 1, "job-1")
    assert [v.version for v in store.versions(MINE, "digits")] == [1, 2, 3]


def test_versions_are_numbered_without_gaps_under_concurrency(database: Database) -> None:
    """Eight jobs that end at once get eight numbers, none twice."""
    store = SqlRegistry(database)
    threads = [
        threading.Thread(target=store.add_version, args=(MINE, new_version(f"job-{i}")))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(range(1, 9)) == [v.version for v in store.versions(MINE, "digits")]


def test_aliases_move_and_go(database: Database) -> None:
    """An alias points at one version that exists, moves, and can be deleted."""
    store = SqlRegistry(database)
    store.add_version(MINE, new_version("job-1"))
    store.add_version(MINE, new_version("job-2"))
    store.set_alias(MINE, "digits", "champion", 1)
    store.set_alias(MINE, "digits", "champion", 2)
    assert store.aliases(MINE, "digits") == {"champion": 2}
    with pytest.raises(MeuseError):
        store.set_alias(MINE, "digits", "champion", 3)
    store.delete_alias(MINE, "digits", "champion")
    assert store.aliases(MINE, "digits") == {}


def test_an_alias_moves_only_from_where_it_was_seen(database: Database) -> None:
    """Who decided on what it named must not overwrite what somebody else has set since."""
    store = SqlRegistry(database)
    for number in (1, 2, 3):
        store.add_version(MINE, new_version(f"job-{number}"))
    store.set_alias(MINE, "digits", "champion", 1, was=None)
    store.set_alias(MINE, "digits", "champion", 2, was=1)
    for was in (None, 1):
        with pytest.raises(MeuseError) as caught:
            store.set_alias(MINE, "digits", "champion", 3, was=was)
        assert caught.value.code == Code.CONFLICT
    assert store.aliases(MINE, "digits") == {"champion": 2}


def test_a_gate_stays_with_its_alias(database: Database) -> None:
    """Through moves, until it is taken away or the alias is gone."""
    store = SqlRegistry(database)
    for number in (1, 2):
        store.add_version(MINE, new_version(f"job-{number}"))
    with pytest.raises(MeuseError):
        store.set_gate(MINE, "digits", "champion", {})
    store.set_alias(MINE, "digits", "champion", 1)
    assert store.gates(MINE, "digits") == {}
    store.set_gate(MINE, "digits", "champion", {"max_drop": 0.1})
    store.set_alias(MINE, "digits", "champion", 2)
    assert store.gates(MINE, "digits") == {"champion": {"max_drop": 0.1}}
    assert store.gates(OTHER, "digits") == {}
    store.set_gate(MINE, "digits", "champion", None)
    assert store.gates(MINE, "digits") == {}


def test_evaluations_are_kept_once_per_job(database: Database) -> None:
    """Newest first; a job that completes twice leaves one; other tenants see none."""
    store = SqlRegistry(database)
    store.add_version(MINE, new_version("job-1"))
    for job_id, score in (("job-a", 0.1), ("job-b", 0.2), ("job-b", 0.3)):
        store.add_evaluation(MINE, "digits", 1, job_id, {"figures": {"accuracy": score}})
    found = store.evaluations(MINE, "digits", 1)
    assert [(e.job, e.body["figures"]["accuracy"]) for e in found] == [
        ("job-b", 0.2), ("job-a", 0.1),
    ]  # fmt: skip
    assert found[0].ref == "digits:1"
    assert len(store.evaluations(MINE, "digits", 1, limit=1)) == 1
    assert store.evaluations(OTHER, "digits", 1) == []
    for scope, version in ((OTHER, 1), (MINE, 2)):
        with pytest.raises(MeuseError) as caught:
            store.add_evaluation(scope, "digits", version, "job-c", {})
        assert caught.value.code == Code.NOT_FOUND


def test_an_ended_job_does_not_move(database: Database) -> None:
    """Status follows the table of transitions; an ended job refuses the next one."""
    store = SqlJobs(database)
    store.add(job("job-1"))
    store.update("job-1", status=JobStatus.RUNNING, progress=0.5)
    store.update("job-1", status=JobStatus.SUCCEEDED, result={"model": "digits:1"})
    with pytest.raises(MeuseError) as refusal:
        store.update("job-1", status=JobStatus.CANCELLED)
    assert refusal.value.code == Code.CONFLICT
    ended = store.get(MINE, "job-1")
    assert (ended.status, ended.result) == (JobStatus.SUCCEEDED, {"model": "digits:1"})
    assert store.unfinished() == []


def test_a_new_attempt_begins_with_a_clean_slate(database: Database) -> None:
    """Paused, failed and cancelled jobs are queued again under the next number; times, flags
    and the error are the new attempt's. Nothing else starts again."""
    store = SqlJobs(database)
    store.add(replace(job("job-1"), priority="high", estimate_bytes=2**40))
    for status in (JobStatus.QUEUED, JobStatus.RUNNING):
        if status is JobStatus.RUNNING:
            store.update("job-1", status=status, live={"rate": 2.5})
        with pytest.raises(MeuseError) as refusal:
            store.new_attempt("job-1")
        assert refusal.value.code == Code.CONFLICT
    running = store.get(None, "job-1")
    assert running.live == {"rate": 2.5}
    assert running.started_ms is not None
    assert store.request_pause("job-1").pause_requested
    assert store.update("job-1", status=JobStatus.PAUSED, progress=0.5).live == {}
    second = store.new_attempt("job-1")
    assert (second.attempt, second.progress, second.started_ms) == (2, 0.5, None)
    assert not second.pause_requested
    with pytest.raises(MeuseError) as refusal:
        store.update("job-1", attempt=1, status=JobStatus.RUNNING)
    assert refusal.value.code == Code.CONFLICT
    failed = store.update("job-1", attempt=2, status=JobStatus.FAILED, error={"code": "internal"})
    assert failed.ended_ms is not None
    third = store.new_attempt("job-1")
    assert (third.attempt, third.progress, third.error, third.ended_ms) == (3, 0.0, None, None)
    assert (third.priority, third.estimate_bytes) == ("high", 2**40)
    story = [event.data for event in store.events("job-1", 0)]
    assert story[-1] == {"status": "queued", "attempt": 3}


def test_requests_act_at_once_on_what_waits(database: Database) -> None:
    """A queued or paused job is cancelled, a queued one paused, in the same step; a running
    one is marked; an ended one refuses."""
    store = SqlJobs(database)
    for number in (1, 2, 3):
        store.add(job(f"job-{number}"))
    assert store.request_pause("job-1").status is JobStatus.PAUSED
    assert store.request_pause("job-1").status is JobStatus.PAUSED
    for job_id in ("job-1", "job-2"):
        cancelled = store.request_cancel(job_id)
        assert cancelled.status is JobStatus.CANCELLED
        assert (cancelled.error or {})["code"] == "cancelled"
        for ask in (store.request_cancel, store.request_pause):
            with pytest.raises(MeuseError) as refusal:
                ask(job_id)
            assert refusal.value.code == Code.CONFLICT
    store.update("job-3", status=JobStatus.RUNNING)
    marked = store.request_cancel("job-3")
    assert (marked.status, marked.cancel_requested) == (JobStatus.RUNNING, True)


def test_the_queue_is_read_without_the_jobs(database: Database) -> None:
    """What decides about a start is there, oldest first, and when each tenant was served."""
    store = SqlJobs(database)
    store.add(job("job-2"))
    store.add(replace(job("job-1", OTHER), priority="low", estimate_bytes=5))
    store.add(job("job-3"))
    store.update("job-3", status=JobStatus.RUNNING)
    assert store.queued() == [
        QueuedJob("job-1", 1, "other", "low", 1, 5),
        QueuedJob("job-2", 1, "acme", "normal", 1, None),
    ]
    assert store.served() == {"acme": store.get(None, "job-3").started_ms}


def test_quotas_hold_under_concurrency(database: Database) -> None:
    """Of many submissions at once exactly as many are kept as the quota has room for."""
    store = SqlJobs(database)
    refusals: list[Code] = []

    def submit(number: int) -> None:
        try:
            store.add(job(f"job-{number}"), most_waiting=3)
        except MeuseError as error:
            refusals.append(error.code)

    threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals == [Code.LIMIT_EXCEEDED] * 5
    assert len(store.queued()) == 3
    store.add(job("job-9", OTHER), most_waiting=3)
    for waiting in store.queued():
        store.request_cancel(waiting.id)
    store.new_attempt("job-9", most_waiting=1)


def test_changes_are_told(database: Database) -> None:
    """Whoever waits for news of a job hears of each change after it can be read."""
    heard: list[tuple[str, int]] = []
    store = SqlJobs(database, lambda job_id: heard.append((job_id, len(store.events(job_id, 0)))))
    store.add(job("job-1"))
    store.update("job-1", status=JobStatus.RUNNING)
    store.add_events("job-1", [("log", {"message": "a"})] * 3)
    store.request_cancel("job-1")
    assert heard == [("job-1", 1), ("job-1", 4), ("job-1", 4)]
    assert [e.seq for e in store.events("job-1", 1, 2)] == [2, 3]


def test_events_are_numbered_in_order(database: Database) -> None:
    """Events of a job have rising numbers from 1, status changes among them."""
    store = SqlJobs(database)
    store.add(job("job-1"))
    store.update("job-1", status=JobStatus.RUNNING)
    store.add_events("job-1", [("log", {"message": "a"}), ("log", {"message": "b"})])
    events = store.events("job-1", 0)
    assert [event.seq for event in events] == [1, 2, 3]
    assert [event.kind for event in events] == ["status", "log", "log"]
    assert events[2:] == store.events("job-1", 2)
    kinds = ("status", "log")
    assert store.latest("job-1", None, 9, kinds) == events[::-1]
    assert store.latest("job-1", 3, 1, kinds) == [events[1]]
    assert store.latest("job-1", None, 9, ("status",)) == [events[0]]


def test_pages_are_newest_first_and_meet(database: Database) -> None:
    """Paging by cursor shows every job once."""
    store = SqlJobs(database)
    ids = [f"job-{i:02}" for i in range(7)]
    for job_id in ids:
        store.add(job(job_id))
    first = store.page(MINE, 4, None)
    second = store.page(MINE, 4, first[-1].id)
    assert ids[::-1] == [j.id for j in (*first, *second)]


def test_pages_hold_what_their_jobs_say_and_nothing_else(database: Database) -> None:
    """By kind and by texts of the spec; signs that SQL has a meaning for are signs."""
    store = SqlJobs(database)
    specs: list[dict[str, Any]] = [
        {"tags": {"a%b": "é"}}, {"tags": {"a_b": 'say "yes"'}}, {"tags": {"axb": "\\"}},
        {"tags": {}},
    ]  # fmt: skip
    for i, spec in enumerate(specs):
        store.add(replace(job(f"job-{i}"), kind="train" if i else "compress", spec=spec))

    def found(**asked: Any) -> list[str]:
        return [each.id for each in store.page(MINE, 9, None, **asked)]

    assert found(kind="train") == ["job-3", "job-2", "job-1"]
    for i, spec in enumerate(specs[:3]):
        assert found(saying=[json.dumps(spec["tags"])[1:-1]]) == [f"job-{i}"]
    assert found(lacking=['"tags": {"']) == ["job-3"]
    assert found(saying=['"tags": {"', "_b"], lacking=["%"]) == ["job-1"]
    assert [each.id for each in store.page(MINE, 1, "job-2", saying=["b"])] == ["job-1"]


def test_deployment_generations_rise_and_can_be_guarded(database: Database) -> None:
    """Every put is the next generation; a stale If-Match writes nothing."""
    store = SqlDeployments(database)
    assert store.put(deployment()).generation == 1
    assert store.put(replace(deployment(), timeout_ms=5), if_match=1).generation == 2
    with pytest.raises(MeuseError) as refusal:
        store.put(deployment(), if_match=1)
    assert refusal.value.code == Code.PRECONDITION_FAILED
    assert store.get(MINE, "digits").timeout_ms == 5


def test_a_deployment_comes_back_as_it_was_put(database: Database) -> None:
    """Every part of a spec is kept, and one that an older release wrote is read with defaults."""
    store = SqlDeployments(database)
    full = replace(
        deployment(),
        scale=Scale(0, 4, target=2.5, queue_wait_ms=30),
        objective_ms=40,
        batching=Batching(8, 16),
        sticky="key",
        shadow=Shadow("digits:2", 10),
        canary=Canary(steps=(5, 100)),
        cache=Cache(ttl_s=3),
    )
    made = store.put(full)
    assert store.get(MINE, "digits") == replace(
        full, generation=made.generation, updated_ms=made.updated_ms
    )
    old = '{"targets": [{"model": "digits:1"}], "scale": {}, "access": [], "timeout_ms": 5}'
    with database.write() as connection:
        connection.execute(sa.text("UPDATE deployment SET body = :old"), {"old": old})
    assert store.get(MINE, "digits").batching == Batching()


def test_a_deployment_name_is_one_per_tenant(database: Database) -> None:
    """Clients call owner/name: a second project cannot take a name that is in use."""
    store = SqlDeployments(database)
    store.put(deployment())
    with pytest.raises(MeuseError) as refusal:
        store.put(replace(deployment(), scope=Scope("acme", "research")))
    assert refusal.value.code == Code.CONFLICT
    assert store.put(replace(deployment(), scope=OTHER)).generation == 1


def test_limits_are_kept_as_they_were_made(database: Database) -> None:
    """Every field of a limit comes back, in the order of making; a full store, or tenant, gets
    no more, and a deleted one is gone."""
    store = SqlLimits(database)
    records = [
        LimitRecord(Limit("a", "rate", 9, "hour", burst=3, key="k"), MINE, True, 1),
        LimitRecord(
            Limit("b", "budget", 2**53 - 1, "day", "rows", hard=False, model="acme/m"),
            OTHER, False, 2,
        ),
    ]  # fmt: skip
    for record in records:
        store.add(record, 2, 1)
    assert store.list() == records
    for bounds in ((2, 9), (9, 1)):
        with pytest.raises(MeuseError) as refusal:
            store.add(replace(records[0], limit=Limit("c", "concurrency", 1)), *bounds)
        assert refusal.value.code == Code.CONFLICT
    store.delete("a")
    assert store.list() == records[1:]
    with pytest.raises(MeuseError) as refusal:
        store.delete("a")
    assert refusal.value.code == Code.NOT_FOUND


def test_first_writes_at_once_do_not_collide(database: Database) -> None:
    """Eight first writers of one name get eight versions or generations, and no error."""
    stores = SqlDatasets(database), SqlDeployments(database)
    found: list[tuple[int, int]] = []

    def write(n: int) -> None:
        version, _ = stores[0].add_version(MINE, dataset(f"{n:064}"))
        found.append((version.version, stores[1].put(deployment()).generation))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(v for v, _ in found) == list(range(1, 9))
    assert sorted(g for _, g in found) == list(range(1, 9))


def test_rollouts_stand_where_they_stood(database: Database) -> None:
    """The last state of each deployment, by its scope and name; gone with the deployment."""
    store = SqlRollouts(database)
    store.put(MINE, "digits", {"step": 1, "began": {"digits:2": {"latency": [0, 1]}}})
    store.put(MINE, "digits", {"step": 2})
    store.put(OTHER, "digits", {"step": 0})
    assert store.all() == {(MINE, "digits"): {"step": 2}, (OTHER, "digits"): {"step": 0}}
    store.delete(OTHER, "digits")
    store.delete(OTHER, "digits")
    SqlDeployments(database).put(deployment())
    SqlDeployments(database).delete(MINE, "digits")
    assert store.all() == {}


def upload(upload_id: str, size: int = 10, scope: Scope = MINE, digest: str = "") -> Upload:
    options = {"missing": ["NA"]}
    return Upload(upload_id, scope, "digits", "csv", size, 4, digest, options, 1, 1)


def test_uploads_are_kept_bounded_and_taken_once(database: Database) -> None:
    """An announcement comes back as it was; the same file is the same upload; a tenant has so
    many, of so many bytes; one job takes it, and the idle ones are found."""
    store = SqlUploads(database)
    first = upload("upl-1", digest="d" * 64)
    assert store.open(first, 2, 100) == (first, True)
    assert store.open(upload("upl-2", digest="d" * 64), 2, 100) == (first, False)
    store.open(upload("upl-3"), 2, 100)
    for bounds in ((2, 1000), (9, 25)):
        with pytest.raises(MeuseError) as refusal:
            store.open(upload("upl-4"), *bounds)
        assert refusal.value.code == Code.CONFLICT
    store.open(upload("upl-5", scope=OTHER), 2, 100)
    assert store.get(MINE, "upl-1") == store.get(None, "upl-1") == first
    for scope in (OTHER, Scope("acme", "research")):
        with pytest.raises(MeuseError) as refusal:
            store.get(scope, "upl-1")
        assert refusal.value.code == Code.NOT_FOUND
    store.take("upl-1", "job-1", 50)
    assert store.get(MINE, "upl-1") == replace(first, job="job-1", updated_ms=50)
    with pytest.raises(MeuseError) as refusal:
        store.take("upl-1", "job-2", 51)
    assert refusal.value.code == Code.CONFLICT
    store.take("upl-1", "job-2", 52, instead_of="job-1")
    assert store.open(upload("upl-6", digest="d" * 64), 2, 100)[1]  # what is read is not open
    store.touch("upl-3", 60)
    assert [found.id for found in store.idle(52)] == ["upl-5", "upl-6"]
    store.delete("upl-3")
    store.delete("upl-3")
    with pytest.raises(MeuseError):
        store.get(MINE, "upl-3")


def test_a_deleted_version_keeps_its_number(database: Database) -> None:
    """It is gone with its profiles, its number is not given again, and what only it needed is
    told until it was swept."""
    store = SqlDatasets(database)
    store.add_version(MINE, replace(dataset(), table_digest="t" * 64))
    store.add_version(MINE, replace(dataset("d" * 64), table_digest="t" * 64))
    store.keep_profile(MINE, "digits", 2, "plain", "e" * 64)
    store.keep_profile(MINE, "digits", 2, "plain", "f" * 64)
    assert store.profile(MINE, "digits", 2, "plain") == "f" * 64
    assert store.profile(MINE, "digits", 2, "other") is None
    assert store.profile(OTHER, "digits", 2, "plain") is None
    with pytest.raises(MeuseError) as refusal:
        store.delete(OTHER, "digits", 2, 5)
    assert refusal.value.code == Code.NOT_FOUND
    store.delete(MINE, "digits", 2, 5)
    with pytest.raises(MeuseError):
        store.get(MINE, "digits", 2)
    assert store.profile(MINE, "digits", 2, "plain") is None
    store.keep_profile(MINE, "digits", 2, "plain", "e" * 64)  # one that was being made
    assert store.profile(MINE, "digits", 2, "plain") is None
    assert store.orphans() == [(MINE, "digits", 2, ["d" * 64, "f" * 64])]
    store.swept(MINE, "digits", 2)
    assert store.orphans() == []
    assert store.get(MINE, "digits").version == 1
    again, new = store.add_version(MINE, dataset("d" * 64))
    assert (again.version, new) == (3, True)


def stored_file(file_id: str, size: int = 10, scope: Scope = MINE) -> StoredFile:
    return StoredFile(file_id, scope, "a.jsonl", "batch", "d" * 64, size, 1)


def test_files_are_kept_bounded_and_listed(database: Database) -> None:
    """A file comes back as it was, to its project alone; a tenant's have so many bytes; pages go
    both ways; a deleted one is gone, and told until its bytes are."""
    store = SqlFiles(database)
    files = [stored_file(f"file-{n}") for n in range(4)]
    for file in files:
        store.add(file, 40)
    store.add(files[0], 40)  # again: nothing to do
    with pytest.raises(MeuseError) as refusal:
        store.add(stored_file("file-9", 1, Scope("acme", "research")), 40)
    assert refusal.value.code == Code.LIMIT_EXCEEDED
    output = replace(stored_file("file-8"), purpose="batch_output")
    store.add(output)
    assert store.get(MINE, "file-2") == files[2]
    for scope in (OTHER, Scope("acme", "research")):
        with pytest.raises(MeuseError) as refusal:
            store.get(scope, "file-2")
        assert refusal.value.code == Code.NOT_FOUND
        assert store.page(scope, 9, None, None, True) == []
    assert store.page(MINE, 2, None, None, True) == [output, files[3]]
    assert store.page(MINE, 2, "file-3", None, True) == [files[2], files[1]]
    assert store.page(MINE, 2, "file-0", "batch", False) == [files[1], files[2]]
    with pytest.raises(MeuseError):
        store.delete(OTHER, "file-0", 5)
    for file in files:
        store.delete(MINE, file.id, 5)
    with pytest.raises(MeuseError):
        store.get(MINE, "file-0")
    with pytest.raises(MeuseError):
        store.delete(MINE, "file-0", 6)
    assert store.orphans() == [(file.id, "acme", "") for file in files]  # the output has them too
    store.delete(MINE, "file-8", 7)
    assert store.orphans()[0] == ("file-0", "acme", "d" * 64)
    for file_id in ("file-0", "file-8"):
        store.swept(file_id)
    assert [file_id for file_id, *_ in store.orphans()] == ["file-1", "file-2", "file-3"]


def test_batches_are_kept_cancelled_and_concluded(database: Database) -> None:
    """A batch comes back as it was; when it was first cancelled stays; its last outcome counts."""
    store = SqlBatches(database)
    first = Batch(
        "batch_1", MINE, "key", "job-1", "file-1", "/v1/embeddings", {"a": "b"}, 1, 9
    )  # fmt: skip
    second = replace(first, id="batch_2", job="job-2", metadata=None)
    store.add(first)
    store.add(second)
    assert store.get(MINE, "batch_1") == store.get(None, "batch_1") == first
    with pytest.raises(MeuseError) as refusal:
        store.get(OTHER, "batch_1")
    assert refusal.value.code == Code.NOT_FOUND
    assert store.page(MINE, 1, None) == [second]
    assert store.page(MINE, 1, "batch_2") == [first]
    assert store.page(OTHER, 1, None) == []
    assert store.reading(MINE, "file-1") == [first, second]
    assert store.cancel("batch_1", 5).cancelling_ms == store.cancel("batch_1", 6).cancelling_ms == 5
    store.conclude("batch_1", {"status": "failed"})
    store.conclude("batch_1", {"status": "completed"})
    assert store.get(MINE, "batch_1").outcome == {"status": "completed"}
    assert store.reading(MINE, "file-1") == [second]
    store.delete("batch_2")
    store.delete("batch_2")
    assert store.page(MINE, 9, None) == [replace(
        first, cancelling_ms=5, outcome={"status": "completed"}
    )]  # fmt: skip
