"""The end of the supervisor: nothing stays behind, and the same home starts again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.conftest import EPOCHS, SPEC
from faults.rig import Platform, until
from meuse.client import Client
from meuse.core.errors import MeuseError

GONE_S = 8.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def platform(make_platform: Callable[[], Platform]) -> Platform:
    """A platform with a deployment "points"."""
    platform = make_platform()
    client = platform.client()
    client.deploy("points", "reference:1")
    client.wait_ready("points")
    platform.restart()  # all of this holds of a supervisor that has taken over, too
    return platform


def start_job(client: Client, model: str) -> dict[str, Any]:
    """A training that is a part done."""
    job = client.train(model, "points", **SPEC)
    until(lambda: client.job(job["id"])["progress"] >= 0.2, 40.0)
    return job


def goes_on(client: Client, job: dict[str, Any]) -> None:
    """The job ends once, without training its first epoch again."""
    model = job["spec"]["model_name"]
    assert client.wait(job["id"], timeout_s=60)["result"]["model"] == f"{model}:1"
    made = client.model(model)["versions"]
    assert [v["artifacts"] for v in made] == [client.version("reference", 1)["artifacts"]]
    events = list(client.events(job["id"]))
    epochs = [data["epoch"] for kind, data in events if kind == "metrics" and "epoch" in data]
    assert epochs.count(1) == 1
    assert epochs[-1] == EPOCHS
    assert [d["status"] for kind, d in events if kind == "status"].count("succeeded") == 1


@pytest.mark.slow
def test_sigterm(platform: Platform) -> None:
    """`meuse up` ended in the middle of a job leaves no process; its home goes on where it was."""
    client = platform.client()
    key = client.make_key("before", ["infer"])["key"]
    job = start_job(client, "terminated")
    sockets = Path(platform.run()["sockets"])
    assert {"control", "ledger"} <= platform.processes().keys()
    assert sum(name.startswith("worker-") for name in platform.processes()) == 2
    assert platform.replicas()
    assert platform.children("job")
    assert platform.stop() == 0
    until(lambda: not platform.pids(), GONE_S)
    assert not sockets.exists()
    assert not (platform.home / "run.json").exists()

    platform.start()
    client = platform.client()
    client.wait_ready("points")
    assert platform.client(key).predict([[0.5] * 8], "points")["model"] == "reference:1"
    goes_on(client, job)


def test_sigkill(platform: Platform, tmp_path: Path) -> None:
    """The supervisor killed takes everything with it, and starts again at once on its ports."""
    platform.restart()
    client = platform.client()
    key = client.make_key("second", ["infer"])["key"]
    job = start_job(client, "killed")
    large = tmp_path / "large.csv"
    large.write_text("a,b,c,d\n" + "1.5,2.25,3.125,4\n" * 3_000_000)  # read in over ten seconds
    refused: list[MeuseError] = []
    upload = threading.Thread(target=lambda: refused.append(upload_fails(client, large)))
    upload.start()
    until(lambda: platform.children("inspect"))
    old, what = platform.pids(), platform.run()
    assert {*platform.children("job"), *platform.replicas().values()} <= set(old)

    stopped = next(iter(platform.replicas().values()))  # goes on when nobody knows it any more
    # The other orphan still holds the port.
    with platform.slow(stopped), platform.slow(platform.pid("worker-0")):
        platform.kill_supervisor()
        platform.spawn(what["http_port"], what["grpc_port"])
        time.sleep(0.7)
        assert platform.supervisor.poll() is None, platform.log.read_text()
    until(lambda: all(platform.is_gone(pid) for pid in old), GONE_S)
    upload.join(GONE_S)
    assert len(refused) == 1
    platform.wait_up()
    assert platform.run()["http_port"] == what["http_port"]
    assert not Path(what["sockets"]).exists()

    # The old client, the old key: callers notice nothing but the pause.
    client.wait_ready("points")
    assert platform.client(key).predict([[0.5] * 8], "points")["model"] == "reference:1"
    goes_on(client, job)
    assert {data["name"] for data in client.datasets()} == {"points"}
    assert list((platform.home / "uploads").iterdir()) == [], "half an upload was kept"


def upload_fails(client: Client, path: Path) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        client.upload("large", path)
    return caught.value
