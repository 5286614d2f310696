"""What a kind of job is to the queue: three plain functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meuse.core.nouns import Job, Scope


@dataclass(frozen=True, slots=True)
class JobKind:
    """`check` and `prepare` run in control, `complete` there too, after the child has ended.

    check(scope, spec) → the spec with defaults filled in; raises `invalid_field`, `not_found`.
    prepare(job) → what the child gets as `inputs` (JSON); resolves references.
    complete(job, result) → the job's result (JSON). It may run twice: it must be idempotent.
    """

    check: Callable[[Scope, dict[str, Any]], dict[str, Any]]
    prepare: Callable[[Job], dict[str, Any]]
    complete: Callable[[Job, dict[str, Any]], dict[str, Any]]
