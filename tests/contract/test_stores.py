"""One suite over every adapter of the store ports: SQLite and Postgres must not differ."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    Artifact,
    Batching,
    Cache,
    Canary,
    Column,
    DatasetVersion,
    Deployment,
    DeploymentTarget,
    EngineOptions,
    Job,
    Limit,
    LimitRecord,
    Lineage,
    NewVersion,
    Scale,
    Scope,
    Shadow,
    Signature,
    TensorSpec,
)
from meuse.core.states import JobStatus
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.jobs import SqlJobs
from meuse.store.limits import SqlLimits
from meuse.store.registry import SqlRegistry

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
    )


def job(job_id: str, scope: Scope = MINE) -> Job:
    return Job(
        id=job_id, scope=scope, kind="train", spec={"epochs": 1}, status=JobStatus.QUEUED,
        progress=0.0, attempt=1, metrics={}, result=None, error=None, cancel_requested=False,
        created_ms=1, updated_ms=1,
    )  # fmt: skip


def deployment(name: str = "digits") -> Deployment:
    target = DeploymentTarget("digits:1", 100)
    engine = EngineOptions("openvino", 2)
    return Deployment(name, MINE, 0, (target,), Scale(1, 1), ("other",), 1000, 0, engine=engine)


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


def test_pages_are_newest_first_and_meet(database: Database) -> None:
    """Paging by cursor shows every job once."""
    store = SqlJobs(database)
    ids = [f"job-{i:02}" for i in range(7)]
    for job_id in ids:
        store.add(job(job_id))
    first = store.page(MINE, 4, None)
    second = store.page(MINE, 4, first[-1].id)
    assert ids[::-1] == [j.id for j in (*first, *second)]


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
