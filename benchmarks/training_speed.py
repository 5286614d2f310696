"""One training of Fashion-MNIST in a process of its own: by the platform's loop, or bare.

The bare loop is what a person writes with torch alone: the same model, data, batches, seeds,
optimizer (with torch's fused kernels) and number of threads, and the accuracy and the loss on
validation after each epoch. The platform's does besides what it always does: it watches for
losses that are no numbers, keeps the best weights, writes checkpoints, and reports to its
parent through a pipe. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from training_data import fashion

from meuse.evaluate.metrics import for_task
from meuse.jobs.child import ChildContext
from meuse.train import recipes
from meuse.train.batches import Arrays, Batches
from meuse.train.loop import run
from meuse.train.machine import Machine
from meuse.train.options import LoopOptions
from meuse.train.seeds import derive

# Recipe: rows, config, options. Long enough to hide what a start costs.
MODELS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "mlp": (30_000, {"hidden": [300, 100], "dropout": 0.2}, {"epochs": 5}),
    "cnn": (8_000, {"widths": [16, 32, 64]}, {"epochs": 3, "schedule": "constant"}),
}
VALIDATION_ROWS = 2_000
SHARED: dict[str, Any] = {"batch_size": 128, "checkpoint_seconds": 10.0}


def build(name: str, options: LoopOptions) -> nn.Module:
    recipe = recipes.find(name)
    torch.manual_seed(derive(options.seed, "weights"))
    network: nn.Module = recipe.builder()((28, 28, 1), 10, recipe.configure(MODELS[name][1]))
    return network


def platform(
    network: nn.Module, train: Arrays, validation: Arrays, options: LoopOptions, events: int
) -> list[float]:
    """The mean training loss of every epoch."""
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        job = ChildContext(Path(folder), events)
        metric = for_task("classification")
        found = run(job, network, train, validation, "classification", options, metric, "bench")
    return [row["train_loss"] for row in found.history]


def bare(
    network: nn.Module, train: Arrays, validation: Arrays, options: LoopOptions, threads: int
) -> list[float]:
    """The same with torch alone."""
    torch.set_num_threads(threads)
    network.adapt(train.x)  # type: ignore[operator]
    x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
    vx, vy = torch.from_numpy(validation.x), torch.from_numpy(validation.y)
    optimizer = _bare_optimizer(network, options)
    losses = []
    for epoch in range(options.epochs):
        torch.manual_seed(derive(options.seed, f"epoch:{epoch}"))
        shuffler = torch.Generator().manual_seed(derive(options.seed, f"order:{epoch}"))
        order = torch.randperm(len(y), generator=shuffler)
        network.train()
        total = 0.0
        for start in range(0, len(y), options.batch_size):
            chosen = order[start : start + options.batch_size]
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[chosen]), y[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(chosen)
        losses.append(total / len(y))
        network.eval()
        with torch.no_grad():
            scores = torch.cat([network(part) for part in torch.split(vx, 512)])
            float((scores.argmax(1) == vy).float().mean())
            float(F.cross_entropy(scores, vy))
    return losses


def _bare_optimizer(network: nn.Module, options: LoopOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=options.rate, fused=True)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=options.rate,
        momentum=options.inertia,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=True,
    )


def main() -> None:
    who, name, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rows, _, given = MODELS[name]
    data = fashion()
    assert data is not None
    train = Arrays(data.train.x[:rows], data.train.y[:rows])
    validation = Arrays(data.validation.x[:VALIDATION_ROWS], data.validation.y[:VALIDATION_ROWS])
    options = recipes.find(name).options({**SHARED, **given})
    network = build(name, options)
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)  # the first of a process is slow
    batches = Batches(train, options.batch_size, options.seed, None, shuffle=True)
    quiet = Machine.choose(network, batches, options, lambda *_, **__: None)
    wall, cpu = time.perf_counter(), time.process_time()
    if who == "platform":
        losses = platform(network, train, validation, options, events)
    else:
        losses = bare(network, train, validation, options, quiet.threads)
    figures = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "losses": losses,
        "threads": quiet.threads,
    }
    os.close(events)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
