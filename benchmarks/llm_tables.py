"""What the platform has to hold for language models, and the report as a person reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holds import Hold
from tables import number, table

Figures = dict[str, Any]


def _api(streams: int, figure: str) -> Callable[[Figures], float | None]:
    return lambda f: f["api"]["streams"][str(streams)]["ratio"][figure]


def _peer(name: str, streams: int) -> Callable[[Figures], float | None]:
    return lambda f: f["peers"][name][str(streams)]["ratio"]["tokens"]


def _memory(f: Figures) -> float:
    held = f["api"]["resident_mb"]
    return float(held["meuse"] / held["bare"])


HOLDS = (
    *(
        Hold(f"tokens/s at {n} streams, of the bare engine", ">=", 0.95, _api(n, "tokens"))
        for n in (1, 4, 16)
    ),
    Hold("time to first token at 16 streams, of the bare engine", "<=", 1.1, _api(16, "first")),
    Hold("memory of the replica, of the bare engine's process", "<=", 1.15, _memory),
    Hold("tokens/s at 4 streams, of llama.cpp's server", ">=", 2, _peer("llama.cpp", 4)),
    Hold("tokens/s at 16 streams, of llama.cpp's server", ">=", 3, _peer("llama.cpp", 16)),
)


def page(body: Figures) -> str:
    """The whole page of one report."""
    f, machine = body["figures"], body["machine"]
    parts = [
        f"# Language models, {body['date']}",
        f"Commit {body['commit']}; {machine['processor']}, {machine['cores']} cores, "
        f"Python {machine['python']}. SmolLM2-135M-Instruct (Q4_1), greedy, answers of exactly "
        f"{f['tokens']} tokens, {f['threads']} threads. The run took {f['seconds'] / 60:.1f} "
        f"minutes; load average before it {f['load_before']:.1f}. Client, platform and engine "
        "share the cores.",
        "## Holds\n\n" + holds(f["holds"]),
    ]
    parts += [
        f"## {title}\n\n" + write(f[part])
        for part, title, write in (
            ("api", "Beside the bare engine", _beside_bare),
            ("peers", "Beside other servers, over HTTP", _beside_peers),
            ("one", "One stream: settings of the engine", _one),
        )
        if part in f
    ]
    if f.get("failed"):
        why = [[name, told.strip().splitlines()[0][:200]] for name, told in f["failed"].items()]
        parts.append("## Parts that failed\n\n" + table(("part", "why"), why))
    return "\n\n".join(parts) + "\n"


def holds(judged: list[Figures]) -> str:
    """A table; what was not measured is counted below it, for most reports are of one part."""
    head = ("what", "hold", "measured", "verdict")
    measured = [h for h in judged if h["verdict"] != "not measured"]
    rows = [[h["what"], h["hold"], number(h["measured"], 2), h["verdict"]] for h in measured]
    left = len(judged) - len(measured)
    told = [table(head, rows)] if rows else []
    return "\n\n".join(told + ([f"Not measured in this run: {left} others."] if left else []))


def _beside_bare(api: Figures) -> str:
    rows = []
    for streams, f in api["streams"].items():
        for name in [name for name in f if isinstance(f[name], dict) and "tokens_s" in f[name]]:
            ratio = f["ratio"]["tokens"] if name == "meuse" else None
            first = f["ratio"]["first"] if name == "meuse" else None
            rows.append(
                [
                    *(streams, name, number(f[name]["tokens_s"], 1), number(ratio, 3)),
                    *(number(f[name]["first_ms"], 1), number(first, 3)),
                ]
            )
    head = ("streams", "side", "tokens/s", "of bare", "first token, ms", "of bare")
    same = ", ".join(
        f"{f['texts_equal']:.0%} at {streams}" for streams, f in api["streams"].items()
    )
    counts = all(f["prompt_tokens_equal"] for f in api["streams"].values())
    held = ", ".join(f"{name} {mb:,.0f} MB" for name, mb in api["resident_mb"].items())
    return (
        "The platform answers over HTTP with a key, a rate limit "
        f"({api['limits']}), metering and SSE; the bare engine is a loop over "
        "`ContinuousBatchingPipeline.step` with the same scheduler, tokens in and tokens out. "
        "Ratios are medians over pairs that alternate.\n\n"
        + table(head, rows)
        + f"\n\nTexts equal to the bare engine's: {same} streams (batching changes rounding). "
        f"Prompts counted alike: {'yes' if counts else 'NO'}. Resident: {held}. "
        f"Metered: {', '.join(f'{name} {count:,}' for name, count in api['metered'].items())}."
    )


def _beside_peers(peers: Figures) -> str:
    rows = []
    for name, figures in peers.items():
        if "absent" in figures:
            rows.append([name, "absent: " + figures["absent"].splitlines()[-1], "", "", "", ""])
            continue
        for streams, f in figures.items():
            if streams == "resident_mb":
                continue
            rows.append(
                [
                    *(name, streams, number(f[name]["tokens_s"], 1)),
                    *(number(f["meuse"]["tokens_s"], 1), number(f["ratio"]["tokens"], 2)),
                    f"{f[name]['first_ms']:,.0f} / {f['meuse']['first_ms']:,.0f}",
                ]
            )
    head = ("server", "streams", "its tokens/s", "Meuse then", "ratio", "first token, ms")
    return (
        "All over HTTP with SSE, by the same client. llama.cpp's server keeps its prompt cache; "
        "transformers answers what waits as one padded batch. Only Meuse knows keys, limits and "
        "meters.\n\n" + table(head, rows)
    )


def _one(settings: Figures) -> str:
    rows = []
    for name, f in settings.items():
        if "absent" in f:
            rows.append([name, "-", "-", "-", "-", f["absent"].splitlines()[-1][:120]])
            continue
        rows.append(
            [
                *(name, number(f["tokens_s"], 1), number(f.get("of_deployed"), 2)),
                number(f["first_ms"], 1),
                "-" if f.get("same_texts") is None else f"{f['same_texts']:.0%}",
                ", ".join(f"{rate:.0f}" for rate in f["tokens_s_all"]),
            ]
        )
    head = ("setting", "tokens/s", "of the first", "first token, ms", "same texts", "all rounds")
    return "The bare engine with one stream, rounds that alternate.\n\n" + table(head, rows)
