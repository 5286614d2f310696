"""The report as a person reads it: Markdown tables of the figures in the JSON beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Figures = dict[str, Any]


def page(body: Figures) -> str:
    """The whole page of one report."""
    f, machine = body["figures"], body["machine"]
    parts = [
        f"# Serving, {body['date']}",
        f"Commit {body['commit']}; {machine['processor']}, {machine['cores']} cores, "
        f"Python {machine['python']}. Rate limit {f['limits']}. Load: {f['clients']['http']}; "
        f"{f['clients']['grpc']}; one connection by load.py, fixed rates by openloop.py. "
        f"The run took {f['seconds'] / 60:.1f} minutes; load average before it "
        f"{f['load_before']:.1f}.",
        "## Holds\n\n" + _holds(f["holds"]),
        "## Beside other servers\n\nEach ratio is the median over pairs run right after each "
        "other. CPU is that of all the server's processes. A peer is started for its pairs and "
        "stopped after them; the platform stays up and took "
        f"{f['idle_cpu']:.3f} CPU seconds a second when idle.\n\n" + _peers(f["peers"]),
    ]
    if any(p.get("open") for p in f["peers"].values()):
        parts.append(
            "## Latency at fixed rates\n\nOpen loop, Poisson arrivals, JSON; latency runs from "
            "when a request was due.\n\n" + _open(f["peers"])
        )
    if f.get("cpu_by_process"):
        parts.append("## Where the platform's time goes\n\n" + _where(f))
    if f.get("models"):
        parts.append("## Larger models\n\n" + _models(f["models"]))
    for title, key, write in _SCENARIOS:
        if key in f:
            parts.append(f"## {title}\n\n" + _scenario(f[key], write))
    parts.append("## Settings\n\n" + _settings(f))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def ms(us: float | None) -> str:
    return "-" if us is None else f"{us / 1000:,.2f}"


def _holds(holds: Sequence[Figures]) -> str:
    rows = []
    for hold in holds:
        digits = 0 if hold["unit"] in ("µs", "ms") else 2
        rows.append([hold["what"], hold["hold"], number(hold["measured"], digits), hold["verdict"]])
    return table(("what", "hold", "measured", ""), rows)


_HEAD = ("server", "load", "req/s", "p50 ms", "p99 ms", "CPU s/1,000", "Meuse then", "ratio")


def _peers(peers: Figures) -> str:
    rows: list[list[str]] = []
    for name, peer in peers.items():
        if "absent" in peer:
            rows.append([name, f"absent: {_line(peer['absent'])}", *[""] * 6])
            continue
        rows += [_pair(name, kind, figures) for kind, figures in peer["kinds"].items()]
    return table(_HEAD, rows)


def _pair(name: str, kind: str, figures: Figures) -> list[str]:
    other, meuse = figures["other"], figures["meuse"]
    ours = "-"
    if meuse:
        ours = (
            f"{meuse['rate']:,.0f} req/s, p50 {ms(meuse['p50_us'])} ms, "
            f"CPU {meuse['cpu_s_per_1000']:.3f}"
        )
    return [
        name,
        kind,
        number(other["rate"]),
        ms(other["p50_us"]),
        ms(other["p99_us"]),
        number(other["cpu_s_per_1000"], 3),
        ours,
        number(figures["ratio"], 2),
    ]


def _open(peers: Figures) -> str:
    rows = []
    for name, peer in peers.items():
        for side, runs in (peer.get("open") or {}).items():
            for rate, run in runs.items():
                rows.append(
                    [
                        *(name if side == "other" else "meuse", rate),
                        *(ms(run[p]) for p in ("p50_us", "p90_us", "p99_us", "p999_us")),
                        ms(run["lag_p99_us"]),
                        number(run["cpu_s_per_1000"], 3),
                    ]
                )
    head = ("server", "rate", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "client's lag p99 ms")
    return table((*head, "CPU s/1,000"), rows)


def _where(f: Figures) -> str:
    rows = [
        [name, number(seconds, 4)]
        for name, seconds in sorted(f["cpu_by_process"].items(), key=lambda item: -item[1])
    ]
    text = "MLP, JSON, 32 connections.\n\n" + table(("process", "CPU s/1,000 requests"), rows)
    profile = f.get("profile") or {}
    if "why" in profile:
        return f"{text}\n\nProfile: {_line(profile['why'])}."
    for name, samples in profile.items():
        lines = [[_line(where), f"{share:.1%}"] for where, share in samples]
        text += (
            f"\n\nThe {name}, by py-spy; of the time in which it held the interpreter:\n\n"
            + table(("at work in", "share"), lines)
        )
    return text


def _models(models: Figures) -> str:
    rows: list[list[str]] = []
    for model, peers in models.items():
        for name, peer in peers.items():
            if "why" in peer or "absent" in peer:
                why = _line(peer.get("why") or peer["absent"])
                rows.append([f"{model}: {name}", why, *[""] * 6])
                continue
            for kind, figures in peer["kinds"].items():
                rows.append(_pair(f"{model}: {name}", kind, figures))
    return table(_HEAD, rows)


def _scenario(figures: Figures, write: Any) -> str:
    if "why" in figures:
        return f"{_line(figures['why'])}."
    return str(write(figures))


_BATCHING = """What batching can give depends on the model and the core. A text of 8 tokens alone
leaves the core waiting for the weights, which a batch reads once for all its rows; so the
hold is on that one. A text of 32 tokens, as in the other tables, or an image of the CNN
keeps one core busy by itself: there a row costs about the same in a batch as alone, and only
the fixed cost of a request is saved."""


def _batching(f: Figures) -> str:
    rows = []
    for model, run in f.items():
        if "why" in run:
            rows.append([model, _line(run["why"]), *[""] * 4])
            continue
        for side in ("batched", "single"):
            rows.append(
                [
                    *(model, "dynamic" if side == "batched" else "batch 1"),
                    number(run[f"{side}_rate"], 1),
                    *(ms(run[f"{side}_{p}"]) for p in ("p50_us", "p95_us")),
                    number(run["ratio"], 2) if side == "batched" else "",
                ]
            )
    head = ("model", "batching", "req/s", "p50 ms", "p95 ms", "ratio")
    return f"{_BATCHING}\n\n{table(head, rows)}"


def _overload(f: Figures) -> str:
    rows = [
        [
            label,
            *(number(run[n], 1) for n in ("offered", "goodput")),
            *(ms(run[p]) for p in ("p50_us", "p99_us")),
            ", ".join(f"{code}: {count:,}" for code, count in sorted(run["statuses"].items())),
        ]
        for label, run in (
            *((f"ladder {i + 1}", step) for i, step in enumerate(f["ladder"])),
            ("3× the knee", f["overload"]),
            ("other tenant, quiet", f["neighbour_quiet"]),
            ("other tenant, meanwhile", f["neighbour"]),
        )
    ]
    head = ("", "offered/s", "goodput/s", "p50 ms", "p99 ms", "statuses")
    return (
        f"A model of 5 ms a row at batch 1, objective {f['objective_ms']} ms; knee "
        f"{f['knee']:.0f}/s, goodput at three times that {f['goodput_ratio']:.2f} of it. The other "
        f"tenant's objective: {f['neighbour_objective_ms']} ms.\n\n" + table(head, rows)
    )


def _cold(f: Figures) -> str:
    times = ", ".join(f"{t:.0f}" for t in f["all_ms"])
    return f"Median {f['median_ms']:.0f} ms ({times}); a warm request {f['warm_ms']:.1f} ms."


def _autoscale(f: Figures) -> str:
    rows = [[f"{s['at_s']:.2f}", s["desired"], s["ready"]] for s in f["seen"]]
    return (
        f"From 1 to 50 ongoing requests; {f['wanted']} replicas are right; desired was right after "
        f"{number(f['desired_right_after_s'], 2)} s.\n\n" + table(("s", "desired", "ready"), rows)
    )


_SCENARIOS = (
    ("Dynamic batching, 32 clients", "batching", _batching),
    ("Overload", "overload", _overload),
    ("Cold start with the spare process", "cold start", _cold),
    ("Cold start without it", "cold start without spare", _cold),
    ("A step of load", "autoscale", _autoscale),
)


def _settings(f: Figures) -> str:
    rows = [[name, words] for name, words in f["settings"].items()]
    resident = ", ".join(f"{name} {mb:.0f}" for name, mb in f["resident_mb"].items())
    return table(("server", "settings"), rows) + f"\n\nResident MB of the platform: {resident}."


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:240]
