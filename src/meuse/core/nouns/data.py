"""Datasets and files, and rows on their way to training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meuse.core.nouns.who import Scope

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a dataset. `kind`: integer, float, string or image.

    Booleans and dates are strings (`true`, ISO 8601). `shape` of an image is (height, width,
    channels), -1 where rows differ.
    """

    name: str
    kind: str
    missing: int = 0
    shape: tuple[int, ...] = ()

    @property
    def numeric(self) -> bool:
        return self.kind in ("integer", "float")


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """Data by digest (of the uploaded bytes). `format` is what was uploaded.

    `table_digest` is the blob with the rows in the canonical form, as they were read with
    `options`; empty for versions that are older than that form.
    """

    name: str
    version: int
    digest: str
    format: str
    rows: int
    columns: tuple[Column, ...]
    bytes: int
    created_ms: int
    table_digest: str = ""
    table_bytes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Files of an archive that were broken and left out."""

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


PLAIN_PROFILE = "plain"
"""What a profile without target and split was asked for."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way to a dataset version, in parts or whole.

    `bytes` and `sha256` are what the caller announced (0 and empty: it did not). `options` are
    those of reading. `job` is the id of the job that reads it; empty while parts may come.
    """

    id: str
    scope: Scope
    name: str
    format: str | None
    bytes: int
    part_bytes: int
    sha256: str
    options: dict[str, Any]
    created_ms: int
    updated_ms: int
    job: str = ""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the OpenAI API: what batches and fine-tuning read, and what they give."""

    id: str
    scope: Scope
    filename: str
    purpose: str
    digest: str
    bytes: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of a file, to be answered in idle capacity by the `job` in the name of a `key`.

    `cancelling_ms` is when somebody asked to stop it. `outcome` (JSON) is what the job came to;
    None as long as it has not: how it stands is then how its job stands.
    """

    id: str
    scope: Scope
    key: str
    job: str
    input_file: str
    endpoint: str
    metadata: dict[str, str] | None
    created_ms: int
    expires_ms: int
    cancelling_ms: int | None = None
    outcome: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Inspected:
    """What an upload holds, and the canonical file that it was written to."""

    rows: int
    columns: tuple[Column, ...]
    table: Path
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows by column, raw, as a caller of the served model would send them.

    `names` are all columns in the order of the dataset, `numeric` those that stand in
    `numbers` (float32 [n, len(numeric)], NaN where missing). `texts` are arrays [n] of `str`
    (empty: missing), `images` uint8 [n, height, width, channels].
    """

    names: tuple[str, ...]
    numeric: tuple[str, ...]
    numbers: NDArray[np.float32]
    texts: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: NDArray[np.int64] | slice) -> Frame:
        """These rows, in this order."""
        return Frame(
            self.names,
            self.numeric,
            self.numbers[rows],
            {name: values[rows] for name, values in self.texts.items()},
            {name: values[rows] for name, values in self.images.items()},
        )

    def select(self, names: Sequence[str]) -> Frame:
        """These columns only, in this order."""
        numeric = tuple(name for name in names if name in self.numeric)
        numbers = self.numbers
        if numeric != self.numeric:
            numbers = numbers[:, [self.numeric.index(name) for name in numeric]]
        return Frame(
            tuple(names),
            numeric,
            numbers,
            {name: self.texts[name] for name in names if name in self.texts},
            {name: self.images[name] for name in names if name in self.images},
        )

    @classmethod
    def of_numbers(cls, numbers: NDArray[np.float32], names: Sequence[str] = ()) -> Frame:
        """Numeric columns only; without names they are called `x0`, `x1`, …."""
        named = tuple(names) or tuple(f"x{i}" for i in range(numbers.shape[1]))
        return cls(named, named, numbers)


@dataclass(frozen=True, slots=True)
class Examples:
    """Raw rows and their targets `y`: int64 class indices [n], float32 [n], or for several
    labels a row float32 0 and 1 [n, k]."""

    frame: Frame
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Splits:
    """One dataset, split once by seed: what is trained on, selected on and judged on."""

    train: Examples
    validation: Examples
    test: Examples
    features: tuple[Column, ...]
    target: str
    task: str  # classification | multilabel | regression
    classes: tuple[str | int, ...] | None
    positions: tuple[NDArray[np.int64], ...] = ()
    """Rows of the dataset, for each split."""
    warnings: tuple[str, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    """How it was split (`SplitSpec`), for the lineage."""
    by: tuple[NDArray[Any], ...] = ()
    """What it was split by, for each split: the values [n] of the spec's column, if it has one."""
