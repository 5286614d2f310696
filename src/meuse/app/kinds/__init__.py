"""What control does for each kind of job: check the spec, resolve inputs, keep the result.

Here stages meet: data with training, the registry with deployments. One module per kind.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from meuse.app.kinds import worktime
from meuse.app.kinds.batch import Batches
from meuse.app.kinds.budgets import Budgets, TrainingTime
from meuse.app.kinds.compress import Compress
from meuse.app.kinds.compress_language import LanguageCompress, by_task
from meuse.app.kinds.evaluate import Evaluate
from meuse.app.kinds.fine_tuning_api import FineTunings
from meuse.app.kinds.finetune import Finetune, by_recipe
from meuse.app.kinds.import_ import Foreign, Import
from meuse.app.kinds.ingest import Ingest, Intake
from meuse.app.kinds.predict import Predict
from meuse.app.kinds.pull import Sources
from meuse.app.kinds.search import Search
from meuse.app.kinds.shared import Stores
from meuse.app.kinds.train import Train
from meuse.app.kinds.tune import Tune
from meuse.app.kinds.worktime import WorkTime
from meuse.jobs.kinds import JobKind
from meuse.meter.jobs import JobJournal


def kinds(
    stores: Stores,
    journal: JobJournal,
    plan_of: Callable[[str], str | None],
    foreign: Foreign,
    intake: Intake,
    sources: Sources,
    budgets: Budgets,
    batches: Batches,
    fine_tunings: FineTunings,
    tuning: Finetune,
    threads: int,
) -> dict[str, JobKind]:
    """The kinds that this platform runs, by name; `threads` are a replica's where its deployment
    does not say."""
    time = TrainingTime(budgets, journal, plan_of)
    worked = WorkTime(budgets, journal, plan_of)
    return {
        "train": fine_tunings.around(
            time.metered(by_recipe(Train(stores, foreign).kind(), tuning.kind()))
        ),
        "compress": time.metered(
            by_task(Compress(stores, foreign).kind(), LanguageCompress(stores, batches.files))
        ),
        "evaluate": worked.metered(Evaluate(stores, batches.files).kind(), worktime.first_model),
        "predict": Predict(stores, journal, plan_of, budgets).kind(),
        "import": worked.metered(Import(stores, foreign, sources).kind(), worktime.model_name),
        "ingest": worked.metered(Ingest(stores, intake).kind(), worktime.dataset_name),
        "search": time.metered(Search(stores, foreign).kind()),
        "batch": batches.kind(),
        "tune": worked.metered(
            Tune(stores, threads, os.cpu_count() or 1, fine_tunings.budget).kind(),
            worktime.deployment_name,
        ),
    }
