"""One wheel of one package, by the simple API."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from meuse.core.errors import Code, MeuseError
from meuse.pull.index import find
from pull.shop import Shop, wheel


def stock(shop: Shop, *names: str) -> None:
    shop.files.update(dict.fromkeys(names, wheel()))


NAMES = (
    "llm_tiny-0.9-py3-none-any.whl",
    "llm_tiny-1.10-py3-none-any.whl",
    "llm_tiny-1.9-py3-none-any.whl",
    "llm_tiny-2.0-py3-none-any.whl",
    "llm_tiny-3.0rc1-py3-none-any.whl",
    "llm_tiny-4.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    "llm_tiny-5.0.tar.gz",
    "other-6.0-py3-none-any.whl",
    "llm_tiny-x-py3-none-any.whl",
)


@pytest.mark.parametrize("html", [False, True], ids=["json", "html"])
def test_the_newest_final_wheel_for_every_platform(
    shop: Shop, http: httpx.Client, html: bool
) -> None:
    stock(shop, *NAMES)
    shop.html, shop.yanked = html, {"llm_tiny-2.0-py3-none-any.whl"}
    found = find(http, [f"{shop.index}/"], "llm-tiny", None)
    assert (found.version, found.filename) == ("1.10", "llm_tiny-1.10-py3-none-any.whl")
    assert found.url == f"{shop.url}/files/{found.filename}"
    assert found.sha256 == shop.digest(found.filename)
    assert found.size == (None if html else len(shop.files[found.filename]))


@pytest.mark.parametrize(("asked", "got"), [("2", "2.0"), ("3.0rc1", "3.0rc1"), ("0.9", "0.9")])
def test_a_version_that_is_named(shop: Shop, http: httpx.Client, asked: str, got: str) -> None:
    """Also one that is yanked or not final: it was asked for."""
    stock(shop, *NAMES)
    shop.yanked = {"llm_tiny-2.0-py3-none-any.whl"}
    assert find(http, [shop.index], "llm-tiny", asked).version == got


def test_all_indexes_are_asked(shop: Shop, http: httpx.Client, tmp_path: Path) -> None:
    folder = tmp_path / "llm-tiny"
    folder.mkdir()
    (folder / "llm_tiny-9.0-py3-none-any.whl").write_bytes(wheel())
    digest = "0" * 64
    (folder / "index.html").write_text(
        f'<a href="llm_tiny-9.0-py3-none-any.whl#sha256={digest}">x</a>'
    )
    stock(shop, NAMES[1])
    urls = [shop.index, f"file://{tmp_path}", f"file://{tmp_path}/none"]
    found = find(http, urls, "llm-tiny", None)
    assert (found.version, found.sha256) == ("9.0", digest)
    assert found.url == f"file://{folder}/llm_tiny-9.0-py3-none-any.whl"
    assert find(http, urls, "llm-tiny", "1.10").url.startswith(shop.url)


@pytest.mark.parametrize(
    ("package", "version", "code"),
    [
        ("llm-none", None, Code.NOT_FOUND),
        ("llm-tiny", "7.7", Code.INVALID_FIELD),
        ("llm-tiny", "4.0", Code.INVALID_FIELD),
        ("llm-tiny", "one", Code.INVALID_FIELD),
    ],
)
def test_what_the_index_has_not(
    shop: Shop, http: httpx.Client, package: str, version: str | None, code: Code
) -> None:
    stock(shop, *NAMES)
    with pytest.raises(MeuseError) as caught:
        find(http, [shop.index], package, version)
    assert (caught.value.code, caught.value.field) == (code, "source")


def test_an_index_that_does_not_answer(shop: Shop, http: httpx.Client) -> None:
    with pytest.raises(MeuseError, match="does not answer") as caught:
        find(http, ["http://127.0.0.1:1/simple"], "llm-tiny", None)
    assert caught.value.code is Code.UNAVAILABLE
    shop.status = 503
    with pytest.raises(MeuseError, match="answers 503"):
        find(http, [shop.index], "llm-tiny", None)
    shop.status = 200
    for body in (b"{", b"[]", b'{"files": [{"url": 3}]}'):
        shop.raw = body
        with pytest.raises(MeuseError, match="cannot be read"):
            find(http, [shop.index], "llm-tiny", None)


def test_a_password_in_the_index_is_not_told(http: httpx.Client) -> None:
    with pytest.raises(MeuseError) as caught:
        find(http, ["http://me:secret@127.0.0.1:1/simple"], "llm-tiny", None)
    assert "secret" not in str(caught.value)
