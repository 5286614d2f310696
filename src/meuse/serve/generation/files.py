"""The files of a language model out of the store, as engines and libraries want them: a folder."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Blobs
from meuse.serve.generation import manifest


def lay_out(digest: str, folder: Path, blobs: Blobs, tenant: str) -> manifest.Manifest:
    """The files of the manifest with this digest under their names, verified; the manifest. Raises
    `invalid_data` for a name that leads out of the folder, msgspec.MsgspecError."""
    described = manifest.decode(blobs.read(tenant, digest))
    shutil.rmtree(folder, ignore_errors=True)
    for file in described.files:
        path = PurePosixPath(file.name)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise MeuseError(Code.INVALID_DATA, f"{file.name!r} is no name of a model's file")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        blobs.copy_to(tenant, file.digest, target)
    return described
