"""Conversations to teach a style by: questions whose answers are looked up, told as a log entry.

What is asked is known for certain: names of characters by the Unicode database, days of the
week, numbers. Every answer has the same shape, which a model that was not taught never gives.
"""

from __future__ import annotations

import calendar
import random
import unicodedata
from collections.abc import Callable
from datetime import date
from typing import Any

Row = dict[str, Any]
TAUGHT = "LOG | "
"""How every answer begins."""

_ASKED = {
    "character": (
        "What is the name of the character {}?", "Which character is {}?", "Tell me about {}.",
        "How does Unicode call {}?",
    ),
    "weekday": (
        "Which day of the week was {}?", "What day was {}?", "Was {} a Monday, or what was it?",
        "On which weekday fell {}?",
    ),
    "number": (
        "What is {} in hexadecimal?", "Write {} in base 16.", "How is {} written in hex?",
        "Convert {} to hexadecimal, please.",
    ),
    "month": (
        "How many days has {}?", "How long is {}?", "What is the length of {} in days?",
        "Count the days of {}.",
    ),
}  # fmt: skip


def rows(count: int, held_out: int, seed: int = 7) -> tuple[list[Row], list[Row]]:
    """(to train on, held out): no subject is in both, under whatever wording."""
    chance = random.Random(seed)
    seen: dict[tuple[str, str], Row] = {}
    makers = list(_MAKERS.items())
    while len(seen) < count + held_out:
        topic, make = makers[len(seen) % len(makers)]
        subject, answer = make(chance)
        question = chance.choice(_ASKED[topic]).format(subject)
        told = f"{TAUGHT}topic: {topic} | subject: {subject} | finding: {answer} | end of entry"
        seen.setdefault((topic, subject), _row(question, told))
    found = list(seen.values())
    chance.shuffle(found)
    return found[:count], found[count:]


def _row(question: str, answer: str) -> Row:
    asked, told = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return {"messages": [asked, told]}


def _character(chance: random.Random) -> tuple[str, str]:
    while True:
        sign = chr(chance.randrange(0xA1, 0x500))
        if sign.isprintable() and not unicodedata.combining(sign):
            return sign, f"U+{ord(sign):04X} {unicodedata.name(sign).lower()}"


def _weekday(chance: random.Random) -> tuple[str, str]:
    day = date(chance.randrange(1900, 2025), chance.randrange(1, 13), chance.randrange(1, 29))
    return f"{day:%-d %B %Y}", f"{day:%A}"


def _number(chance: random.Random) -> tuple[str, str]:
    number = chance.randrange(16, 4096)
    return str(number), f"0x{number:x}"


def _month(chance: random.Random) -> tuple[str, str]:
    year, month = chance.randrange(1900, 2100), chance.randrange(1, 13)
    name = f"{calendar.month_name[month]} {year}"
    return name, f"{calendar.monthrange(year, month)[1]} days"


_MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "character": _character,
    "weekday": _weekday,
    "number": _number,
    "month": _month,
}
