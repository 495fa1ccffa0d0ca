"""Which answers are slow: by a time that the user gave, or by one that follows the control's own latency.

The surprise: a limit that follows the data must be known before the answers it judges. So a quantile of the control's
latency counts from the next closed bin on, and an answer of the candidate is slow above `times` that quantile, one of
the control above the quantile itself. When the candidate is at most `times` as slow, its slow answers are then no more
frequent than the control's, whatever the quantile happens to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flyball.rollout.types import GuardrailSpec

__all__ = ["Pace"]

_CONTROL = 1
_LEAST = 200  # answers of the control cohort before its quantile means anything
_FORGET = 20_000  # answers after which the older ones count half
_GRAIN = math.log(1.02)  # buckets are 2 % wide


class Pace:
    """Limits of all latency guardrails of a rollout, in microseconds.

    Args:
        rails: Guardrails with their indices.
    """

    def __init__(self, rails: Sequence[tuple[int, GuardrailSpec]]) -> None:
        timed = [(i, rail) for i, rail in rails if rail.kind == "latency"]
        self._fixed = [(i, rail.limit * 1e6) for i, rail in timed if rail.limit is not None]
        self._caps = [(-1 - i, rail.cap * 1e6) for i, rail in timed if rail.cap is not None]
        self._following = {i: (rail.times, rail.quantile or 0.99) for i, rail in timed if rail.times}
        self._limits: dict[int, float] = {}
        self._counts: dict[int, float] = {}
        self._total = 0.0
        self.rails = [i for i, _ in timed]

    def follows(self, rail: int) -> bool:
        """Tell whether a guardrail's limit follows the control."""
        return rail in self._following

    def judge(self, arm: int, total: int) -> list[tuple[int, bool]]:
        """Return (guardrail, slow) of an answer that took `total` µs; -1 - guardrail for its absolute limit."""
        found = [(rail, total > limit) for rail, limit in self._fixed]
        if self._following:
            if arm == _CONTROL:
                self._remember(total)
            for rail, limit in self._limits.items():
                found.append((rail, total > (limit if arm == _CONTROL else limit * self._following[rail][0])))
        if arm != _CONTROL:
            found += [(rail, total > limit) for rail, limit in self._caps]
        return found

    def _remember(self, total: int) -> None:
        bucket = math.ceil(math.log(max(total, 1)) / _GRAIN)
        self._counts[bucket] = self._counts.get(bucket, 0.0) + 1.0
        self._total += 1.0

    def advance(self) -> None:
        """Take what was seen so far into account for the answers that follow."""
        if not self._following or self._total < _LEAST:
            return
        self._limits = {rail: self._quantile(q) for rail, (_, q) in self._following.items()}
        if self._total > _FORGET:
            self._counts = {bucket: n / 2 for bucket, n in self._counts.items() if n >= 1.0}
            self._total = math.fsum(self._counts.values())

    def _quantile(self, q: float) -> float:
        left = q * self._total
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return math.exp(bucket * _GRAIN)
        return math.exp(max(self._counts) * _GRAIN)
