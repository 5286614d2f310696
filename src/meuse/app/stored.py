"""What the control process keeps: rows in its database, content in folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from meuse.settings import Settings
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.batches import SqlBatches
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.files import SqlFiles
from meuse.store.jobs import SqlJobs
from meuse.store.limits import SqlLimits
from meuse.store.registry import SqlRegistry
from meuse.store.rollouts import SqlRollouts
from meuse.store.uploads import SqlUploads
from meuse.store.webhooks import SqlWebhooks


class Stored:
    """Every store of the process, over one database that is migrated first. `ring` is told the id
    of a job that has changed."""

    def __init__(self, settings: Settings, ring: Callable[[str], None]) -> None:
        database = Database(settings.database("meuse"))
        database.migrate("meuse")
        self.datasets, self.registry = SqlDatasets(database), SqlRegistry(database)
        self.deployments, self.rollouts = SqlDeployments(database), SqlRollouts(database)
        self.jobs, self.batches = SqlJobs(database, ring), SqlBatches(database)
        self.access, self.plans = SqlAccess(database), SqlPlans(database)
        self.limits, self.webhooks = SqlLimits(database), SqlWebhooks(database)
        self.uploads, self.files = SqlUploads(database), SqlFiles(database)
        self.blobs, self.file_blobs = FolderBlobs(settings.blobs), FolderBlobs(settings.files)
        self.upload_folder = settings.home / "uploads"

    def tidy(self) -> None:
        """Throw away what a predecessor that was killed left half-received."""
        for cut_off in self.upload_folder.glob("upload-*"):
            cut_off.unlink()
        for cut_off in self.upload_folder.glob("table-*"):
            shutil.rmtree(cut_off)
