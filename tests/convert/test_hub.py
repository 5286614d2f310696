"""The hub, as a pull asks a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers_hub import COMMIT, Hub, blob_digest, serving, sibling
from meuse.convert import hub as hubs
from meuse.core.errors import Code, MeuseError
from meuse.pull import download as downloading
from meuse.pull.bring import HUB_FILES, Snapshot

pytest.importorskip("huggingface_hub")

OTHER = "f" * 40
WEIGHTS = bytes(range(256)) * 256
FILES = {
    "config.json": b"{}", "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle",
    "modeling_own.py": b"raise SystemExit", "m.Q4.gguf": b"four", "m.Q8.gguf": b"eight",
    "chat_template.jinja": b"hi", "openvino_model.bin": b"ov", "1_Pooling/config.json": b"[]",
    "merges.txt": b"",
}  # fmt: skip
TAKEN = sorted(set(FILES) - {"pytorch_model.bin", "modeling_own.py", "m.Q4.gguf", "m.Q8.gguf"})
TOTAL = sum(len(FILES[name]) for name in TAKEN)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(downloading, "WAIT_S", (0.0,) * 4)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as found:
        found.files = dict(FILES)
        yield found


def fetch(hub: Hub, folder: Path, reference: str = "owner/tiny", **more: Any) -> Snapshot:
    patterns = more.pop("patterns", HUB_FILES)
    more = {"max_bytes": 1 << 20, "endpoint": hub.url, **more}
    return hubs.fetch(reference, folder, patterns, **more)


def refused(hub: Hub, folder: Path, reference: str = "owner/tiny", **more: Any) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        fetch(hub, folder, reference, **more)
    assert caught.value.field == "source"
    return caught.value


def inside(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class StopError(Exception): ...


class Stopping:
    """A progress that stops where so many bytes have come, and keeps what it was told."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.told: list[tuple[int, int | None]] = []

    def __call__(self, done: int, total: int | None) -> None:
        self.told.append((done, total))
        if done >= self.at:
            raise StopError


def test_only_weights_and_texts_come(hub: Hub, tmp_path: Path) -> None:
    """All of one commit, with their content, a folder in the folder and an empty file too."""
    found = fetch(hub, tmp_path)
    assert (found.commit, inside(found.folder)) == (COMMIT, TAKEN)
    for name in TAKEN:
        assert (found.folder / name).read_bytes() == FILES[name]
    assert hub.lists_asked[0][0] == "/api/models/owner/tiny?blobs=true"
    assert sorted(hub.names) == TAKEN


def test_a_branch_becomes_the_commit_that_it_means(hub: Hub, tmp_path: Path) -> None:
    hub.branches["refs/pr/1"] = OTHER
    found = fetch(hub, tmp_path, "owner/tiny@refs/pr/1", patterns=("m.Q4.gguf",))
    assert (found.commit, inside(found.folder)) == (OTHER, ["m.Q4.gguf"])
    assert fetch(hub, tmp_path, f"owner/tiny@{COMMIT}").commit == COMMIT


def test_progress_counts_all_files_together(hub: Hub, tmp_path: Path) -> None:
    seen = Stopping(TOTAL + 1)
    fetch(hub, tmp_path, progress=seen)
    assert {total for _, total in seen.told} == {TOTAL}
    done = [done for done, _ in seen.told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, TOTAL)


def test_it_goes_on_after_every_break(hub: Hub, tmp_path: Path) -> None:
    hub.cuts, hub.cut_after = 3, 20_000
    found = fetch(hub, tmp_path)
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [wanted for name, wanted, _ in hub.asked if name == "model.safetensors"]
    assert ranges == ["", "bytes=20000-", "bytes=40000-", "bytes=60000-"]


@pytest.mark.parametrize("at", [0, 1, 3, 30_000, TOTAL - 1])
def test_a_job_stops_at_any_byte_and_goes_on_there(hub: Hub, tmp_path: Path, at: int) -> None:
    """Between files and within one. Nothing that has come is asked for again."""
    with pytest.raises(StopError):
        fetch(hub, tmp_path, progress=Stopping(at))
    left = {name: (tmp_path / name).stat().st_size for name in inside(tmp_path)}
    have = {name.partition("/")[2]: size for name, size in left.items()}
    assert sum(have.values()) >= at
    hub.asked.clear()
    found = fetch(hub, tmp_path)
    assert {name: (found.folder / name).read_bytes() for name in TAKEN} == {
        name: FILES[name] for name in TAKEN
    }
    for name, wanted, _ in hub.asked:
        assert wanted == (f"bytes={have[name]}-" if have.get(name) else "")
        assert name not in have or have[name] < len(FILES[name])


def test_a_branch_that_moved_while_a_job_paused_gives_one_commit(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        fetch(hub, tmp_path, progress=Stopping(30_000))
    hub.branches["main"] = OTHER
    hub.files = {"config.json": b"{1}", "model-1.safetensors": WEIGHTS[::-1]}
    found = fetch(hub, tmp_path)
    assert (found.commit, inside(found.folder)) == (OTHER, sorted(hub.files))
    assert inside(tmp_path) == [f"tiny@{OTHER}/{name}" for name in sorted(hub.files)]


def test_too_large_is_said_before_anything_comes(hub: Hub, tmp_path: Path) -> None:
    error = refused(hub, tmp_path, max_bytes=TOTAL - 1)
    assert error.code is Code.TOO_LARGE
    assert f"{TOTAL:,}" in error.message
    assert "max_pull_bytes" in (error.hint or "")
    assert (hub.asked, list(tmp_path.iterdir())) == ([], [])
    fetch(hub, tmp_path, max_bytes=TOTAL)


def test_a_list_that_lies_of_sizes_is_held_to_the_bound(hub: Hub, tmp_path: Path) -> None:
    told = sibling("model.safetensors", WEIGHTS)
    told["lfs"]["size"] = 10
    hub.listed = [sibling("config.json", b"{}"), told]
    assert refused(hub, tmp_path, max_bytes=1000).code is Code.TOO_LARGE
    assert sum((tmp_path / name).stat().st_size for name in inside(tmp_path)) <= 1000


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_another_digest_is_thrown_away(hub: Hub, tmp_path: Path, name: str) -> None:
    """By the SHA-256 of those in LFS, by git's own digest of others; of the same length."""
    hub.listed = [sibling(path, content) for path, content in FILES.items()]
    hub.files[name] = bytes(len(FILES[name]))
    error = refused(hub, tmp_path)
    assert (error.code, "was announced" in error.message) == (Code.INVALID_DATA, True)
    assert not any(path.endswith(f"/{name}") for path in inside(tmp_path) if "1_" not in path)


def test_what_lay_there_is_checked_too(hub: Hub, tmp_path: Path) -> None:
    found = fetch(hub, tmp_path)
    (found.folder / "config.json").write_bytes(b"[]")
    assert refused(hub, tmp_path).code is Code.INVALID_DATA
    assert (fetch(hub, tmp_path).folder / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "name", ["../x.json", "/etc/x.json", "a/../../x.json", "a//x.json", "./x.json", "..\\x.json"]
)
def test_names_that_leave_the_folder_are_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.listed = [sibling("config.json", b"{}"), sibling(name, b"{}")]
    error = refused(hub, tmp_path / "in")
    assert (error.code, "outside" in error.message) == (Code.INVALID_DATA, True)
    assert (hub.asked, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "changes", [{"size": None}, {"size": -1}, {"blobId": None}, {"blobId": "../../x"}]
)
def test_a_list_that_tells_too_little_is_refused(
    hub: Hub, tmp_path: Path, changes: dict[str, Any]
) -> None:
    hub.listed = [sibling("config.json", b"{}") | changes]
    assert refused(hub, tmp_path).code is Code.UNAVAILABLE
    assert hub.asked == []


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"id": "x"}', b'{"id": 1, "siblings": 2}'])
def test_an_answer_that_makes_no_sense(hub: Hub, tmp_path: Path, answer: bytes) -> None:
    hub.answer = answer
    assert refused(hub, tmp_path).code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        ((401, "GatedRepo"), Code.FORBIDDEN),
        ((403, "GatedRepo"), Code.FORBIDDEN),
        ((401, ""), Code.FORBIDDEN),
        ((403, ""), Code.FORBIDDEN),
        ((401, "RepoNotFound"), Code.NOT_FOUND),  # so for what is private, too
        ((404, "RepoNotFound"), Code.NOT_FOUND),
        ((404, ""), Code.NOT_FOUND),
        ((503, ""), Code.UNAVAILABLE),
        ((429, ""), Code.UNAVAILABLE),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: Hub, tmp_path: Path, refusal: tuple[int, str], code: Code
) -> None:
    hub.list_refusal = refusal
    error = refused(hub, tmp_path)
    assert error.code is code
    if code in (Code.FORBIDDEN, Code.NOT_FOUND):
        assert "'owner/tiny'" in error.message
        assert "HF_TOKEN" in (error.hint or "")


def test_a_busy_hub_is_asked_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is; files are as every download. Whoever stops the job need not wait for it."""
    monkeypatch.setattr(downloading, "WAIT_S", (1.0, 2.0, 3.0, 4.0))
    waited: list[float] = []

    def wait(wait_s: float, often: Callable[[], None]) -> None:
        waited.append(wait_s)
        often()
        hub.list_refusal = None if len(waited) == 3 else (429, "")

    monkeypatch.setattr(hubs, "wait", wait)
    hub.list_refusal = (503, "")
    assert inside(fetch(hub, tmp_path).folder) == TAKEN
    assert waited == [1.0, 2.0, 3.0]
    hub.list_refusal = (429, "")
    with pytest.raises(StopError):
        fetch(hub, tmp_path, progress=Stopping(0))
    assert len(waited) == 4


def test_a_gated_repository_may_be_listed_but_not_read(hub: Hub, tmp_path: Path) -> None:
    for status in (401, 403):
        hub.file_refusal = (status, "GatedRepo")
        error = refused(hub, tmp_path)
        assert error.code is Code.FORBIDDEN
        assert "restricted" in error.message
        assert "HF_TOKEN" in (error.hint or "")


def test_what_is_not_there_is_said(hub: Hub, tmp_path: Path) -> None:
    for reference, what in (("owner/none", "repository"), ("owner/tiny@v9", "revision")):
        error = refused(hub, tmp_path, reference)
        assert error.code is Code.NOT_FOUND
        assert f"no {what} '{reference}'" in error.message
    error = refused(hub, tmp_path, patterns=("m.Q2.gguf",))
    assert (error.code, "m.Q2.gguf" in error.message) == (Code.NOT_FOUND, True)
    assert refused(hub, tmp_path, "owner/a--b").code is Code.INVALID_FIELD
    assert refused(hub, tmp_path, endpoint="http://127.0.0.1:1").code is Code.UNAVAILABLE
    del hub.files["config.json"]
    hub.listed = [sibling("config.json", b"{}")]
    assert refused(hub, tmp_path).code is Code.NOT_FOUND


def test_the_token_goes_to_the_hub_alone(hub: Hub, tmp_path: Path) -> None:
    """Its large files lie on another host, which a redirect leads to."""
    with serving() as cdn:
        cdn.files, hub.cdn = hub.files, cdn.url
        found = fetch(hub, tmp_path)
    assert (found.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {token for _, token in hub.lists_asked} == {"Bearer hf_secret"}
    assert {token for _, _, token in hub.asked} == {"Bearer hf_secret"}
    assert sorted(cdn.names) == ["model.safetensors", "openvino_model.bin"]
    assert {token for _, _, token in cdn.asked} == {""}


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "apache-2.0"}, "apache-2.0"),
        ({"license": "other", "license_name": "llama3"}, "llama3"),
        ({"license": "other"}, "other"),
        ({"license": ["mit", "cc-by-4.0"]}, "mit, cc-by-4.0"),
        ({"license": 7}, ""),
        ({"language": "en"}, ""),
        ({}, ""),
    ],
)
def test_the_licence_is_the_cards(
    hub: Hub, tmp_path: Path, card: dict[str, Any], licence: str
) -> None:
    hub.card = card
    assert fetch(hub, tmp_path, patterns=("m.Q4.gguf",)).licence == licence


def test_digests_are_gits(tmp_path: Path) -> None:
    """Of a known file: the blob that git makes of it."""
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    assert hubs.blob_digest_of(path) == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert blob_digest(b"hello\n") == hubs.blob_digest_of(path)


CALL = """
import json, sys
from pathlib import Path
from meuse.convert import hub
from meuse.core.errors import MeuseError
try:
    found = hub.fetch("owner/tiny", Path(sys.argv[1]), max_bytes=1 << 20)
    print(json.dumps(sorted(p.name for p in found.folder.iterdir())))
except MeuseError as error:
    print(json.dumps(error.to_dict()))
"""


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_environment_names_the_hub(hub: Hub, tmp_path: Path, offline: str) -> None:
    """In a process of its own, for it is read once; what comes is an importer's."""
    told = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": offline}
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(tmp_path / "out")],
        env=dict(os.environ) | told, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    if offline == "0":
        assert found == ["1_Pooling", "config.json", "merges.txt", "model.safetensors"]
    else:
        assert (found["code"], found["field"]) == ("unavailable", "source")
