"""Archives as tables: images or texts, one row a file, in folders of classes or by a manifest.

Knows what a file's suffix means. Columns: `image` or `text`; `label` and `split` where folders
give them; with a manifest its columns, the one that names files becoming `image` (or `text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from meuse.core.errors import MeuseError
from meuse.data import csv_stream, jsonl_format
from meuse.data.archives import Archive, Member, open_archive
from meuse.data.canonical import Batch, Field, Places, Reading
from meuse.data.faults import Retry, bad_data
from meuse.data.images import SUFFIXES, Checker
from meuse.data.layout import arrange
from meuse.data.options import ReadOptions

_BATCH_BYTES = 4 << 20
_BATCH_FILES = 4096
_TEXTS = (".txt",)
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_FILE_COLUMNS = ("file", "filename", "file_name", "filepath", "path", "image", "text")
Tick = Callable[[float], None]


def readings(path: Path, options: ReadOptions, scratch: Path, tick: Tick) -> Iterator[Reading]:
    """The one way to read the archive. Raises `invalid_data` with the member, `too_large`."""
    archive = open_archive(path, options.max_bytes)
    images = [m for m in archive.members if m.suffix in SUFFIXES]
    texts = [m for m in archive.members if m.suffix in _TEXTS]
    tables = [m for m in archive.members if m.suffix in _TABLES]
    files, kind = (images, "image") if images else (texts, "text")
    if not files:
        raise bad_data(
            f"the archive holds no image ({', '.join(SUFFIXES)}) and no text (.txt)",
            hint="Put images or texts in folders of classes, or name them in a manifest.",
        )
    manifest = _manifest(tables, options.manifest)
    if manifest is None:
        rest = _by_folder(files)
    else:
        rest = _by_manifest(archive, manifest, files, kind, options, scratch)
    yield _Files(archive, kind, rest, options, tick).reading()


@dataclass(frozen=True, slots=True)
class Rest:
    """The other columns, and for each file of the archive (in its order) its rows in them."""

    fields: tuple[Field, ...]
    rows: dict[str, list[int]]
    columns: list[pa.ChunkedArray | pa.Array[Any]]
    first: int = 0
    """Where the file's own column stands among the others."""
    warnings: tuple[str, ...] = ()


def _by_folder(files: list[Member]) -> Rest:
    found = arrange(files)
    told = [("label", found.labels), ("split", found.splits)]
    kept = [(name, values) for name, values in told if values is not None]
    return Rest(
        tuple(Field(name, "string") for name, _ in kept),
        {member.name: [row] for row, member in enumerate(files)},
        [pa.array([values[m.name] for m in files], pa.string()) for _, values in kept],
    )


def _manifest(tables: list[Member], wanted: str | None) -> Member | None:
    """The table that names the files: the one asked for, or the only one."""
    if wanted is not None:
        named = [m for m in tables if m.name == wanted or m.parts[-1] == wanted]
        if len(named) != 1:
            raise bad_data(
                f"the archive holds {'no' if not named else 'more than one'} table {wanted!r}",
                field="manifest",
                hint=_listed(tables),
            )
        return named[0]
    if len(tables) > 1:
        raise bad_data(
            "the archive holds several tables; which of them names files and labels?",
            field="manifest",
            hint=_listed(tables),
        )
    return tables[0] if tables else None


def _listed(tables: list[Member]) -> str:
    names = ", ".join(m.name for m in tables[:20])
    return f"Say manifest=… with one of: {names}." if names else "Add a CSV or JSON lines file."


def _by_manifest(
    archive: Archive,
    manifest: Member,
    files: list[Member],
    kind: str,
    options: ReadOptions,
    scratch: Path,
) -> Rest:
    table = _table(archive, manifest, options, scratch)
    names = table.schema.names
    known = {member.name for member in files}
    base = PurePosixPath(manifest.name).parent
    column = _file_column(table, base, known)
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(table[column].to_pylist()):
        name = _member(value, base, known)
        if name is None:
            raise bad_data(
                f"row {row + 1} of {manifest.name!r} names {value!r}, which is not in the archive",
                field=f"files.{manifest.name}",
                hint="Name files relative to the manifest, or to the top of the archive.",
            )
        rows.setdefault(name, []).append(row)
    others = [name for name in names if name != column]
    if kind in others:
        raise bad_data(
            f"{manifest.name!r} has a column {kind!r} beside {column!r}, which names the files",
            field=f"columns.{kind}",
            hint="Rename it: the files become the column of that name.",
        )
    unnamed = len(known) - len(rows)
    told = f"{unnamed:,} files of the archive are not named in {manifest.name!r}: left out"
    return Rest(
        tuple(Field(name, _KINDS[str(table.schema.field(name).type)]) for name in others),
        rows,
        [table[name] for name in others],
        first=names.index(column),
        warnings=(told,) if unnamed else (),
    )


_KINDS = {"int64": "integer", "double": "float", "string": "string"}


def _table(archive: Archive, manifest: Member, options: ReadOptions, scratch: Path) -> pa.Table:
    """The manifest as a table in memory; it is a member, so it is of bounded size."""
    path = scratch / "manifest"
    for _, content in archive.read(frozenset({manifest.name})):
        path.write_bytes(content)
    plain = ReadOptions(
        kinds={n: k for n, k in options.kinds.items() if k != "image"},
        missing=options.missing,
        encoding=options.encoding,
        delimiter=options.delimiter,
    )
    if manifest.suffix in (".csv", ".tsv"):
        mark = "\t" if manifest.suffix == ".tsv" else ","
        ways = csv_stream.readings(path, plain, mark, scratch, _still)
    else:
        ways = jsonl_format.readings(path, plain, scratch, _still)
    try:
        for reading in ways:
            schema = pa.schema([pa.field(f.name, f.type) for f in reading.fields])
            try:
                batches = [
                    pa.RecordBatch.from_arrays(list(b), schema=schema) for b in reading.batches
                ]
            except Retry:
                continue
            return pa.Table.from_batches(batches, schema)
    except MeuseError as error:
        raise MeuseError(
            error.code, f"{manifest.name}: {error.message}", field=error.field, hint=error.hint
        ) from None
    raise AssertionError("the last way to read a table gives it or refuses it")


def _still(fraction: float) -> None: ...


def _file_column(table: pa.Table, base: PurePosixPath, known: set[str]) -> str:
    """The column that names files: by its name, else by its first value."""
    for name in table.schema.names:
        if name.lower() in _FILE_COLUMNS and pa.types.is_string(table.schema.field(name).type):
            return str(name)
    for name in table.schema.names:
        if _member(table[name][0].as_py(), base, known) is not None:
            return str(name)
    raise bad_data(
        "no column of the manifest names files of the archive",
        field="manifest",
        hint=f"Call it one of: {', '.join(_FILE_COLUMNS)}.",
    )


def _member(value: Any, base: PurePosixPath, known: set[str]) -> str | None:
    if not isinstance(value, str):
        return None
    path = PurePosixPath(value.replace("\\", "/"))
    return next((n for n in (str(base / path), str(path)) if n in known), None)


@dataclass(slots=True)
class _Files:
    """Reads the files' contents once, in the archive's order."""

    archive: Archive
    kind: str
    rest: Rest
    options: ReadOptions
    tick: Tick
    checker: Checker = field(default_factory=Checker)
    skipped: list[str] = field(default_factory=list)

    def reading(self) -> Reading:
        fields = list(self.rest.fields)
        fields.insert(
            self.rest.first, Field(self.kind, "image" if self.kind == "image" else "string")
        )
        names = [f.name for f in fields]
        self.options.check_columns(names)
        return Reading(
            tuple(fields),
            self._batches(),
            shapes=lambda name: self.checker.shape if name == "image" else (),
            places=Places,
            warnings=list(self.rest.warnings),
            skipped=self.skipped,
        )

    def _batches(self) -> Iterator[Batch]:
        values: list[Any] = []
        rows: list[int] = []
        held = done = 0
        for name, content in self.archive.read(frozenset(self.rest.rows)):
            done += 1
            value = self._value(name, content)
            if value is None:
                continue
            for row in self.rest.rows[name]:
                values.append(value)
                rows.append(row)
            held += len(content)
            if held > _BATCH_BYTES or len(rows) >= _BATCH_FILES:
                yield self._batch(values, rows)
                values, rows, held = [], [], 0
                self.tick(done / len(self.rest.rows))
        if rows:
            yield self._batch(values, rows)

    def _batch(self, values: list[Any], rows: list[int]) -> Batch:
        at = pa.array(rows, pa.int64())
        others = [column.take(at) for column in self.rest.columns]
        flat = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in others]
        type = pa.binary() if self.kind == "image" else pa.string()
        flat.insert(self.rest.first, pa.array(values, type))
        return flat

    def _value(self, name: str, content: bytes) -> bytes | str | None:
        """The checked content; None for one that is skipped."""
        try:
            if self.kind == "image":
                self.checker.check(content, repr(name), "files." + name)
                return content
            return _text(name, content, self.options.encoding)
        except MeuseError:
            if self.options.on_error == "refuse":
                raise
            self.skipped.append(name)
            return None


def _text(name: str, content: bytes, encoding: str | None) -> str:
    try:
        return content.decode(encoding or "utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise bad_data(
            f"line {line} of {name!r} is not {encoding or 'UTF-8'}",
            field="files." + name,
            hint="Save it as UTF-8, or name the encoding of all: encoding=latin-1.",
        ) from None
