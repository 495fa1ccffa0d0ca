"""Do two arms agree on a row? Pure arithmetic on what the caller got and what the other arm said.

A row's score is the number itself, the probability of class 1 of two, or of the class that the caller was told of
several. The surprise: what counts as agreement of plain numbers follows the label's scale, as the champion's own
answers show it: a twentieth of their standard deviation, because no user can be asked for a tolerance in minutes,
euros and clicks alike.
"""

from __future__ import annotations

import math

__all__ = ["Scale", "Value", "agree", "score"]

Value = float | list[float] | None
TOLERANCE = 0.05  # of the scale
_ENOUGH = 30  # answers until their deviation is a scale


class Scale:
    """Running mean and deviation of one model's answers (Welford 1962)."""

    __slots__ = ("_mean", "_squares", "n")

    def __init__(self) -> None:
        """Know nothing yet."""
        self.n = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take one answer."""
        self.n += 1
        off = value - self._mean
        self._mean += off / self.n
        self._squares += off * (value - self._mean)

    @property
    def size(self) -> float:
        """Standard deviation of the answers; their size as long as too few were seen or all were equal."""
        deviation = math.sqrt(self._squares / (self.n - 1)) if self.n >= _ENOUGH else 0.0
        return deviation or abs(self._mean) or 1.0


def score(value: Value, served: Value) -> float | None:
    """Return the one number that stands for an answer, None where there is none; `served` chooses the class."""
    if not isinstance(value, list) or not isinstance(served, list):
        return None if isinstance(value, list) or isinstance(served, list) else value
    if not value or len(served) != len(value):
        return None
    return value[1] if len(value) == 2 else value[_top(served)]


def agree(value: Value, served: Value, scale: float) -> bool:
    """Return whether both say the same: the same most probable class, or numbers closer than the tolerance."""
    if isinstance(value, list) and isinstance(served, list):
        return len(value) == len(served) and bool(value) and _top(value) == _top(served)
    if isinstance(value, list) or isinstance(served, list) or value is None or served is None:
        return False
    return abs(value - served) <= TOLERANCE * scale


def _top(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
