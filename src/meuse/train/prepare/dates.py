"""Dates inside a graph: ISO 8601 texts to figures of the calendar, by whole numbers alone.

Days since 1970 by the arithmetic of the proleptic Gregorian calendar: 400 years are 146,097
days, and a year that begins in March has its leap day at its end.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from meuse.train.prepare.builder import Builder
from meuse.train.prepare.steps import Date

DATE_PATTERN = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?:T(?:[01]\d|2[0-3]):.*)?"
"""What counts as a date: with or without a time after a `T`."""


def date(builder: Builder, step: Date) -> str:
    """[n] texts → [n, 7]: days, then sine and cosine of month, weekday and hour."""
    calendar = _Arithmetic(builder)
    text = calendar.valid(step)
    year, month, day, hour = calendar.fields(text)
    days = calendar.days(year, month, day)
    scaled = calendar.div(calendar.sub(days, step.shift), step.scale)
    weekday = calendar.mod(calendar.add(days, 3.0), 7.0)  # 0 is Monday
    columns = [scaled]
    for value, period in ((calendar.sub(month, 1.0), 12.0), (weekday, 7.0), (hour, 24.0)):
        angle = calendar.mul(value, 2 * math.pi / period)
        columns += [builder.node("Sin", [angle]), builder.node("Cos", [angle])]
    axis = builder.constant("axis", np.array([1], np.int64))
    return builder.node("Concat", [builder.node("Unsqueeze", [c, axis]) for c in columns], axis=1)


class _Arithmetic:
    """Sums on columns of float32: whole numbers below 2**24 are exact in it."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def valid(self, step: Date) -> str:
        """The texts, with `fill` for what is no date."""
        good = self._builder.node("RegexFullMatch", [step.column], pattern=DATE_PATTERN)
        fill = self._builder.constant("fill", np.array([step.fill], object))
        return self._builder.node("Where", [good, step.column, fill])

    def fields(self, text: str) -> tuple[str, str, str, str]:
        """Year, month, day and hour, each [n] float32."""
        # Every text gets a time behind it, so that each has at least two parts.
        tail = self._builder.constant("tail", np.array(["T00:"], object))
        timed = self._builder.node("StringConcat", [text, tail])
        day = self._part(timed, "T", 0)
        hour = self._part(self._part(timed, "T", 1), ":", 0)
        numbers = [self._part(day, "-", index) for index in range(3)]
        cast = [
            self._builder.node("Cast", [part], to=TensorProto.FLOAT) for part in (*numbers, hour)
        ]
        return cast[0], cast[1], cast[2], cast[3]

    def days(self, year: str, month: str, day: str) -> str:
        """Days since 1970-01-01."""
        early = self._builder.node(
            "Cast",
            [self._builder.node("LessOrEqual", [month, self._number(2.0)])],
            to=TensorProto.FLOAT,
        )
        year = self._builder.node("Sub", [year, early])
        era = self.floor(self.div(year, 400.0))
        of_era = self._builder.node("Sub", [year, self.mul(era, 400.0)])
        march = self._builder.node("Add", [self.sub(month, 3.0), self.mul(early, 12.0)])
        in_year = self.floor(self.div(self.add(self.mul(march, 153.0), 2.0), 5.0))
        in_year = self.sub(self._builder.node("Add", [in_year, day]), 1.0)
        leaps = self._builder.node(
            "Sub", [self.floor(self.div(of_era, 4.0)), self.floor(self.div(of_era, 100.0))]
        )
        in_era = self._builder.node("Add", [self.mul(of_era, 365.0), leaps])
        in_era = self._builder.node("Add", [in_era, in_year])
        total = self._builder.node("Add", [self.mul(era, 146_097.0), in_era])
        return self.sub(total, 719_468.0)

    def _part(self, text: str, delimiter: str, index: int) -> str:
        self._splits = getattr(self, "_splits", 0) + 1
        parts = self._builder.node(
            "StringSplit",
            [text],
            [f"date_{self._splits}_{text}", f"date_{self._splits}_{text}_counts"],
            delimiter=delimiter,
        )
        place = self._builder.constant("place", np.array(index, np.int64))
        return self._builder.node("Gather", [parts, place], axis=1)

    def _number(self, value: float) -> str:
        return self._builder.constant("number", np.array(value, np.float32))

    def add(self, a: str, b: float) -> str:
        return self._builder.node("Add", [a, self._number(b)])

    def sub(self, a: str, b: float) -> str:
        return self._builder.node("Sub", [a, self._number(b)])

    def mul(self, a: str, b: float) -> str:
        return self._builder.node("Mul", [a, self._number(b)])

    def div(self, a: str, b: float) -> str:
        return self._builder.node("Div", [a, self._number(b)])

    def mod(self, a: str, b: float) -> str:
        return self._builder.node("Mod", [a, self._number(b)], fmod=1)

    def floor(self, a: str) -> str:
        return self._builder.node("Floor", [a])
