"""Predictions that may stand in the log twice, and what keeps readers from counting them twice.

A request with an Idempotency-Key that is sent again, and meets another worker than before, is answered and logged a
second time under the same id. The surprise: only ids that begin with `x` can repeat, so that all others cost their
readers one look at one character.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["REPEATABLE", "Repeats"]

REPEATABLE = "x"
_KEPT = 100_000


class Repeats:
    """Remember the newest repeatable ids; what is kept depends on the calls so far alone.

    Args:
        most: How many are remembered; the oldest go first.
    """

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._seen: OrderedDict[str, None] = OrderedDict()

    def again(self, prediction: str) -> bool:
        """Return whether a record of this id was there before, and remember it."""
        if prediction[:1] != REPEATABLE:
            return False
        if prediction in self._seen:
            return True
        self._seen[prediction] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return False
