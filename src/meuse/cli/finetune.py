"""The verb that fine-tunes a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meuse.cli.shared import Json, connect, follow_job, object_of
from meuse.core.errors import invalid

if TYPE_CHECKING:
    from meuse.client import Client


def finetune(
    model: Annotated[str, typer.Argument(help="Name of the model to make.")],
    base: Annotated[str, typer.Option(help="The language model to start from: smollm2:1.")],
    data: Annotated[str, typer.Option(help="A JSONL file, or the id of one that was sent.")],
    validation: Annotated[
        str | None,
        typer.Option(help="Another, to validate on; by default a tenth is held out."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="llm-lora or llm-full.")] = "llm-lora",
    rank: Annotated[int | None, typer.Option(help="Of the adapter.")] = None,
    dora: Annotated[bool, typer.Option(help="DoRA instead of LoRA.")] = False,
    merge: Annotated[bool, typer.Option(help="Make a version of the whole model too.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Longest example.")] = None,
    config: Annotated[
        str | None, typer.Option(help='More of the recipe\'s config: {"targets": ["q_proj"]}.')
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Any other field of the spec, as JSON.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of an update.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check and count, and tell time and cost.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end, with progress.")] = True,
    json_: Json = False,
) -> None:
    """Fine-tune a language model on conversations, or on prompts with their completions."""
    chosen = {"rank": rank, "dora": dora or None, "merge": merge or None, "max_tokens": max_tokens}
    given = {
        "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size, "seed": seed,
        "check_only": check or None, **(object_of("options", options) or {}),
    }  # fmt: skip
    spec = {name: value for name, value in given.items() if value is not None}
    spec["config"] = {
        **{name: value for name, value in chosen.items() if value is not None},
        **(object_of("config", config) or {}),
    }
    with connect() as client:
        if validation is not None:
            spec["validation"] = _sent(client, "validation", validation)
        file = _sent(client, "data", data)
        job = client.finetune(model, base, file, recipe=recipe, **spec)
        follow_job(client, job, wait, json_)


def _sent(client: Client, field: str, what: str) -> str:
    """The id of a file: what was given, or what sending it gives."""
    path = Path(what)
    if path.is_file():
        sent: str = client.upload_file(path)["id"]
        return sent
    if not what.startswith("file-"):
        raise invalid(field, f"there is no file {what}")
    return what
