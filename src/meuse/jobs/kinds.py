"""What a kind of job is to the queue: a few plain functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.core.nouns import Job, Scope


@dataclass(frozen=True, slots=True)
class JobKind:
    """`check` and `prepare` run in control, `complete` there too, after the child has ended.

    check(scope, spec) → the spec with defaults filled in; raises `invalid_field`, `not_found`.
    prepare(job) → what the child gets as `inputs` (JSON); resolves references.
    complete(job, result) → the job's result (JSON). It may run twice: it must be idempotent.
    estimate(job) → bytes of memory that its process will need, from what the spec and the
    catalogue say (no file is read); None: nothing can be said.
    ended(job, folder, ok) is told of the end of every attempt, pauses too, before it is seen:
    what was used is written down. It may run twice, as `complete`.
    """

    check: Callable[[Scope, dict[str, Any]], dict[str, Any]]
    prepare: Callable[[Job], dict[str, Any]]
    complete: Callable[[Job, dict[str, Any]], dict[str, Any]]
    estimate: Callable[[Job], int | None] = lambda _job: None
    ended: Callable[[Job, Path, bool], None] = lambda _job, _folder, _ok: None
