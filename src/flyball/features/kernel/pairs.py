"""Window folds that need each value itself: request by request over the rows of its window, in bounded slices.

The surprise: there is no structure here to get wrong. Sketches, and what few pairs of a request and a row there are,
look at each row in the window that was known, at most two million pairs at a time, so memory is bounded and time grows
with rows per window; what most features are goes through the trees and ranges of `windows` instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.features.kernel import distinct, quantiles, wholes
from flyball.features.kernel.partials import Ints
from flyball.features.kernel.slots import Column, Slot
from flyball.features.kernel.timeline import Timeline
from flyball.features.spec import FeatureSpec, Stat, Status
from flyball.features.types import is_vector, vector_size

__all__ = ["Asked", "PairFold", "fold_pairs", "slices"]


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests of one window: T, and the rows (in the timeline's order) between its edges, known or not."""

    at: Ints
    begin: Ints
    end: Ints


@dataclass(frozen=True, slots=True)
class PairFold:
    """What one feature folds, and the answer so far; `found` is null where no value was."""

    feature: FeatureSpec
    kind: str
    column: Column
    found: Any

    @classmethod
    def of(cls, feature: FeatureSpec, kind: str, slot: Slot, columns: Mapping[str, Column], n: int) -> PairFold:
        """Return the fold of nothing for n requests."""
        match kind:
            case "wholes":
                found: Any = wholes.empty(n)
            case "hll":
                found = np.zeros(n, np.int64)
            case "first" | "last" if feature.type != "float64":
                found = np.zeros(n, np.int64)
            case _ if is_vector(kind):
                found = np.full((n, vector_size(kind)), np.nan, np.float32)
            case _:
                found = np.full(n, np.nan)
        return cls(feature, kind, columns[slot.name], (found, np.zeros(n, bool)))

    def add(self, request: Ints, row: Ints) -> None:
        """Fold (request, row) pairs, sorted by request, then by the rows' order."""
        values, nulls = self.column
        valid = ~nulls[row]
        request, values = request[valid], values[row[valid]]
        if not len(request):
            return
        starts = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
        found, there = self.found
        who = request[starts]
        there[who] = True
        found[who] = self._folded(values, starts)

    def _folded(self, values: npt.NDArray[Any], starts: Ints) -> Any:
        match self.kind:
            case "wholes":
                return wholes.fold(values, starts)
            case "first":
                return values[starts]
            case "last":
                return values[np.append(starts[1:], len(values)) - 1]
            case "kll":
                return quantiles.exact(values, starts, self.feature.q or 0.5)
            case "hll":
                return distinct.estimates(values, starts)
            case _:
                lengths = np.diff(starts, append=len(values))
                return np.add.reduceat(values.astype(np.float64), starts, axis=0) / lengths[:, None]

    def finish(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return values and statuses."""
        found, there = self.found
        if self.kind == "wholes":
            return wholes.finish(found, self.feature.stat or Stat.SUM)
        return found, np.where(there, Status.PRESENT, Status.NULL).astype(np.uint8)


def fold_pairs(rows: Timeline, asked: Asked, folds: list[PairFold], most: int) -> None:
    """Fold the rows of each request's window that were known at its T, at most `most` pairs at a time."""
    widest = max(vector_size(f.kind) for f in folds)
    known = rows.known[rows.rows]
    for some in slices(asked.end - asked.begin, max(most // widest, 1)):
        begin, lengths = asked.begin[some], asked.end[some] - asked.begin[some]
        starts = np.cumsum(lengths) - lengths
        places = np.arange(int(lengths.sum())) + np.repeat(begin - starts, lengths)
        seen = known[places] <= np.repeat(asked.at[some], lengths)
        request = np.repeat(np.arange(some.start, some.start + len(begin)), lengths)[seen]
        row = rows.rows[places[seen]]
        for fold in folds:
            fold.add(request, row)


def slices(lengths: Ints, most: int) -> Iterator[slice]:
    """Cut requests into runs of at most `most` pairs in all, or single requests."""
    total = np.cumsum(lengths)
    begin = 0
    while begin < len(lengths):
        done = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + most, "right")))
        yield slice(begin, end)
        begin = end
