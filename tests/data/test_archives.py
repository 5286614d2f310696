"""Archives of images and texts: layouts, manifests, and every trick that is refused."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.helpers_data import (
    ACCEPTABLE,
    bad,
    outcome,
    picture,
    refused,
    rows,
    taken,
    tarred,
    zipped,
)
from meuse.core.errors import Code
from meuse.core.nouns import Column
from meuse.data.tables import read

PETS = {f"{name}/{i}.png": picture(seed=i) for name in ("cat", "dog") for i in range(3)}
LABEL = Column("label", "string")


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("top", ["", "pets/", "./a/b/"])
def test_class_folders(tmp_path: Path, pack: object, top: str) -> None:
    """Folders are labels, below a common folder or not, in zip and in tar.gz."""
    files = {top + name: content for name, content in PETS.items()}
    content = pack(files | {"__MACOSX/x.png": b"no", top + ".DS_Store": b""})  # type: ignore[operator]
    found = taken(tmp_path, content, "zip" if pack is zipped else "tar")
    assert found.rows == 6
    assert found.columns == (Column("image", "image", 0, (6, 8, 3)), LABEL)
    assert rows(tmp_path)["label"].to_pylist() == ["cat"] * 3 + ["dog"] * 3
    # The bytes are those that were uploaded.
    assert rows(tmp_path)["image"][4].as_py() == PETS["dog/1.png"]


def test_split_folders(tmp_path: Path) -> None:
    """train, val and test above the classes give a column `split`."""
    files = {f"d/{s}/{n}": c for s in ("train", "val", "test") for n, c in PETS.items()}
    found = taken(tmp_path, zipped(files), "zip")
    assert found.columns[1:] == (LABEL, Column("split", "string"))
    assert rows(tmp_path)["split"].to_pylist() == ["train"] * 6 + ["validation"] * 6 + ["test"] * 6


def test_images_without_classes(tmp_path: Path) -> None:
    """A flat archive is a dataset of images alone, to predict on."""
    files = {f"photos/{i}.png": picture(seed=i) for i in range(3)}
    assert taken(tmp_path, zipped(files), "zip").columns == (
        Column("image", "image", 0, (6, 8, 3)),
    )


def test_one_class_below_a_common_folder_is_a_class(tmp_path: Path) -> None:
    """pets/cat/… alone is labelled cat; that training wants two is for training to say."""
    files = {f"pets/cat/{i}.png": picture(seed=i) for i in range(3)}
    assert taken(tmp_path, zipped(files), "zip").columns[1] == LABEL


def test_shapes_that_differ_and_how_they_are_read(tmp_path: Path) -> None:
    """-1 where rows differ; channels are the most; reading resizes to one size."""
    files = {
        "a/1.png": picture((8, 6), "L"),
        "a/2.jpg": picture((10, 6), "RGB", "JPEG"),
        "b/3.png": picture((8, 6), "RGBA"),
        "b/4.bmp": picture((8, 6), "RGB", "BMP"),
    }
    found = taken(tmp_path, zipped(files), "zip")
    assert found.columns[0] == Column("image", "image", 0, (6, -1, 3))
    frame = read(tmp_path / "table").frame
    assert frame.images["image"].shape == (4, 64, 64, 3)
    table = read(tmp_path / "table", image_size=(12, 16))
    assert table.frame.images["image"].shape == (4, 12, 16, 3)
    assert table.features[0].shape == (12, 16, 3)


def test_pixels_are_read_as_they_are(tmp_path: Path) -> None:
    """Images of one size are not touched."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
    files = {}
    for i, one in enumerate(pixels):
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(one).save(buffer, "PNG")
        files[f"c{i}/x.png"] = buffer.getvalue()
    taken(tmp_path, zipped(files), "zip")
    np.testing.assert_array_equal(read(tmp_path / "table").frame.images["image"], pixels)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_manifest_names_files_and_labels(tmp_path: Path, kind: str) -> None:
    """Its other columns come along, in its order; a file may stand in several rows."""
    told = [("b/1.png", "x", 1.5), ("2.png", "y", 2.0), ("b/1.png", "z", 3.0)]
    if kind == "csv":
        lines = ["id,file,label,weight", *(f"{i},{f},{c},{w}" for i, (f, c, w) in enumerate(told))]
        manifest = "\n".join(lines)
    else:
        manifest = "\n".join(
            json.dumps({"id": i, "file": f, "label": c, "weight": w})
            for i, (f, c, w) in enumerate(told)
        )
    files = {"d/b/1.png": picture(seed=1), "d/2.png": picture(seed=2), "d/3.png": picture()}
    content = zipped({f"d/manifest.{kind}": manifest.encode(), **files})
    found = taken(tmp_path, content, "zip")
    assert [c.name for c in found.columns] == ["id", "image", "label", "weight"]
    assert sorted(rows(tmp_path)["label"].to_pylist()) == ["x", "y", "z"]
    assert "1 files" in found.warnings[0]


def test_a_manifest_that_names_no_file_tells_its_row(tmp_path: Path) -> None:
    """The file that is not there is named, and the row that asks for it."""
    content = zipped({"m.csv": b"file,label\n1.png,a\n9.png,b\n", "1.png": picture()})
    bad(refused(tmp_path, content, "zip"), "files.m.csv", "row 2", "'9.png'")


def test_which_manifest(tmp_path: Path) -> None:
    """Of several tables one must be chosen."""
    files = {"a.csv": b"file,y\n1.png,1\n", "b.csv": b"z\n1\n", "1.png": picture()}
    bad(refused(tmp_path, zipped(files), "zip"), "manifest", "several tables")
    assert taken(tmp_path, zipped(files), "zip", manifest="a.csv").rows == 1
    bad(refused(tmp_path, zipped(files), "zip", manifest="c.csv"), "manifest", "no table 'c.csv'")


def test_texts_in_class_folders(tmp_path: Path) -> None:
    """One row a file."""
    files = {f"{c}/{i}.txt": f"{c} text {i}\n".encode() for c in ("ham", "spam") for i in range(2)}
    found = taken(tmp_path, tarred(files), "tar")
    assert found.columns == (Column("text", "string"), LABEL)
    assert rows(tmp_path)["text"][3].as_py() == "spam text 1"
    files["ham/9.txt"] = b"first\nsec\xffond"
    bad(refused(tmp_path, tarred(files), "tar"), "files.ham/9.txt", "line 2 of 'ham/9.txt'")
    assert taken(tmp_path, tarred(files), "tar", encoding="latin-1").rows == 5


def test_broken_images_are_named_or_skipped(tmp_path: Path) -> None:
    """Refused with the file's name; with on_error=skip left out and counted."""
    whole = picture((40, 40))
    files = PETS | {"cat/bad.png": b"not an image", "dog/cut.png": whole[: len(whole) // 2]}
    bad(refused(tmp_path, zipped(files), "zip"), "files.cat/bad.png", "'cat/bad.png' is broken")
    found = taken(tmp_path, zipped(files), "zip", on_error="skip")
    assert (found.rows, found.skipped) == (6, ("cat/bad.png", "dog/cut.png"))
    assert "2 broken files" in found.warnings[0]
    only = {"cat/bad.png": b"x", "dog/cut.png": b"y"}
    bad(refused(tmp_path, zipped(only), "zip", on_error="skip"), "body", "no row")


def test_an_image_that_promises_too_many_pixels_is_refused(tmp_path: Path) -> None:
    """The header is judged before anything is decoded."""
    content = bytearray(picture())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    bad(refused(tmp_path, zipped({"a/1.png": bytes(content)}), "zip"), "files.a/1.png")


NAMES = ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "..\\evil.png"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_paths_that_leave_the_archive_are_refused(tmp_path: Path, pack: object, name: str) -> None:
    """Whatever would be done with them; nothing is unpacked to a path."""
    content = pack(PETS | {name: picture()})  # type: ignore[operator]
    error = refused(tmp_path, content, "zip" if pack is zipped else "tar")
    assert "leads out of the archive" in error.message
    assert str(error.field).startswith("files.")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    """By name."""
    buffer = io.BytesIO(tarred(PETS, "w"))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        info = tarfile.TarInfo("cat/link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    bad(refused(tmp_path, buffer.getvalue(), "tar"), "files.cat/link.png", "link or a device")


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    """A member whose mode says so."""
    buffer = io.BytesIO(zipped(PETS))
    with zipfile.ZipFile(buffer, "a") as archive:
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    bad(refused(tmp_path, buffer.getvalue(), "zip"), "files.cat/link.png", "link or a device")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """By the flag of its members."""
    content = bytearray(zipped({"cat/1.png": picture()}))
    central = content.rindex(b"PK\x01\x02")
    content[central + 8] |= 1
    content[6] |= 1
    bad(refused(tmp_path, bytes(content), "zip"), "files.cat/1.png", "encrypted")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_bombs_are_refused(tmp_path: Path, pack: object) -> None:
    """By how much more they unpack to than they weigh, and by the total."""
    format = "zip" if pack is zipped else "tar"
    content = pack({f"a/{i}.txt": b"\0" * (1 << 20) for i in range(60)})  # type: ignore[operator]
    error = refused(tmp_path, content, format)
    bad(error, "body", "times its size")
    error = refused(tmp_path, content, format, max_bytes=1 << 20)
    assert error.code == Code.TOO_LARGE


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    """The directory says 10 bytes, the member has more."""
    content = bytearray(zipped({"a/1.txt": b"0123456789" * 100}))
    central = content.rindex(b"PK\x01\x02")
    content[central + 24 : central + 28] = (10).to_bytes(4, "little")
    error = refused(tmp_path, bytes(content), "zip")
    assert error.code == Code.INVALID_DATA


def test_nested_archives_are_passed_over(tmp_path: Path) -> None:
    """A zip within the zip is not opened."""
    assert taken(tmp_path, zipped(PETS | {"more.zip": zipped(PETS)}), "zip").rows == 6


def test_folders_that_differ_in_case_are_refused(tmp_path: Path) -> None:
    """Cat and cat are one class."""
    bad(refused(tmp_path, zipped(PETS | {"Cat/9.png": picture()}), "zip"), "files.cat", "case")


@pytest.mark.parametrize(
    ("files", "field", "words"),
    [
        ({"readme.md": b"x"}, "body", "no image"),
        (PETS | {"loose.png": picture()}, "files.loose.png", "beside the folders"),
        ({}, "body", "no image"),
    ],
)
def test_archives_without_a_table(
    tmp_path: Path, files: dict[str, bytes], field: str, words: str
) -> None:
    """Told what would make one."""
    bad(refused(tmp_path, zipped(files), "zip"), field, words)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    """Cut, changed, empty."""
    for format, whole in (("zip", zipped(PETS)), ("tar", tarred(PETS))):
        for content in (b"", whole[: len(whole) // 2], b"x" * 600):
            error = refused(tmp_path, content, format)
            assert error.code == Code.INVALID_DATA


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    format=st.sampled_from(["zip", "tar"]), place=st.floats(0, 0.9999), value=st.integers(0, 255)
)
def test_a_changed_byte_is_read_or_refused(
    tmp_path: Path, format: str, place: float, value: int
) -> None:
    """A changed byte anywhere gives a table or a MeuseError."""
    files = {"a/1.png": picture(seed=1), "b/2.png": picture(seed=2)}
    content = bytearray(zipped(files) if format == "zip" else tarred(files, "w"))
    content[int(place * len(content))] = value
    assert outcome(tmp_path, bytes(content), format) in ACCEPTABLE
