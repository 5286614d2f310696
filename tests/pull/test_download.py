"""A download goes on where it was, and ends as the file that was announced, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from meuse.core.errors import Code, MeuseError
from meuse.pull import download as downloading
from meuse.pull.download import download
from pull.shop import Shop

CONTENT = bytes(range(256)) * 64
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch, shop: Shop) -> None:
    monkeypatch.setattr(downloading, "WAIT_S", (0.0,) * 4)
    shop.files["x"] = CONTENT


def get(
    shop: Shop, http: httpx.Client, out: Path, digest: str = DIGEST, most: int = 1 << 20
) -> str:
    return download(http, f"{shop.url}/files/x", out, sha256=digest, max_bytes=most)


def test_it_goes_on_after_every_break(shop: Shop, http: httpx.Client, tmp_path: Path) -> None:
    """Any number of times, as long as something comes."""
    shop.cuts, shop.cut_after = 8, 1000
    out = tmp_path / "x"
    assert get(shop, http, out) == DIGEST
    assert out.read_bytes() == CONTENT
    ranges = [wanted for _, wanted in shop.asked]
    assert ranges == ["", *(f"bytes={n}000-" for n in range(1, 9))]


def test_a_later_call_goes_on_too(shop: Shop, http: httpx.Client, tmp_path: Path) -> None:
    """Stopped by its progress, as a paused job stops it; and when all was there already."""
    out, seen = tmp_path / "x", []

    class Stop(Exception): ...  # noqa: N818

    def stop(done: int, total: int | None) -> None:
        seen.append((done, total))
        raise Stop

    shop.cuts, shop.cut_after = 1, 6000
    with pytest.raises(Stop):
        download(http, f"{shop.url}/files/x", out, max_bytes=1 << 20, progress=stop)
    have = out.stat().st_size
    assert seen == [(have, len(CONTENT))]
    assert 0 < have < len(CONTENT)
    shop.cuts = 0
    assert get(shop, http, out) == DIGEST
    assert shop.asked[-1] == ("x", f"bytes={have}-")
    assert get(shop, http, out) == DIGEST  # 416: nothing is missing
    size = len(CONTENT)
    download(http, f"{shop.url}/files/x", out, sha256=DIGEST, size=size, max_bytes=1 << 20)
    assert len(shop.asked) == 3  # nothing was asked at all


def test_another_file_than_announced_is_thrown_away(
    shop: Shop, http: httpx.Client, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    out.write_bytes(b"of another day")
    with pytest.raises(MeuseError, match="was announced") as caught:
        get(shop, http, out)
    assert caught.value.code is Code.INVALID_DATA
    assert not out.exists()
    assert get(shop, http, out) == DIGEST  # the next try begins anew


def test_it_ends_when_nothing_comes(shop: Shop, http: httpx.Client, tmp_path: Path) -> None:
    shop.cuts, shop.cut_after = 99, 0
    with pytest.raises(MeuseError, match="does not come") as caught:
        get(shop, http, tmp_path / "x")
    assert caught.value.code is Code.UNAVAILABLE
    assert len(shop.asked) == downloading.TRIES
    for status, code in (
        (401, Code.FORBIDDEN), (403, Code.FORBIDDEN), (404, Code.NOT_FOUND),
        (500, Code.UNAVAILABLE),
    ):  # fmt: skip
        shop.status = status
        with pytest.raises(MeuseError, match=f"answers {status}") as caught:
            get(shop, http, tmp_path / "x")
        assert caught.value.code is code


def test_a_busy_host_is_asked_again_when_it_says(
    shop: Shop, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own time where it names one, in ours where not; whoever stops need not wait."""
    waited: list[float] = []
    monkeypatch.setattr(downloading, "WAIT_S", (1.5, 2.5, 3.5, 4.5))
    monkeypatch.setattr(downloading, "wait", lambda wait_s, often: waited.append(wait_s))
    shop.busy = [(429, "7"), (503, ""), (502, "Wed, 02 Dec 2026 10:00:00 GMT")]
    assert get(shop, http, tmp_path / "x") == DIGEST
    assert waited == [7.0, 2.5, 3.5]
    shop.busy = [(429, "3600")]
    with pytest.raises(MeuseError, match="answers 429") as caught:
        get(shop, http, tmp_path / "y")
    assert caught.value.code is Code.UNAVAILABLE
    assert len(waited) == 3  # an hour is not waited for


def test_a_wait_is_left_early() -> None:
    class Stop(Exception): ...  # noqa: N818

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        downloading.wait(3600.0, stop)


def test_an_empty_file_is_a_file(shop: Shop, http: httpx.Client, tmp_path: Path) -> None:
    shop.files["x"] = b""
    url, out = f"{shop.url}/files/x", tmp_path / "x"
    assert download(http, url, out, size=0, max_bytes=1) == hashlib.sha256(b"").hexdigest()
    assert out.read_bytes() == b""


def test_it_has_a_bound(shop: Shop, http: httpx.Client, tmp_path: Path) -> None:
    with pytest.raises(MeuseError) as caught:
        get(shop, http, tmp_path / "x", most=1000)
    assert (caught.value.code, caught.value.field) == (Code.TOO_LARGE, "source")
