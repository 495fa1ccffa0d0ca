"""Answer window features at T from stored values: cells from a window's old edge on, and the raw events known at T.

The surprise: nothing is added up here but raw events, because the cell at a window's old edge holds all of it; where
that is, is searched in the index columns of all values at once. Values of plain kinds go through `plain`, a lone one
through `one`, which does the same arithmetic on Python numbers; the answers are the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.features.cells.heads import add_heads, known_heads
from flyball.features.cells.kinds import Cells, nothing
from flyball.features.cells.layout import KIND, Block, Range, WindowLayout, checked
from flyball.features.cells.one import read_one
from flyball.features.cells.plain import Folded, read_many
from flyball.features.cells.values import Held, oldest
from flyball.features.kernel import distinct, partials, quantiles, wholes
from flyball.features.kernel.slots import is_null
from flyball.features.kernel.windows import first_cell
from flyball.features.spec import FeatureSpec, Stat, Status
from flyball.features.types import is_vector, vector_size

__all__ = ["answer", "answer_columns", "answer_one"]

Answer = tuple[np.ndarray, np.ndarray]
_NULL, _PRESENT = np.uint8(Status.NULL), np.uint8(Status.PRESENT)


def answer(layout: WindowLayout, values: Sequence[bytes], at: int) -> Answer:
    """Evaluate a window view's stored features at T for many stored values, as a matrix.

    Args:
        layout: The view's layout.
        values: Stored values, at least one.
        at: T in µs, not before a value's floor (T may lie `SPAN` before the newest arrival).

    Returns:
        (float64 values, shape (len(values), layout.width); uint8 statuses, shape (len(values), features)). NaN where
        null. Integers beyond 2**53 are rounded here; `answer_columns` has them whole.
    """
    if len(values) == 1 and layout.plain:
        numbers, status = answer_one(layout, values[0], at)
        return np.array([numbers], np.float64), np.array([status or [0] * len(numbers)], np.uint8)
    found = np.empty((len(values), layout.width))
    if layout.plain:
        return _plain(layout, values, at, found)
    columns, statuses = answer_columns(layout, values, at)
    column = 0
    for i, (feature, answers) in enumerate(zip(layout.features, columns, strict=True)):
        wide = vector_size(feature.type)
        target = found[:, column : column + wide]
        target[:] = answers if answers.ndim > 1 else answers[:, None]
        if answers.dtype.kind != "f" and (null := is_null(feature, statuses[:, i])).any():
            target[null] = np.nan
        column += wide
    return found, statuses


def answer_columns(layout: WindowLayout, values: Sequence[bytes], at: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Do as `answer`, exactly: one array per feature.

    Returns:
        (float64 (NaN where null), int64 and bool (0 where null) or float32 of shape (n, K), per feature; uint8
        statuses, shape (len(values), features)).
    """
    if layout.plain:
        return _plain_columns(layout, values, at)
    held = Held(layout.shape, values)
    checked((held.tops["kind"] == KIND).all())
    heads, owner = known_heads(held.heads, held.head_owner, at)
    blocks = [_Block(layout, held, b, heads, owner, at) for b in range(len(layout.ranges))]
    columns = []
    statuses = np.empty((len(values), len(layout.features)), np.uint8)
    for i, (feature, (b, r)) in enumerate(zip(layout.features, layout.places, strict=True)):
        found, statuses[:, i] = blocks[b].finish(feature, r)
        columns.append(found.astype(bool) if feature.type == "bool" else found)
    unseen = held.tops["seen"] > at
    if unseen.any():
        statuses[unseen] = Status.MISSING
    return columns, statuses


def _plain(layout: WindowLayout, values: Sequence[bytes], at: int, found: np.ndarray) -> Answer:
    """Fill the matrix, one statistic of all windows at a time."""
    folded = read_many(layout, values, at)
    statuses = np.empty(found.shape, np.uint8)
    for b, stat, features, ranges in layout.outlets:
        numbers, status = _finished(layout, folded, b, stat)
        if numbers.dtype.kind != "f" and status.any():
            numbers = np.where(status == _NULL, np.nan, numbers)
        found[:, features], statuses[:, features] = numbers[ranges].T, status[ranges].T
    if folded.unseen.any():
        statuses[folded.unseen] = Status.MISSING
    return found, statuses


def _plain_columns(layout: WindowLayout, values: Sequence[bytes], at: int) -> tuple[list[np.ndarray], np.ndarray]:
    folded = read_many(layout, values, at)
    columns: list[np.ndarray] = [np.empty(0)] * len(layout.features)
    statuses = np.empty((len(values), len(columns)), np.uint8)
    for b, stat, features, ranges in layout.outlets:
        numbers, status = _finished(layout, folded, b, stat)
        for i, r in zip(_listed(features), _listed(ranges), strict=True):
            kept = numbers[r]
            columns[i], statuses[:, i] = kept.astype(bool) if layout.features[i].type == "bool" else kept, status[r]
    if folded.unseen.any():
        statuses[folded.unseen] = Status.MISSING
    return columns, statuses


def _listed(places: list[int] | slice) -> list[int]:
    return list(range(places.start, places.stop)) if isinstance(places, slice) else places


def _finished(layout: WindowLayout, folded: Folded, b: int, stat: Stat) -> Answer:
    if layout.shape.blocks[b].kind == "wholes":
        return wholes.finish(folded.blocks[b], stat)
    return partials.finish(folded.blocks[b], stat)


def answer_one(layout: WindowLayout, value: bytes, at: int) -> tuple[Sequence[float], Sequence[int] | None]:
    """Evaluate one stored value: `layout.width` numbers (NaN where null), and statuses or None for all PRESENT."""
    if layout.plain:
        return read_one(layout, value, at)
    numbers, statuses = answer(layout, [value], at)
    return numbers[0].tolist(), statuses[0].tolist() if statuses.any() else None


class _Block:
    """The answers of one block's ranges, for all values: arrays of n x ranges, value by value."""

    def __init__(self, layout: WindowLayout, held: Held, b: int, heads: np.ndarray, owner: np.ndarray, at: int) -> None:
        self.block: Block = layout.shape.blocks[b]
        self.ranges: tuple[Range, ...] = layout.ranges[b]
        self.n = len(held.tops)
        self.cells = held.cells[b]
        self.shape = layout.shape
        self.heads, self.owner = heads, owner
        self.first = [first_cell(at, r.window, r.hop) for r in self.ranges]
        self.begin, self.end = self._bounds(held.block_counts(b))
        self._finished: dict[Stat, Answer] = {}
        if not self.block.sketch:
            self.found = self._folded()
            if len(heads):
                self.found = self._with_heads(self.found)

    def _bounds(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first cell of each value's range and its end, by bisection of all of them together."""
        ends = np.cumsum(counts.ravel()).reshape(counts.shape)
        groups = [r.group for r in self.ranges]
        end = ends[:, groups].ravel()
        first = np.tile(np.array(self.first, np.int64), self.n)
        return oldest(self.cells["index"], end - counts[:, groups].ravel(), end, first), end

    # ------------------------------------------------------------------------------------------- fixed cells

    def _folded(self) -> Cells:
        """Take the cell at each range's old edge, which holds the whole range."""
        begin, end, kind = self.begin, self.end, self.block.kind
        if kind in {"first", "last"}:
            return self._end_cells(begin, end)
        empty = begin == end
        found: Cells = {}
        for name in self.block.columns:
            column = self.cells[name]
            found[name] = (
                column[np.minimum(begin, max(len(column) - 1, 0))]
                if len(column)
                else (np.zeros((len(begin), *column.shape[1:]), column.dtype))
            )
            found[name][empty] = nothing(kind, name)
        return found

    def _end_cells(self, begin: np.ndarray, end: np.ndarray) -> Cells:
        """Take each range's oldest or newest cell; `event` says by its own null that there is none."""
        there = begin < end
        at = np.where(there, begin if self.block.kind == "first" else end - 1, 0)
        found: Cells = {name: self.cells[name][at].copy() for name in self.block.columns}
        found["there"] = there
        return found

    # ------------------------------------------------------------------------------------------- raw events

    def _inside(self, r: int) -> np.ndarray:
        """Return which raw events lie in a range and have a value."""
        span = self.ranges[r]
        inside: np.ndarray = self.heads["event"] > self.first[r] * span.hop
        return np.flatnonzero(inside & self.shape.valid(self.heads, span.slot) if span.slot >= 0 else inside)

    def _with_heads(self, found: Cells) -> Cells:
        """Add the raw events to the cells' folds, all ranges of a slot together."""
        width = len(self.ranges)
        shaped = {name: column.reshape(self.n, width, *column.shape[1:]) for name, column in found.items()}
        if self.block.kind in {"first", "last"}:
            for r, span in enumerate(self.ranges):
                which = self._inside(r)
                mine = {name: column[:, r] for name, column in shaped.items()}
                values = self.heads[f"s{span.slot}"][which]
                for name, column in self._nearer(mine, values, which, self.owner[which]).items():
                    shaped[name][:, r] = column
            return found
        low = np.array(self.first) * np.array([span.hop for span in self.ranges])
        turned = {name: column.swapaxes(0, 1) for name, column in shaped.items()}
        add_heads(self.shape, self.block.kind, self.ranges, low, turned, self.heads, self.owner)
        return found

    def _nearer(self, mine: Cells, values: np.ndarray, which: np.ndarray, owner: np.ndarray) -> Cells:
        """Let the oldest (newest) of a value's raw events and its cells win."""
        events = self.heads[which]
        order = np.lexsort((events["sequence"], events["created"], events["event"], owner))
        edge = np.ones(len(order), bool)
        same = owner[order][1:] == owner[order][:-1]
        if self.block.kind == "first":
            edge[1:] = ~same
        else:
            edge[:-1] = ~same
        picked = order[edge]
        whose = owner[picked]
        theirs = {name: events[name][picked] for name in ("event", "created", "sequence")}
        before, tie = np.zeros(len(whose), bool), np.ones(len(whose), bool)
        for name, column in theirs.items():
            before |= tie & (column < mine[name][whose])
            tie &= column == mine[name][whose]
        better = ~mine["there"][whose] | (before if self.block.kind == "first" else ~before & ~tie)
        found = {name: column.copy() for name, column in mine.items()}
        for name, column in theirs.items():
            found[name][whose[better]] = column[better]
        bits = np.ascontiguousarray(values[picked]).view(np.int64)
        found["value"][whose[better]], found["there"][whose] = bits[better], True
        return found

    # ------------------------------------------------------------------------------------------- the end

    def finish(self, feature: FeatureSpec, r: int) -> Answer:
        """Return a feature's values and statuses."""
        kind = self.block.kind
        if kind == "hll":
            return self._distinct(r)
        if kind == "kll":
            return self._quantile(r, feature.q or 0.5)
        if kind in {"first", "last"}:
            mine = {name: column[r :: len(self.ranges)] for name, column in self.found.items()}
            good = mine["there"]
            value = np.ascontiguousarray(mine["value"])
            value = np.where(good, value.view(np.float64), np.nan) if feature.type == "float64" else value * good
            return value, np.where(good, _PRESENT, _NULL)
        if is_vector(kind):
            mine = {name: column[r :: len(self.ranges)] for name, column in self.found.items()}
            good = mine["count"] > 0
            mean = mine["sums"] / np.maximum(mine["count"], 1)[:, None]
            return np.where(good[:, None], mean, np.nan).astype(np.float32), np.where(good, _PRESENT, _NULL)
        stat = feature.stat or Stat.COUNT
        if stat not in self._finished:  # of all windows at once
            self._finished[stat] = (wholes if kind == "wholes" else partials).finish(self.found, stat)
        numbers, status = self._finished[stat]
        return numbers[r :: len(self.ranges)], status[r :: len(self.ranges)]

    def _states(self, r: int) -> list[tuple[list[bytes], np.ndarray]]:
        """Return each value's cells (as bytes) and raw values in a range."""
        width, span, states = len(self.ranges), self.ranges[r], self.cells["state"]
        which = self._inside(r)
        values, owner = self.heads[f"s{span.slot}"][which], self.owner[which]
        bounds = zip(self.begin[r::width].tolist(), self.end[r::width].tolist(), strict=True)
        return [(list(states[a:b]), values[owner == i]) for i, (a, b) in enumerate(bounds)]

    def _distinct(self, r: int) -> Answer:
        found = np.zeros(self.n, np.int64)
        for i, (cells, hashes) in enumerate(self._states(r)):
            states = [distinct.from_bytes(c) for c in cells]
            found[i] = distinct.estimate(distinct.merge([*states, distinct.of_hashes(np.ascontiguousarray(hashes))]))
        return found, np.where(found > 0, _PRESENT, _NULL)

    def _quantile(self, r: int, q: float) -> Answer:
        found = np.empty(self.n)
        for i, (cells, raw) in enumerate(self._states(r)):
            states: list[quantiles.Levels] = [quantiles.from_bytes(c) for c in cells]
            found[i] = quantiles.quantiles([*states, (np.ascontiguousarray(raw),)], [q])[0]
        return found, np.where(np.isnan(found), _NULL, _PRESENT)
