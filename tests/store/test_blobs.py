"""store.blobs"""

import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.store import blobs as module
from meuse.store.blobs import FolderBlobs


def test_bytes_come_back_by_their_digest(tmp_path: Path) -> None:
    """A blob is addressed by SHA-256, chunk manifest beside it, over several chunks."""
    data = bytes(range(256)) * 40_000  # more than two chunks
    blobs = FolderBlobs(tmp_path)
    digest, size = blobs.put("acme", io.BytesIO(data))
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, size)
    assert data == blobs.read("acme", digest)
    blobs.copy_to("acme", digest, tmp_path / "copy")
    assert data == (tmp_path / "copy").read_bytes()
    assert (digest, size) == blobs.put("acme", io.BytesIO(data))


@given(at=st.integers(0, 10_000_000))
def test_damage_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, at: int) -> None:
    """One flipped bit in any chunk, and no damaged chunk is handed out."""
    folder = tmp_path_factory.mktemp("blobs")
    blobs = FolderBlobs(folder)
    data = b"meuse" * 1000
    digest, _ = blobs.put("acme", io.BytesIO(data))
    path = folder / "acme" / digest
    damaged = bytearray(data)
    damaged[at % len(data)] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(MeuseError) as refusal:
        blobs.read("acme", digest)
    assert refusal.value.code == Code.INTERNAL


def test_an_appended_tail_is_found(tmp_path: Path) -> None:
    """A blob that grew is as damaged as one that changed."""
    blobs = FolderBlobs(tmp_path)
    digest, _ = blobs.put("acme", io.BytesIO(b"x"))
    with (tmp_path / "acme" / digest).open("ab") as file:
        file.write(b"y")
    with pytest.raises(MeuseError):
        blobs.read("acme", digest)


def test_a_write_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    """A stream that fails half-way leaves no blob and no temporary file."""

    class Breaks(io.RawIOBase):
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError("the disk is gone")
            return b"x" * module.CHUNK

    with pytest.raises(OSError, match="gone"):
        FolderBlobs(tmp_path).put("acme", Breaks())  # type: ignore[arg-type]
    assert list((tmp_path / "acme").iterdir()) == []


@pytest.mark.parametrize("digest", ["", "../acme", "0" * 63, "Z" * 64, "0" * 64])
def test_what_is_no_digest_is_not_there(tmp_path: Path, digest: str) -> None:
    """Paths are never built from anything but 64 hex digits."""
    with pytest.raises(MeuseError) as refusal:
        FolderBlobs(tmp_path).read("acme", digest)
    assert refusal.value.code == Code.NOT_FOUND


def test_tenants_do_not_share_blobs(tmp_path: Path) -> None:
    """The same digest under another tenant is not there; a tenant is a name, not a path."""
    blobs = FolderBlobs(tmp_path)
    digest, _ = blobs.put("acme", io.BytesIO(b"x"))
    for tenant in ("other", "../acme"):
        with pytest.raises(MeuseError):
            blobs.read(tenant, digest)
