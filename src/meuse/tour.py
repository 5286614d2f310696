"""`meuse demo`: the main job on real handwritten digits, on a platform of its own.

Every step is a call of the public HTTP or gRPC API, as any user would make it. Starts the
platform in a fresh home on free loopback ports and stops it at the end.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from meuse.client import Client
from meuse.core.errors import Code, MeuseError
from meuse.gateway.wire import inference_pb2 as wire
from meuse.gateway.wire import inference_pb2_grpc as wire_grpc

START_S = 60.0
STOP_S = 30.0
SINGLES = 200
CUSTOMER = "acme"


@dataclass(slots=True)
class Figures:
    """What the closing table shows."""

    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    served_accuracy: float = 0.0
    requests: int = 0
    rows_sent: int = 0
    rows_metered: int = 0
    invoice: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def demo(as_json: bool = False) -> None:
    """Run the tour; raises what a step raises, after stopping the platform."""
    console = Console(stderr=as_json)
    started = time.monotonic()
    figures = Figures()
    with (
        tempfile.TemporaryDirectory(prefix="meuse-demo-") as folder,
        _bar(console) as bar,
        running(Path(folder) / "home") as (url, grpc_address, admin_key),
        Client(url, admin_key) as client,
    ):
        console.print(f"[dim]a fresh platform listens on {url} and grpc://{grpc_address}[/dim]")
        rows, labels = upload(client, Path(folder), console)
        child = make_versions(client, bar, console, figures)
        customer_key = open_for_business(client, child, console)
        call(url, grpc_address, customer_key, rows, labels, console, figures)
        settle(client, console, figures)
    figures.seconds = time.monotonic() - started
    if as_json:
        sys.stdout.write(json.dumps(_summary(figures), indent=1) + "\n")
    else:
        console.print(closing_table(figures))


@contextlib.contextmanager
def running(home: Path) -> Iterator[tuple[str, str, str]]:
    """A platform in `home`: (HTTP URL, gRPC address, administrator key), stopped at the end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    log = home.parent / "up.log"
    with log.open("wb") as output:
        options = ["--home", str(home), "--http-port", "0", "--grpc-port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "meuse.app", "up", *options],
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        what = _started(process, home, log)
        address = f"{what['host']}:{what['http_port']}"
        key = (home / "admin.key").read_text().strip()
        yield f"http://{address}", f"{what['host']}:{what['grpc_port']}", key
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _started(process: subprocess.Popen[bytes], home: Path, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ValueError, MeuseError):
            what: dict[str, Any] = json.loads((home / "run.json").read_text())
            key = (home / "admin.key").read_text().strip()
            with Client(f"http://{what['host']}:{what['http_port']}", key) as client:
                client.models()
                client.usage()
            return what
        time.sleep(0.1)
    tail = "\n".join(
        f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
        for path in (log, *sorted((home / "logs").glob("*.log")))
    )
    raise MeuseError(Code.UNAVAILABLE, f"the platform did not start\n{tail}")


def upload(client: Client, folder: Path, console: Console) -> tuple[list[list[float]], list[int]]:
    """Write scikit-learn's digits as CSV and upload it; the rows and labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MeuseError(
            Code.UNAVAILABLE, "the demo needs scikit-learn", hint="pip install 'meuse[demo]'"
        ) from None

    digits = load_digits()
    rows: list[list[float]] = digits.data.tolist()
    labels: list[int] = digits.target.tolist()
    path = folder / "digits.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p{i}" for i in range(64)), "digit"])
        writer.writerows([*map(int, row), label] for row, label in zip(rows, labels, strict=True))
    made = client.upload("digits", path)
    console.print(f"data      {made['ref']}: {made['rows']} rows, {len(made['columns'])} columns")
    return rows, labels


def make_versions(client: Client, bar: Progress, console: Console, figures: Figures) -> str:
    """Train, compress under the gate, name the child champion; its reference."""
    job = client.train("digits", "digits", optimizer="adam", epochs=30)
    trained = _wait(client, bar, job)["result"]
    accuracy = trained["metrics"]["test_accuracy"]
    console.print(f"train     {trained['model']}: test accuracy {accuracy:.4f}")
    job = client.compress(trained["model"], goal={"max_drop": 0.01})
    compressed = _wait(client, bar, job)["result"]
    report = compressed["report"]
    figures.before, figures.after = report["before"], report["after"]
    figures.metric = report["metric_name"]
    console.print(
        f"compress  {compressed['model']}: {report['method']}, "
        f"{figures.before['bytes']} → {figures.after['bytes']} bytes, "
        f"{figures.metric} fell by {max(0.0, report['drop']):.4f} (gate: at most 0.01)"
    )
    name, _, number = compressed["model"].partition(":")
    client.set_alias(name, "champion", int(number))
    return str(compressed["model"])


def open_for_business(client: Client, child: str, console: Console) -> str:
    """A price list, a customer with a key, and a deployment that the customer may call."""
    client.put_plan(
        "pay-as-you-go", "EUR", [{"meter": "rows", "model": "*", "per": 1000, "amount": "0.50"}]
    )
    client.put_tenant(CUSTOMER, "pay-as-you-go")
    key = client.make_key("acme-app", ["infer"], tenant=CUSTOMER)["key"]
    client.deploy("digits", "digits@champion", access={"tenants": [CUSTOMER]})
    state = client.wait_ready("digits")
    console.print(f"deploy    digits: {state['status']}, {child} behind {state['endpoints'][0]}")
    return str(key)


def call(
    url: str,
    grpc_address: str,
    key: str,
    rows: Sequence[Sequence[float]],
    labels: Sequence[int],
    console: Console,
    figures: Figures,
) -> None:
    """As the customer: single rows and all rows over REST, Open Inference v2 and gRPC."""
    model = "default/digits"
    right = 0
    with Client(url, key) as customer:
        for row, label in zip(rows[:SINGLES], labels[:SINGLES], strict=True):
            answer = customer.predict([row], model)
            right += answer["output_data"][0] == label
            figures.requests += 1
            figures.rows_sent += 1
        for start in range(0, len(rows), 100):
            some, wanted = rows[start : start + 100], labels[start : start + 100]
            answer = customer.predict(some, model)
            right += sum(a == b for a, b in zip(answer["output_data"], wanted, strict=True))
            figures.requests += 1
            figures.rows_sent += len(some)
        figures.served_accuracy = right / figures.rows_sent
        tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": list(rows[0])}
        customer.call("POST", f"/v2/models/{model}/infer", json={"inputs": [tensor]})
    with grpc.insecure_channel(grpc_address) as channel:
        request = wire.ModelInferRequest(model_name=model)
        field_ = request.inputs.add(name="input", datatype="FP32", shape=[10, 64])
        field_.contents.fp32_contents.extend(value for row in rows[:10] for value in row)
        wire_grpc.GRPCInferenceServiceStub(channel).ModelInfer(  # type: ignore[no-untyped-call]
            request, metadata=[("authorization", f"Bearer {key}")], timeout=10.0
        )
    figures.requests += 2
    figures.rows_sent += 11
    console.print(
        f"predict   {figures.requests} requests, {figures.rows_sent} rows over REST and gRPC"
    )


def settle(client: Client, console: Console, figures: Figures) -> None:
    """Read the meter and make the customer's invoice for this month."""
    usage = client.usage(tenant=CUSTOMER, by="meter", fresh=True)
    figures.rows_metered = next(r["quantity"] for r in usage["rows"] if r["meter"] == "rows")
    figures.invoice = client.invoice(CUSTOMER, datetime.now(UTC).strftime("%Y-%m"))
    if figures.rows_metered != figures.rows_sent:
        raise MeuseError(
            Code.INTERNAL, f"{figures.rows_sent} rows sent, {figures.rows_metered} metered"
        )
    total = f"{figures.invoice['total']} {figures.invoice['currency']}"
    console.print(f"bill      {figures.rows_metered} rows metered, {total} for {CUSTOMER}")


def closing_table(figures: Figures) -> Table:
    table = Table(title=f"The main job, {figures.seconds:.0f} s")
    for heading in ("", "before", "after compression"):
        table.add_column(heading, justify="left" if not heading else "right")
    before, after = figures.before, figures.after
    table.add_row(f"test {figures.metric}", f"{before['metric']:.4f}", f"{after['metric']:.4f}")
    table.add_row("size", f"{before['bytes']:,} bytes", f"{after['bytes']:,} bytes")
    table.add_row("latency p50, engine", f"{before['p50_ms']:.4f} ms", f"{after['p50_ms']:.4f} ms")
    table.add_section()
    table.add_row("requests", "", f"{figures.requests:,}")
    table.add_row("rows metered", "", f"{figures.rows_metered:,}")
    total, currency = figures.invoice["total"], figures.invoice["currency"]
    table.add_row("invoice total", "", f"{total} {currency} ({figures.invoice['status']})")
    return table


def _summary(figures: Figures) -> dict[str, Any]:
    return {name: getattr(figures, name) for name in Figures.__slots__}


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, console=console, transient=True)


def _wait(client: Client, bar: Progress, job: dict[str, Any]) -> dict[str, Any]:
    line = bar.add_task(job["kind"], total=1.0)
    try:
        return client.wait(
            job["id"],
            lambda j: bar.update(
                line, completed=j["progress"], description=f"{j['kind']:9} {j['status']}"
            ),
        )
    finally:
        bar.remove_task(line)
