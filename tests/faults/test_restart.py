"""Restarts under load: every request is answered, and each answer is metered once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import meuse
from faults.load import FULL, Load
from faults.rig import Platform, until
from faults.rpcload import OK, RpcLoad
from meuse.client import Client

pytestmark = pytest.mark.timeout(300)

HTTP_CLIENTS = 8
GRPC_CLIENTS = 4
PAUSE_S = 0.003  # leaves the processor to what starts
MOST_ROWS = 11


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    client = platform.client()
    client.deploy("points", "reference:1", scale={"min": 2})
    client.wait_ready("points")
    until(lambda: all(child["ready"] for child in platform.run()["processes"].values()), 60.0)
    return client


class Traffic:
    """HTTP and gRPC clients, each with a key of its own."""

    def __init__(self, platform: Platform, client: Client) -> None:
        made = [client.make_key(f"c-{i}", ["infer"]) for i in range(HTTP_CLIENTS + GRPC_CLIENTS)]
        self.ids = [key["id"] for key in made]
        keys = [key["key"] for key in made]
        self.http = Load(platform.port, keys[:HTTP_CLIENTS], "points", MOST_ROWS, PAUSE_S)
        grpc_port = platform.run()["grpc_port"]
        self.grpc = RpcLoad(grpc_port, keys[HTTP_CLIENTS:], "default/points", PAUSE_S)

    @contextmanager
    def flows(self) -> Iterator[None]:
        """Some before, and some after all that happens in the block."""
        with ExitStack() as both:
            both.enter_context(self.http)
            both.enter_context(self.grpc)
            self.more()
            yield
            self.more()

    def more(self) -> None:
        http, grpc = self.http.answered(), self.grpc.answered()
        until(lambda: self.http.answered() > http + 200 and self.grpc.answered() > grpc + 100, 60)

    def assert_whole(self) -> None:
        assert self.http.counts().keys() == {(FULL, 200)}, self.http.counts()
        assert self.grpc.counts().keys() == {OK}, self.grpc.counts()

    def assert_metered(self, platform: Platform, client: Client) -> None:
        """Each client's records are its answers, one for one. Rows tell neighbours apart."""
        answered = [Counter(outcome.rows for outcome in mine) for mine in self.http.outcomes]
        answered += [Counter({1: mine[OK]}) for mine in self.grpc.outcomes]
        client.usage(fresh=True)
        path = f"file:{platform.home / 'money.db'}?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as money:
            for key, expected in zip(self.ids, answered, strict=True):

                def metered(key: str = key) -> Counter[int]:
                    rows = money.execute(
                        "SELECT quantities FROM usage_record WHERE key_id = ?", (key,)
                    )
                    return Counter(json.loads(text)["rows"] for (text,) in rows)

                until(lambda: metered().total() >= expected.total())  # noqa: B023
                assert metered() == expected


def workers(platform: Platform) -> dict[str, int]:
    return {n: pid for n, pid in platform.processes().items() if n.startswith("worker-")}


def test_workers_are_replaced_under_load(platform: Platform, client: Client) -> None:
    """SIGHUP: no request fails, all are metered, every worker is new and all else is as before."""
    before, traffic = platform.processes(), Traffic(platform, client)
    with traffic.flows():
        platform.supervisor.send_signal(signal.SIGHUP)
        until(lambda: platform.run()["restart"]["number"] == 1)
        until(lambda: platform.run()["restart"]["state"] == "done", 90.0)
    traffic.assert_whole()
    traffic.assert_metered(platform, client)
    after = platform.processes()
    assert len(workers(platform)) == 2
    assert not set(workers(platform).values()) & set(before.values())
    others = {n: pid for n, pid in before.items() if not n.startswith("worker-")}
    assert {name: after[name] for name in others} == others
    # Control waits for the new epochs, and for no old one.
    assert client.make_key("after", ["infer"])["published"] is True


def test_the_platform_is_replaced_under_load(platform: Platform, client: Client) -> None:
    """`meuse restart`: no request fails, all are metered, and no process but one is the same."""
    before, run, traffic = platform.processes(), platform.run(), Traffic(platform, client)
    with traffic.flows():
        done = platform.restart()
    traffic.assert_whole()
    traffic.assert_metered(platform, client)
    after, now = platform.processes(), platform.run()
    assert now["pid"] == run["pid"] == platform.supervisor.pid
    assert (now["http_port"], now["grpc_port"]) == (run["http_port"], run["grpc_port"])
    assert now["build"] != run["build"]
    assert not set(after.values()) & set(before.values())
    assert set(done["restarted"]) == after.keys()
    assert len(platform.replicas("default/points")) == 2
    assert client.make_key("later", ["infer"])["published"] is True


def test_a_restart_into_code_that_cannot_start_is_refused(
    platform: Platform, client: Client
) -> None:
    """Settings that the new code would refuse end the restart before anything is touched."""
    before = platform.processes()
    settings = platform.home / "meuse.toml"
    settings.write_text("no_such_setting = 1\n")
    try:
        done = platform.meuse("restart")
    finally:
        settings.unlink()
    assert done.returncode == 1
    assert "the new code cannot start" in done.stderr
    assert "has an unknown setting" in done.stderr
    assert platform.processes() == before
    assert platform.control_answers()
    assert client.models()


def test_drain_and_restart_need_a_platform(tmp_path: Path) -> None:
    """Without one both say so; a run file that a killed one has left does not count."""
    empty = Platform(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"pid": os.getpid(), "processes": {}}))
    (tmp_path / "supervisor.lock").touch()
    for verb in ("drain", "restart"):
        done = empty.meuse(verb)
        assert done.returncode == 1
        assert f"no platform runs from {tmp_path}" in done.stderr


def test_an_older_platform_is_not_signalled(tmp_path: Path) -> None:
    """One that knows no restart would die of the signal: it is refused, with what to do."""
    (tmp_path / "run.json").write_text(json.dumps({"pid": os.getpid(), "processes": {}}))
    with (tmp_path / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Platform(tmp_path).meuse("restart")
    assert done.returncode == 1
    assert "cannot be replaced in place" in done.stderr


def test_an_upgrade(
    make_platform: Callable[[], Platform], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """New code on the disk is what runs after `meuse restart`; code that is broken never is."""
    code = tmp_path / "code"
    source = Path(meuse.__file__).parent
    shutil.copytree(source, code / "meuse", ignore=shutil.ignore_patterns("__pycache__"))
    paths = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    platform = make_platform()
    before = platform.processes()
    assert platform.run()["build"].startswith(f"{meuse.__version__}.")

    worker = code / "meuse" / "app" / "worker.py"
    sound = worker.read_text()
    worker.write_text(f"{sound}\nimport no_such_module\n")
    refused = platform.meuse("restart")
    assert refused.returncode == 1
    assert "the new code cannot start: ModuleNotFoundError" in refused.stderr
    assert platform.processes() == before
    assert platform.control_answers()

    worker.write_text(sound)
    (code / "meuse" / "core" / "version.py").write_text('__version__ = "9.9.9"\n')
    assert platform.restart()["build"].startswith("9.9.9.")
    assert platform.run()["build"].startswith("9.9.9.")
    assert not set(platform.processes().values()) & set(before.values())
    assert platform.control_answers()
    assert platform.stop() == 0
    until(lambda: not platform.pids())
