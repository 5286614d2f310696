"""The command line: one short function per verb. Prints what the API answers.

`up`, `drain`, `restart` and `doctor` work on this machine; every other verb is a client of a
platform, found by MEUSE_URL and MEUSE_KEY or, without them, by the home of a platform that
runs here.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from meuse.cli import compress, finetune, llm, plans
from meuse.cli.shared import (
    Json,
    connect,
    follow_job,
    json_of,
    progress,
    say,
    show_until_its_end,
    table,
)
from meuse.core.errors import Code, MeuseError, invalid
from meuse.settings import Settings, default_home, load

app = typer.Typer(
    name="meuse",
    help="Models as a service on your own machines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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

    done = operate.drain(Settings(home=default_home()), progress)
    say(f"{len(done['stopped'])} processes have ended in {done['seconds']} s", done, json_)


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

    done = operate.restart(Settings(home=default_home()), progress, workers)
    names = ", ".join(done["restarted"])
    say(f"{done['build']} runs after {done['seconds']} s; restarted: {names}", done, json_)


@app.command()
def demo(
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Teach and ask a language model at the end.")
    ] = True,
    json_: Json = False,
) -> None:
    """Run the main job from data to invoice on real digits, then teach a language model."""
    from meuse.tour import demo as run

    run(as_json=json_, chat=chat)


toolchains = typer.Typer(help="Packages that some imports need, in environments of their own.")
app.add_typer(toolchains, name="toolchains")


@toolchains.command("list")
def toolchains_list(json_: Json = False) -> None:
    """What there is, and what of it is installed in this home."""
    from meuse.runtime.toolchains import KNOWN, find

    folder = load().toolchains
    rows = [
        {"name": name, "installed": find(name, folder) is not None, "for": chain.summary}
        for name, chain in KNOWN.items()
    ]
    table(rows, ["name", "installed", "for"], json_)


@toolchains.command("install")
def toolchains_install(name: str, json_: Json = False) -> None:
    """Download a toolchain into this home, by pip, from a lock with hashes."""
    from meuse.runtime.toolchains import install

    made = install(name, load().toolchains, progress)
    say(f"{name} is installed in {made.path}", {"name": name, "path": str(made.path)}, json_)


@toolchains.command("remove")
def toolchains_remove(name: str, json_: Json = False) -> None:
    """Remove a toolchain from this home."""
    from meuse.runtime.toolchains import remove

    count = remove(name, load().toolchains)
    say(f"{count} environments removed", {"name": name, "removed": count}, json_)


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
    what: Annotated[
        str | None, typer.Argument(help="A file to upload, a URL, or a dataset: name or name:1.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name; by default the file's.")] = None,
    format: Annotated[str | None, typer.Option(help="By default by the file's ending.")] = None,
    kinds: Annotated[str | None, typer.Option(help="zip:string,age:float")] = None,
    missing: Annotated[str | None, typer.Option(help="Cells that mean missing: NA,-")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of text files; by default UTF-8.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of CSV files.")] = None,
    on_error: Annotated[str | None, typer.Option(help="Broken images: refuse or skip.")] = None,
    manifest: Annotated[str | None, typer.Option(help="An archive's table of labels.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show what is in it.")] = False,
    target: Annotated[str | None, typer.Option(help="With --profile: what predicts it.")] = None,
    split: Annotated[str | None, typer.Option(help="With --profile: ratio, time:day, …")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete this version.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is read.")] = True,
    json_: Json = False,
) -> None:
    """Upload a dataset, look at one, or list those there are.

    A large file goes in parts: the same command again goes on where it was broken off.
    """
    from meuse.client import bring

    reading = {
        "kinds": kinds, "missing": missing, "encoding": encoding, "delimiter": delimiter,
        "on_error": on_error, "manifest": manifest,
    }  # fmt: skip
    said = {key: value for key, value in reading.items() if value is not None}
    with connect() as client:
        if what is None:
            table(client.datasets(), ["ref", "rows", "format", "bytes", "created"], json_)
        elif profile or delete:
            found = bring.find(client, what)
            if delete:
                client.delete_dataset(found["name"], found["version"])
                say(f"{found['ref']} is deleted", found, json_)
            else:
                seen = client.profile(found["name"], found["version"], target, split)
                _profile(seen, json_)
        elif bring.is_url(what) or Path(what).is_file():
            made = bring.bring(client, what, name, format, said, wait)
            text = f"{made['id']} is {made['status']}" if "id" in made else bring.told(made)
            say(text, made, json_)
        elif Path(what).suffix or "/" in what:
            raise invalid("file", f"there is no file {what}")
        else:
            found = bring.find(client, what)
            say(bring.told(found), found, json_)


def _profile(seen: dict[str, Any], as_json: bool) -> None:
    from meuse.client.bring import lines

    if as_json:
        print(json.dumps(seen, indent=1))
        return
    same = seen["duplicates"]["rows"]
    print(f"{seen['ref']}: {seen['rows']:,} rows, {same:,} of them equal to one before")
    table(lines(seen), ["column", "kind", "missing", "distinct", "figures"], False)
    for entry in (seen["target"] or {}).get("predicted_by", ())[:5]:
        print(f"  {entry['name']} alone predicts {seen['target']['name']}: {entry['score']:.3f}")
    for warning in seen["warnings"]:
        where = f" {warning['column']}:" if warning["column"] else ""
        print(f"  {warning['kind']}:{where} {warning['message']}")


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Name of the model to make.")],
    data: Annotated[str, typer.Option(help="Dataset, name or name:version.")],
    target: Annotated[str | None, typer.Option(help="Label column; by default the last.")] = None,
    task: Annotated[
        str | None, typer.Option(help="binary, multiclass, multilabel or regression.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="mlp, gbdt, cnn, …: GET /api/recipes.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="gd, sgd, rmsprop, adagrad, adam or adamw.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help='The recipe\'s config as JSON: {"hidden": [64]}.')
    ] = None,
    prepare: Annotated[
        str | None, typer.Option(help='How columns are read, as JSON: {"drop": ["id"]}.')
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Any other field of a train spec, as JSON.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    cv: Annotated[int | None, typer.Option(help="Folds to validate by, first.")] = None,
    deploy: Annotated[bool, typer.Option(help="Deploy the result under its name.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Train a model."""
    given = {
        "target": target, "task": task, "recipe": recipe, "optimizer": optimizer,
        "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size,
        "seed": seed, "cv": cv, "config": _object("config", config),
        "prepare": _object("prepare", prepare),
        **(_object("options", options) or {}),
    }  # fmt: skip
    spec = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        follow_job(client, client.train(model, data, deploy=deploy, **spec), wait, json_)


def _object(field: str, text: str | None) -> dict[str, Any] | None:
    """An option that is a JSON object."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise invalid(field, f"this is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid(field, "this is not a JSON object")
    return value


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="Name of the model to make.")],
    data: Annotated[str, typer.Option(help="Dataset, name or name:version.")],
    space: Annotated[
        str, typer.Option(help='JSON or a file: {"learning_rate": {"low": …, "high": …}}.')
    ],
    target: Annotated[str | None, typer.Option(help="Label column; by default the last.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression.")] = None,
    recipe: Annotated[str | None, typer.Option()] = None,
    method: Annotated[
        str | None, typer.Option(help="tpe, random, halton or successive_halving.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="How many to make.")] = None,
    parallel: Annotated[int | None, typer.Option(help="How many at once.")] = None,
    metric: Annotated[str | None, typer.Option(help="The figure that decides.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each trial, or of the longest.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    deploy: Annotated[bool, typer.Option(help="Deploy the best under its name.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Search for the best options of a recipe; the best model is kept."""
    given = {
        "target": target, "task": task, "recipe": recipe, "method": method, "trials": trials,
        "parallel": parallel, "metric": metric, "seed": seed,
        "base": None if epochs is None else {"epochs": epochs},
    }  # fmt: skip
    spec = {name: value for name, value in given.items() if value is not None}
    space_ = json_of("space", space)
    with connect() as client:
        job = client.search(model, data, space_, deploy=deploy, **spec)
        follow_job(client, job, wait, json_)


app.command()(compress.compress)
app.command()(compress.methods)
app.command()(llm.pull)
app.command()(finetune.finetune)
app.command()(llm.chat)
app.command()(llm.tune_engine)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Versions to judge: name:1 name@alias …")],
    data: Annotated[
        str, typer.Option(help="Dataset, name or name:version; of language models a JSONL file.")
    ],
    split: Annotated[str | None, typer.Option(help="test, validation or all.")] = None,
    slice_: Annotated[
        list[str] | None, typer.Option("--slice", help="A column to part by.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column with the truth.")] = None,
    task: Annotated[str | None, typer.Option(help="Of uploaded versions.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="perplexity, choice or exact_match.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of an answer that is matched.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Ends an answer.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Judge versions side by side on the same rows."""
    given = {"split": split, "slices": slice_, "target": target, "task": task,
             "metrics": metric, "max_tokens": max_tokens, "stop": stop}  # fmt: skip
    spec = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        if Path(data).is_file():
            data = client.upload_file(Path(data))["id"]
        job = client.evaluate(models, data, **spec)
        if json_ or not wait:
            follow_job(client, job, wait, json_)
            return
        result = client.wait(job["id"])["result"]
        rows = [{"model": m["model"], **_with_intervals(m)} for m in result["models"]]
        table(rows, list(rows[0]), False)
        of = "lines" if "measured" in result else "rows"
        print(f"{result['rows']} {of} of {result['data']}, split {result['split']}")


def _with_intervals(judged: dict[str, Any]) -> dict[str, Any]:
    """Figures of language models with their 95% intervals; others as they are."""
    if "engine" not in judged:
        return dict(judged["figures"])
    told: dict[str, Any] = {}
    for name, value in judged["figures"].items():
        interval = judged["intervals"].get(name)
        doubt = "" if interval is None else f" ({interval[0]:.4g} to {interval[1]:.4g})"
        told[name] = f"{value:.4g}{doubt}"
    return told


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="The version that shall take it: name:2.")],
    alias: Annotated[str, typer.Option(help="The alias to move.")],
    metric: Annotated[str | None, typer.Option(help="By default the task's first one.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="How much worse is accepted.")] = None,
    data: Annotated[str | None, typer.Option(help="Judged on this dataset.")] = None,
    force: Annotated[bool, typer.Option(help="Move it all the same.")] = False,
    json_: Json = False,
) -> None:
    """Let a version take an alias, if it is no worse than the one that has it."""
    name, _, number = version.partition(":")
    if not number.isdecimal():
        raise invalid("version", f"{version!r} is not a version", "Use name:2.")
    asked = {"metric": metric, "max_drop": max_drop, "data": data}
    gate = {key: value for key, value in asked.items() if value is not None}
    options: dict[str, Any] = {"force": force} | ({"gate": gate} if gate else {})
    with connect() as client:
        done = client.promote_version(name, int(number), alias, **options)
        say(f"{name}@{alias} is now {version}: {done['verdict']['reason']}", done, json_)


@app.command()
def jobs(
    job: Annotated[str | None, typer.Argument(help="A job to look at.")] = None,
    follow: Annotated[bool, typer.Option(help="Show its progress until it ends.")] = False,
    log: Annotated[bool, typer.Option(help="Print its log.")] = False,
    tail: Annotated[int | None, typer.Option(help="With --log: the last lines.")] = None,
    pause: Annotated[bool, typer.Option(help="Stop it for now.")] = False,
    resume: Annotated[bool, typer.Option(help="Let a paused job go on.")] = False,
    retry: Annotated[bool, typer.Option(help="Start it again after it failed.")] = False,
    cancel: Annotated[bool, typer.Option(help="Stop it for good.")] = False,
    json_: Json = False,
) -> None:
    """List jobs; show, follow, pause, resume, retry or cancel one."""
    with connect() as client:
        if job is None:
            from meuse.client.follow import summary

            found = client.jobs()
            rows = found if json_ else [summary(each) for each in found]
            table(rows, ["id", "kind", "status", "done", "left"], json_)
            return
        verbs = {"cancel": cancel, "pause": pause, "resume": resume, "retry": retry}
        asked = [verb for verb, is_asked in verbs.items() if is_asked]
        if len(asked) > 1:
            raise invalid(asked[1], f"--{asked[0]} and --{asked[1]} exclude each other")
        for verb in asked:
            state = getattr(client, verb)(job)
            say(f"{job}: {verb} asked for; it is {state['status']}", state, json_)
        if log:
            print(client.log(job, tail), end="")
        elif follow:
            show_until_its_end(client, job, json_)
        elif not asked:
            print(json.dumps(client.job(job), indent=1))


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="A model to look at.")] = None,
    alias: Annotated[str | None, typer.Option(help="Move an alias: champion=2.")] = None,
    upload: Annotated[Path | None, typer.Option(help="An ONNX file, as a new version.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="With --upload: a class, in order.")
    ] = None,
    card: Annotated[int | None, typer.Option(help="Show the card of this version.")] = None,
    json_: Json = False,
) -> None:
    """List models; show the versions or a card of one; move an alias; upload a version."""
    with connect() as client:
        if name is None:
            table(client.models(), ["name", "latest", "versions", "aliases"], json_)
        elif upload is not None:
            if not upload.is_file():
                raise invalid("upload", f"there is no file {upload}")
            made = client.upload_model(name, upload, label or ())
            say(f"{made['ref']}: {made['artifacts'][0]['bytes']} bytes", made, json_)
        elif card is not None:
            print(client.card(name, card, "json" if json_ else "markdown"))
        elif alias is not None:
            word, _, number = alias.partition("=")
            if not number.isdecimal():
                raise invalid("alias", f"{alias!r} is not alias=version", "Use champion=2.")
            made = client.set_alias(name, word, int(number))
            say(f"{name}@{word} is now {name}:{number}", made, json_)
        else:
            versions = client.model(name)["versions"]
            rows = [
                v | {"parent": v["lineage"]["parent"], "bytes": _size(v["artifacts"])}
                for v in versions
            ]
            table(rows, ["ref", "bytes", "parent", "metrics"], json_)


def _size(artifacts: list[dict[str, Any]]) -> int:
    """Of what is served: one file, or all that a language model's document names."""
    files: int = sum(a["bytes"] for a in artifacts if a["format"] == "file")
    first: int = artifacts[0]["bytes"]
    return files or first


def _adapters(given: list[str]) -> dict[str, str]:
    """Of `--adapter polite=smollm2-polite:1`."""
    pairs = [text.partition("=") for text in given]
    for name, equals, version in pairs:
        if not (name and equals and version):
            raise typer.BadParameter(f"{name + equals + version!r} is not NAME=VERSION")
    return {name: version for name, _, version in pairs}


@app.command()
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


@app.command()
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


@app.command()
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
    with connect() as client:
        answer = client.usage(fresh=True, **query)
    if json_:
        print(json.dumps(answer, indent=1))
    else:
        table(answer["rows"], [*by.split(","), "quantity"], False)
        print(f"complete to {answer['complete_to']}")


@app.command()
def invoice(
    tenant: Annotated[str, typer.Argument(help="Who pays.")],
    period: Annotated[str | None, typer.Option(help="YYYY-MM; by default this month.")] = None,
    unrated_as: Annotated[
        str | None, typer.Option(help="Plan version that rates usage without a price: basic:2.")
    ] = None,
    json_: Json = False,
) -> None:
    """Make the invoice of a tenant (a draft, rated anew each time, while the period is open)."""
    with connect() as client:
        wanted = period or datetime.now(UTC).strftime("%Y-%m")
        made = client.invoice(tenant, wanted, unrated_as)
    if json_:
        print(json.dumps(made, indent=1))
        return
    print(f"{made['status']} {made['number'] or made['id']} for {tenant}")
    table(made["lines"], plans.LINE, False)
    print(f"total {made['total']} {made['currency']}")
    for row in made["unrated"]:
        print(f"unrated: {row['quantity']} {row['meter']} of {row['model']}: {row['reason']}")
    for reason in made["draft_because"]:
        print(f"a draft: {reason}")


app.add_typer(plans.app, name="plans")


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
    with connect() as client:
        if revoke is not None:
            say(f"{revoke} is revoked", client.revoke_key(revoke), json_)
        elif new is not None:
            given = {"tenant": tenant, "expires": expires}
            more = {name: value for name, value in given.items() if value is not None}
            made = client.make_key(new, scope or ["infer"], **more)
            say(f"{made['key']}\nIt is shown this once.", made, json_)
        else:
            table(client.keys(), ["id", "name", "tenant", "scopes", "expires"], json_)


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
    with connect() as client:
        if remove is not None:
            say(f"{remove} is gone", client.remove_limit(remove), json_)
        elif budget is not None:
            made = client.budget(**whom, meter=meter, limit=budget, period=period, hard=hard)
            span = "in total" if period == "total" else f"per {period}"
            say(f"{made['id']}: {budget} {meter} {span}", made, json_)
        elif concurrency is not None:
            made = client.limit(**whom, concurrency=concurrency)
            say(f"{made['id']}: {concurrency} at once", made, json_)
        elif requests is not None:
            made = client.limit(**whom, requests=requests, per=per, burst=burst)
            say(f"{made['id']}: {requests} requests per {per}", made, json_)
        else:
            found = client.limits() + client.budgets()
            rule = ["requests", "per", "burst", "concurrency", "limit", "meter", "period", "used"]
            table(found, ["id", *named, *rule], json_)
