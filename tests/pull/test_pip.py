"""The index is the one that pip would ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.pull.pip import DEFAULT, Indexes, chosen, configured


def test_the_environment_goes_before_the_files() -> None:
    told = {
        "global.index-url": "https://g/simple",
        "install.index-url": "https://i/simple",
        "global.extra-index-url": "https://a/simple\nfile:///b/simple",
        "global.cert": "/c.pem",
    }
    found = chosen(told)
    assert found == Indexes(("https://i/simple", "https://a/simple", "file:///b/simple"), "/c.pem")
    assert chosen(told | {":env:.index-url": "https://e"}).urls[0] == "https://e"
    assert chosen({}) == Indexes((DEFAULT,))
    assert chosen(told | {":env:.no-index": "1"}).urls == ()


def test_it_is_read_from_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://g/simple\nextra-index-url =\n    https://a\n    https://b\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "/c.pem")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    found = configured()
    assert found.urls[0] == "https://g/simple"
    assert {"https://a", "https://b"} <= set(found.urls)
    assert found.cert == "/c.pem"
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/simple")
    assert configured().urls[0] == "https://e/simple"


def test_without_pip_the_environment_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent")
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://x/simple")
    assert configured().urls == ("https://e/simple", "https://x/simple")
