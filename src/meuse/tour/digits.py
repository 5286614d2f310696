"""The main job on real handwritten digits: from data to an invoice."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc

from meuse.client import Client
from meuse.core.errors import Code, MeuseError
from meuse.gateway.wire import inference_pb2 as wire
from meuse.gateway.wire import inference_pb2_grpc as wire_grpc
from meuse.tour.stage import Stage

SINGLES = 200
CUSTOMER = "acme"
PRICES = [
    {"meter": "rows", "model": "*", "per": 1000, "amount": "0.50"},
    {"meter": "prompt_tokens", "model": "*", "per": 1_000_000, "amount": "100"},
    {"meter": "cached_tokens", "model": "*", "per": 1_000_000, "amount": "50"},
    {"meter": "completion_tokens", "model": "*", "per": 1_000_000, "amount": "400"},
]


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


def upload(stage: Stage) -> tuple[list[list[float]], list[int]]:
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
    path = stage.folder / "digits.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p{i}" for i in range(64)), "digit"])
        writer.writerows([*map(int, row), label] for row, label in zip(rows, labels, strict=True))
    made = stage.client.upload("digits", path)
    stage.say("data", f"{made['ref']}: {made['rows']} rows, {len(made['columns'])} columns")
    return rows, labels


def make_versions(stage: Stage, figures: Figures) -> str:
    """Train, compress under the gate, name the child champion; its reference."""
    client = stage.client
    job = client.train("digits", "digits", optimizer="adam", epochs=30)
    trained = stage.wait(job)["result"]
    accuracy = trained["metrics"]["test_accuracy"]
    stage.say("train", f"{trained['model']}: test accuracy {accuracy:.4f}")
    job = client.compress(trained["model"], goal={"max_drop": 0.01})
    compressed = stage.wait(job)["result"]
    report = compressed["report"]
    figures.before, figures.after = report["before"], report["after"]
    figures.metric = report["metric_name"]
    stage.say(
        "compress",
        f"{compressed['model']}: {report['method']}, "
        f"{figures.before['bytes']} → {figures.after['bytes']} bytes, "
        f"{figures.metric} fell by {max(0.0, report['drop']):.4f} (gate: at most 0.01)",
    )
    name, _, number = compressed["model"].partition(":")
    client.set_alias(name, "champion", int(number))
    return str(compressed["model"])


def open_for_business(stage: Stage, child: str) -> str:
    """A price list, a customer with a key, and a deployment that the customer may call."""
    client = stage.client
    client.put_plan("pay-as-you-go", "EUR", PRICES)
    client.put_tenant(CUSTOMER, "pay-as-you-go")
    key = client.make_key("acme-app", ["infer"], tenant=CUSTOMER)["key"]
    client.deploy("digits", "digits@champion", access={"tenants": [CUSTOMER]})
    state = client.wait_ready("digits")
    stage.say("deploy", f"digits: {state['status']}, {child} behind {state['endpoints'][0]}")
    return str(key)


def call(
    stage: Stage,
    key: str,
    rows: Sequence[Sequence[float]],
    labels: Sequence[int],
    figures: Figures,
) -> None:
    """As the customer: single rows and all rows over REST, Open Inference v2 and gRPC."""
    model = "default/digits"
    right = 0
    with Client(stage.url, key) as customer:
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
    with grpc.insecure_channel(stage.grpc_address) as channel:
        request = wire.ModelInferRequest(model_name=model)
        field_ = request.inputs.add(name="input", datatype="FP32", shape=[10, 64])
        field_.contents.fp32_contents.extend(value for row in rows[:10] for value in row)
        wire_grpc.GRPCInferenceServiceStub(channel).ModelInfer(  # type: ignore[no-untyped-call]
            request, metadata=[("authorization", f"Bearer {key}")], timeout=10.0
        )
    figures.requests += 2
    figures.rows_sent += 11
    stage.say(
        "predict", f"{figures.requests} requests, {figures.rows_sent} rows over REST and gRPC"
    )


def settle(stage: Stage, figures: Figures) -> None:
    """Read the meter and make the customer's invoice for this month."""
    client = stage.client
    usage = client.usage(tenant=CUSTOMER, by="meter", fresh=True)
    figures.rows_metered = next(r["quantity"] for r in usage["rows"] if r["meter"] == "rows")
    figures.invoice = client.invoice(CUSTOMER, datetime.now(UTC).strftime("%Y-%m"))
    if figures.rows_metered != figures.rows_sent:
        raise MeuseError(
            Code.INTERNAL, f"{figures.rows_sent} rows sent, {figures.rows_metered} metered"
        )
    total = f"{figures.invoice['total']} {figures.invoice['currency']}"
    stage.say("bill", f"{figures.rows_metered} rows metered, {total} for {CUSTOMER}")
