"""Read a lone value of plain kinds (rows, moments, wholes): the gateway's usual request, in microseconds.

The surprise: numpy is called once per column and nothing else; its fixed price is most of a single read's time. The
index column lies last in a block, so every other column may be read one element too far, which is what lets reduceat
end a range at the last cell. A test holds the answers equal, bit by bit, to those of many values.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.features.kernel import wholes
from flyball.features.spec import Stat, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flyball.features.cells.layout import Block, WindowLayout

__all__ = ["read_one"]

_TOP = struct.Struct("<BBHIqqq")
_NULL, _MISSING = int(Status.NULL), int(Status.MISSING)
_NAN, _INF = math.nan, math.inf
_FOLDS: dict[str, Any] = {"min": np.minimum.reduceat, "max": np.maximum.reduceat}
Part = dict[str, Any]  # column -> one number


@dataclass(slots=True)
class _Plan:
    """What `read_one` needs of a layout, worked out once."""

    counts: struct.Struct
    heads: struct.Struct
    blocks: tuple[tuple[Block, tuple[tuple[int, int, int, int], ...], tuple[tuple[str, str, Any], ...]], ...]
    features: tuple[tuple[str, int, int], ...]
    slots: tuple[tuple[int, int], ...]  # where a raw event's value is, and its null byte or -1


def _plan(layout: WindowLayout) -> _Plan:
    shape = layout.shape
    nulls = shape.head["nulls"].shape[0] if "nulls" in (shape.head.names or ()) else 0
    codes = "".join("q" if f == "whole" else "d" for f in shape.forms)
    heads = struct.Struct("<qqq" + "B" * nulls + codes)
    blocks = tuple(
        (
            block,
            tuple((r.group, r.window, r.hop, r.slot) for r in ranges),
            tuple((n, "<f8" if t.kind == "f" else "<i8", _FOLDS.get(n, np.add.reduceat)) for n, t in block.fields[:-1]),
        )
        for block, ranges in zip(shape.blocks, layout.ranges, strict=True)
    )
    features = tuple(
        (str(f.stat or Stat.COUNT), b, r) for f, (b, r) in zip(layout.features, layout.places, strict=True)
    )
    slots = tuple((3 + nulls + i, 3 + shape.null_of[i] if i in shape.null_of else -1) for i in range(len(shape.forms)))
    return _Plan(struct.Struct(f"<{shape.groups}I"), heads, blocks, features, slots)


def read_one(layout: WindowLayout, value: bytes, at: int) -> tuple[list[float], list[int] | None]:
    """Return numbers (NaN where null) and statuses, None when all are PRESENT."""
    plan = layout.reader
    if plan is None:
        plan = layout.reader = _plan(layout)
    _, _, _, heads, _, seen, _ = _TOP.unpack_from(value)
    shape = layout.shape
    counts = plan.counts.unpack_from(value, shape.counts_at)
    place, group, parts, lows = shape.front, 0, [], []
    for block, ranges, columns in plan.blocks:
        mine = counts[group : group + len(block.groups)]
        group += len(block.groups)
        total = sum(mine)
        found, low = _block(value, place, mine, total, ranges, columns, at)
        parts.append(found)
        lows.append(low)
        place += 8 * total * (len(columns) + 1)
    if heads:
        _add_heads(plan, parts, lows, [h for h in plan.heads.iter_unpack(value[place:]) if h[1] <= at])
    numbers, statuses, whole = [], [], True
    for stat, b, r in plan.features:
        number = _finished(stat, parts[b][r])
        null = number != number  # noqa: PLR0124 NaN
        whole = whole and not null
        numbers.append(number)
        statuses.append(_NULL if null else 0)
    if seen > at:
        return numbers, [_MISSING] * len(numbers)
    return numbers, None if whole else statuses


def _block(
    value: bytes, place: int, counts: Sequence[int], total: int, ranges: Sequence[tuple[int, int, int, int]],
    columns: Sequence[tuple[str, str, Any]], at: int,
) -> tuple[list[Part], list[int]]:  # fmt: skip
    """Fold a block's cells per range; also return the ranges' old edges."""
    lows, bounds, begin, end, current = [], [], 0, 0, -1
    index = memoryview(value)[place + 8 * total * len(columns) : place + 8 * total * (len(columns) + 1)].cast("q")
    for group, window, hop, _ in ranges:
        while current < group:
            current += 1
            begin, end = end, end + counts[current]
        first = (at - window) // hop
        lows.append(first * hop)
        bounds.append(begin if begin == end or index[begin] >= first else bisect_left(index, first, begin, end))
        bounds.append(end)
    if not total:
        return [_blank(columns) for _ in ranges], lows
    where = np.array(bounds)
    found: dict[str, list[Any]] = {}
    for i, (name, dtype, fold) in enumerate(columns):
        if name == "m2":
            found[name] = _deviations(value, place, total, columns, bounds, found)
        else:
            found[name] = fold(np.frombuffer(value, dtype, total + 1, place + 8 * total * i), where)[::2].tolist()
    names = [c[0] for c in columns]
    made = [dict(zip(names, numbers, strict=True)) for numbers in zip(*found.values(), strict=True)]
    for i, (a, b) in enumerate(zip(bounds[::2], bounds[1::2], strict=True)):
        if a == b:
            made[i] = _blank(columns)
    return made, lows


def _blank(columns: Sequence[tuple[str, str, Any]]) -> Part:
    blank: Part = {}
    for name, dtype, _ in columns:
        floats = dtype == "<f8"
        if name == "min":
            blank[name] = _INF if floats else wholes.GREATEST
        elif name == "max":
            blank[name] = -_INF if floats else wholes.LEAST
        else:
            blank[name] = 0.0 if floats else 0
    return blank


def _deviations(
    value: bytes, place: int, total: int, columns: Sequence[tuple[str, str, Any]], bounds: Sequence[int],
    found: dict[str, list[Any]],
) -> list[float]:  # fmt: skip
    """Do as `reading._Block._deviations`, whose operations these are."""
    held = {
        n: np.frombuffer(value, t, total, place + 8 * total * i)
        for i, (n, t, _) in enumerate(columns)
        if n in {"count", "sum", "m2"}
    }
    spans = list(zip(bounds[::2], bounds[1::2], strict=True))
    full = [i for i, (a, b) in enumerate(spans) if a < b]
    m2 = [0.0] * len(spans)
    if not full:
        return m2
    lengths = [spans[i][1] - spans[i][0] for i in full]
    starts = np.cumsum(lengths, dtype=np.int64) - np.array(lengths)
    ends = [spans[i] for i in full]
    if all(a[1] == b[0] for a, b in pairwise(ends)):
        which: Any = slice(ends[0][0], ends[-1][1])
    else:
        which = np.concatenate([np.arange(*span) for span in ends])
    means = [found["sum"][i] / found["count"][i] for i in full]
    count = held["count"][which]
    with np.errstate(all="ignore"):
        away = held["sum"][which] / count
        away -= np.repeat(means, lengths)
        sums = np.add.reduceat(held["m2"][which], starts) + np.add.reduceat(count * away * away, starts)
    for i, number in zip(full, sums.tolist(), strict=True):
        m2[i] = number
    return m2


class _Slot:
    """A slot's raw events, newest first, and the folds of the newest one, two, three, ..."""

    __slots__ = ("greatest", "keys", "least", "sums", "values")

    def __init__(self, plan: _Plan, slot: int, heads: list[tuple[Any, ...]]) -> None:
        if slot >= 0:
            place, null = plan.slots[slot]
            if null >= 0:
                heads = [h for h in heads if not h[null]]
            else:
                heads = [h for h in heads if h[place] == h[place]]  # not NaN
        self.keys = [-h[0] for h in heads]
        self.values: list[Any] = [1.0] * len(heads) if slot < 0 else [h[place] for h in heads]
        self.sums: list[float] | None = None
        self.least: list[Any] | None = None
        self.greatest: list[Any] | None = None


def _add_heads(plan: _Plan, parts: list[list[Part]], lows: list[list[int]], heads: list[tuple[Any, ...]]) -> None:
    """Add the raw events known at T to the ranges that hold them."""
    heads.sort(key=_newest)
    slots: dict[int, _Slot] = {}
    for (block, ranges, _), found, low in zip(plan.blocks, parts, lows, strict=True):
        kind = block.kind
        for r, (_, _, _, slot) in enumerate(ranges):
            held = slots.get(slot)
            if held is None:
                held = slots[slot] = _Slot(plan, slot, heads)
            inside = bisect_left(held.keys, -low[r])
            if not inside:
                continue
            if kind == "rows":
                found[r]["count"] += inside
            else:
                _add(kind, found[r], held, inside)


def _newest(head: tuple[Any, ...]) -> int:
    return -head[0]  # type: ignore[no-any-return]


def _add(kind: str, part: Part, held: _Slot, count: int) -> None:
    """Merge the newest `count` values into a part, by the operations of `reading._Block._folded_heads` and `._sum`."""
    if kind == "moments" and "sum" in part:
        if held.sums is None:
            held.sums = list(accumulate(held.values, initial=0.0))
        total = held.sums[count]
        if "m2" in part:
            part["m2"] = part["m2"] + _own(held.values[:count], total) + _between(part, total, count)
        part["sum"] += total
    elif kind == "wholes" and "high" in part:
        part["high"] += sum(v >> 32 for v in held.values[:count])
        part["low"] += sum(v & 0xFFFFFFFF for v in held.values[:count])
    part["count"] += count
    if "min" in part:
        if held.least is None:
            held.least = list(accumulate(held.values, min))
        part["min"] = min(part["min"], held.least[count - 1])
    if "max" in part:
        if held.greatest is None:
            held.greatest = list(accumulate(held.values, max))
        part["max"] = max(part["max"], held.greatest[count - 1])


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


def _between(part: Part, total: float, count: int) -> float:
    n: int = part["count"]
    if not n:
        return 0.0
    delta: float = total / count - part["sum"] / n
    return delta * delta * (n * (count / (n + count)))


def _finished(stat: str, part: Part) -> float:
    """Do as the kernel's `finish`, for one part."""
    count: int = part["count"]
    if stat == "count":
        return count
    if stat == "sum":
        if "high" not in part:
            return part["sum"]  # type: ignore[no-any-return]
        exact: int = (part["high"] << 32) + part["low"]
        return exact if wholes.LEAST <= exact <= wholes.GREATEST else _NAN
    if count < (2 if stat in {"std", "var"} else 1):
        return _NAN
    if stat in {"min", "max"}:
        return part[stat]  # type: ignore[no-any-return]
    if stat == "mean":
        return part["sum"] / count  # type: ignore[no-any-return]
    if not math.isfinite(part["sum"]):
        return _NAN
    return math.sqrt(part["m2"] / (count - 1)) if stat == "std" else part["m2"] / (count - 1)
