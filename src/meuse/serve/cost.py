"""How long a batch takes: t(b) = a + c·b, learned while serving.

Least squares over (rows, time) with exponential forgetting (recursive least squares, as in
Haykin, Adaptive Filter Theory, ch. 10, here in its two-parameter closed form): a model whose
machine gets busier is believed to be slower within some tens of batches. Both parameters are
held at zero or above. While all batches had about the same size the slope cannot be told from
the offset; then time is taken as proportional to rows, which never promises more than was seen.
Pure; knows no clock.
"""

from __future__ import annotations

import math

FORGET = 0.03
"""Weight of the newest batch; half of what is known is 23 batches old at most."""
OUTLIER = 4.0
"""A batch counts as at most this many times what was expected: one preempted batch among many
must not make everybody look late, a machine that stays slow still shows."""


class CostModel:
    """Microseconds of a batch by its rows."""

    def __init__(self) -> None:
        self._n = self._b = self._t = self._bb = self._bt = 0.0
        self._fixed = self._slope = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    @property
    def parameters(self) -> tuple[float, float]:
        """(a, c) in µs and µs per row."""
        return self._fixed, self._slope

    def observe(self, rows: int, us: float) -> None:
        """A batch of `rows` took `us`."""
        if self._n >= 1.0 / FORGET / 8:
            us = min(us, OUTLIER * self.predict(rows))
        keep = 1.0 - FORGET
        self._n = self._n * keep + 1
        self._b = self._b * keep + rows
        self._t = self._t * keep + us
        self._bb = self._bb * keep + rows * rows
        self._bt = self._bt * keep + rows * us
        self._solve()

    def predict(self, rows: float) -> float:
        """µs of a batch; 0 before anything was observed."""
        return self._fixed + self._slope * rows

    def rows_within(self, us: float) -> float:
        """The largest batch that takes at most `us`; infinite where rows seem to cost nothing."""
        left = us - self._fixed
        if self._slope <= 0.0:
            return math.inf if left >= 0 else 0.0
        return left / self._slope

    def _solve(self) -> None:
        mean_b, mean_t = self._b / self._n, self._t / self._n
        spread = self._bb / self._n - mean_b * mean_b
        if spread <= 0.01 * mean_b * mean_b:
            self._fixed, self._slope = 0.0, mean_t / mean_b
            return
        slope = (self._bt / self._n - mean_b * mean_t) / spread
        fixed = mean_t - slope * mean_b
        if slope < 0.0:
            fixed, slope = mean_t, 0.0
        elif fixed < 0.0:
            fixed, slope = 0.0, mean_t / mean_b
        self._fixed, self._slope = fixed, slope
