"""The value of a window view for one entity: cells of partials per hop, and the raw head.

The surprise: a write carries only raw events (a head). Merging folds those whose known time has passed the floor, the
earliest T that may still be asked, into their cells, and leaves the rest raw, so that a read at T can leave out what
was not known at T. A value describes its own groups, so a store merges without knowing the view. Merging is done for
many values at once; every float goes through the kernel's fold, merge and finish.

Layout: `<head><groups><cell counts, padded to 8><cells by group, ascending index><raw events>`, little-endian.
Cell k of hop h covers (k*h, (k+1)*h]. Redelivery changes nothing: `applied` is the highest log sequence inside.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import IntegrityError
from flyball.features.kernel.partials import PARTIAL, combine, finish, fold, merge
from flyball.features.kernel.windows import cell_of, first_cell
from flyball.features.packing import SPAN
from flyball.features.spec import Stat, Status

if TYPE_CHECKING:
    from flyball.features.packing import Rows
    from flyball.features.spec import ViewSpec

__all__ = ["CELL", "HEAD_LIMIT", "WindowLayout", "WindowValues", "answer", "merge_windows"]

HEAD_LIMIT = 64  # raw events of one entity that already arrived; beyond it the oldest are folded early
_NEVER = np.iinfo(np.int64).max
CELL = np.dtype([("index", "<i8"), ("partial", PARTIAL)])
TOP = np.dtype([("kind", "u1"), ("groups", "u1"), ("slots", "<u2"), ("heads", "<u4"),
                ("applied", "<i8"), ("seen", "<i8"), ("floor", "<i8")])  # fmt: skip
GROUP = np.dtype([("hop", "<i8"), ("window", "<i8"), ("slot", "<i8")])
_KIND = 1
_FEW = 16
_CELL = struct.Struct("<qqdddd")
_PRESENT, _NULL, _, _MISSING = (int(s) for s in Status)


@functools.cache
def _head_dtype(slots: int) -> np.dtype[Any]:
    return np.dtype([("event", "<i8"), ("known", "<i8"), ("sequence", "<i8"), ("values", "<f8", (slots,))])


@dataclass(frozen=True, slots=True, init=False)
class WindowLayout:
    """How one window view's values are laid out: `groups` are the distinct (of, hop), `slots` the distinct `of`."""

    view: ViewSpec
    slots: tuple[str, ...]
    shape: bytes  # what every value of this view has after its head
    ranges: tuple[tuple[int, int, int, int], ...]  # distinct (group, window, hop, slot)
    range_of: tuple[int, ...]  # by feature
    head: np.dtype[Any]

    def __init__(self, view: ViewSpec) -> None:
        slots = tuple(dict.fromkeys(f.of for f in view.features if f.of is not None))
        pairs = dict.fromkeys((f.of, f.hop) for f in view.features)
        groups = np.zeros(len(pairs), GROUP)
        for i, (of, hop) in enumerate(pairs):
            longest = max(f.window or 0 for f in view.features if (f.of, f.hop) == (of, hop))
            groups[i] = (hop, longest, -1 if of is None else slots.index(of))
        object.__setattr__(self, "view", view)
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "shape", groups.tobytes())
        spans = [(list(pairs).index((f.of, f.hop)), f.window or 0, f.hop or 1) for f in view.features]
        distinct = list(dict.fromkeys(spans))
        object.__setattr__(self, "ranges", tuple((g, w, h, int(groups["slot"][g])) for g, w, h in distinct))
        object.__setattr__(self, "range_of", tuple(distinct.index(s) for s in spans))
        object.__setattr__(self, "head", _head_dtype(len(slots)))

    def pack(self, rows: Rows, floor: int) -> list[tuple[bytes, bytes]]:
        """Return (entity key, value that carries its rows raw); merging with the stored one folds them."""
        order = np.lexsort((rows.sequence, rows.event, rows.owner))
        owner = rows.owner[order]
        heads = np.zeros(len(order), self.head)
        heads["event"], heads["known"] = rows.event[order], rows.known[order]
        heads["sequence"] = rows.sequence[order]
        for i, name in enumerate(self.slots):
            values, nulls = rows.columns[name]
            if values.dtype == object:  # text where a number is declared counts as null, as in reading
                values = np.full(len(values), np.nan)
            heads["values"][:, i] = np.where(nulls, np.nan, values)[order]
        starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(owner) else np.empty(0, np.int64)
        ends = np.append(starts[1:], len(owner))[: len(starts)]
        tops = _tops(len(self.shape) // GROUP.itemsize, len(self.slots), len(starts))
        tops["heads"], tops["floor"] = ends - starts, floor
        data, top, shape = heads.tobytes(), tops.tobytes(), self.shape + bytes(_padded(len(self.shape) // 24))
        size = self.head.itemsize
        return [
            (rows.keys[owner[a]], top[i * 32 : i * 32 + 32] + shape + data[a * size : b * size])
            for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
        ]


def _tops(groups: int, slots: int, n: int) -> np.ndarray:
    tops = np.zeros(n, TOP)
    tops["kind"], tops["groups"], tops["slots"] = _KIND, groups, slots
    tops["seen"] = _NEVER
    return tops


def _padded(groups: int) -> int:
    return (4 * groups + 7) // 8 * 8


class WindowValues:
    """Many values of one layout, side by side as arrays; `owner` columns say which value a cell or event is of."""

    __slots__ = ("cell_group", "cell_owner", "cells", "counts", "groups", "head_counts", "head_owner", "heads", "tops")

    def __init__(self, values: Sequence[bytes], groups: int, slots: int) -> None:
        n = len(values)
        front = 32 + 24 * groups
        wide = _padded(groups)
        if n == 1:
            value = values[0]
            self.tops = np.frombuffer(value, TOP, 1)
            self.groups = np.frombuffer(value, GROUP, groups, 32)
            self.counts = np.frombuffer(value, "<u4", groups, front).reshape(1, groups)
            total = int(self.counts.sum())
            self.cells = np.frombuffer(value, CELL, total, front + wide)
            self.heads = np.frombuffer(value, _head_dtype(slots), -1, front + wide + total * 48) if len(value) > (
                front + wide + total * 48) else np.empty(0, _head_dtype(slots))  # fmt: skip
        else:
            self.tops = np.frombuffer(b"".join([v[:32] for v in values]), TOP)
            self.groups = np.frombuffer(values[0], GROUP, groups, 32)
            padded = np.frombuffer(b"".join([v[front : front + wide] for v in values]), "<u4").reshape(n, wide // 4)
            self.counts = padded[:, :groups]
            ends = (front + wide + 48 * self.counts.sum(1)).tolist()
            self.cells = np.frombuffer(b"".join([v[front + wide : e] for v, e in zip(values, ends, strict=True)]), CELL)
            self.heads = np.frombuffer(b"".join([v[e:] for v, e in zip(values, ends, strict=True)]), _head_dtype(slots))
        which = np.repeat(np.arange(n * groups), self.counts.ravel())
        self.cell_owner, self.cell_group = np.divmod(which, groups)
        self.head_counts = self.tops["heads"].astype(np.int64)
        self.head_owner = np.repeat(np.arange(n), self.head_counts)


def merge_windows(pairs: Sequence[tuple[bytes | None, bytes]]) -> list[bytes]:
    """Return, for each (stored or None, new), the stored value with the new one's raw events merged in.

    Raises:
        IntegrityError: a stored value is not one of this module.
    """
    alike: dict[bytes, list[int]] = {}
    for i, (_, new) in enumerate(pairs):
        alike.setdefault(new[:4] + new[32 : 32 + 24 * new[1]], []).append(i)
    merged: list[bytes] = [b""] * len(pairs)
    for shape, which in alike.items():
        some = [pairs[i] for i in which]
        for i, value in zip(which, _merge_alike(shape, some), strict=True):
            merged[i] = value
    return merged


def _merge_alike(shape: bytes, pairs: Sequence[tuple[bytes | None, bytes]]) -> list[bytes]:
    groups, slots, n = shape[1], int.from_bytes(shape[2:4], "little"), len(pairs)
    empty = _tops(groups, slots, 1).tobytes() + shape[4:] + bytes(_padded(groups))
    stored = [empty if old is None else old for old, _ in pairs]
    if any(v[:4] != shape[:4] or v[32 : 32 + len(shape) - 4] != shape[4:] for v in stored):
        raise IntegrityError("a stored window value has another layout than its view; rebuild it: materialize --full")
    old, new = WindowValues(stored, groups, slots), WindowValues([v for _, v in pairs], groups, slots)
    fresh = (new.heads["sequence"] < 0) | (new.heads["sequence"] > old.tops["applied"][new.head_owner])
    heads = np.concatenate([old.heads, new.heads[fresh]])
    owner = np.concatenate([old.head_owner, new.head_owner[fresh]])
    tops = _advance(old.tops, new.tops, new.heads[fresh], new.head_owner[fresh])
    _relieve(tops, heads, owner, new.tops["floor"])
    due = heads["known"] <= tops["floor"][owner]
    cells, cell_owner = _merge_cells(old, heads[due], owner[due], tops["floor"])
    return _repack(shape, tops, cells, cell_owner, heads[~due], owner[~due], n)


def _advance(old: np.ndarray, new: np.ndarray, heads: np.ndarray, owner: np.ndarray) -> np.ndarray:
    tops = old.copy()
    tops["floor"] = np.maximum(old["floor"], new["floor"])
    np.maximum.at(tops["applied"], owner, heads["sequence"])
    np.minimum.at(tops["seen"], owner, heads["known"])
    return tops


def _relieve(tops: np.ndarray, heads: np.ndarray, owner: np.ndarray, floor: np.ndarray) -> None:
    """Raise the floor of values that hold too many events that have arrived."""
    here = heads["known"] <= floor[owner] + SPAN
    crowded = np.flatnonzero(np.bincount(owner[here], minlength=len(tops)) > HEAD_LIMIT)
    for i in crowded.tolist():
        known = np.sort(heads["known"][here & (owner == i)])
        tops["floor"][i] = max(tops["floor"][i], known[-HEAD_LIMIT])


def _merge_cells(
    old: WindowValues, due: np.ndarray, owner: np.ndarray, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return all cells and their owner (value x groups + group), in order, after folding events and trimming."""
    n = len(old.groups)
    pieces, owners = [old.cells], [old.cell_owner * n + old.cell_group]
    for g, (hop, _, slot) in enumerate(old.groups.tolist()):
        made, whose = _fold(due, owner * n + g, hop, slot)
        pieces.append(made)
        owners.append(whose)
    cells, whose = np.concatenate(pieces), np.concatenate(owners)
    order = np.lexsort((cells["index"], whose))
    cells, whose = cells[order], whose[order]
    first = _firsts(whose, cells["index"])
    if len(first) < len(cells):
        partials = merge(np.ascontiguousarray(cells["partial"]), first)
        cells, whose = cells[first], whose[first]
        cells["partial"] = partials
    hops, windows = old.groups["hop"][whose % n], old.groups["window"][whose % n]
    keep = cells["index"] >= (floor[whose // n] - windows) // hops - 1
    return (cells, whose) if keep.all() else (cells[keep], whose[keep])


def _fold(events: np.ndarray, whose: np.ndarray, hop: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
    index = cell_of(events["event"], hop)
    order = np.lexsort((events["sequence"], events["event"], index, whose))
    index, whose = index[order], whose[order]
    first = _firsts(whose, index)
    values = events["values"][order, slot] if slot >= 0 else np.ones(len(order))
    cells = np.empty(len(first), CELL)
    cells["index"] = index[first]
    if len(first):
        cells["partial"] = fold(np.ascontiguousarray(values), first)
    return cells, whose[first]


def _firsts(whose: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return where a new (owner, index) begins in sorted arrays."""
    new = np.ones(len(whose), bool)
    new[1:] = (whose[1:] != whose[:-1]) | (index[1:] != index[:-1])
    return np.flatnonzero(new)


def _repack(
    shape: bytes, tops: np.ndarray, cells: np.ndarray, cell_owner: np.ndarray, heads: np.ndarray, owner: np.ndarray,
    n: int,
) -> list[bytes]:  # fmt: skip
    groups = shape[1]
    counts = np.zeros((n, _padded(groups) // 4), "<u4")
    counts[:, :groups] = np.bincount(cell_owner, minlength=n * groups).reshape(n, groups)
    order = np.argsort(owner, kind="stable")
    tops["heads"] = np.bincount(owner, minlength=n)
    top, count, cell, head = tops.tobytes(), counts.tobytes(), cells.tobytes(), heads[order].tobytes()
    wide, size = counts.shape[1] * 4, heads.dtype.itemsize
    cell_ends = [0, *np.cumsum(48 * counts.sum(1, dtype=np.int64)).tolist()]
    head_ends = [0, *np.cumsum(size * tops["heads"].astype(np.int64)).tolist()]
    rest = shape[4:]
    return [
        b"".join((top[i * 32 : i * 32 + 32], rest, count[i * wide : i * wide + wide],
                  cell[cell_ends[i] : cell_ends[i + 1]], head[head_ends[i] : head_ends[i + 1]]))
        for i in range(n)
    ]  # fmt: skip


def answer(layout: WindowLayout, values: Sequence[bytes], at: int) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate a window view's features at T for many stored values.

    Args:
        layout: The view's layout.
        values: Stored values, at least one.
        at: T in µs, not before a value's floor (T may lie `SPAN` before the newest arrival).

    Returns:
        (float64 values, uint8 statuses), shape (len(values), features).
    """
    n, features = len(values), layout.view.features
    held = WindowValues(values, len(layout.shape) // GROUP.itemsize, len(layout.slots))
    if n == 1:
        partials = _from_one(layout, held, values[0], at)
    else:
        partials = _from_many(layout, held, n, at)
    if len(held.heads) > (_FEW if n == 1 else 0):
        partials = _with_heads(layout, held, n, at, partials)
    if n == 1:
        return _finish_one(layout, partials, seen=held.tops["seen"].item() <= at)
    found = np.empty((n, len(features)))
    statuses = np.empty((n, len(features)), np.uint8)
    for i, feature in enumerate(features):
        begin = layout.range_of[i] * n
        found[:, i], statuses[:, i] = finish(partials[begin : begin + n], feature.stat or Stat.COUNT)
    unseen = held.tops["seen"] > at
    if unseen.any():
        statuses[unseen] = Status.MISSING
    return found, statuses


def _finish_one(layout: WindowLayout, partials: np.ndarray, *, seen: bool) -> tuple[np.ndarray, np.ndarray]:
    """Do as the kernel's `finish`, without its arrays, for the partials of one value (a test holds the two equal)."""
    numbers, statuses = [], []
    parts = partials.tolist()
    for feature, place in zip(layout.view.features, layout.range_of, strict=True):
        number = _scalar(feature.stat or Stat.COUNT, *parts[place])
        statuses.append(_PRESENT if number == number else _NULL)  # noqa: PLR0124 NaN
        numbers.append(number)
    return np.array([numbers]), np.array([statuses if seen else [_MISSING] * len(numbers)], np.uint8)


def _scalar(stat: Stat, count: int, total: float, m2: float, least: float, greatest: float) -> float:
    if stat == "count":
        return float(count)
    if stat == "sum":
        return total
    if count < (2 if stat == "std" else 1):
        return math.nan
    if stat == "mean":
        return total / count
    if stat == "std":
        return math.sqrt(m2 / (count - 1))
    return least if stat == "min" else greatest


def _from_many(layout: WindowLayout, held: WindowValues, n: int, at: int) -> np.ndarray:
    """Return one partial per (range, value) from the cells."""
    index = np.ascontiguousarray(held.cells["index"])
    chosen, counts = [], []
    for group, window, hop, _ in layout.ranges:
        mine = np.flatnonzero((held.cell_group == group) & (index >= first_cell(at, window, hop)))
        chosen.append(mine)
        counts.append(np.bincount(held.cell_owner[mine], minlength=n))
    sizes = np.concatenate(counts)
    return merge(held.cells["partial"][np.concatenate(chosen)], sizes.cumsum() - sizes)


def _from_one(layout: WindowLayout, held: WindowValues, value: bytes, at: int) -> np.ndarray:
    """Do the same for one value by cutting its bytes: numpy joins structured arrays slowly.

    A few raw events are taken along, each as a partial of one value.
    """
    index = held.cells["index"]
    ends = held.counts[0].cumsum().tolist()
    front = TOP.itemsize + len(layout.shape) + _padded(len(ends))
    heads = held.heads.tolist() if len(held.heads) <= _FEW else ()
    pieces, starts, total = [], [], 0
    for group, window, hop, slot in layout.ranges:
        first = first_cell(at, window, hop)
        begin, end = ends[group - 1] if group else 0, ends[group]
        begin += int(index[begin:end].searchsorted(first))
        pieces.append(value[front + 48 * begin : front + 48 * end])
        starts.append(total)
        total += end - begin
        for event, known, _, values in heads:
            number = float(values[slot]) if slot >= 0 else 1.0
            if known <= at and event > first * hop and number == number:  # noqa: PLR0124 not NaN
                pieces.append(_CELL.pack(0, 1, number, 0.0, number, number))
                total += 1
    return merge(np.frombuffer(b"".join(pieces), CELL)["partial"], np.array(starts))


def _with_heads(layout: WindowLayout, held: WindowValues, n: int, at: int, partials: np.ndarray) -> np.ndarray:
    """Add to each (range, value) the raw events that were known at T."""
    known = held.heads["known"] <= at
    if not known.any():
        return partials
    heads, owner = held.heads[known], held.head_owner[known]
    pieces, counts = [], []
    for _, window, hop, slot in layout.ranges:
        inside = np.flatnonzero(heads["event"] > first_cell(at, window, hop) * hop)
        pieces.append(heads["values"][inside, slot] if slot >= 0 else np.ones(len(inside)))
        counts.append(np.bincount(owner[inside], minlength=n))
    sizes = np.concatenate(counts)
    return combine(partials, fold(np.concatenate(pieces), sizes.cumsum() - sizes))
