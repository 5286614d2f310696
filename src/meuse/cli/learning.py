"""The verbs from data to a version: upload, train, search, judge, promote; jobs and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from meuse.cli.shared import (
    Json,
    connect,
    follow_job,
    json_of,
    object_of,
    say,
    show_until_its_end,
    table,
)
from meuse.core.errors import invalid


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
        "seed": seed, "cv": cv, "config": object_of("config", config),
        "prepare": object_of("prepare", prepare),
        **(object_of("options", options) or {}),
    }  # fmt: skip
    spec = {name: value for name, value in given.items() if value is not None}
    with connect() as client:
        follow_job(client, client.train(model, data, deploy=deploy, **spec), wait, json_)


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
