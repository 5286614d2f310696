"""What the folders of an archive say about its files: a class each, and perhaps a split.

`class/file`, below a common folder or not; `train/class/file`, `validation/class/file`,
`test/class/file` give the split too. Knows paths only.
"""

from __future__ import annotations

from dataclasses import dataclass

from meuse.data.archives import Member
from meuse.data.faults import bad_data
from meuse.data.split_spec import SPLIT_WORDS

_HINT = "Put every file in the folder of its class: cat/1.png, or train/cat/1.png."


@dataclass(frozen=True, slots=True)
class Places:
    """Labels and splits by the member's name; None where the archive has none at all."""

    labels: dict[str, str] | None
    splits: dict[str, str] | None


def arrange(members: list[Member]) -> Places:
    """Labels and splits of these files. Raises `invalid_data` naming the odd one."""
    folders = {member.name: member.parts[:-1] for member in members}
    shared = _shared(list(folders.values()))
    below = {name: parts[shared:] for name, parts in folders.items()}
    depths = {min(len(parts), 1) for parts in below.values()}
    if depths == {0}:
        return Places(None, None)
    splits: dict[str, str] | None = None
    if all(parts and parts[0].lower() in SPLIT_WORDS for parts in below.values()):
        splits = {name: SPLIT_WORDS[parts[0].lower()] for name, parts in below.items()}
        below = {name: parts[1:] for name, parts in below.items()}
        if not any(below.values()):
            return Places(None, splits)
    for name, parts in below.items():
        if not parts:
            raise bad_data(
                f"{name!r} stands beside the folders of classes, not in one",
                field="files." + name,
                hint=_HINT,
            )
    labels = {name: parts[0] for name, parts in below.items()}
    _check_case(sorted(set(labels.values())))
    return Places(labels, splits)


def _shared(folders: list[tuple[str, ...]]) -> int:
    """How many leading folders say nothing, because every file is below them. The last of
    several is the class of an archive that has one class only; so is the first below a split."""
    shared = 0
    first = folders[0]
    while shared < len(first) and all(
        parts[: shared + 1] == first[: shared + 1] for parts in folders
    ):
        shared += 1
    for index in range(shared):
        if first[index].lower() in SPLIT_WORDS:
            return index
    same = shared == len(first) and all(len(parts) == shared for parts in folders)
    return shared - 1 if same and shared >= 2 else shared


def _check_case(labels: list[str]) -> None:
    folded: dict[str, str] = {}
    for label in labels:
        other = folded.setdefault(label.casefold(), label)
        if other != label:
            raise bad_data(
                f"the folders {other!r} and {label!r} differ in case only",
                field="files." + label,
                hint="Put the files of one class into one folder.",
            )
