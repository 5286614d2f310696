"""Uploads and their jobs through kills and restarts; fetching from a host that is allowed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from faults.rig import Platform, until
from meuse.core.errors import Code, MeuseError

pytestmark = pytest.mark.timeout(300)
ROWS = 250_000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder that a loopback server serves, and its port."""
    folder = tmp_path_factory.mktemp("site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, site: tuple[Path, int]
) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("up4") / "home"
    home.mkdir()
    (home / "meuse.toml").write_text(
        f'data_allowed_hosts = "http://127.0.0.1:{site[1]}@ipv4, http://localhost:{site[1]}"\n'
        "max_dataset_bytes = 60000000\n"
    )
    made = Platform(home)
    try:
        yield made.start()
    finally:
        made.close()


def write(path: Path, rows: int) -> Path:
    with path.open("w") as file:
        file.write("id,x,word,label\n")
        file.writelines(
            f"{i},{i * 0.37 % 11:.6f},word number {i % 977} and {i},{i % 2}\n" for i in range(rows)
        )
    return path


def test_up4_an_upload_goes_on_after_a_restart(platform: Platform, tmp_path: Path) -> None:
    """The supervisor and all processes are killed between two parts; the same call sends the
    rest. Then the job's process is killed as it reads: the version is made all the same."""
    path = write(tmp_path / "words.csv", 2 * ROWS)
    size = path.stat().st_size
    assert size > 17 << 20  # two parts

    class StopError(Exception):
        pass

    def stop_after_one(done: int, total: int) -> None:
        if done:
            raise StopError

    with platform.client() as client, pytest.raises(StopError):
        client.upload_parts("up4-words", path, progress=stop_after_one)
    platform.kill_supervisor()
    until(lambda: not platform.pids(), 60.0)
    platform.start()
    sent: list[int] = []
    with platform.client() as client:
        answer = client.upload_parts(
            "up4-words", path, later=True, progress=lambda done, _: sent.append(done)
        )
        assert sent == [16 << 20, size]
        child = until(lambda: platform.children("job"), 60.0)[0]
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        job = client.wait(answer["id"], timeout_s=120)
        assert (job["result"]["data"], job["result"]["rows"]) == ("up4-words:1", 2 * ROWS)
        seen = client.profile("up4-words", 1, "label")
    assert seen["rows"] == 2 * ROWS
    assert {w["kind"] for w in seen["warnings"]} >= {"identifier"}
    assert not list((platform.home / "uploads").glob("upl-*"))


def test_up4_a_url_of_an_allowed_host_is_fetched(
    platform: Platform, site: tuple[Path, int]
) -> None:
    """By a job with progress; the name of the same address without its family is refused, and
    so are files that are too large or not there: nothing is kept."""
    folder, port = site
    write(folder / "small.csv", 2000)
    (folder / "huge.csv").write_bytes(b"a,b\n" + b"1,2\n" * 15_000_000)
    here = f"http://127.0.0.1:{port}"
    with platform.client() as client:
        job = client.wait(client.fetch_data("up4-url", f"{here}/small.csv?v=1")["id"])
        assert (job["result"]["rows"], job["progress"]) == (2000, 1.0)
        assert job["metrics"]["bytes"] == (folder / "small.csv").stat().st_size
        failed = {
            f"{here}/nothing.csv": Code.UNAVAILABLE,
            f"{here}/huge.csv": Code.TOO_LARGE,
            f"http://localhost:{port}/small.csv": Code.FORBIDDEN,
        }
        for url, code in failed.items():
            answer = client.fetch_data("up4-not", url)
            with pytest.raises(MeuseError) as refusal:
                client.wait(answer["id"])
            assert (refusal.value.code, refusal.value.field) == (code, "url"), url
        with pytest.raises(MeuseError) as refusal:
            client.fetch_data("up4-not", f"http://127.0.0.1:{port + 1}/small.csv")
        assert refusal.value.code is Code.FORBIDDEN
        with pytest.raises(MeuseError) as refusal:
            client.dataset("up4-not")
        assert refusal.value.code is Code.NOT_FOUND
    done = platform.meuse("data", f"{here}/small.csv", "--name", "up4-cli")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("up4-cli:1: 2,000 rows")
