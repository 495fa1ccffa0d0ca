"""Answer window features at T from stored values: cells from a window's old edge on, and the raw events known at T.

The surprise: no cell is looked at twice. Where a window begins is searched in the index column of all values at once,
then one reduceat per column folds every window of every value. A lone value of plain kinds goes through `one`, which
does the same arithmetic on Python numbers; the answers are the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.features.cells.kinds import Cells
from flyball.features.cells.layout import Block, Range, WindowLayout
from flyball.features.cells.one import read_one
from flyball.features.cells.values import Held
from flyball.features.kernel import distinct, partials, quantiles, wholes
from flyball.features.kernel.slots import is_null
from flyball.features.kernel.windows import first_cell
from flyball.features.spec import FeatureSpec, Stat, Status
from flyball.features.types import is_vector, vector_size

__all__ = ["answer", "answer_columns", "answer_one"]

Answer = tuple[np.ndarray, np.ndarray]
_STEPS = 3
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
    held = Held(layout.shape, values)
    seen = held.heads["known"] <= at
    newest = np.argsort(-held.heads["event"], kind="stable")  # the order in which raw events are added up
    newest = newest[seen[newest]]
    heads, owner = held.heads[newest], held.head_owner[newest]
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
            found = self._folded()
            if len(heads):
                found = self._with_heads(found)
            self.found = found

    def _bounds(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first cell of each value's range and its end, by bisection of all of them together."""
        ends = np.cumsum(counts.ravel()).reshape(counts.shape)
        groups = [r.group for r in self.ranges]
        end = ends[:, groups].ravel()
        low, high = end - counts[:, groups].ravel(), end.copy()
        index, first = self.cells["index"], np.tile(np.array(self.first, np.int64), self.n)
        left = np.arange(len(low))
        for _ in range(_STEPS):  # trimming leaves a cell or two before a window; look there first
            left = left[(low[left] < high[left]) & (index[low[left]] < first[left])]
            if not len(left):
                return low, end
            low[left] += 1
        while len(left := left[low[left] < high[left]]):
            middle = (low[left] + high[left]) >> 1
            older = index[middle] < first[left]
            low[left] = np.where(older, middle + 1, low[left])
            high[left] = np.where(older, high[left], middle)
        return low, end

    # ------------------------------------------------------------------------------------------- fixed cells

    def _folded(self) -> Cells:
        """Fold each range's cells."""
        begin, end, kind = self.begin, self.end, self.block.kind
        if kind in {"first", "last"}:
            return self._end_cells(begin, end)
        bounds = np.empty(2 * len(begin), np.int64)
        bounds[0::2], bounds[1::2] = begin, end
        empty = begin == end
        found: Cells = {}
        for name in self.block.columns:
            column = self.cells[name]
            if name == "m2":
                found[name] = self._deviations(found, begin, end)
                continue
            if column.ndim > 1:  # vectors have no element to spare
                column = np.concatenate([column, np.zeros((1, *column.shape[1:]))])
            fold = {"min": np.minimum, "max": np.maximum}.get(name, np.add)
            with np.errstate(all="ignore"):
                found[name] = fold.reduceat(column, bounds)[::2]
            if empty.any():
                found[name][empty] = _nothing(kind, name)
        return found

    def _deviations(self, found: Cells, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return squared deviations from each range's mean (Chan, Golub and LeVeque 1979, for many parts at once)."""
        lengths = end - begin
        full = lengths > 0
        m2 = np.zeros(len(begin))
        if not full.any():
            return m2
        lengths, starts = lengths[full], np.cumsum(lengths[full]) - lengths[full]
        which = np.repeat(begin[full] - starts, lengths) + np.arange(int(lengths.sum()))
        count = self.cells["count"][which]
        with np.errstate(all="ignore"):
            mean = found["sum"][full] / found["count"][full]
            away = self.cells["sum"][which] / count - np.repeat(mean, lengths)
            m2[full] = np.add.reduceat(self.cells["m2"][which], starts) + np.add.reduceat(count * away * away, starts)
        return m2

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
        for slot in dict.fromkeys(span.slot for span in self.ranges):
            ranges = [r for r, span in enumerate(self.ranges) if span.slot == slot]
            low = np.array([self.first[r] * self.ranges[r].hop for r in ranges])
            inside = self.heads["event"][:, None] > low
            if slot >= 0:
                inside &= self.shape.valid(self.heads, slot)[:, None]
            which, column_of = np.nonzero(inside)
            if not len(which):
                continue
            values = self.heads[f"s{slot}"][which] if slot >= 0 else np.ones(len(which))
            part = self._folded_heads(values, self.owner[which] * len(ranges) + column_of, self.n * len(ranges))
            mine = {n: c[:, ranges].reshape(self.n * len(ranges), *c.shape[2:]) for n, c in shaped.items()}
            for name, column in self._sum(mine, part).items():
                shaped[name][:, ranges] = column.reshape(self.n, len(ranges), *column.shape[1:])
        return found

    def _folded_heads(self, values: np.ndarray, owner: np.ndarray, n: int) -> Cells:
        """Fold raw events, newest first, into the part that each is of."""
        kind, columns = self.block.kind, self.block.columns
        count = np.bincount(owner, minlength=n)
        part: Cells = {"count": count}
        if is_vector(kind):
            part["sums"] = np.zeros((n, values.shape[1]))
            np.add.at(part["sums"], owner, values.astype(np.float64))
        for name, half in zip(("high", "low"), wholes.parts(values) if kind == "wholes" else (), strict=False):
            if name in columns:
                part[name] = np.zeros(n, np.int64)
                np.add.at(part[name], owner, half)
        with np.errstate(all="ignore"):
            if "sum" in columns:
                part["sum"] = np.bincount(owner, values, n)
            if "m2" in columns:
                away = values - (part["sum"] / np.maximum(count, 1))[owner]
                drift = np.bincount(owner, away, n)
                own = np.maximum(np.bincount(owner, away * away, n) - drift * drift / np.maximum(count, 1), 0.0)
                part["m2"] = np.where(count > 1, own, 0.0)
        for name, ufunc in (("min", np.minimum), ("max", np.maximum)):
            if name in columns:
                part[name] = np.full(n, _nothing(kind, name), values.dtype)
                ufunc.at(part[name], owner, values)
        return part

    def _sum(self, mine: Cells, part: Cells) -> Cells:
        """Merge two parts, element by element."""
        found: Cells = {}
        for name, column in mine.items():
            if name in {"min", "max"}:
                found[name] = (np.minimum if name == "min" else np.maximum)(column, part[name])
            elif name == "m2":
                found[name] = self._spread(mine, part)
            else:
                with np.errstate(all="ignore"):
                    found[name] = column + part[name]
        return found

    def _spread(self, mine: Cells, part: Cells) -> np.ndarray:
        n, m = mine["count"], part["count"]
        with np.errstate(all="ignore"):
            delta = part["sum"] / np.maximum(m, 1) - mine["sum"] / np.maximum(n, 1)
            between = delta * delta * (n * (m / np.maximum(n + m, 1)))
            found: np.ndarray = mine["m2"] + part["m2"] + np.where((n > 0) & (m > 0), between, 0.0)
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


def _nothing(kind: str, name: str) -> float | int:
    if name == "min":
        return wholes.GREATEST if kind == "wholes" else np.inf
    if name == "max":
        return wholes.LEAST if kind == "wholes" else -np.inf
    return 0
