"""Merge the raw events of written values into stored ones: fold what is settled, keep the rest raw.

The surprise: a stored value that nothing due touches is still rewritten, because its raw head and its high mark
changed; cells that got no event are copied, not folded again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.errors import IntegrityError
from flyball.features.cells.kinds import Cells, combine, fold
from flyball.features.cells.layout import KIND, Block, Shape, shape_of
from flyball.features.cells.values import Held, emit
from flyball.features.kernel.windows import cell_of
from flyball.features.packing import SPAN

__all__ = ["HEAD_LIMIT", "merge_windows"]

HEAD_LIMIT = 64  # raw events of one entity that already arrived; beyond it the oldest are folded early
_LIKE = 32


def merge_windows(pairs: Sequence[tuple[bytes | None, bytes]]) -> list[bytes]:
    """Return, for each (stored or None, new), the stored value with the new one's raw events merged in.

    Raises:
        IntegrityError: a stored value is not one of this module, or of another view's layout.
    """
    alike: dict[bytes, list[int]] = {}
    for i, (_, new) in enumerate(pairs):
        alike.setdefault(_described(new), []).append(i)
    merged: list[bytes] = [b""] * len(pairs)
    for described, which in alike.items():
        for i, value in zip(which, _merge_alike(shape_of(described), [pairs[i] for i in which]), strict=True):
            merged[i] = value
    return merged


def _described(value: bytes) -> bytes:
    return value[_LIKE : _LIKE + int.from_bytes(value[2:4], "little")]


def _merge_alike(shape: Shape, pairs: Sequence[tuple[bytes | None, bytes]]) -> list[bytes]:
    stored = [shape.blank if old is None else old for old, _ in pairs]
    if any(v[0] != KIND or _described(v) != shape.data for v in stored if v):
        raise IntegrityError("a stored window value has another layout than its view; rebuild it: materialize --full")
    old, new = Held(shape, stored), Held(shape, [v for _, v in pairs])
    fresh = (new.heads["sequence"] < 0) | (new.heads["sequence"] > old.tops["applied"][new.head_owner])
    heads = np.concatenate([old.heads, new.heads[fresh]])
    owner = np.concatenate([old.head_owner, new.head_owner[fresh]])
    tops = _advance(old.tops, new.tops, new.heads[fresh], new.head_owner[fresh])
    _relieve(tops, heads, owner, new.tops["floor"])
    due = heads["known"] <= tops["floor"][owner]
    events, whose = _ordered(shape, heads[due], owner[due])
    blocks = [_merge_block(old, b, block, events, whose, tops["floor"]) for b, block in enumerate(shape.blocks)]
    return emit(shape, tops, blocks, heads[~due], owner[~due])


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


def _ordered(shape: Shape, events: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order events by (value, event, created, sequence): then each value's cells of any hop are in order too."""
    created = (events["created"],) if shape.created else ()
    order = np.lexsort((events["sequence"], *created, events["event"], owner))
    return events[order], owner[order]


def _merge_block(
    old: Held, b: int, block: Block, events: np.ndarray, owner: np.ndarray, floor: np.ndarray
) -> tuple[Cells, np.ndarray]:
    """Return all cells of a block and their owner (value x groups + group), in order, after folding and trimming."""
    counts = old.block_counts(b)
    held = {name: column[: counts.sum()] for name, column in old.cells[b].items()}
    whose = np.repeat(np.arange(counts.size), counts.ravel())
    made = [_fold(old.shape, block, g, events, owner) for g in range(len(block.groups))]
    made = [(cells, mine) for cells, mine in made if len(mine)]
    if made:
        held, whose = _joined(block.kind, [(held, whose), *made])
    hops, windows, _ = (np.array(c, np.int64) for c in zip(*block.groups, strict=True))
    value, group = np.divmod(whose, len(block.groups))
    keep = held["index"] >= (floor[value] - windows[group]) // hops[group] - 1
    return ({n: c[keep] for n, c in held.items()}, whose[keep]) if not keep.all() else (held, whose)


def _fold(shape: Shape, block: Block, group: int, events: np.ndarray, owner: np.ndarray) -> tuple[Cells, np.ndarray]:
    hop, _, slot = block.groups[group]
    if slot >= 0:
        valid = shape.valid(events, slot)
        if not valid.all():
            events, owner = events[valid], owner[valid]
    index = cell_of(events["event"], hop)
    first = _firsts(owner, index)
    values = events[f"s{slot}"] if slot >= 0 else events["event"]
    cells = fold(block.kind, block.columns, events, values, first)
    return {**cells, "index": index[first]}, owner[first] * len(block.groups) + group


def _joined(kind: str, parts: Sequence[tuple[Cells, np.ndarray]]) -> tuple[Cells, np.ndarray]:
    """Return the cells of all parts in order; of two with the same place (a stored and a new one) one is made."""
    whose = np.concatenate([mine for _, mine in parts])
    cells = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    order = np.lexsort((cells["index"], whose))
    whose, index = whose[order], cells["index"][order]
    first = _firsts(whose, index)
    if len(first) == len(whose):
        return {name: column[order] for name, column in cells.items()}, whose
    twice = np.flatnonzero(np.diff(first, append=len(whose)) > 1)
    names = [name for name in cells if name != "index"]
    left = {name: cells[name][order[first[twice]]] for name in names}
    right = {name: cells[name][order[first[twice] + 1]] for name in names}
    found = {name: column[order[first]] for name, column in cells.items()}
    for name, column in combine(kind, left, right).items():
        found[name][twice] = column
    return found, whose[first]


def _firsts(whose: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return where a new (owner, index) begins in sorted arrays."""
    new = np.ones(len(whose), bool)
    new[1:] = (whose[1:] != whose[:-1]) | (index[1:] != index[:-1])
    return np.flatnonzero(new)
