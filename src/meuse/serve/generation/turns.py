"""Whose requests may start now, where an engine runs with one adapter at a time.

Requests of different adapters never share a batch. While others wait, the one whose turn it is
starts requests for at most `turn_us`; then what runs comes to its end, the engine is switched,
and the next one has its turn. Those that wait come in the order in which they began to, and one
that has had its turn goes to the end. So between two turns of an adapter each other one has at
most one: nobody waits for more than all others' turns and the last answers of each. Only the
best class of priority that waits takes part. Pure: no clock, no engine.
"""

from __future__ import annotations

from collections.abc import Mapping


class Turns:
    """`current` is the adapter whose turn it is, "" the base."""

    def __init__(self, turn_us: float) -> None:
        self.current = ""
        self._turn_us = turn_us
        self._until_us = 0.0
        self._others: dict[str, None] = {}  # that wait, in the order of their turns

    def look(self, now_us: float, waiting: Mapping[str, int], busy: bool) -> str | None:
        """The adapter whose requests may start; None: nobody's, for what runs has to end first.
        Another one than before only while nothing runs.

        `waiting`: by adapter, the best class (the lowest number) of its requests that wait.
        `busy`: whether the engine has anything in progress.
        """
        best = min(waiting.values(), default=0)
        asking = {adapter for adapter, priority in waiting.items() if priority == best}
        before = [adapter for adapter in self._others if adapter in asking]
        new = [adapter for adapter in waiting if adapter in asking and adapter not in self._others]
        self._others = {a: None for a in (*before, *new) if a != self.current}
        mine = self.current in asking
        if mine and (not self._others or now_us < self._until_us):
            return self.current
        if busy or not self._others:
            return None
        if mine:
            self._others[self.current] = None
        self.current = next(iter(self._others))
        del self._others[self.current]
        self._until_us = now_us + self._turn_us
        return self.current
