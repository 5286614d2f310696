"""The verbs of what is served: deploy, roll out, ask."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from meuse.cli.shared import (
    Json,
    connect,
    follow_job,
    say,
    table,
)
from meuse.core.errors import Code, MeuseError, invalid


def _adapters(given: list[str]) -> dict[str, str]:
    """Of `--adapter polite=smollm2-polite:1`."""
    pairs = [text.partition("=") for text in given]
    for name, equals, version in pairs:
        if not (name and equals and version):
            raise typer.BadParameter(f"{name + equals + version!r} is not NAME=VERSION")
    return {name: version for name, _, version in pairs}


def deploy(
    name: Annotated[str | None, typer.Argument(help="Name that clients will call.")] = None,
    model: Annotated[str | None, typer.Option(help="name:2 or name@alias.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A tenant that may call it.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="onnx, openvino, litert, torch, genai or vllm.")
    ] = None,
    cores: Annotated[int | None, typer.Option(help="Cores of each process.")] = None,
    cache_mb: Annotated[int | None, typer.Option(help="Of a language model: MiB.")] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Of it: answers at once.")] = None,
    kv_precision: Annotated[
        str | None, typer.Option(help="Of it: how keys and values are kept, u8 or f16.")
    ] = None,
    prefix_cache: Annotated[
        bool, typer.Option("--prefix-cache", help="Of it: keep prompts that begin alike.")
    ] = False,
    prompt_lookup: Annotated[
        bool, typer.Option("--prompt-lookup", help="Of it: guess by the prompt's own words.")
    ] = False,
    draft_model: Annotated[
        str | None, typer.Option(help="Of it: the version that guesses, name:3.")
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Of it: NAME=VERSION, called as deployment:NAME.")
    ] = None,
    replicas: Annotated[int, typer.Option(help="Processes that serve it.")] = 1,
    min_: Annotated[
        int | None, typer.Option("--min", help="Fewest replicas; 0 lets it rest.")
    ] = None,
    max_: Annotated[int | None, typer.Option("--max", help="Most replicas under load.")] = None,
    delete: Annotated[bool, typer.Option(help="Take it down.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    json_: Json = False,
) -> None:
    """List deployments; make, change or delete one."""
    with connect() as client:
        if name is None:
            table(client.deployments(), ["name", "status", "replicas", "serving"], json_)
        elif delete:
            client.undeploy(name)
            say(f"{name} is gone", {"name": name}, json_)
        elif model is None:
            print(json.dumps(client.deployment(name), indent=1))
        else:
            access = {"tenants": "*" if allow == ["*"] else allow or []}
            scale = {"min": replicas if min_ is None else min_}
            scale |= {} if max_ is None else {"max": max_}
            how = {"name": engine, "cores": cores, "cache_mb": cache_mb}
            how |= {"max_sequences": max_sequences, "kv_precision": kv_precision}
            how |= {"draft_model": draft_model}
            # Not said where not meant: other engines have no such options.
            how |= {"prefix_cache": True} if prefix_cache else {}
            how |= {"prompt_lookup": True} if prompt_lookup else {}
            given = {"adapters": _adapters(adapter)} if adapter else {}
            client.deploy(name, model, access=access, scale=scale, engine=how, **given)
            # Starts that come to nothing end the wait; a large model takes its time.
            state = client.wait_ready(name, 900.0) if wait else client.deployment(name)
            urls = "".join(f"\n  {url}" for url in state["endpoints"])
            say(f"{name} is {state['status']}{urls}", state, json_)


def rollout(
    name: Annotated[str, typer.Argument(help="A deployment with a canary.")],
    promote: Annotated[bool, typer.Option(help="Give the new version everything now.")] = False,
    rollback: Annotated[bool, typer.Option(help="Send the new version back.")] = False,
    json_: Json = False,
) -> None:
    """Show how a rollout stands; end it, well or not."""
    with connect() as client:
        if promote:
            client.promote(name)
        elif rollback:
            client.roll_back(name)
        state = client.deployment(name)["rollout"] or {"verdict": "none", "reason": "no canary"}
        text = ", ".join(f"{k} {v}" for k, v in state.items() if v is not None and k != "history")
        say(f"{name}: {text}", state, json_)


def predict(
    rows: Annotated[
        str | None, typer.Argument(help="Rows as JSON, a .json file, or - for stdin.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The deployment to ask; with --data: or a version.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Answer a whole dataset instead.")] = None,
    output: Annotated[str | None, typer.Option(help="With --data: name of the result.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="With --data: a column to keep.")] = None,
    json_: Json = False,
) -> None:
    """Ask a deployment; or answer a dataset by a job, into a new one."""
    if data is not None:
        if rows is not None or model is None or output is None:
            raise invalid("data", "with --data goes --model and --output, and no rows")
        whom = "model" if ":" in model or "@" in model else "deployment"
        spec: dict[str, Any] = {whom: model, "keep": keep or []}
        with connect() as client:
            follow_job(client, client.predict_data(data, output, **spec), True, json_)
        return
    if rows is None:
        raise invalid("rows", "there are no rows", "Give them as JSON, or name --data.")
    text = sys.stdin.read() if rows == "-" else rows
    try:
        if rows.endswith(".json"):
            text = Path(rows).read_text()
        values = json.loads(text)
    except OSError as error:
        raise invalid("rows", f"cannot read {rows}: {error.strerror}") from None
    except ValueError as error:
        raise MeuseError(Code.INVALID_JSON, f"rows are not JSON: {error}", field="rows") from None
    with connect() as client:
        answer = client.predict(values, model)
        say(json.dumps(answer["output_data"]), answer, json_)
