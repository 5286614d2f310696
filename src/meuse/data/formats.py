"""The formats of uploads: their names, and how a file shows its own. Standard library only."""

from __future__ import annotations

import zipfile
from pathlib import Path

from meuse.core.errors import invalid

FORMATS = ("csv", "tsv", "jsonl", "parquet", "arrow", "npz", "zip", "tar", "txt")
_ALIASES = {
    "ndjson": "jsonl", "json-lines": "jsonl", "feather": "arrow", "ipc": "arrow", "arrows": "arrow",
    "tgz": "tar", "gz": "tar", "tar.gz": "tar", "tab": "tsv", "text": "txt", "pq": "parquet",
}  # fmt: skip
CONTENT_TYPES = {
    "text/csv": "csv",
    "application/csv": "csv",
    "text/tab-separated-values": "tsv",
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/x-npz": "npz",
    "application/x-tar": "tar",
    "application/gzip": "tar",
    "application/x-gtar": "tar",
    "text/plain": "txt",
}
"""Types that name a format; those of `SNIFFED` leave it to the bytes."""
SNIFFED = frozenset({"", "application/octet-stream", "application/zip"})


def parse(format: str) -> str:
    """The format that goes by this name. Raises `invalid_field`."""
    name = _ALIASES.get(format.strip().lower(), format.strip().lower())
    if name not in FORMATS:
        raise invalid(
            "format", f"{format!r} is not a format of data", f"Use one of: {', '.join(FORMATS)}."
        )
    return name


def sniff(path: Path, name: str = "") -> str:
    """The format by the first bytes, else by the file's name, else csv."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04"):
        return "npz" if _only_arrays(path) else "zip"
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return "tar"
    ending = Path(name).suffix.lower().lstrip(".")
    ending = _ALIASES.get(ending, ending)
    return ending if ending in FORMATS else "csv"


def _only_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return True
    return all(name.endswith(".npy") for name in names)
