"""Runs a load client against a server and gives its figures with the server's CPU time.

wrk and h2load (Debian: wrk, nghttp2-client) saturate; where one is absent the Python client
takes its place, which `saturator()` says. A run in which a request failed raises `LoadError`: its
figure would mean nothing.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bodies import Model, Request, read
from histogram import Histogram
from processes import Group

HERE = Path(__file__).parent
Figures = dict[str, Any]


class LoadError(Exception):
    """Requests failed, or were answered wrongly."""


def saturator() -> dict[str, str]:
    return {
        "http": "wrk, 1 thread" if shutil.which("wrk") else "load.py (wrk is absent)",
        "grpc": "h2load, 1 thread" if shutil.which("h2load") else "grpcload.py (h2load is absent)",
    }


def once(
    port: int,
    request: Request,
    model: Model,
    deadline_s: float,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Ask until it answers, then check the answer against the engine's. Raises LoadError."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            link.request("POST", request.path, request.body, dict(request.headers))
            response = link.getresponse()
            body, code = response.read(), response.status
            if code == 200:
                break
            problem = f"HTTP {code}: {body[:300]!r}"
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
        finally:
            link.close()
        if time.monotonic() > deadline or not alive():
            raise LoadError(problem)
        time.sleep(0.1)
    headers = {name.lower(): value for name, value in response.getheaders()}
    got = read(request, body, headers, model)
    if got.shape != model.expected.shape or not np.allclose(got, model.expected, atol=1e-4):
        raise LoadError(f"a wrong answer: {body[:200]!r}")


def wire(request: Request) -> str:
    """The request as bytes on an HTTP/1.1 connection, in base64."""
    headers = {"host": "bench", **request.headers, "content-length": str(len(request.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    whole = f"POST {request.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body
    return base64.b64encode(whole).decode()


def _script(name: str, options: Figures) -> Figures:
    done = subprocess.run(
        [sys.executable, str(HERE / name)],
        input=json.dumps(options),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LoadError(f"{name} failed: {done.stderr[-500:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def _checked(figures: Figures) -> Figures:
    if figures["errors"] or not figures["requests"]:
        raise LoadError(f"{figures['errors']} of {figures['requests']} requests failed")
    return figures


def _with_cpu(group: Group, measure: Callable[[], Figures]) -> Figures:
    before = group.cpu_seconds()
    figures = measure()
    spent = group.cpu_seconds() - before
    figures["cpu_s_per_1000"] = spent * 1000 / max(figures["requests"], 1)
    return figures


def saturate(
    port: int, request: Request, group: Group, seconds: float, connections: int = 32
) -> Figures:
    """Closed loop: rate, p50, p95, p99 and the server's CPU seconds for 1,000 requests."""
    if shutil.which("wrk"):
        return _with_cpu(group, lambda: _checked(_wrk(port, request, connections, seconds)))
    return closed(port, request, group, seconds, connections)


def closed(
    port: int, request: Request, group: Group, seconds: float, connections: int = 1
) -> Figures:
    options = {
        **{"port": port, "request": wire(request)},
        **{"connections": connections, "seconds": seconds},
    }
    return _with_cpu(group, lambda: _checked(_script("load.py", options)))


_LUA = """
local file = io.open(%s, "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
%s
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %%d %%d %%d %%d %%d %%d\\n", summary.requests,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


def _wrk(port: int, request: Request, connections: int, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as name:
        body, script = Path(name) / "body", Path(name) / "load.lua"
        body.write_bytes(request.body)
        headers = "\n".join(
            f"wrk.headers[{json.dumps(key)}] = {json.dumps(value)}"
            for key, value in request.headers.items()
        )
        script.write_text(_LUA % (json.dumps(str(body)), headers))
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s"),
                *("--timeout", "30s", "-s", str(script)),
                f"http://127.0.0.1:{port}{request.path}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise LoadError(f"wrk said: {done.stdout[-300:]}{done.stderr[-300:]}")
    count, us, errors, p50, p95, p99 = map(int, found.groups())
    return {
        **{"rate": count / us * 1e6, "requests": count, "errors": errors},
        **{"p50_us": float(p50), "p95_us": float(p95), "p99_us": float(p99)},
    }


def grpc(
    port: int,
    message: bytes,
    headers: Sequence[tuple[str, str]],
    group: Group,
    seconds: float,
    channels: int = 8,
    streams: int = 4,
) -> Figures:
    """`ModelInfer` over `channels` connections with `streams` calls in flight on each."""
    answer = _grpc_once(port, message, headers)
    options = {
        **{"port": port, "message": base64.b64encode(message).decode(), "headers": list(headers)},
        **{"channels": channels, "streams": streams, "seconds": seconds},
    }
    if shutil.which("h2load"):
        return _with_cpu(group, lambda: _checked(_h2load(options, message, answer)))
    return _with_cpu(group, lambda: _checked(_script("grpcload.py", options)))


def _grpc_once(port: int, message: bytes, headers: Sequence[tuple[str, str]]) -> bytes:
    from grpc import insecure_channel
    from grpcload import METHOD

    with insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(METHOD)
        answer: bytes = call(message, metadata=list(headers), timeout=10.0)
    return answer


def _h2load(options: Figures, message: bytes, answer: bytes) -> Figures:
    """h2load with a gRPC frame as body. It does not read `grpc-status`, but an error has no
    message: fewer bytes of data than answers of the known size mean that calls failed."""
    from grpcload import METHOD

    seconds = max(round(options["seconds"]), 1)
    with tempfile.TemporaryDirectory(prefix="bench-h2-") as name:
        body, log = Path(name) / "body", Path(name) / "log"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        headers = [("content-type", "application/grpc"), ("te", "trailers"), *options["headers"]]
        done = subprocess.run(
            [
                *("h2load", "-t1", f"-c{options['channels']}", f"-m{options['streams']}"),
                *("-D", str(seconds), "-d", str(body), f"--log-file={log}"),
                *(part for key, value in headers for part in ("-H", f"{key}: {value}")),
                f"http://127.0.0.1:{options['port']}{METHOD}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LoadError(f"h2load said: {done.stdout[-300:]}{done.stderr[-300:]}")
        taken = sorted(int(line.rsplit("\t", 1)[1]) for line in log.read_text().splitlines())
    succeeded = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    data = re.search(r"\((\d+)\) data", done.stdout)
    if succeeded is None or data is None:
        raise LoadError(f"h2load said: {done.stdout[-500:]}")
    count, failed, errored = map(int, succeeded.groups())
    # An answer's size may vary by a byte or two (an id); an error has no message at all.
    missing = count - int(data.group(1)) / (len(answer) + 5)
    return {
        "rate": count / seconds,
        "requests": count,
        "errors": failed + errored + (round(missing) if missing > count * 0.02 + 64 else 0),
        "p50_us": float(taken[len(taken) // 2]) if taken else None,
        "p95_us": float(taken[len(taken) * 95 // 100]) if taken else None,
        "p99_us": float(taken[len(taken) * 99 // 100]) if taken else None,
    }


PER_PROCESS = 8_000.0
"""Requests a second that one open-loop process is asked for at most."""


class OpenLoop:
    """One open-loop run in the background; `figures()` waits for its end."""

    def __init__(
        self,
        port: int,
        request: Request,
        rate: float,
        seconds: float,
        *,
        poisson: bool = True,
        connections: int = 256,
        timeout_s: float = 10.0,
        objective_s: float | None = None,
    ) -> None:
        count = max(1, -int(-rate // PER_PROCESS))
        self.rate, self.seconds, self.count = rate, seconds, count
        self._runs = []
        for seed in range(count):
            options = {
                **{"port": port, "request": wire(request), "rate": rate / count},
                **{"seconds": seconds, "poisson": poisson, "seed": seed},
                **{"connections": max(connections // count, 1), "timeout_s": timeout_s},
                "objective_s": objective_s,
            }
            process = subprocess.Popen(
                [sys.executable, str(HERE / "openloop.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(options))
            process.stdin.close()
            self._runs.append(process)

    def figures(self) -> Figures:
        """Statuses, goodput (200s within the objective, per second) and percentiles."""
        parts = []
        for process in self._runs:
            assert process.stdout is not None
            with process.stdout:
                text = process.stdout.read()
            if process.wait():
                raise LoadError("the open-loop client failed")
            parts.append(json.loads(text))
        good = Histogram().update(Histogram(p["good"]) for p in parts)
        lag = Histogram().update(Histogram(p["lag"]) for p in parts)
        statuses: dict[str, int] = {}
        for part in parts:
            for code, count in part["statuses"].items():
                statuses[code] = statuses.get(code, 0) + count
        return {
            "offered": self.rate,
            "processes": self.count,
            "requests": sum(statuses.values()),
            "statuses": statuses,
            "answered": len(good) / self.seconds,
            "goodput": sum(p["in_time"] for p in parts) / self.seconds,
            **{
                f"p{str(p).replace('.', '')}_us": good.percentile_us(p)
                for p in (50, 90, 95, 99, 99.9, 100)
            },
            "lag_p99_us": lag.percentile_us(99),
        }


def open_loop(port: int, request: Request, group: Group, rate: float, seconds: float) -> Figures:
    return _with_cpu(group, lambda: OpenLoop(port, request, rate, seconds).figures())
