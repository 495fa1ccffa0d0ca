"""Rows of history made ready to write, a part at a time: entities by their keys, values packed in slices. Pure.

The surprise: of a view of newest rows only those that matter are ever read as columns. Of a window view that is built
anew the values are made whole at once, so that the store has nothing to merge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flyball.features.cells import WindowLayout
from flyball.features.cells.whole import whole_values
from flyball.features.kernel.timeline import row_order
from flyball.features.packing import RowLayout, Rows, namespace, read_rows
from flyball.features.rowlayout import winners

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ViewSpec

__all__ = ["Loaded", "Packed", "load", "pack"]

_LONGEST = 64  # bytes of keys that numpy sorts


@dataclass(frozen=True, slots=True)
class Loaded:
    """One part's rows by (owner, event, created, sequence); `rows.keys` are store keys, ascending.

    `counts` says how many rows each key had before those that do not matter were left out.
    """

    rows: Rows
    counts: np.ndarray

    def after(self, key: bytes) -> Loaded:
        """Return what follows a key."""
        rows, skip = self.rows, bisect_right(self.rows.keys, key)
        rest = _cut(rows, int(np.searchsorted(rows.owner, skip)), len(rows))
        return Loaded(replace(rest, keys=rows.keys[skip:], owner=rest.owner - skip), self.counts[skip:])

    def slices(self, size: int) -> list[Loaded]:
        """Cut into pieces of about `size` rows, each of whole entities; one entity may have more."""
        rows, found, begin = self.rows, [], 0
        starts = np.searchsorted(rows.owner, np.arange(len(rows.keys)))
        while begin < len(rows.keys):
            end = max(int(np.searchsorted(starts, starts[begin] + size, "left")), begin + 1)
            stop = int(starts[end]) if end < len(rows.keys) else len(rows)
            piece = _cut(rows, int(starts[begin]), stop)
            piece = replace(piece, keys=rows.keys[begin:end], owner=piece.owner - begin)
            found.append(Loaded(piece, self.counts[begin:end]))
            begin = end
        return found


@dataclass(frozen=True, slots=True)
class Packed:
    """A slice ready to write: values by store key, ascending; entity i has those from `first[i]` to `first[i + 1]`."""

    part: int
    items: list[tuple[bytes, bytes]]
    first: np.ndarray
    counts: np.ndarray

    def cuts(self, keys: int, size: int) -> list[tuple[int, int]]:
        """Return ranges of entities of at most `keys` entities and about `size` bytes."""
        lengths = np.fromiter((len(value) for _, value in self.items), np.int64, len(self.items))
        ends = np.append(0, np.cumsum(lengths))[self.first]
        found, begin, last = [], 0, len(self.counts)
        while begin < last:
            end = int(np.searchsorted(ends, ends[begin] + size, "right")) - 1
            end = min(max(end, begin + 1), begin + keys, last)
            found.append((begin, end))
            begin = end
        return found


def load(view: ViewSpec, table: pa.Table | None, floor: int, touched: frozenset[bytes] | None) -> Loaded:
    """Read a part's rows; of a row view those that matter for T >= floor, with `touched` those of these entities."""
    prefix = namespace(view.digest)
    counts = np.empty(0, np.int64)

    def choose(rows: Rows) -> tuple[Rows, np.ndarray]:
        nonlocal counts
        order = key_order(rows.keys)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        owner = rank[rows.owner]
        which = _by_owner(owner, rows)
        counts = np.bincount(owner, minlength=len(order))
        if not view.is_window:
            which = which[winners(owner[which], rows.known[which], floor)]
        keys = [prefix + rows.keys[i] for i in order.tolist()]
        picked = rows.take(which)
        return Rows(keys, owner[which], picked.event, picked.created, picked.known, picked.sequence), which

    if table is None or not table.num_rows:
        none = np.empty(0, np.int64)
        return Loaded(Rows([], none, none, none, none, none), none)
    loaded = Loaded(read_rows(view, table, choose=choose), counts)
    return loaded if touched is None else _only(loaded, {prefix + key for key in touched})


def pack(layout: WindowLayout | RowLayout, part: int, loaded: Loaded, floor: int, *, whole: bool) -> Packed:
    """Pack a slice; `whole` makes the values that a store without any would hold, one for each entity."""
    rows = loaded.rows
    if isinstance(layout, WindowLayout):
        if not whole:
            items = layout.pack(rows, floor)
        else:
            items = list(zip(rows.keys, whole_values(layout, rows, floor), strict=True))
        return Packed(part, items, np.arange(len(items) + 1), loaded.counts)
    values = layout.records(rows, floor)
    first = np.searchsorted(rows.owner, np.arange(len(rows.keys) + 1))
    if len(values) == len(rows.keys):
        return Packed(part, list(zip(rows.keys, values, strict=True)), first, loaded.counts)
    if whole:
        chains = [b"".join(values[a:b][::-1]) for a, b in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)]
        return Packed(part, list(zip(rows.keys, chains, strict=True)), np.arange(len(chains) + 1), loaded.counts)
    keys = map(rows.keys.__getitem__, rows.owner.tolist())
    return Packed(part, list(zip(keys, values, strict=True)), first, loaded.counts)


def key_order(keys: Sequence[bytes]) -> np.ndarray:
    """Return the order of distinct keys, none of which begins another."""
    if not keys:
        return np.empty(0, np.int64)
    longest = max(map(len, keys))
    if longest > _LONGEST:
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    words = np.array(keys, f"S{-(-longest // 8) * 8}").view(">u8").reshape(len(keys), -1).astype(np.uint64)
    varying = [word for word in words.T if (word != word[0]).any()]
    return np.lexsort(varying[::-1]) if varying else np.arange(len(keys))


def _by_owner(owner: np.ndarray, rows: Rows) -> np.ndarray:
    """Return the order of rows by (owner, event, created, sequence)."""
    if len(owner) >= 1 << 32 or row_order(rows.event, rows.created, rows.sequence) is not None:
        return np.lexsort((rows.sequence, rows.created, rows.event, owner))
    places: np.ndarray = np.sort(owner << 32 | np.arange(len(owner))) & 0xFFFFFFFF  # they lie in order of time already
    return places


def _only(loaded: Loaded, wanted: set[bytes]) -> Loaded:
    rows = loaded.rows
    mine = np.fromiter((key in wanted for key in rows.keys), bool, len(rows.keys))
    kept = rows.take(mine[rows.owner])
    keys = [key for key, is_mine in zip(rows.keys, mine.tolist(), strict=True) if is_mine]
    return Loaded(replace(kept, keys=keys, owner=(np.cumsum(mine) - 1)[kept.owner]), loaded.counts[mine])


def _cut(rows: Rows, begin: int, end: int) -> Rows:
    """Return neighbouring rows without copying."""
    cut = slice(begin, end)
    columns = {n: (v[cut], m[cut]) for n, (v, m) in rows.columns.items()}
    return Rows(rows.keys, rows.owner[cut], rows.event[cut], rows.created[cut], rows.known[cut], rows.sequence[cut],
                columns)  # fmt: skip
