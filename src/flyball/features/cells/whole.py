"""Window values of history, made whole in one go: what a store without any would hold after merging all of it.

The surprise: an event too old for any window is left out before it is folded, and the values are laid out by numpy in
one block and cut from it, so that a history of one event to an entity costs little more than one of many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flyball.features.cells.kinds import Cells, cumulative, fold, suffixes
from flyball.features.cells.layout import TOP, Block, Shape, WindowLayout
from flyball.features.cells.merging import HEAD_LIMIT, _by_place, _firsts
from flyball.features.cells.values import emit
from flyball.features.kernel.windows import cell_of
from flyball.features.packing import SPAN

if TYPE_CHECKING:
    from flyball.features.packing import Rows

__all__ = ["whole_values"]

Placed = tuple[Cells, np.ndarray]  # cells by (value, group, index), and of each value * groups + group


def whole_values(layout: WindowLayout, rows: Rows, floor: int) -> list[bytes]:
    """Return one value for each owner, in order: `merge_windows` of nothing and what `WindowLayout.pack` makes.

    Args:
        layout: The view's layout.
        rows: By (owner, event, created, sequence).
        floor: The earliest T (µs) that may still be asked.
    """
    if not len(rows):
        return []
    shape = layout.shape
    begin = np.flatnonzero(np.append(True, rows.owner[1:] != rows.owner[:-1]))
    owner = np.repeat(np.arange(len(begin)), np.diff(begin, append=len(rows)))
    tops = np.frombuffer(shape.blank[: TOP.itemsize] * len(begin), TOP).copy()
    tops["applied"] = np.maximum(np.maximum.reduceat(rows.sequence, begin), tops["applied"])
    tops["seen"] = np.minimum.reduceat(rows.known, begin)
    tops["floor"] = np.maximum(_floors(rows.known, owner, len(begin), floor), tops["floor"])
    due = rows.known <= tops["floor"][owner]
    late = rows.take(~due)
    heads = np.zeros(len(late), shape.head)
    for name in ("event", "known", "sequence", *(("created",) if shape.created else ())):
        heads[name] = getattr(late, name)
    for i, slot in enumerate(layout.slots):
        layout._fill(heads, i, slot, late, np.arange(len(late)))
    events = _Events(layout, rows, owner, due, tops["floor"])
    blocks = [_block(block, events) for block in shape.blocks]
    if shape.head.itemsize % 8 or any(b.sketch for b in shape.blocks):
        return emit(shape, tops, blocks, heads, owner[~due])
    return _laid(shape, tops, blocks, heads, owner[~due])


def _floors(known: np.ndarray, owner: np.ndarray, values: int, floor: int) -> np.ndarray:
    """Return each value's floor: raised where too many events that have arrived would stay raw."""
    floors = np.full(values, floor)
    here = known <= floor + SPAN
    recent = here & (known > floor)
    many = np.bincount(owner[recent], minlength=values) >= HEAD_LIMIT
    for i in np.flatnonzero(many & (np.bincount(owner[here], minlength=values) > HEAD_LIMIT)).tolist():
        floors[i] = max(floor, np.sort(known[recent & (owner == i)])[-HEAD_LIMIT])
    return floors


class _Events:
    """The events that are due, by slot and hop."""

    def __init__(self, layout: WindowLayout, rows: Rows, owner: np.ndarray, due: np.ndarray, floor: np.ndarray) -> None:
        self._layout, self._rows, self._owner = layout, rows, owner
        self._due = np.flatnonzero(due)
        self._floor = floor
        self._slots: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._indices: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, hop: int, window: int, slot: int) -> tuple[Cells, np.ndarray, np.ndarray, np.ndarray]:
        """Return the events of a group that some window still covers: (times, values, owners, cell indices)."""
        at, index = self._recent(hop, window)
        values = self._rows.event
        if slot >= 0:
            values, valid = self._slot(slot)
            mine = valid[at]
            if not mine.all():
                at, index = at[mine], index[mine]
        rows = self._rows
        times = {"event": rows.event[at], "created": rows.created[at], "sequence": rows.sequence[at]}
        return times, values[at], self._owner[at], index

    def _recent(self, hop: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        if (hop, window) not in self._indices:
            index = cell_of(self._rows.event[self._due], hop)
            keep = index >= (self._floor[self._owner[self._due]] - window) // hop - 1
            self._indices[hop, window] = (self._due, index) if keep.all() else (self._due[keep], index[keep])
        return self._indices[hop, window]

    def _slot(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        if slot not in self._slots:
            shape, spec = self._layout.shape, self._layout.slots[slot]
            values, nulls = self._rows.columns[spec.name]
            if values.dtype == object:  # text where a number is declared counts as null
                values, nulls = np.zeros(len(values)), np.ones(len(values), bool)
            base = spec.dtype.base
            if slot in shape.null_of:
                self._slots[slot] = values.astype(base, copy=False), ~nulls
            else:
                numbers = values.astype(base, copy=False)
                self._slots[slot] = numbers, ~(nulls | np.isnan(numbers))
        return self._slots[slot]


def _block(block: Block, events: _Events) -> Placed:
    made: list[Placed] = []
    for group, (hop, window, slot) in enumerate(block.groups):
        times, values, owner, index = events.of(hop, window, slot)
        if len(owner):
            first = _firsts(owner, index)
            cells = fold(block.kind, block.columns, times, values, first)  # type: ignore[arg-type]
            made.append(({**cells, "index": index[first]}, owner[first] * len(block.groups) + group))
    if not made:
        names = [(n, d) for n, d in block.fields if not (block.sketch and n == "size")]
        cells = {name: np.empty((0, *dtype.shape), dtype.base) for name, dtype in names}
        return (cells | {"state": np.empty(0, object)} if block.sketch else cells), np.empty(0, np.int64)
    new, mine = made[0] if len(made) == 1 else _by_place(made)
    return (suffixes(block.kind, new, mine) if cumulative(block.kind) else new), mine


def _laid(
    shape: Shape, tops: np.ndarray, blocks: list[Placed], heads: np.ndarray, owner: np.ndarray
) -> list[bytes]:  # fmt: skip
    """Put values together as `emit` does; all of it is words of 8 bytes."""
    n, order = len(tops), np.argsort(owner, kind="stable")
    tops["heads"] = np.bincount(owner, minlength=n)
    counts = np.zeros((n, shape.wide // 4), "<u4")
    totals, group = [], 0
    for block, (_, whose) in zip(shape.blocks, blocks, strict=True):
        mine = np.bincount(whose, minlength=n * len(block.groups)).reshape(n, -1)
        counts[:, group : group + len(block.groups)] = mine
        group += len(block.groups)
        totals.append(mine.sum(1))
    columns = [_words(np.frombuffer(tops.tobytes(), "<u8").reshape(n, -1))]
    columns.append((np.tile(np.frombuffer(shape.data, "<u8"), n), np.full(n, len(shape.data) // 8)))
    columns.append(_words(np.ascontiguousarray(counts).view("<u8")))
    for block, (cells, _), total in zip(shape.blocks, blocks, totals, strict=True):
        for name, dtype in block.fields:
            flat = np.ascontiguousarray(cells[name], dtype.base).reshape(-1).view("<u8")
            columns.append((flat, total * int(np.prod(dtype.shape, dtype=np.int64))))
    flat = np.frombuffer(heads[order].tobytes(), "<u8")
    columns.append((flat, tops["heads"].astype(np.int64) * (shape.head.itemsize // 8)))
    ends = np.cumsum(sum(sizes for _, sizes in columns))
    whole = np.empty(int(ends[-1]), "<u8")
    at = np.append(0, ends[:-1])
    for words, sizes in columns:
        before = np.cumsum(sizes) - sizes
        whole[np.repeat(at - before, sizes) + np.arange(len(words))] = words
        at = at + sizes
    data, stops = whole.tobytes(), (ends * 8).tolist()
    return [data[a:b] for a, b in zip([0, *stops], stops, strict=False)]


def _words(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return table.reshape(-1), np.full(len(table), table.shape[1])
