"""Code of a user's own in the sandbox: it trains, and what it should not do it cannot."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meuse.core.errors import MeuseError
from meuse.core.ports import Paused
from meuse.runtime import sandbox
from meuse.runtime.sandbox import tiers
from meuse.train.custom import FOLDER, Allowed, Custom, Network, fit
from meuse.train.options import LoopOptions
from train.test_gbdt import WINE, Job

pytestmark = pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)

BUILD = """
from torch import nn
from parts import widths

def build(shape, outputs, config):
    return nn.Sequential(nn.BatchNorm1d(shape[0]), nn.Linear(shape[0], widths[0]), nn.ReLU(),
                         nn.Linear(widths[0], outputs))
"""
TRAIN = """
import numpy as np, torch
from torch import nn

def train(data_dir, out_dir, config):
    data = np.load(data_dir + "/data.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    network = nn.Sequential(nn.BatchNorm1d(x.shape[1]), nn.Linear(x.shape[1], 3))
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for step in range(config["steps"]):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
    print("my loss", float(loss))
    return network
"""
LOOP = LoopOptions(epochs=20, learning_rate=0.01)


class Here(Job):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def paused(self) -> bool:
        return False


class Pausing(Here):
    """Asks for a pause once the third epoch was told."""

    def paused(self) -> bool:
        return len(self.figures) >= 3


def run(
    tmp_path: Path,
    files: dict[str, str],
    kind: type[Here] = Here,
    loop: LoopOptions = LOOP,
    **config: Any,
) -> tuple[Network, Here]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    (tmp_path / "zip").write_bytes(buffer.getvalue())
    job = kind(tmp_path)
    settings = Custom(code="0" * 64, **{"memory_mib": 2048, "wall_s": 60.0, **config})
    try:
        allowed = Allowed(1, 600.0)
        return fit(job, WINE, settings, code=tmp_path / "zip", loop=loop, allowed=allowed), job
    finally:
        print("\n".join(job.lines))


def accuracy(network: Network) -> float:
    scores = network.predict(WINE.validation_x)
    return float((scores.argmax(axis=1) == WINE.validation_y).mean())


@pytest.mark.parametrize("tier", [2, 1])
def test_a_built_network_is_trained_by_the_loop(
    tmp_path: Path, tier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tier in sandbox.survey().refused:
        pytest.skip(sandbox.survey().refused[tier])
    monkeypatch.setattr(tiers, "good_enough", lambda least: tier)
    network, job = run(tmp_path, {"model.py": BUILD, "parts.py": "widths = [32]"})
    assert accuracy(network) > 0.9
    assert network.tier == tier
    assert f"tier {sandbox.survey().tier}" in job.lines[0]
    assert len(job.figures) >= 20
    assert job.fractions == sorted(job.fractions)
    assert network.graph().graph.input[0].name == "features"


def test_a_training_of_its_own(tmp_path: Path) -> None:
    network, job = run(
        tmp_path, {"mine/model.py": TRAIN}, entry="model:train", options={"steps": 200}
    )
    assert accuracy(network) > 0.9
    assert any(line.startswith("my loss") for line in job.lines)


@pytest.mark.parametrize(
    ("code", "told", "hint"),
    [
        ("import socket\ndef build(*_): socket.create_connection(('127.0.0.1', 80), 1)",
         "failed", "no network"),
        ("import os\ndef build(*_):\n while True: os.fork()", "failed|stopped",
         "process|words|longer than|memory"),
        ("def build(*_):\n kept = []\n while True: kept.append(bytearray(1 << 27))",
         "MemoryError|memory", ""),
        ("def build(*_): open('/usr/lib/x', 'w')", "failed", "own folder"),
        ("import time\ndef build(*_): time.sleep(99)", "longer than the 6 s", ""),
        ("def build(*_): return 1", "returned a int", ""),
        ("from torch import nn\ndef build(shape, outputs, _): return nn.Linear(shape[0], 7)",
         r"gives Tensor \[2, 7\]", ""),
        ("x = 1", "no function 'build'", ""),
        ("import nothing_like_it", "no module 'nothing_like_it'", ""),
        ("import os\ndef build(*_):\n os.symlink('/etc/passwd', 'network.onnx')\n"
         " open('outcome.json', 'w').write('{\"result\": {}}')\n os._exit(0)",
         "cannot be taken", ""),
    ],
    ids=["socket", "forks", "memory", "writes", "sleeps", "int", "shape", "entry", "import",
         "forged"],
)  # fmt: skip
def test_what_code_cannot_do(tmp_path: Path, code: str, told: str, hint: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        run(
            tmp_path, {"model.py": code}, wall_s=6.0 if "sleep" in code else 60.0, processes=64,
            memory_mib=1024 if "bytearray" in code else 2048,
        )  # fmt: skip
    assert caught.value.code == "invalid_data"
    assert caught.value.field == "config.code"
    # What it came to stands in the hint, or where a limit ended it in the message.
    said = f"{caught.value.message} {caught.value.hint}"
    assert any(part in said for part in hint.split("|"))


def test_a_pause_reaches_the_loop(tmp_path: Path) -> None:
    """It keeps a checkpoint and stops; nobody has to end it."""
    files = {"model.py": BUILD, "parts.py": "widths = [32]"}
    with pytest.raises(Paused):
        run(tmp_path, files, Pausing, LoopOptions(epochs=10_000), wall_s=110.0)
    assert (tmp_path / FOLDER / "checkpoint.safetensors").exists()
    assert not (tmp_path / FOLDER / "network.onnx").exists()


def test_what_code_left_is_not_followed(tmp_path: Path) -> None:
    """A second attempt writes into the folder of the first: a link to a file of ours stays a
    link, and only what a run goes on from is kept."""
    secret = tmp_path / "secret"
    secret.write_text("ours")
    folder = tmp_path / FOLDER
    (folder / "out").mkdir(parents=True)
    (folder / "out" / "mine").write_text("kept")
    for name in ("code.zip", "data.npz", "order.json", "pause"):
        (folder / name).symlink_to(secret)
    (folder / "network.onnx").mkdir()
    code = TRAIN.replace("print(", "assert open(out_dir + '/mine').read() == 'kept'; print(")
    network, _ = run(tmp_path, {"model.py": code}, entry="model:train", options={"steps": 200})
    assert accuracy(network) > 0.9
    assert secret.read_text() == "ours"


def test_a_module_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"print(1)")
    with pytest.raises(MeuseError, match="neither a zip nor a tar"):
        fit(
            Here(tmp_path), WINE, Custom(code="0" * 64), code=tmp_path / "zip", loop=LOOP,
            allowed=Allowed(),
        )  # fmt: skip
    assert np.isfinite(WINE.x).all()
