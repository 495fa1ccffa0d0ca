"""Merge the raw events of written values into stored ones: fold what is settled, keep the rest raw.

The surprise: an event that is due changes not only its cell but every older one, because a cell holds all that came
after it; that costs no more than copying them, which is done anyway, and spares each read the adding up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.features.cells.kinds import Cells, combine, cumulative, fold, suffixes
from flyball.features.cells.layout import KIND, Block, Shape, checked, shape_of
from flyball.features.cells.values import Held, emit, oldest
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
    checked(not any(v[0] != KIND or _described(v) != shape.data for v in stored if v))
    old, new = Held(shape, stored), Held(shape, [v for _, v in pairs])
    fresh = (new.heads["sequence"] < 0) | (new.heads["sequence"] > old.tops["applied"][new.head_owner])
    heads = np.concatenate([old.heads, new.heads[fresh]])
    owner = np.concatenate([old.head_owner, new.head_owner[fresh]])
    tops = _advance(old.tops, new.tops, new.heads[fresh], new.head_owner[fresh])
    _relieve(tops, heads, owner, new.tops["floor"])
    heads, owner = _ordered(shape, heads, owner)
    due = heads["known"] <= tops["floor"][owner]
    events, whose = heads[due], owner[due]
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
        new, mine = _by_place(made)
        if cumulative(block.kind):
            new = suffixes(block.kind, new, mine)
        held, whose = _joined(block.kind, held, whose, counts.ravel(), new, mine)
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


def _by_place(parts: Sequence[tuple[Cells, np.ndarray]]) -> tuple[Cells, np.ndarray]:
    whose = np.concatenate([mine for _, mine in parts])
    cells = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    order = np.lexsort((cells["index"], whose))
    return {name: column[order] for name, column in cells.items()}, whose[order]


def _joined(
    kind: str, old: Cells, whose: np.ndarray, counts: np.ndarray, new: Cells, mine: np.ndarray
) -> tuple[Cells, np.ndarray]:
    """Return stored and new cells as one list, in order; `counts` is how many stored ones each owner has."""
    if not len(whose):
        return new, mine
    ends = np.cumsum(counts)
    at = oldest(old["index"], (ends - counts)[mine], ends[mine], new["index"])
    met = at < ends[mine]  # a stored cell follows, or is the same
    same = met & (old["index"][np.where(met, at, 0)] == new["index"])
    into = at + np.cumsum(~same) - ~same  # each new one's place in the union
    shift = np.cumsum(np.bincount(at[~same], minlength=len(whose) + 1))[: len(whose)]
    source = np.empty(len(whose) + int((~same).sum()), np.int64)  # per place, the stored cell there or the next
    source[into] = np.where(met, at, -1)
    source[np.arange(len(whose)) + shift] = np.arange(len(whose))
    owner = np.where(source >= 0, whose[source], -1)
    owner[into] = mine
    if cumulative(kind):
        after = np.cumsum(np.bincount(into, minlength=len(source))) - np.bincount(into, minlength=len(source))
        touched = np.flatnonzero((after < len(mine)) & (mine[np.minimum(after, len(mine) - 1)] == owner))
        theirs = after[touched]
    else:
        touched, theirs = into, np.arange(len(mine))
        source[into[~same]] = -1
    found = _summed(kind, old, new, source, touched, theirs)
    found["index"][into] = new["index"]
    return found, owner


def _summed(kind: str, old: Cells, new: Cells, source: np.ndarray, touched: np.ndarray, theirs: np.ndarray) -> Cells:
    """Take the stored cell of each place, and add to those at `touched` the new ones at `theirs`."""
    both = source[touched] >= 0
    alone = touched[~both], theirs[~both]
    touched, theirs = touched[both], theirs[both]
    found = {name: column[source] for name, column in old.items() if name != "index"}
    added = combine(kind, {n: c[touched] for n, c in found.items()}, {n: new[n][theirs] for n in found})
    for name, column in found.items():
        column[touched] = added[name]
        column[alone[0]] = new[name][alone[1]]
    found["index"] = old["index"][source]
    return found


def _firsts(whose: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return where a new (owner, index) begins in sorted arrays."""
    new = np.ones(len(whose), bool)
    new[1:] = (whose[1:] != whose[:-1]) | (index[1:] != index[:-1])
    return np.flatnonzero(new)
