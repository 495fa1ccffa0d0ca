"""What a batch of n rows costs a model: seconds = a + b * n, learned from the batches that ran.

Pure. Weighted least squares over the newest batches (each observation's weight falls by `_KEPT` with every newer one),
with a weak pull of the slope towards its first guess, so that b is defined before two sizes were seen. The surprise: an
observation far above the prediction is cut before it is learned, because one pause of the scheduler must not move a
microsecond model to a thread; a model that did become slow is still learned within a few batches.
"""

from __future__ import annotations

__all__ = ["CostModel"]

_KEPT = 0.95  # weight of an observation after the next one
_SPREAD = 1.0  # rows squared: with how much variance of n the first guess of the slope counts
_FIRST_SLOPE = 0.01  # of the cost of one row
_CUT, _CUT_FLOOR = 8.0, 0.0005  # an observation counts at most as 8 times the prediction and half a millisecond


class CostModel:
    """Learn seconds = a + b * rows; both are never below zero."""

    __slots__ = ("_n", "_nn", "_nt", "_prior", "_t", "_w", "a", "b")

    def __init__(self, seconds: float = 0.0) -> None:
        """Begin with the cost of one row in seconds."""
        self._prior = seconds * _FIRST_SLOPE
        self.b = self._prior
        self.a = seconds - self.b
        self._w = self._n = self._nn = 1.0  # the first guess counts as one observation
        self._t = self._nt = seconds

    def at(self, rows: int) -> float:
        """Return the predicted seconds of a batch of `rows`."""
        return self.a + self.b * rows

    def rows_within(self, seconds: float) -> int:
        """Return the most rows whose batch is predicted to take at most `seconds`; 0 when not even one does."""
        left = seconds - self.a
        if left < self.b or left <= 0.0:
            return 0
        return int(left / self.b) if self.b > 0.0 else 1 << 30

    def learn(self, rows: int, seconds: float) -> None:
        """Take what a batch of `rows` took."""
        seconds = min(seconds, _CUT * self.at(rows) + _CUT_FLOOR)
        w = self._w = self._w * _KEPT + 1.0
        n = self._n = self._n * _KEPT + rows
        nn = self._nn = self._nn * _KEPT + rows * rows
        t = self._t = self._t * _KEPT + seconds
        nt = self._nt = self._nt * _KEPT + rows * seconds
        spread, together = nn / w - (n / w) ** 2, nt / w - n * t / (w * w)
        b = max((together + _SPREAD * self._prior) / (spread + _SPREAD), 0.0)
        a = (t - b * n) / w
        if a < 0.0:  # steeper than proportional: a line through the origin
            a, b = 0.0, nt / nn
        self.a, self.b = a, b
        self._prior += ((a + b) * _FIRST_SLOPE - self._prior) * (1.0 - _KEPT)
