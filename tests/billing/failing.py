"""Parts that die at the n-th point: before or after the n-th call of any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """As far as the code under test can tell the process has ended: it catches no such thing."""


class Points:
    """Counts points; at number `at` it dies."""

    def __init__(self, at: int, die: Callable[[], None]) -> None:
        self.at, self._die = at, die
        self.passed = 0

    def pass_one(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            self._die()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            self.pass_one()
            result = call(*given, **named)
            self.pass_one()
            return result

        return called

    def of(self, part: Any) -> Any:
        """The same with a point before and after each call."""
        return _Watched(part, self)


class _Watched:
    def __init__(self, part: Any, points: Points) -> None:
        self._part, self._points = part, points

    def __getattr__(self, name: str) -> Any:
        return self._points.around(getattr(self._part, name))
