"""The command line: one short function per verb. Prints what the API answers.

`up`, `drain`, `restart` and `doctor` work on this machine; every other verb is a client of a
platform, found by MEUSE_URL and MEUSE_KEY or, without them, by the home of a platform that
runs here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meuse.core.errors import Code, MeuseError, invalid
from meuse.settings import Settings, default_home, load

if TYPE_CHECKING:
    from meuse.client import Client

app = typer.Typer(
    name="meuse",
    help="Models as a service on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point: errors are printed as one or two lines, exit status 1."""
    try:
        app()
    except MeuseError as error:
        sys.stderr.write(f"meuse: {error.message}\n")
        if error.field:
            sys.stderr.write(f"  field: {error.field}\n")
        if error.hint:
            sys.stderr.write(f"  {error.hint}\n")
        sys.exit(1)


# -- the platform itself -------------------------------------------------------------------


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway workers; 0: one per core.")] = None,
    insecure: Annotated[bool, typer.Option(help="Allow clear text beyond loopback.")] = False,
) -> None:
    """Run the platform until Ctrl-C."""
    given = {"host": host, "http-port": port, "grpc-port": grpc_port, "workers": workers}
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    if insecure:
        options.append("--insecure")
    # Becomes another process: the supervisor loads the standard library alone.
    os.execv(sys.executable, [sys.executable, "-m", "meuse.app", "up", *options])  # noqa: S606


@app.command()
def drain(json_: Json = False) -> None:
    """Stop the platform of this home: answer what it has accepted, then end."""
    from meuse.app import operate

    done = operate.drain(Settings(home=default_home()), _progress)
    _say(f"{len(done['stopped'])} processes have ended in {done['seconds']} s", done, json_)


@app.command()
def restart(
    workers: Annotated[bool, typer.Option("--workers", help="Only the gateway workers.")] = False,
    json_: Json = False,
) -> None:
    """Replace the platform of this home by the code that is installed now.

    No request is lost: each process is replaced while others serve. Code that cannot start is
    refused before anything is touched. Settings are read again; the ports stay.
    """
    from meuse.app import operate

    done = operate.restart(Settings(home=default_home()), _progress, workers)
    names = ", ".join(done["restarted"])
    _say(f"{done['build']} runs after {done['seconds']} s; restarted: {names}", done, json_)


@app.command()
def demo(json_: Json = False) -> None:
    """Run the main job from data to invoice on real digits, on a fresh platform."""
    from meuse.tour import demo as run

    run(as_json=json_)


@app.command()
def doctor(json_: Json = False) -> None:
    """Check this machine and the platform of this home."""
    from meuse.app.doctor import examine

    findings = examine(load())
    rows = [{"check": f.check, "ok": f.ok, "finding": f.finding} for f in findings]
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{'ok  ' if row['ok'] else 'FAIL'}  {row['check']:<22} {row['finding']}")
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


# -- the main job --------------------------------------------------------------------------


@app.command()
def data(
    file: Annotated[Path | None, typer.Argument(help="A CSV or NPZ file to upload.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name; by default the file's.")] = None,
    json_: Json = False,
) -> None:
    """Upload a dataset, or list those there are."""
    with _client() as client:
        if file is None:
            _table(client.datasets(), ["ref", "rows", "format", "bytes", "created"], json_)
            return
        if not file.is_file():
            raise invalid("file", f"there is no file {file}")
        made = client.upload(name or file.stem.lower(), file)
        _say(f"{made['ref']}: {made['rows']} rows, {len(made['columns'])} columns", made, json_)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Name of the model to make.")],
    data: Annotated[str, typer.Option(help="Dataset, name or name:version.")],
    target: Annotated[str | None, typer.Option(help="Label column; by default the last.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression.")] = None,
    recipe: Annotated[str | None, typer.Option(help="mlp or linear.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="gd, sgd or adam.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    deploy: Annotated[bool, typer.Option(help="Deploy the result under its name.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Train a model."""
    given = {
        "target": target, "task": task, "recipe": recipe, "optimizer": optimizer,
        "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size,
        "seed": seed,
    }  # fmt: skip
    spec = {name: value for name, value in given.items() if value is not None}
    with _client() as client:
        _follow(client, client.train(model, data, deploy=deploy, **spec), wait, json_)


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="Version to compress: name:1 or name@alias.")],
    max_drop: Annotated[float, typer.Option(help="How far the metric may fall.")] = 0.01,
    data: Annotated[str | None, typer.Option(help="By default the model's dataset.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Quantize a model to int8, if the accuracy gate allows it."""
    spec: dict[str, Any] = {"goal": {"max_drop": max_drop}}
    if data is not None:
        spec["data"] = data
    with _client() as client:
        _follow(client, client.compress(model, **spec), wait, json_)


@app.command()
def jobs(
    job: Annotated[str | None, typer.Argument(help="A job to look at.")] = None,
    cancel: Annotated[bool, typer.Option(help="Cancel it.")] = False,
    follow: Annotated[bool, typer.Option(help="Print its events until it ends.")] = False,
    json_: Json = False,
) -> None:
    """List jobs; show, follow or cancel one."""
    with _client() as client:
        if job is None:
            _table(client.jobs(), ["id", "kind", "status", "progress", "created"], json_)
        elif cancel:
            _say(f"{job}: cancelling", client.cancel(job), json_)
        elif follow:
            for kind, event in client.events(job):
                print(json.dumps({"event": kind, **event}) if json_ else f"{kind:9} {event}")
        else:
            print(json.dumps(client.job(job), indent=1))


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="A model to look at.")] = None,
    alias: Annotated[str | None, typer.Option(help="Move an alias: champion=2.")] = None,
    upload: Annotated[Path | None, typer.Option(help="An ONNX file, as a new version.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="With --upload: a class, in order.")
    ] = None,
    json_: Json = False,
) -> None:
    """List models; show the versions of one; move an alias; upload a version."""
    with _client() as client:
        if name is None:
            _table(client.models(), ["name", "latest", "versions", "aliases"], json_)
        elif upload is not None:
            if not upload.is_file():
                raise invalid("upload", f"there is no file {upload}")
            made = client.upload_model(name, upload, label or ())
            _say(f"{made['ref']}: {made['artifacts'][0]['bytes']} bytes", made, json_)
        elif alias is not None:
            word, _, number = alias.partition("=")
            if not number.isdecimal():
                raise invalid("alias", f"{alias!r} is not alias=version", "Use champion=2.")
            made = client.set_alias(name, word, int(number))
            _say(f"{name}@{word} is now {name}:{number}", made, json_)
        else:
            versions = client.model(name)["versions"]
            rows = [
                v | {"parent": v["lineage"]["parent"], "bytes": v["artifacts"][0]["bytes"]}
                for v in versions
            ]
            _table(rows, ["ref", "bytes", "parent", "metrics"], json_)


@app.command()
def deploy(
    name: Annotated[str | None, typer.Argument(help="Name that clients will call.")] = None,
    model: Annotated[str | None, typer.Option(help="name:2 or name@alias.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A tenant that may call it.")] = None,
    engine: Annotated[str | None, typer.Option(help="onnx, openvino or torch.")] = None,
    cores: Annotated[int | None, typer.Option(help="Cores of each process.")] = None,
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
    with _client() as client:
        if name is None:
            _table(client.deployments(), ["name", "status", "replicas", "serving"], json_)
        elif delete:
            client.undeploy(name)
            _say(f"{name} is gone", {"name": name}, json_)
        elif model is None:
            print(json.dumps(client.deployment(name), indent=1))
        else:
            access = {"tenants": "*" if allow == ["*"] else allow or []}
            scale = {"min": replicas if min_ is None else min_}
            scale |= {} if max_ is None else {"max": max_}
            how = {"name": engine, "cores": cores}
            client.deploy(name, model, access=access, scale=scale, engine=how)
            state = client.wait_ready(name) if wait else client.deployment(name)
            urls = "".join(f"\n  {url}" for url in state["endpoints"])
            _say(f"{name} is {state['status']}{urls}", state, json_)


@app.command()
def rollout(
    name: Annotated[str, typer.Argument(help="A deployment with a canary.")],
    promote: Annotated[bool, typer.Option(help="Give the new version everything now.")] = False,
    rollback: Annotated[bool, typer.Option(help="Send the new version back.")] = False,
    json_: Json = False,
) -> None:
    """Show how a rollout stands; end it, well or not."""
    with _client() as client:
        if promote:
            client.promote(name)
        elif rollback:
            client.roll_back(name)
        state = client.deployment(name)["rollout"] or {"verdict": "none", "reason": "no canary"}
        text = ", ".join(f"{k} {v}" for k, v in state.items() if v is not None and k != "history")
        _say(f"{name}: {text}", state, json_)


@app.command()
def predict(
    rows: Annotated[str, typer.Argument(help="Rows as JSON, a .json file, or - for stdin.")],
    model: Annotated[str | None, typer.Option(help="The deployment to ask.")] = None,
    json_: Json = False,
) -> None:
    """Ask a deployment."""
    text = sys.stdin.read() if rows == "-" else rows
    try:
        if rows.endswith(".json"):
            text = Path(rows).read_text()
        values = json.loads(text)
    except OSError as error:
        raise invalid("rows", f"cannot read {rows}: {error.strerror}") from None
    except ValueError as error:
        raise MeuseError(Code.INVALID_JSON, f"rows are not JSON: {error}", field="rows") from None
    with _client() as client:
        answer = client.predict(values, model)
        _say(json.dumps(answer["output_data"]), answer, json_)


# -- money and keys ------------------------------------------------------------------------


@app.command()
def usage(
    start: Annotated[str | None, typer.Option("--from", help="RFC 3339, inclusive.")] = None,
    to: Annotated[str | None, typer.Option(help="RFC 3339, exclusive.")] = None,
    by: Annotated[str, typer.Option(help="Grouping.")] = "day,model,meter",
    tenant: Annotated[str | None, typer.Option(help="Another tenant (administrator).")] = None,
    json_: Json = False,
) -> None:
    """What was used."""
    given = {"from": start, "to": to, "by": by, "tenant": tenant}
    query = {name: value for name, value in given.items() if value is not None}
    with _client() as client:
        answer = client.usage(fresh=True, **query)
    if json_:
        print(json.dumps(answer, indent=1))
    else:
        _table(answer["rows"], [*by.split(","), "quantity"], False)
        print(f"complete to {answer['complete_to']}")


@app.command()
def invoice(
    tenant: Annotated[str, typer.Argument(help="Who pays.")],
    period: Annotated[str | None, typer.Option(help="YYYY-MM; by default this month.")] = None,
    json_: Json = False,
) -> None:
    """Make the invoice of a tenant (a draft while the period is open)."""
    with _client() as client:
        made = client.invoice(tenant, period or datetime.now(UTC).strftime("%Y-%m"))
    if json_:
        print(json.dumps(made, indent=1))
        return
    print(f"{made['status']} {made['number'] or made['id']} for {tenant}")
    _table(made["lines"], ["meter", "model", "quantity", "unit_price", "per", "amount"], False)
    print(f"total {made['total']} {made['currency']}")
    for row in made["unrated"]:
        print(f"unrated: {row['quantity']} {row['meter']} of {row['model']}: {row['reason']}")
    for reason in made["draft_because"]:
        print(f"a draft: {reason}")


@app.command()
def keys(
    new: Annotated[str | None, typer.Option(help="Make a key of this name.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="What it may do.")] = None,
    tenant: Annotated[str | None, typer.Option(help="For another tenant.")] = None,
    expires: Annotated[str | None, typer.Option(help="RFC 3339.")] = None,
    revoke: Annotated[str | None, typer.Option(help="Revoke the key of this id.")] = None,
    json_: Json = False,
) -> None:
    """List keys; make or revoke one."""
    with _client() as client:
        if revoke is not None:
            _say(f"{revoke} is revoked", client.revoke_key(revoke), json_)
        elif new is not None:
            given = {"tenant": tenant, "expires": expires}
            more = {name: value for name, value in given.items() if value is not None}
            made = client.make_key(new, scope or ["infer"], **more)
            _say(f"{made['key']}\nIt is shown this once.", made, json_)
        else:
            _table(client.keys(), ["id", "name", "tenant", "scopes", "expires"], json_)


@app.command()
def limits(
    requests: Annotated[int | None, typer.Option(help="Limit to so many per --per.")] = None,
    per: Annotated[str, typer.Option(help="second, minute or hour.")] = "minute",
    burst: Annotated[int | None, typer.Option(help="At most so many at once.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Limit to so many in flight.")] = None,
    budget: Annotated[int | None, typer.Option(help="Units of --meter per --period.")] = None,
    meter: Annotated[str, typer.Option(help="requests or rows.")] = "requests",
    period: Annotated[str, typer.Option(help="minute, day, month or total.")] = "month",
    hard: Annotated[bool, typer.Option(help="Refuse what is beyond the budget.")] = True,
    tenant: Annotated[str | None, typer.Option(help="Whose requests.")] = None,
    project: Annotated[str | None, typer.Option(help="Of which project.")] = None,
    key: Annotated[str | None, typer.Option(help="By which key (its id).")] = None,
    model: Annotated[str | None, typer.Option(help="To which deployment.")] = None,
    remove: Annotated[str | None, typer.Option(help="Take away the one of this id.")] = None,
    json_: Json = False,
) -> None:
    """List limits and budgets; set or remove one."""
    named = {"tenant": tenant, "project": project, "key": key, "model": model}
    whom: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    with _client() as client:
        if remove is not None:
            _say(f"{remove} is gone", client.remove_limit(remove), json_)
        elif budget is not None:
            made = client.budget(**whom, meter=meter, limit=budget, period=period, hard=hard)
            span = "in total" if period == "total" else f"per {period}"
            _say(f"{made['id']}: {budget} {meter} {span}", made, json_)
        elif concurrency is not None:
            made = client.limit(**whom, concurrency=concurrency)
            _say(f"{made['id']}: {concurrency} at once", made, json_)
        elif requests is not None:
            made = client.limit(**whom, requests=requests, per=per, burst=burst)
            _say(f"{made['id']}: {requests} requests per {per}", made, json_)
        else:
            found = client.limits() + client.budgets()
            rule = ["requests", "per", "burst", "concurrency", "limit", "meter", "period", "used"]
            _table(found, ["id", *named, *rule], json_)


# -- shared --------------------------------------------------------------------------------


@contextmanager
def _client() -> Iterator[Client]:
    from meuse.client import Client

    url, key = os.environ.get("MEUSE_URL"), os.environ.get("MEUSE_KEY")
    settings = load(default_home())
    try:
        if url is None:
            running = json.loads(settings.run_file.read_text())
            url = f"http://{running['host']}:{running['http_port']}"
        if key is None:
            key = settings.admin_key.read_text().strip()
    except FileNotFoundError:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"no platform runs from {settings.home}",
            hint="Start it with `meuse up`, or set MEUSE_URL and MEUSE_KEY.",
        ) from None
    with Client(url, key) as client:
        yield client


def _follow(client: Client, job: dict[str, Any], wait: bool, json_: bool) -> None:
    if not wait:
        _say(f"{job['id']} is {job['status']}", job, json_)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(f"{job['kind']} {job['status']}", total=1.0)
        done = client.wait(
            job["id"],
            lambda j: bar.update(
                line, completed=j["progress"], description=f"{j['kind']} {j['status']}"
            ),
        )
    result = done["result"]
    figures = "".join(f"\n  {name:22} {value:.4f}" for name, value in result["metrics"].items())
    _say(f"{result['model']}{figures}", done, json_)


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _say(text: str, body: Any, as_json: bool) -> None:
    print(json.dumps(body, indent=1) if as_json else text)


def _table(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(highlight=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{k}={_cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    return str(value)


if __name__ == "__main__":
    main()
