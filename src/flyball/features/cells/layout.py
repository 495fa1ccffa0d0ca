"""How a window view's stored values are laid out, by kind of group: a view pays only for what its features ask.

Layout: `<top><shape><cell counts, padded to 8><blocks><raw events>`, little-endian. The shape says which slots a raw
event has and which blocks follow. A block holds all cells of one kind, column by column, its groups one after another
and each by ascending cell index; the index is the last column. Cell k of hop h covers (k*h, (k+1)*h]. The surprise:
a cell of counts, sums, deviations or extremes holds everything from itself to its group's newest cell, so a window's
answer is one look-up: the cell at its old edge (every cell is known at T, so the newest one always counts). Columns,
not records, because a merge works through them; raw events are records, by (event, created, sequence).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flyball.errors import IntegrityError
from flyball.features.cells.kinds import COLUMNS, column_dtype
from flyball.features.kernel.slots import Slot, planned
from flyball.features.spec import FeatureSpec, Stat
from flyball.features.types import is_vector, vector_size

if TYPE_CHECKING:
    from flyball.features.packing import Rows
    from flyball.features.spec import ViewSpec

__all__ = ["KIND", "TOP", "Block", "Range", "Shape", "WindowLayout", "checked", "shape_of"]

TOP = np.dtype([("kind", "u1"), ("spare", "u1"), ("shape", "<u2"), ("heads", "<u4"),
                ("applied", "<i8"), ("seen", "<i8"), ("floor", "<i8")])  # fmt: skip
_TOP = struct.Struct("<BBHIqqq")
KIND = 3  # 2 had cells that held what was theirs alone
_NEVER = np.iinfo(np.int64).max
_ORDER = ("rows", "moments", "wholes", "first", "last", "vector", "hll", "kll")
_NEEDS = {
    Stat.COUNT: {"count"}, Stat.SUM: {"sum", "high", "low"}, Stat.MEAN: {"sum"}, Stat.STD: {"sum", "m2"},
    Stat.VAR: {"sum", "m2"}, Stat.MIN: {"min"}, Stat.MAX: {"max"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """Cells of one kind; a group is (hop, longest window, slot or -1)."""

    kind: str
    columns: tuple[str, ...]
    groups: tuple[tuple[int, int, int], ...]

    @property
    def fields(self) -> list[tuple[str, np.dtype[Any]]]:
        """Columns as they are stored, with their types; the index comes last."""
        return [(name, column_dtype(self.kind, name)) for name in (*self.columns, "index")]

    @property
    def sketch(self) -> bool:
        """Whether a cell is bytes of its own size, stored after the columns."""
        return self.columns == ("size",)


class Shape:
    """What every value of one view has after its top, read once."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        forms, self.created, blocks = msgspec.msgpack.decode(data[1 : len(data) - data[0]])
        self.forms: tuple[str, ...] = tuple(forms)
        self.blocks = tuple(_block(kind, mask, flat) for kind, mask, flat in blocks)
        self.groups = sum(len(b.groups) for b in self.blocks)
        self.wide = (4 * self.groups + 7) // 8 * 8
        self.counts_at = TOP.itemsize + len(data)
        self.front = self.counts_at + self.wide
        self.head = self._head()
        self.null_of = {i: k for k, i in enumerate(i for i, f in enumerate(self.forms) if f not in _FLOATS)}
        self.blank = _TOP.pack(KIND, 0, len(data), 0, 0, _NEVER, 0) + data + bytes(self.wide)

    def _head(self) -> np.dtype[Any]:
        fields: list[Any] = [("event", "<i8"), ("known", "<i8"), ("sequence", "<i8")]
        if self.created:
            fields.append(("created", "<i8"))
        nullable = sum(f not in _FLOATS for f in self.forms)
        if nullable:
            fields.append(("nulls", "u1", ((nullable + 7) // 8 * 8,)))
        return np.dtype([*fields, *((f"s{i}", Slot(None, None, f).dtype) for i, f in enumerate(self.forms))])

    def valid(self, heads: np.ndarray, slot: int) -> np.ndarray:
        """Return which raw events have a value in a slot."""
        if slot in self.null_of:
            found: np.ndarray = heads["nulls"][:, self.null_of[slot]] == 0
            return found
        missing: np.ndarray = np.isnan(heads[f"s{slot}"])
        return ~missing


_FLOATS = ("number", "present")


@functools.lru_cache(maxsize=1024)
def shape_of(data: bytes) -> Shape:
    """Return the shape that these bytes describe."""
    return Shape(data)


def _block(kind: str, mask: int, flat: Sequence[int]) -> Block:
    names = COLUMNS["vector" if is_vector(kind) else kind]
    groups = tuple(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))
    return Block(kind, tuple(n for i, n in enumerate(names) if mask >> i & 1), groups)


def _encoded(forms: Sequence[str], created: bool, blocks: Sequence[Block]) -> bytes:
    parts = []
    for b in blocks:
        names = COLUMNS["vector" if is_vector(b.kind) else b.kind]
        parts.append((b.kind, sum(1 << names.index(n) for n in b.columns), [v for g in b.groups for v in g]))
    packed = msgspec.msgpack.encode((forms, created, parts))
    pad = -(len(packed) + 1) % 8
    return bytes([pad]) + packed + bytes(pad)


@dataclass(frozen=True, slots=True)
class Range:
    """The cells that answer a window: of group `group` of its block, from (T - window) // hop on."""

    group: int
    window: int
    hop: int
    slot: int


def _run(places: list[int]) -> list[int] | slice:
    """Return places that follow one another as a slice, which numpy copies without looking at each."""
    whole = list(range(places[0], places[0] + len(places)))
    return slice(places[0], places[0] + len(places)) if places == whole else places


def checked(fits: bool) -> None:
    """Refuse stored values that are not of this layout.

    Raises:
        IntegrityError: they do not fit.
    """
    if not fits:
        raise IntegrityError("a stored window value has another layout than its view; rebuild it: materialize --full")


class WindowLayout:
    """How one window view's values are laid out, and where each feature's answer is.

    Attributes:
        view: The view.
        features: Its stored features, in order.
        slots: What they fold; a raw event holds one value of each.
        shape: What a stored value says of itself.
        ranges: Per block, the distinct windows asked of it, by group.
        places: Per feature, its block and range.
        width: Columns of the matrix of all features; a vector<K> takes K.
    """

    def __init__(self, view: ViewSpec) -> None:
        self.view = view
        self.features: tuple[FeatureSpec, ...] = view.stored
        wanted = planned(self.features, by_hop=True)
        self.slots = tuple(dict.fromkeys(s for _, s in wanted if s is not None))
        kinds = sorted(dict.fromkeys(k for k, _ in wanted), key=lambda k: _ORDER.index(k.partition("<")[0]))
        blocks, ranges = [], []
        for kind in kinds:
            mine = [(f, s) for f, (k, s) in zip(self.features, wanted, strict=True) if k == kind]
            block, spans = self._block(kind, mine)
            blocks.append(block)
            ranges.append(spans)
        self.ranges: tuple[tuple[Range, ...], ...] = tuple(ranges)
        created = any(k in {"first", "last"} for k in kinds)
        self.shape = shape_of(_encoded([s.form for s in self.slots], created, blocks))
        self.places = tuple(
            (kinds.index(k), self._range_of(ranges[kinds.index(k)], blocks[kinds.index(k)], f, s))
            for f, (k, s) in zip(self.features, wanted, strict=True)
        )
        self.width = sum(vector_size(f.type) for f in self.features)
        self.plain = all(k in {"rows", "moments", "wholes"} for k in kinds)
        self.reader: Any = None  # made at the first read of a lone value
        self.gatherer: Any = None  # and of many
        self.outlets = self._outlets()

    def _outlets(self) -> list[tuple[int, Stat, list[int] | slice, list[int] | slice]]:
        """Return which features of a block ask for the same statistic: (block, statistic, features, their ranges)."""
        asked: dict[tuple[int, Stat], tuple[list[int], list[int]]] = {}
        for i, (feature, (b, r)) in enumerate(zip(self.features, self.places, strict=True)):
            features, ranges = asked.setdefault((b, feature.stat or Stat.COUNT), ([], []))
            features.append(i)
            ranges.append(r)
        return [(b, stat, _run(features), _run(ranges)) for (b, stat), (features, ranges) in asked.items()]

    def _slot(self, slot: Slot | None) -> int:
        return -1 if slot is None else self.slots.index(slot)

    def _block(self, kind: str, mine: Sequence[tuple[FeatureSpec, Slot | None]]) -> tuple[Block, tuple[Range, ...]]:
        longest: dict[tuple[int, int], int] = {}
        for f, s in mine:
            key = (f.hop or 1, self._slot(s))
            longest[key] = max(longest.get(key, 0), f.window or 0)
        groups = tuple((hop, window, slot) for (hop, slot), window in longest.items())
        spans = {Range(list(longest).index((f.hop or 1, self._slot(s))), f.window or 0, f.hop or 1, self._slot(s))
                 for f, s in mine}  # fmt: skip
        names = COLUMNS["vector" if is_vector(kind) else kind]
        if kind in {"moments", "wholes"}:
            needs = {"count"}.union(*(_NEEDS[f.stat or Stat.COUNT] for f, _ in mine))
            names = tuple(n for n in names if n in needs)
        return Block(kind, names, groups), tuple(sorted(spans, key=lambda r: (r.group, -r.window)))

    def _range_of(self, spans: Sequence[Range], block: Block, f: FeatureSpec, slot: Slot | None) -> int:
        group = [(hop, s) for hop, _, s in block.groups].index((f.hop or 1, self._slot(slot)))
        return spans.index(Range(group, f.window or 0, f.hop or 1, self._slot(slot)))

    def pack(self, rows: Rows, floor: int) -> list[tuple[bytes, bytes]]:
        """Return (entity key, value that carries its rows raw); merging with the stored one folds them.

        `rows.columns` holds the slots by name (`kernel.slots.columns`).
        """
        order = np.lexsort((rows.sequence, rows.event, rows.owner))
        owner = rows.owner[order]
        heads = np.zeros(len(order), self.shape.head)
        heads["event"], heads["known"] = rows.event[order], rows.known[order]
        heads["sequence"] = rows.sequence[order]
        if self.shape.created:
            heads["created"] = rows.created[order]
        for i, slot in enumerate(self.slots):
            self._fill(heads, i, slot, rows, order)
        starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(owner) else np.empty(0, np.int64)
        ends = np.append(starts[1:], len(owner))[: len(starts)]
        tops = np.frombuffer(self.shape.blank[: TOP.itemsize] * len(starts), TOP).copy()
        tops["heads"], tops["floor"] = ends - starts, floor
        data, top, rest = heads.tobytes(), tops.tobytes(), self.shape.blank[TOP.itemsize :]
        size, step = self.shape.head.itemsize, TOP.itemsize
        return [
            (rows.keys[owner[a]], top[i * step : i * step + step] + rest + data[a * size : b * size])
            for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
        ]

    def _fill(self, heads: np.ndarray, i: int, slot: Slot, rows: Rows, order: np.ndarray) -> None:
        values, nulls = rows.columns[slot.name]
        if values.dtype == object:  # text where a number is declared counts as null, as in reading
            values, nulls = np.zeros(len(values)), np.ones(len(values), bool)
        if i in self.shape.null_of:
            heads["nulls"][:, self.shape.null_of[i]] = nulls[order]
            shown = nulls if values.ndim == 1 else nulls[:, None]
            heads[f"s{i}"] = np.where(shown, np.zeros(1, values.dtype), values)[order]
        else:
            heads[f"s{i}"] = np.where(nulls, np.nan, values)[order]
