"""Read many values of plain kinds (rows, moments, wholes) at once.

The surprise: the values are joined as they are and never taken apart. Everything in them is words of eight bytes, so
one gather brings all the numbers that all windows of all values need, wherever they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flyball.features.cells.heads import add_heads, known_heads
from flyball.features.cells.kinds import Cells, nothing
from flyball.features.cells.layout import KIND, checked
from flyball.features.cells.values import oldest

if TYPE_CHECKING:
    from flyball.features.cells.layout import Shape, WindowLayout

__all__ = ["Folded", "read_many"]

_PAD = bytes(8)
_LOW = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Folded:
    """What the windows of n values hold: per block its columns, shape (ranges, n), and which values are unseen."""

    blocks: list[Cells]
    unseen: np.ndarray


class _Plan:
    """Where everything is, worked out once per layout. A lane is one range, a piece is one column of one range.

    Values lie along the last axis everywhere, so that what belongs to a lane, a piece or a block is one row.
    """

    def __init__(self, layout: WindowLayout) -> None:
        shape = layout.shape
        spans = [(b, r) for b, ranges in enumerate(layout.ranges) for r in ranges]
        sizes = [len(block.groups) for block in shape.blocks]
        self.first_group = np.cumsum([0, *sizes[:-1]])
        self.block = np.array([b for b, _ in spans])
        self.group = np.array([self.first_group[b] + r.group for b, r in spans])
        self.window = np.array([r.window for _, r in spans])
        self.hop = np.array([r.hop for _, r in spans])
        self.columns = np.array([[len(block.columns)] for block in shape.blocks])
        self.fixed = np.array([0, 1, 2, 3, *range(shape.counts_at // 8, shape.front // 8)])
        self.front = shape.front // 8
        self.groups = shape.groups
        self.step = np.arange(shape.head.itemsize // 8)
        self.lanes = [np.flatnonzero(self.block == b) for b in range(len(shape.blocks))]
        self.pieces: list[list[tuple[str, bool, slice]]] = []
        lane: list[int] = []
        nth: list[int] = []  # which column of its block a piece is
        blanks = []
        for b, block in enumerate(shape.blocks):
            found = []
            for k, (name, dtype) in enumerate(block.fields[:-1]):
                found.append((name, dtype.kind == "f", slice(len(lane), len(lane) + len(self.lanes[b]))))
                lane += self.lanes[b].tolist()
                nth += [k] * len(self.lanes[b])
                blanks += [np.array(nothing(block.kind, name), dtype).view(np.int64)] * len(self.lanes[b])
            self.pieces.append(found)
        self.lane, self.blanks = np.array(lane), np.array(blanks)[:, None]
        self.of_block = self.block[self.lane]
        self.back = self.columns[self.of_block] - np.array(nth)[:, None]  # columns from a piece to the index


def read_many(layout: WindowLayout, values: Sequence[bytes], at: int) -> Folded:
    """Fold each window of each value at T, the raw events known at T included."""
    plan = layout.gatherer
    if plan is None:
        plan = layout.gatherer = _Plan(layout)
    sizes = np.fromiter(map(len, values), np.int64, len(values)) >> 3
    words = np.frombuffer(b"".join([*values, _PAD]), np.int64)
    ends = sizes.cumsum()
    base = ends - sizes
    fixed = words.take(base + plan.fixed[:, None])
    checked(bool((fixed[0] & 255 == KIND).all()))
    first = (at - plan.window) // plan.hop
    found = _looked_up(plan, words, base, fixed[4:], first)
    number = fixed[0] >> 32 & _LOW
    if number.any():
        heads, owner = _heads(plan, layout.shape, words, ends, number)
        heads, owner = known_heads(heads, owner, at)
        low = first * plan.hop
        for block, ranges, lanes, cells in zip(layout.shape.blocks, layout.ranges, plan.lanes, found, strict=True):
            add_heads(layout.shape, block.kind, ranges, low[lanes], cells, heads, owner)
    return Folded(found, fixed[2] > at)


def _heads(
    plan: _Plan, shape: Shape, words: np.ndarray, ends: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw events, which are the last of each value, and whose they are."""
    width, last = len(plan.step), number.cumsum()
    owner = np.arange(len(ends)).repeat(number)
    place = (ends - last * width)[owner] + np.arange(0, int(last[-1]) * width, width)
    return words.take(place[:, None] + plan.step).view(shape.head)[:, 0], owner


def _looked_up(plan: _Plan, words: np.ndarray, base: np.ndarray, counts: np.ndarray, first: np.ndarray) -> list[Cells]:
    """Return what the cell at each range's old edge holds, nothing where there is none."""
    halves = np.empty((2 * len(counts), len(base)), np.int64)  # two groups a word
    halves[0::2], halves[1::2] = counts & _LOW, counts >> 32
    counts = halves[: plan.groups]
    ends = counts.cumsum(0)
    starts = ends - counts
    total = np.add.reduceat(counts, plan.first_group)
    size = total * (plan.columns + 1)
    index = base + plan.front + size.cumsum(0) - total  # where the index column of each block begins
    low = (index - starts[plan.first_group]).take(plan.block, 0)
    high = low + ends.take(plan.group, 0)
    low += starts.take(plan.group, 0)
    place = oldest(words, low.ravel(), high.ravel(), first.repeat(len(base))).reshape(low.shape)
    pieces = words.take(place.take(plan.lane, 0) - total.take(plan.of_block, 0) * plan.back)
    empty = place == high
    if empty.any():
        pieces = np.where(empty.take(plan.lane, 0), plan.blanks, pieces)
    floats = pieces.view(np.float64)
    return [{name: (floats if real else pieces)[some] for name, real, some in found} for found in plan.pieces]
