"""Verbs of compression: `compress` and `methods`, and how a report looks on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from meuse.cli.shared import Json, connect, json_of, say, table
from meuse.core.errors import Code, MeuseError, invalid

HELP_STEPS = "auto, names, with options prune(rate=0.9),quantize, or @file.json."


def compress(
    model: Annotated[
        str | None, typer.Argument(help="Version to compress: name:1 or name@alias.")
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(help="max_drop=0.01, max_bytes=50000 or max_latency_ms=2; may be repeated."),
    ] = None,
    steps: Annotated[str | None, typer.Option(help=HELP_STEPS)] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="By default the model's dataset. Of a language model: a file of held-out lines, "
            "or the id of one in /v1/files."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    trials: Annotated[int | None, typer.Option(help="With auto: most candidates to try.")] = None,
    seconds: Annotated[float | None, typer.Option(help="With auto: no new trial after.")] = None,
    keep: Annotated[int | None, typer.Option(help="With auto: most versions to make.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Short for --goal max_drop=…")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the methods.")] = False,
    sensitivity: Annotated[
        bool, typer.Option(help="Tell what each layer alone can bear; costs some seconds.")
    ] = True,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Make a model smaller or faster by steps, if the gate lets the result through."""
    if list_:
        methods(None, json_)
        return
    if model is None:
        raise invalid("model", "no version is named", "Such as digits:2 or digits@champion.")
    spec = _spec(goal or [], steps, max_drop)
    search = {"trials": trials, "seconds": seconds, "keep": keep}
    given = {"seed": seed, "auto": {k: v for k, v in search.items() if v is not None}}
    spec |= {name: value for name, value in given.items() if value not in (None, {})}
    spec |= {} if sensitivity else {"sensitivity": False}
    with connect() as client:
        if data is not None:
            file = Path(data)
            spec["data"] = client.upload_file(file)["id"] if file.is_file() else data
        job = client.compress(model, **spec)
        if not wait:
            say(f"{job['id']} is {job['status']}", job, json_)
            return
        from rich.console import Console

        from meuse.client.follow import Bar

        try:
            with Bar(job, Console(stderr=True)) as bar:
                done = client.wait(job["id"], bar.show)
        except MeuseError as error:
            if error.code is Code.GATE_REFUSED:
                _show_refused(client.job(job["id"]), json_)
            raise
    if json_:
        print(json.dumps(done, indent=1))
        return
    for made in done["result"].get("versions", [done["result"]]):
        print(f"{made['model']}{'  (recommended)' if made.get('recommended') else ''}")
    show(done["result"]["report"])


def _show_refused(job: dict[str, Any], json_: bool) -> None:
    """What was measured of a result that the gate refused."""
    if json_:
        print(json.dumps(job, indent=1))
    else:
        show((job["result"] or {}).get("report") or {})


def _spec(goals: list[str], steps: str | None, max_drop: float | None) -> dict[str, Any]:
    from meuse.client.steps import parse_goals, parse_steps

    goal = parse_goals(goals)
    if max_drop is not None:
        if "max_drop" in goal:
            told = "--max-drop and --goal max_drop=… say the same"
            raise invalid("max_drop", told, "Leave one of them out.")
        goal["max_drop"] = max_drop
    spec: dict[str, Any] = {"goal": goal} if goal else {}
    if steps is not None:
        if steps.startswith("@"):
            name = steps[1:]
            spec["steps"] = json_of("steps", name if name.endswith(".json") else f"{name}.json")
        else:
            spec["steps"] = parse_steps(steps)
    return spec


def show(report: dict[str, Any]) -> None:
    """A report as tables and sentences."""
    from meuse.compress import summary

    if not report:
        return
    rows = [
        {"": row.figure, "before": row.before, "after": row.after, "change": row.change}
        for row in summary.rows(report)
    ]
    if rows:
        table(rows, list(rows[0]), False)
    done = [dict(zip(summary.STEP_COLUMNS, row, strict=True)) for row in summary.steps(report)]
    if len(done) > 1:
        print()
        table(done, list(summary.STEP_COLUMNS), False)
    trials = summary.trials(report)
    if trials:
        print()
        named = [dict(zip(summary.TRIAL_COLUMNS, row, strict=True)) for row in trials]
        table(named, list(summary.TRIAL_COLUMNS), False)
    head, layers = summary.sensitivity(report)
    if layers:
        print()
        table([dict(zip(head, row, strict=True)) for row in layers], head, False)
    for line in report.get("claims", ()):
        print(line)


def methods(
    name: Annotated[str | None, typer.Argument(help="A method to look at.")] = None,
    json_: Json = False,
) -> None:
    """List the methods of compression; show the options and the paper of one."""
    with connect() as client:
        found = client.methods()
    if name is None:
        rows = [{**each, "options": ", ".join(_options(each))} for each in found]
        table(found if json_ else rows, ["name", "stage", "summary", "options", "paper"], json_)
        return
    chosen = next((each for each in found if each["name"] == name), None)
    if chosen is None:
        names = ", ".join(each["name"] for each in found)
        raise MeuseError(
            Code.NOT_FOUND,
            f"there is no method {name!r}",
            field="method",
            hint=f"There are: {names}.",
        )
    if json_:
        print(json.dumps(chosen, indent=1))
        return
    print(f"{name} ({chosen['stage']}): {chosen['summary']}\n{chosen['paper']}")
    rows = [
        {"option": option, "default": said.get("default"), "meaning": said.get("description", "")}
        for option, said in _options(chosen).items()
    ]
    table(rows, ["option", "default", "meaning"], False)


def _options(method: dict[str, Any]) -> dict[str, Any]:
    """The properties of a method's own config, by name."""
    config = method["config"]
    reference = config.get("$ref", "").rpartition("/")[2]
    own = config.get("$defs", {}).get(reference, config)
    found: dict[str, Any] = own.get("properties", {})
    return found
