"""The sweeper: uploads that were left and blobs of deleted versions go, everything else stays."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from meuse.app.sweeper import Sweeper
from meuse.core.clock import now_ms
from meuse.core.errors import MeuseError
from meuse.core.nouns import Column, DatasetVersion, Job, Scope, StoredFile, Upload
from meuse.core.states import JobStatus
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.files import SqlFiles
from meuse.store.jobs import SqlJobs
from meuse.store.uploads import SqlUploads

ACME = Scope("acme")
DAY = 86400.0


@pytest.fixture
def sweeper(tmp_path: Path) -> Sweeper:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.migrate("meuse")
    folder = tmp_path / "uploads"
    folder.mkdir()
    blobs = FolderBlobs(tmp_path / "blobs")
    return Sweeper(
        SqlUploads(database), SqlJobs(database), SqlDatasets(database), blobs,
        SqlFiles(database), FolderBlobs(tmp_path / "files"), folder, DAY,
    )  # fmt: skip


def new_job(job_id: str) -> Job:
    return Job(
        id=job_id, scope=ACME, kind="ingest", spec={}, status=JobStatus.QUEUED, progress=0.0,
        attempt=1, metrics={}, result=None, error=None, cancel_requested=False, created_ms=1,
        updated_ms=1,
    )  # fmt: skip


def test_only_uploads_that_were_left_go(sweeper: Sweeper) -> None:
    """Those at rest for a day, open or read; not those in use, nor one that a job works on."""
    old, new = now_ms() - 2 * 86_400_000, now_ms()
    for number, (job, at) in enumerate(
        [("", old), ("", new), ("job-done", old), ("job-runs", old), ("job-lost", old)]
    ):
        one = Upload(f"upl-{number}", ACME, "d", None, 1, 1, "", {}, at, at, job)
        sweeper.uploads.open(one, 99, 999)
        (sweeper.folder / one.id).mkdir()
    for job_id, status in (("job-done", JobStatus.SUCCEEDED), ("job-runs", JobStatus.RUNNING)):
        sweeper.jobs.add(new_job(job_id))
        sweeper.jobs.update(job_id, status=JobStatus.RUNNING)
        sweeper.jobs.update(job_id, status=status)
    stray = sweeper.folder / "upl-stray"
    stray.mkdir()
    os.utime(stray, (1, 1))
    (sweeper.folder / "upl-young").mkdir()
    sweeper.sweep()
    left = {path.name for path in sweeper.folder.iterdir()}
    assert left == {"upl-1", "upl-3", "upl-young"}
    for gone in ("upl-0", "upl-2", "upl-4"):
        with pytest.raises(MeuseError):
            sweeper.uploads.get(None, gone)


def test_blobs_that_only_a_deleted_version_had_go(sweeper: Sweeper, tmp_path: Path) -> None:
    """Not those that another version shares, nor what was put again a moment ago."""
    blobs = sweeper.blobs
    mine, shared, fresh = (blobs.put("acme", io.BytesIO(word))[0] for word in (b"a", b"b", b"c"))

    def add(name: str, digest: str, table: str) -> None:
        columns = (Column("x", "integer"),)
        draft = DatasetVersion(name, 0, digest, "csv", 1, columns, 1, 1, table, 1)
        sweeper.datasets.add_version(ACME, draft)

    add("gone", mine, shared)
    add("gone-too", fresh, shared)
    add("stays", "f" * 64, shared)
    for name in ("gone", "gone-too"):
        sweeper.datasets.delete(ACME, name, 1, now_ms())
    for digest in (mine, shared):
        os.utime(tmp_path / "blobs" / "acme" / digest, (1, 1))
    sweeper.sweep()
    with pytest.raises(MeuseError):
        blobs.read("acme", mine)
    assert (blobs.read("acme", shared), blobs.read("acme", fresh)) == (b"b", b"c")
    assert [name for _, name, _, _ in sweeper.datasets.orphans()] == ["gone-too"]
    os.utime(tmp_path / "blobs" / "acme" / fresh, (1, 1))
    sweeper.sweep()
    assert sweeper.datasets.orphans() == []
    assert {p.name for p in (tmp_path / "blobs" / "acme").iterdir()} == {
        shared, f"{shared}.manifest"
    }  # fmt: skip


def test_bytes_of_deleted_files_go_unless_another_file_has_them(
    sweeper: Sweeper, tmp_path: Path
) -> None:
    """Deleted files lose their bytes once they are old enough; a file of the same bytes stays."""
    digests = []
    for number, text in enumerate((b"alone", b"shared", b"shared")):
        digest, size = sweeper.file_blobs.put("acme", io.BytesIO(text))
        digests.append(digest)
        file = StoredFile(f"file-{number}", ACME, "a.jsonl", "batch", digest, size, 1)
        sweeper.files.add(file)
    for file_id in ("file-0", "file-1"):
        sweeper.files.delete(ACME, file_id, 5)
    folder = tmp_path / "files" / "acme"
    sweeper.sweep()
    assert (folder / digests[0]).exists()  # put within the last hour
    for digest in digests:
        os.utime(folder / digest, (1, 1))
    sweeper.sweep()
    assert not (folder / digests[0]).exists()
    assert (folder / digests[1]).exists()
    assert sweeper.files.orphans() == []
