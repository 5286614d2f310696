"""Whose outputs a teacher must have: checked where a job is submitted.

Knows signatures; knows no array and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import CUSTOM, Signature


def check(teacher: str, task: str, signature: Signature, own_task: str, own: Signature) -> None:
    """Raises `invalid_field` (`teacher`) that says how the outputs of `teacher` differ from
    the student's, `own`."""
    if task not in (own_task, CUSTOM):
        raise _refused(f"{teacher} is for {task}, the student for {own_task}")
    if own_task == "regression":
        return
    if signature.classes == own.classes and signature.classes is not None:
        return
    if signature.classes is None or own.classes is None:
        raise _refused(f"the classes of {teacher} are not known")
    theirs, ours = list(signature.classes), list(own.classes)
    lacks = [label for label in ours if label not in theirs]
    more = [label for label in theirs if label not in ours]
    if not lacks and not more:
        place = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        raise _refused(
            f"{teacher} has the student's classes in another order: class {place} is "
            f"{theirs[place]!r}, the student's {ours[place]!r}"
        )
    told = [f"lacks {_listed(lacks)}"] if lacks else []
    told += [f"has {_listed(more)} besides"] if more else []
    raise _refused(
        f"{teacher} has {len(theirs)} classes, the student {len(ours)}: it {' and '.join(told)}"
    )


def _refused(message: str) -> MeuseError:
    return invalid(
        "teacher", message, "A teacher has the student's task, and its classes in their order."
    )


def _listed(labels: Sequence[object]) -> str:
    return ", ".join(map(repr, labels[:5])) + (", …" if len(labels) > 5 else "")
