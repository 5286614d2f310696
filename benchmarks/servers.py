"""How each peer is started and spoken to: its command, its settings, its dialect.

Every peer serves one ONNX file with one session of one thread in each of two workers where it
has workers, and with its dynamic batching on where it has that. `SETTINGS` says so in words;
the report prints it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import venvs
from bodies import Model, Request, grpc_message, oip_binary, oip_json, raw, simple
from clients import once
from processes import Group, free_port, started

PEERS = Path(__file__).parent / "peers"
WORKERS = 2
START_S = 120.0

SETTINGS = {
    "meuse": "2 gateway workers, 1 replica process; key, rate limit and meter on",
    "bare": "uvicorn (uvloop, httptools), 2 workers, msgspec; the engine in each worker",
    "fastapi": "uvicorn (uvloop, httptools), 2 workers, pydantic; the engine in each worker",
    "triton": "Python backend, 1 instance, dynamic batching without delay",
    "litserve": "2 API processes, 2 workers, fast queue, batches up to 32 within 1 ms",
    "litserve-unbatched": "the same without batching, which costs more than it gains here",
    "bentoml": "2 workers, adaptive batching up to 32",
    "bentoml-unbatched": "the same without batching",
    "mlserver": "parallel_workers 0 (inference in the server's process), metrics and gzip off",
    "ray": "1 proxy, 2 replicas, serve.batch up to 32 within 1 ms",
}


@dataclass(frozen=True, slots=True)
class Server:
    """One running server: where, and how it takes the model's inputs."""

    name: str
    port: int
    group: Group
    json: Request
    oip: Request | None = None
    binary: Request | None = None
    grpc_port: int | None = None
    grpc: bytes | None = None
    grpc_headers: tuple[tuple[str, str], ...] = ()


Made = tuple[list[str], dict[str, str], int | None]
"""Command, environment and gRPC port."""
Starter = Callable[[venvs.Venv, Model, int, Path], Made]


def _uvicorn(app: str, venv: venvs.Venv, port: int) -> list[str]:
    return [
        *(str(venv.python), "-m", "uvicorn", f"{app}:app", "--app-dir", str(PEERS)),
        *("--port", str(port), "--workers", str(WORKERS), "--loop", "uvloop"),
        *("--http", "httptools", "--no-access-log", "--log-level", "warning"),
        *("--lifespan", "off", "--no-server-header", "--no-date-header"),
    ]


def _bare(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    return _uvicorn("bare", venv, port), {}, None


def _fastapi(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    return _uvicorn("fastapi_app", venv, port), {}, None


def _litserve(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    return [str(venv.python), str(PEERS / "litserve_app.py")], {}, None


def _bentoml(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    command = [
        *(str(venv.python), "-m", "bentoml", "serve", "bentoml_app:Model"),
        *("--working-dir", str(PEERS), "--host", "127.0.0.1", "--port", str(port)),
    ]
    return command, {"BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"}, None


def _mlserver(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    grpc_port = free_port()
    settings = {
        **{"host": "127.0.0.1", "http_port": port, "grpc_port": grpc_port},
        **{"metrics_endpoint": None, "metrics_port": free_port(), "parallel_workers": 0},
        **{"gzip_enabled": False, "debug": False},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(
        json.dumps({"name": model.name, "implementation": "mlserver_runtime.Runtime"})
    )
    return [str(venv.folder / "bin" / "mlserver"), "start", str(folder)], {}, grpc_port


def _ray(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    return [str(venv.python), str(PEERS / "ray_app.py")], environment, None


def _triton(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
    """The server binary of nvidia-pytriton with the stub of this Python beside its backend."""
    package = venv.site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise venvs.AbsentError(f"triton: no backend stub for Python {version}")
    backend = folder / "backends" / "python"
    shutil.copytree(package / "backends" / "python", backend)
    shutil.copy2(stub, backend)
    repository = folder / "models" / model.name
    (repository / "1").mkdir(parents=True)
    shutil.copy(PEERS / "triton_model.py", repository / "1" / "model.py")
    shutil.copy(PEERS / "engine.py", repository / "1")
    (repository / "config.pbtxt").write_text(_triton_config(model))
    grpc_port = free_port()
    command = [
        *(str(package / "bin" / "tritonserver"), "--model-repository", str(folder / "models")),
        *("--backend-directory", str(folder / "backends"), "--http-address", "127.0.0.1"),
        *("--http-port", str(port), "--grpc-address", "127.0.0.1"),
        *("--grpc-port", str(grpc_port), "--allow-metrics", "false", "--log-info", "false"),
    ]
    libraries = f"{venv.site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    environment = {
        "LD_LIBRARY_PATH": libraries,
        "PYTHONPATH": str(venv.site),
        "PATH": f"{venv.folder / 'bin'}:{os.environ['PATH']}",
    }
    return command, environment, grpc_port


def _triton_config(model: Model) -> str:
    def tensor(name: str, datatype: str, shape: tuple[int, ...]) -> str:
        kind = f"TYPE_{datatype}"
        return f'{{ name: "{name}" data_type: {kind} dims: [{", ".join(map(str, shape))}] }}'

    inputs = ", ".join(tensor(n, model.datatypes[n], a.shape[1:]) for n, a in model.inputs.items())
    output = tensor(model.output, "FP32", model.expected.shape[1:])
    return (
        f'name: "{model.name}"\nbackend: "python"\nmax_batch_size: 64\n'
        f"input [{inputs}]\noutput [{output}]\ndynamic_batching {{ }}\n"
        "instance_group [{ count: 1 kind: KIND_CPU }]\n"
    )


def _unbatched(starter: Starter) -> Starter:
    def start(venv: venvs.Venv, model: Model, port: int, folder: Path) -> Made:
        command, environment, grpc_port = starter(venv, model, port, folder)
        return command, {**environment, "BENCH_BATCH": "1"}, grpc_port

    return start


STARTERS: dict[str, Starter] = {
    "bare": _bare,
    "fastapi": _fastapi,
    "triton": _triton,
    "litserve": _litserve,
    "litserve-unbatched": _unbatched(_litserve),
    "bentoml": _bentoml,
    "bentoml-unbatched": _unbatched(_bentoml),
    "mlserver": _mlserver,
    "ray": _ray,
}


def _requests(name: str, model: Model) -> dict[str, Any]:
    infer = f"/v2/models/{model.name}/infer"
    if name == "triton":
        return {**_oip(infer, model), "binary": oip_binary(infer, model)}
    if name == "mlserver":
        return _oip(infer, model)
    if name == "bare" and len(model.inputs) == 1:
        return {"json": simple("/", model), "binary": raw("/binary", model)}
    return {"json": simple("/" if name in ("bare", "ray") else "/predict", model)}


def _oip(infer: str, model: Model) -> dict[str, Any]:
    request = oip_json(infer, model)
    return {"json": request, "oip": request, "grpc": grpc_message(model, model.name)}


@contextlib.contextmanager
def peer(name: str, venv: venvs.Venv, model: Model, folder: Path) -> Iterator[Server]:
    """A peer that answers rightly. Raises AbsentError with the last lines of its log."""
    folder.mkdir(parents=True)
    port = free_port()
    command, environment, grpc_port = STARTERS[name](venv, model, port, folder)
    environment = {
        "PYTHONPATH": str(PEERS),
        "PYTHONWARNINGS": "ignore",
        "BENCH_MODEL": str(model.path),
        "BENCH_PORT": str(port),
        "BENCH_FOLDER": str(folder),
        **environment,
    }
    log = folder / "server.log"
    with started(command, environment, log, folder) as (process, group):
        server = Server(name, port, group, grpc_port=grpc_port, **_requests(name, model))
        try:
            once(port, server.json, model, START_S, lambda: process.poll() is None)
            if server.binary is not None:
                once(port, server.binary, model, 10.0)
        except Exception as error:
            tail = log.read_text(errors="replace")[-600:]
            raise venvs.AbsentError(f"{name} does not serve: {error}\n{tail}") from None
        yield server
