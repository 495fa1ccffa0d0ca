"""A worker's own veto: it takes candidate traffic away at once and asks nobody.

Pure. Five failures among the candidate's last twenty answers are far from any honest error rate; the slow, exact
judgement is the rollout's, this one only keeps callers from waiting for fallbacks meanwhile.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Breaker"]


class Breaker:
    """Remember the newest answers of a candidate."""

    def __init__(self, *, failures: int = 5, window: int = 20) -> None:
        """Trip at `failures` among the last `window` answers."""
        self._limit = failures
        self._last: deque[bool] = deque(maxlen=window)
        self._failed = 0

    def record(self, *, failed: bool) -> bool:
        """Take one answer; return whether the breaker trips."""
        last = self._last
        if len(last) == last.maxlen:
            self._failed -= last[0]
        last.append(failed)
        self._failed += failed
        return failed and self._failed >= self._limit

    def reset(self) -> None:
        """Forget everything."""
        self._last.clear()
        self._failed = 0
