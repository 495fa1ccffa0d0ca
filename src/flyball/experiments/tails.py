"""The largest and smallest values of a stream: what is needed, beside its moments, to ask what hangs on a few units.

The surprise: a hundred values of each end are enough for that question at any size, and they merge exactly, because the
largest of two parts together are among the largest of each.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from flyball.errors import InputError

__all__ = ["KEPT", "Tails"]

KEPT = 100  # values kept of each end


@dataclass(frozen=True, slots=True)
class Tails:
    """The ends of a sample; merges in any order.

    Args:
        lowest: The smallest values, smallest first; with repeats.
        highest: The largest values, largest first; with repeats.
        kept: How many are kept of each end at most.

    Example:
        >>> Tails.of([5, 1, 4, 2], kept=2).merge(Tails.of([3, 9], kept=2))
        Tails(lowest=(1.0, 2.0), highest=(9.0, 5.0), kept=2)
    """

    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()
    kept: int = KEPT

    @classmethod
    def of(cls, values: Iterable[float], *, kept: int = KEPT) -> Self:
        """Return the ends of some values; raises InputError where one is missing or infinite."""
        whole = [float(value) for value in values]
        if wrong := [value for value in whole if not math.isfinite(value)]:
            raise InputError(f"a value is {wrong[0]}; the ends of a sample are of finite values")
        return cls(tuple(heapq.nsmallest(kept, whole)), tuple(heapq.nlargest(kept, whole)), kept)

    def merge(self, other: Tails) -> Self:
        """Return the ends of both samples together; as many as the one that keeps fewer knows."""
        kept = min(self.kept, other.kept)
        lowest = heapq.nsmallest(kept, [*self.lowest, *other.lowest])
        highest = heapq.nlargest(kept, [*self.highest, *other.highest])
        return replace(self, lowest=tuple(lowest), highest=tuple(highest), kept=kept)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"lowest": list(self.lowest), "highest": list(self.highest), "kept": self.kept}
