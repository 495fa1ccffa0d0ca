"""Read a lone value of plain kinds (rows, moments, wholes): the gateway's usual request, in microseconds.

The surprise: no numpy at all. The cell at a window's old edge holds the whole window, so a feature is a look-up or two
in a view of the value as words, and numpy's fixed price would be most of the time. A test holds the answers equal, bit
by bit, to those of many values.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Any

from flyball.features.cells.kinds import nothing
from flyball.features.cells.layout import KIND, checked
from flyball.features.kernel import wholes
from flyball.features.spec import Stat, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyball.features.cells.layout import Block, WindowLayout

__all__ = ["read_one"]

_TOP = struct.Struct("<BBHIqqq")
_NULL, _MISSING = int(Status.NULL), int(Status.MISSING)
_NAN = math.nan
_COUNT, _SUM, _MEAN, _EDGE, _WHOLE_SUM, _STD, _VAR = range(7)
_HOW = {
    Stat.COUNT: (_COUNT, "count"), Stat.SUM: (_SUM, "sum"), Stat.MEAN: (_MEAN, "sum"), Stat.MIN: (_EDGE, "min"),
    Stat.MAX: (_EDGE, "max"), Stat.STD: (_STD, "m2"), Stat.VAR: (_VAR, "m2"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Range:
    """One window over one group: what it asks of the block's columns."""

    window: int
    hop: int
    slot: int
    wanted: tuple[tuple[int, int, int], ...]  # places in the answer, how to get there, from which column


@dataclass(frozen=True, slots=True)
class _Block:
    """One block: its columns, whether each holds floats, what an empty one holds, and the ranges of each group."""

    kind: str
    columns: tuple[tuple[str, bool], ...]
    blank: tuple[Any, ...]
    groups: tuple[tuple[_Range, ...], ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `read_one` needs of a layout, worked out once."""

    counts: struct.Struct
    front: int  # words before the blocks
    step: int  # words of a raw event
    blocks: tuple[_Block, ...]
    slots: tuple[tuple[int, bool, int], ...]  # each slot's word in a raw event, whether a float, its null byte or -1
    answer: list[Any]


def _plan(layout: WindowLayout) -> _Plan:
    shape = layout.shape
    fields: Any = shape.head.fields
    blocks = []
    for b, (block, ranges) in enumerate(zip(shape.blocks, layout.ranges, strict=True)):
        groups: list[list[_Range]] = [[] for _ in block.groups]
        for r, span in enumerate(ranges):
            wanted = tuple(
                (i, *_way(block, f.stat or Stat.COUNT))
                for i, (f, place) in enumerate(zip(layout.features, layout.places, strict=True))
                if place == (b, r)
            )
            groups[span.group].append(_Range(span.window, span.hop, span.slot, wanted))
        columns = tuple((n, t.kind == "f") for n, t in block.fields[:-1])
        blank = tuple(nothing(block.kind, name) for name, _ in columns)
        blocks.append(_Block(block.kind, columns, blank, tuple(map(tuple, groups))))
    slots = tuple(
        (fields[f"s{i}"][1] // 8, form != "whole", fields["nulls"][1] + shape.null_of[i] if i in shape.null_of else -1)
        for i, form in enumerate(shape.forms)
    )
    counts = struct.Struct(f"<{shape.groups}I")
    return _Plan(counts, shape.front // 8, shape.head.itemsize // 8, tuple(blocks), slots, [_NAN] * len(layout.places))


def _way(block: Block, stat: Stat) -> tuple[int, int]:
    how, column = _HOW[stat]
    if how == _SUM and block.kind == "wholes":
        return _WHOLE_SUM, block.columns.index("high")
    return how, block.columns.index(column)


def read_one(layout: WindowLayout, value: bytes, at: int) -> tuple[list[float], list[int] | None]:
    """Return numbers (NaN where null) and statuses, None when all are PRESENT."""
    plan = layout.reader
    if plan is None:
        plan = layout.reader = _plan(layout)
    kind, _, _, heads, _, seen, _ = _TOP.unpack_from(value)
    if kind != KIND:
        checked(False)
    counts = plan.counts.unpack_from(value, layout.shape.counts_at)
    view = memoryview(value)
    words, floats = view.cast("q"), view.cast("d")
    raw = _Heads(plan, view, words, floats, len(words) - heads * plan.step, at) if heads else None
    place, nth = plan.front, 0
    numbers: list[float] = plan.answer.copy()
    whole = True
    for block in plan.blocks:
        total = sum(counts[nth : nth + len(block.groups)])
        begin = index = place + total * len(block.columns)
        for ranges in block.groups:
            end = begin + counts[nth]
            nth += 1
            for span in ranges:
                first = (at - span.window) // span.hop
                cell = begin if begin == end or words[begin] >= first else bisect_left(words, first, begin, end)
                part: Any = block.blank
                if cell < end:
                    cell -= index - place
                    part = []
                    for _, real in block.columns:
                        part.append(floats[cell] if real else words[cell])
                        cell += total
                if raw is not None and (inside := raw.inside(span.slot, first * span.hop)):
                    part = _added(block, part, raw.slots[span.slot], inside)
                for i, how, column in span.wanted:
                    if how <= _SUM:
                        number = part[column]
                    elif how <= _EDGE:
                        count = part[0]
                        number = _NAN if not count else part[column] if how == _EDGE else part[column] / count
                    else:
                        number = _finished(how, part, column)
                    numbers[i] = number
                    if number != number:  # noqa: PLR0124 NaN
                        whole = False
            begin = end
        place = index + total
    if seen > at:
        return numbers, [_MISSING] * len(numbers)
    return numbers, None if whole else [_NULL if v != v else 0 for v in numbers]  # noqa: PLR0124 NaN


class _Slot:
    """A slot's raw events: event times, oldest first; values, newest first, and folds of the newest one, two, ..."""

    __slots__ = ("events", "greatest", "least", "sums", "values")

    def __init__(self, events: list[int], values: list[Any]) -> None:
        self.events = events
        self.values = values
        self.sums: list[float] | None = None
        self.least: list[Any] | None = None
        self.greatest: list[Any] | None = None


class _Heads:
    """The raw events of a value that are known at T; they lie oldest first."""

    __slots__ = ("at", "events", "floats", "plan", "slots", "some", "view", "words")

    def __init__(
        self, plan: _Plan, view: memoryview, words: memoryview, floats: memoryview[float], place: int, at: int
    ) -> None:
        self.plan, self.view, self.words, self.floats, self.at = plan, view, words, floats, place
        known = words[place + 1 :: plan.step].tolist()
        self.events: list[int] = words[place :: plan.step].tolist()
        self.some = [k <= at for k in known] if max(known) > at else None
        if self.some is not None:
            self.events = list(compress(self.events, self.some))
        self.slots: dict[int, _Slot] = {}

    def inside(self, slot: int, low: int) -> int:
        """Return how many raw events lie after `low` and have a value."""
        held = self.slots.get(slot)
        if held is None:
            held = self.slots[slot] = self._slot(slot)
        return len(held.events) - bisect_right(held.events, low)

    def _slot(self, slot: int) -> _Slot:
        if slot < 0:
            return _Slot(self.events, [])
        word, real, null = self.plan.slots[slot]
        step = self.plan.step
        values = (self.floats if real else self.words)[self.at + word :: step].tolist()
        if self.some is not None:
            values = list(compress(values, self.some))
        if null >= 0:
            nulls = self.view[8 * self.at + null :: 8 * step].tolist()
            there = [not n for n in (nulls if self.some is None else compress(nulls, self.some))]
        else:
            there = [v == v for v in values]  # not NaN  # noqa: PLR0124
        if all(there):
            return _Slot(self.events, values[::-1])
        return _Slot(list(compress(self.events, there)), list(compress(values, there))[::-1])


def _added(block: _Block, part: Sequence[Any], held: _Slot, count: int) -> list[Any]:
    """Merge the newest `count` raw values into a part, by the operations of `heads` on many."""
    found = list(part)
    found[0] += count
    for i, (name, _) in enumerate(block.columns[1:], 1):
        if name == "sum":
            found[i] += _sum(held, count)
        elif name == "m2":
            found[i] = (
                found[i] + _own(held.values[:count], _sum(held, count)) + _between(part, _sum(held, count), count)
            )
        elif name == "min":
            if held.least is None:
                held.least = list(accumulate(held.values, min))
            found[i] = min(found[i], held.least[count - 1])
        elif name == "max":
            if held.greatest is None:
                held.greatest = list(accumulate(held.values, max))
            found[i] = max(found[i], held.greatest[count - 1])
        elif name == "high":
            found[i] += sum(v >> 32 for v in held.values[:count])
        else:
            found[i] += sum(v & 0xFFFFFFFF for v in held.values[:count])
    return found


def _sum(held: _Slot, count: int) -> float:
    if held.sums is None:
        held.sums = list(accumulate(held.values, initial=0.0))
    return held.sums[count]


def _own(values: list[float], total: float) -> float:
    count = len(values)
    if count == 1:
        return 0.0
    mean, squares, drift = total / count, 0.0, 0.0
    for v in values:
        away = v - mean
        drift += away
        squares += away * away
    own = squares - drift * drift / count
    return own if own > 0.0 or own != own else 0.0  # noqa: PLR0124 NaN


def _between(part: Sequence[Any], total: float, count: int) -> float:
    n: int = part[0]
    if not n:
        return 0.0
    delta: float = total / count - part[1] / n
    return delta * delta * (n * (count / (n + count)))


def _finished(how: int, part: Sequence[Any], column: int) -> float:
    """Do as the kernel's `finish`, for one part, where that is more than a look-up."""
    if how == _WHOLE_SUM:
        exact: int = (part[column] << 32) + part[column + 1]
        return exact if wholes.LEAST <= exact <= wholes.GREATEST else _NAN
    count: int = part[0]
    if count < 2 or not math.isfinite(part[1]):
        return _NAN
    variance: float = part[column] / (count - 1)
    return math.sqrt(variance) if how == _STD else variance
