"""Exact integers, vectors and ends (first, last) of ranges of rows, for many ranges at once.

The surprise: a sum of a range is the difference of two running sums, because halves of integers add up exactly; a
float sum may not be had that way. The first value of a range is the next valid row from its begin on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.features.kernel import wholes
from flyball.features.kernel.partials import Ints
from flyball.features.spec import Stat

__all__ = ["Ends", "Vectors", "Wholes", "nowhere"]

_ROOM = 1 << 22  # numbers of vectors looked at together
_Bools = npt.NDArray[np.bool_]


class Wholes:
    """Folds of int64 over ranges of rows; `found` holds the partials so far, one per request."""

    def __init__(self, values: Ints, nulls: _Bools, stat: Stat, n: int) -> None:
        self._values, self._nulls, self._stat = values, nulls, stat
        self.found = wholes.empty(n)

    def add(self, rows: Ints, begin: Ints, end: Ints) -> None:
        """Add what lies in each range [begin, end) of some rows."""
        values, valid = self._values[rows], ~self._nulls[rows]
        part = wholes.empty(len(begin))
        part["count"] = _between(valid, begin, end)
        if self._stat is Stat.SUM:
            for name, half in zip(("high", "low"), wholes.parts(np.where(valid, values, 0)), strict=True):
                part[name] = _between(half, begin, end)
        elif self._stat is Stat.MIN:
            part["min"] = _folded(np.minimum, np.where(valid, values, wholes.GREATEST), begin, end, wholes.GREATEST)
        else:
            part["max"] = _folded(np.maximum, np.where(valid, values, wholes.LEAST), begin, end, wholes.LEAST)
        self.found = wholes.combine(self.found, part)

    def add_pairs(self, request: Ints, place: Ints, rows: Ints) -> None:
        """Add (request, row) pairs, sorted by request; each request comes in one call of a series only."""
        del place
        valid = ~self._nulls[rows]
        request, rows = request[valid], rows[valid]
        starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]]) if len(request) else np.empty(0, np.int64)
        part = wholes.fold(self._values[rows], starts)
        who = request[starts]
        self.found[who] = wholes.combine(self.found[who], part)


class Vectors:
    """Sums of vectors over ranges of rows; `count` and `sums` hold them so far, one per request."""

    def __init__(self, values: npt.NDArray[np.float32], nulls: _Bools, n: int) -> None:
        self._values, self._nulls = values, nulls
        self.count, self.sums = np.zeros(n, np.int64), np.zeros((n, values.shape[1]))

    def add(self, rows: Ints, begin: Ints, end: Ints, moved: Ints, size: int) -> None:
        """Add what lies in each range [begin, end) of some rows, some parts of the vectors at a time.

        Each row is laid `moved` further in a tree of `size`, so that the order of adding is its entity's own affair.
        """
        if not len(rows):
            return
        valid = ~self._nulls[rows]
        self.count += _between(valid, begin, end)
        width = self.sums.shape[1]
        step = max(1, _ROOM // max(size, len(begin)))
        place, shift = np.arange(len(rows)) + moved, moved[np.minimum(begin, len(rows) - 1)]
        for k in range(0, width, step):
            part = np.zeros((size, min(step, width - k)))
            part[place[valid]] = self._values[rows[valid], k : k + step]
            self.sums[:, k : k + step] += _folded(np.add, part, begin + shift, end + shift, 0.0)

    def add_pairs(self, request: Ints, place: Ints, rows: Ints) -> None:
        """Add (request, row) pairs, sorted by request."""
        del place
        valid = ~self._nulls[rows]
        request, rows = request[valid], rows[valid]
        if len(request):
            starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
            self.count[request[starts]] += np.diff(starts, append=len(request))
            self.sums[request[starts]] += np.add.reduceat(self._values[rows].astype(np.float64), starts, axis=0)


class Ends:
    """The first or last valid row of ranges; `found` holds its place in the timeline, or `nowhere`."""

    def __init__(self, nulls: _Bools, *, first: bool, n: int) -> None:
        self._nulls, self._first = nulls, first
        self.found = np.full(n, nowhere(first), np.int64)

    def add(self, rows: Ints, begin: Ints, end: Ints, places: Ints) -> None:
        """Let the ends of each range [begin, end) of some rows win where they are nearer; `places` rise."""
        if not len(rows):
            return
        valid = ~self._nulls[rows]
        if self._first:
            following = np.where(valid, np.arange(len(rows)), len(rows))
            following = np.minimum.accumulate(following[::-1])[::-1]
            at = following[np.minimum(begin, len(rows) - 1)]
            there = (begin < end) & (at < end)
        else:
            before = np.maximum.accumulate(np.where(valid, np.arange(len(rows)), -1))
            at = before[np.maximum(end - 1, 0)]
            there = (begin < end) & (at >= begin)
        self._win(np.where(there, places[np.where(there, at, 0)], nowhere(self._first)))

    def add_pairs(self, request: Ints, place: Ints, rows: Ints) -> None:
        """Do as `add` for (request, row) pairs."""
        valid = ~self._nulls[rows]
        best = np.full(len(self.found), nowhere(self._first), np.int64)
        (np.minimum if self._first else np.maximum).at(best, request[valid], place[valid])
        self._win(best)

    def _win(self, places: Ints) -> None:
        self.found = (np.minimum if self._first else np.maximum)(self.found, places)


def nowhere(first: bool) -> int:
    """Return the place that any other beats."""
    return wholes.GREATEST if first else -1


def _between(values: npt.NDArray[Any], begin: Ints, end: Ints) -> Ints:
    running = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    found: Ints = running[end] - running[begin]
    return found


def _folded(better: np.ufunc, values: npt.NDArray[Any], begin: Ints, end: Ints, blank: float) -> npt.NDArray[Any]:
    """Return the fold of each range, by a tree of pairs of neighbours, level by level."""
    found = np.full((len(begin), *values.shape[1:]), blank, values.dtype)
    low, high, level = begin.copy(), end.copy(), values
    while (low < high).any():
        odd = np.flatnonzero((low < high) & (low & 1 == 1))
        found[odd] = better(found[odd], level[low[odd]])
        low[odd] += 1
        odd = np.flatnonzero((low < high) & (high & 1 == 1))
        high[odd] -= 1
        found[odd] = better(found[odd], level[high[odd]])
        low >>= 1
        high >>= 1
        half = len(level) // 2 * 2
        level = better(level[0:half:2], level[1:half:2])
    return found
