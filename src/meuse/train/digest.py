"""Which code made a version: a digest of the sources of one package.

Standard library only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from meuse.core.version import __version__


def source_digest(folder: Path) -> str:
    """SHA-256, in hex, over the Python sources below `folder` and the version of Meuse."""
    digest = hashlib.sha256(__version__.encode())
    for source in sorted(folder.rglob("*.py")):
        content = source.read_bytes()
        digest.update(f"\0{source.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
