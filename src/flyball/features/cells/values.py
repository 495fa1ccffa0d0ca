"""Stored window values taken apart, many at once, and put together again.

The surprise: each column is joined over all values by slicing bytes; numpy would pay for every value and field.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.features.cells.kinds import Cells
from flyball.features.cells.layout import TOP, Shape

__all__ = ["Held", "emit", "oldest"]

_PAD = bytes(8)


class Held:
    """Many values of one shape, side by side.

    Attributes:
        tops: One record of TOP per value.
        counts: Cells of each value and group, shape (n, groups).
        cells: Per block its columns, the cells of all values one after another; `state` is a sketch's bytes.
        heads: The raw events of all values.
        head_owner: Which value each is of.
    """

    __slots__ = ("cells", "counts", "head_owner", "heads", "shape", "tops")

    def __init__(self, shape: Shape, values: Sequence[bytes]) -> None:
        n = len(values)
        self.shape = shape
        self.tops = np.frombuffer(b"".join([v[:32] for v in values]), TOP)
        counts = b"".join([v[shape.counts_at : shape.front] for v in values])
        self.counts = np.frombuffer(counts, "<u4").reshape(n, -1)[:, : shape.groups].astype(np.int64)
        at = np.full(n, shape.front)
        self.cells: list[Cells] = []
        group = 0
        for block in shape.blocks:
            total = self.counts[:, group : group + len(block.groups)].sum(1)
            group += len(block.groups)
            cells: Cells = {}
            for name, dtype in block.fields:
                cells[name], at = _column(values, at, total, dtype)
            if block.sketch:
                cells["state"], at = _states(values, at, total, cells.pop("size")[: total.sum()])
            self.cells.append(cells)
        heads = [v[a:] for v, a in zip(values, at.tolist(), strict=True)]
        self.heads = np.frombuffer(b"".join(heads), shape.head) if any(heads) else np.empty(0, shape.head)
        self.head_owner = np.repeat(np.arange(n), self.tops["heads"])

    def block_counts(self, block: int) -> np.ndarray:
        """Return the cells of each value and group of a block, shape (n, groups of the block)."""
        first = sum(len(b.groups) for b in self.shape.blocks[:block])
        return self.counts[:, first : first + len(self.shape.blocks[block].groups)]


def oldest(index: np.ndarray, low: np.ndarray, high: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the first place in each [low, high) whose cell index is at least `first`; `high` where there is none.

    Indices rise by one at least from cell to cell, which bounds how far away that place can be.
    """
    low, high = low.copy(), high.copy()
    left = np.flatnonzero(low < high)
    short = first[left] - index[low[left]]
    left, short = left[short > 0], short[short > 0]
    high[left] = np.minimum(high[left], low[left] + short)
    low[left] += 1
    while len(left := left[low[left] < high[left]]):
        middle = (low[left] + high[left]) >> 1
        older = index[middle] < first[left]
        low[left] = np.where(older, middle + 1, low[left])
        high[left] = np.where(older, high[left], middle)
    return low


def _column(
    values: Sequence[bytes], at: np.ndarray, total: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return a column of all values (one more element than there are cells, for the folds) and where the next is."""
    end = at + total * dtype.itemsize
    pieces = [v[a:e] for v, a, e in zip(values, at.tolist(), end.tolist(), strict=True)]
    pieces.append(_PAD)
    data = b"".join(pieces)
    if dtype.shape:
        return np.frombuffer(data, dtype.base, len(data) // 8 - 1).reshape(-1, *dtype.shape), end
    return np.frombuffer(data, dtype), end


def _states(
    values: Sequence[bytes], at: np.ndarray, total: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each cell's bytes and where the next part begins."""
    states = np.empty(len(sizes), object)
    place, ends, each = 0, at.copy(), sizes.tolist()
    for i, (value, cells) in enumerate(zip(values, total.tolist(), strict=True)):
        begin = int(at[i])
        for _ in range(cells):
            states[place] = value[begin : begin + each[place]]
            begin += each[place]
            place += 1
        ends[i] = begin
    return states, ends


def emit(
    shape: Shape, tops: np.ndarray, blocks: Sequence[tuple[Cells, np.ndarray]], heads: np.ndarray, owner: np.ndarray
) -> list[bytes]:
    """Put values together.

    Args:
        shape: Their shape.
        tops: One per value; `heads` is counted here.
        blocks: Per block its cells by (value, group, index), and per cell value * groups + group.
        heads: Raw events.
        owner: Which value each is of.
    """
    n = len(tops)
    order = np.argsort(owner, kind="stable")
    tops["heads"] = np.bincount(owner, minlength=n)
    counts = np.zeros((n, shape.wide // 4), "<u4")
    pieces: list[list[bytes]] = []
    group = 0
    for block, (cells, whose) in zip(shape.blocks, blocks, strict=True):
        g = len(block.groups)
        mine = np.bincount(whose, minlength=n * g).reshape(n, g)
        counts[:, group : group + g] = mine
        group += g
        pieces += _block_pieces([name for name, _ in block.fields], cells, mine.sum(1))
    tail = _cut(heads[order].tobytes(), tops["heads"].astype(np.int64) * shape.head.itemsize)
    front = _cut(tops.tobytes(), np.full(n, TOP.itemsize))
    number = _cut(counts.tobytes(), np.full(n, shape.wide))
    return [b"".join(parts) for parts in zip(front, [shape.data] * n, number, *pieces, tail, strict=True)]


def _block_pieces(names: Sequence[str], cells: Cells, total: np.ndarray) -> list[list[bytes]]:
    if "state" in cells:
        cells = {**cells, "size": np.array([len(s) for s in cells["state"]], np.int64)}
    found = []
    for name in names:
        column = cells[name]
        step = 8 * int(np.prod(column.shape[1:], dtype=np.int64))
        found.append(_cut(np.ascontiguousarray(column).tobytes(), total * step))
    if "state" in cells:
        ends = np.cumsum(total).tolist()
        found.append([b"".join(cells["state"][a:b]) for a, b in zip([0, *ends], ends, strict=False)])
    return found


def _cut(data: bytes, sizes: np.ndarray) -> list[bytes]:
    ends = np.cumsum(sizes).tolist()
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
