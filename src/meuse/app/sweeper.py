"""Throws away what nobody needs: uploads that were left, and the blobs of deleted datasets and
files."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from meuse.core.clock import now_ms
from meuse.core.errors import MeuseError
from meuse.core.nouns import Upload
from meuse.core.ports import Blobs, DatasetStore, FileStore, JobStore, UploadStore

log = logging.getLogger(__name__)

EVERY_S = 600.0
BLOB_GRACE_MS = 3_600_000
"""What was put within the last hour stays: a version that refers to it may be on its way."""
STRAY_S = 3600.0
"""A folder that belongs to no upload goes when nobody wrote in it for so long."""


@dataclass(frozen=True, slots=True)
class Sweeper:
    uploads: UploadStore
    jobs: JobStore
    datasets: DatasetStore
    blobs: Blobs
    files: FileStore
    file_blobs: Blobs
    folder: Path
    """Of all uploads, a folder each."""
    expiry_s: float
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Sweep at once and then every few minutes (sooner when uploads expire sooner)."""
        while True:
            try:
                self.sweep()
            except Exception:
                log.exception("sweeping failed")
            if self.stop.wait(min(EVERY_S, max(1.0, self.expiry_s))):
                return

    def sweep(self) -> None:
        for upload in self.uploads.idle(now_ms() - round(self.expiry_s * 1000)):
            if not self._is_read(upload):
                self.uploads.delete(upload.id)
                shutil.rmtree(self.folder / upload.id, ignore_errors=True)
                log.info("the upload %s was left: it is gone", upload.id)
        self._strays()
        for scope, name, version, digests in self.datasets.orphans():
            before = now_ms() - BLOB_GRACE_MS
            gone = [self.blobs.delete(scope.tenant, digest, before) for digest in digests]
            if all(gone):
                self.datasets.swept(scope, name, version)
        for id, tenant, digest in self.files.orphans():
            if self.file_blobs.delete(tenant, digest, now_ms() - BLOB_GRACE_MS):
                self.files.swept(id)

    def _is_read(self, upload: Upload) -> bool:
        """Whether a job that has not ended works on it."""
        if not upload.job:
            return False
        try:
            return not self.jobs.get(None, upload.job).status.ended
        except MeuseError:
            return False

    def _strays(self) -> None:
        for folder in self.folder.glob("upl-*"):
            try:
                if time.time() - folder.stat().st_mtime < STRAY_S:
                    continue
                self.uploads.get(None, folder.name)
            except FileNotFoundError:
                continue
            except MeuseError:
                shutil.rmtree(folder, ignore_errors=True)
