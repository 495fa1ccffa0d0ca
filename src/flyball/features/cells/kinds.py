"""Kinds of cells: which columns a cell has, how events fold into it and how two of one index become one.

Every function works on many cells at once (columns by name), but for sketches, whose cells are bytes one by one. The
surprise: only values that are there get here, so a cell is never empty and a merge needs no rule for nothing. Cells of
cumulative kinds are kept summed up from the newest on (`suffixes`), so that one cell answers a whole window.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flyball.features.kernel import distinct, partials, quantiles, wholes
from flyball.features.types import is_vector, vector_size

__all__ = ["COLUMNS", "Cells", "column_dtype", "combine", "cumulative", "fold", "nothing", "suffixes"]

Cells = dict[str, np.ndarray]
COLUMNS: dict[str, tuple[str, ...]] = {
    "rows": ("count",),
    "moments": ("count", "sum", "m2", "min", "max"),
    "wholes": ("count", "high", "low", "min", "max"),
    "first": ("event", "created", "sequence", "value"),
    "last": ("event", "created", "sequence", "value"),
    "vector": ("count", "sums"),
    "hll": ("size",),
    "kll": ("size",),
}
"""Columns of each kind, beside the cell's index; those of moments and wholes only as far as features need them."""
_EIGHT = (np.dtype("<i8"), np.dtype("<f8"))


def column_dtype(kind: str, name: str) -> np.dtype[Any]:
    """Return the type of a stored column."""
    if name == "sums":
        return np.dtype(("<f8", (vector_size(kind),)))
    return _EIGHT[kind == "moments" and name in {"sum", "m2", "min", "max"}]


def fold(kind: str, columns: tuple[str, ...], events: np.ndarray, values: np.ndarray, starts: np.ndarray) -> Cells:
    """Fold consecutive segments of events into one cell each.

    Args:
        kind: The kind of cell.
        columns: Columns that are kept.
        events: Raw events by (event, created, sequence) within a segment, shape (n,).
        values: Their values in the slot, none null, shape (n,) or (n, K).
        starts: Where each segment begins; none is empty.
    """
    match kind:
        case "rows":
            return {"count": np.diff(starts, append=len(values))}
        case "moments":
            return _taken(partials.fold(np.ascontiguousarray(values), starts), columns)
        case "wholes":
            return _taken(wholes.fold(np.ascontiguousarray(values), starts), columns)
        case "first" | "last":
            return _ends(kind, events, values, starts)
        case "hll" | "kll":
            return {"state": _states(kind, values, starts)}
        case _:
            sums = np.add.reduceat(values.astype(np.float64), starts, axis=0) if len(starts) else np.empty((0, 1))
            return {"count": np.diff(starts, append=len(values)), "sums": sums}


def cumulative(kind: str) -> bool:
    """Whether a stored cell holds everything from itself to the newest; the others hold what is theirs alone."""
    return kind in {"rows", "moments", "wholes"} or is_vector(kind)


def suffixes(kind: str, cells: Cells, whose: np.ndarray) -> Cells:
    """Sum cells up from the newest of each owner; cells lie by (owner, index).

    Nothing is ever subtracted, so a large value that has left a window leaves no rounding behind.
    """
    found, step = dict(cells), 1
    names = [name for name in cells if name != "index"]
    while len(at := np.flatnonzero(whose[:-step] == whose[step:])):
        left, right = ({n: found[n][i] for n in names} for i in (at, at + step))
        for name, column in combine(kind, left, right).items():
            found[name] = found[name] if step > 1 else found[name].copy()
            found[name][at] = column
        step *= 2
    return found


def combine(kind: str, left: Cells, right: Cells) -> Cells:
    """Merge two lists of cells one by one; of kinds with a count either may be of nothing."""
    if kind in {"first", "last"}:
        return _chosen(kind, left, right)
    if kind in {"hll", "kll"}:
        return {"state": _merged(kind, left["state"], right["state"])}
    found: Cells = {}
    with np.errstate(all="ignore"):
        for name, column in left.items():
            if name in {"min", "max"}:
                found[name] = (np.minimum if name == "min" else np.maximum)(column, right[name])
            elif name == "m2":
                found[name] = partials.spread(left, right)
            else:
                found[name] = column + right[name]
    return found


def nothing(kind: str, name: str) -> float | int:
    """Return what a column holds for no value at all."""
    if name == "min":
        return wholes.GREATEST if kind == "wholes" else np.inf
    if name == "max":
        return wholes.LEAST if kind == "wholes" else -np.inf
    return 0


def _taken(records: np.ndarray, columns: tuple[str, ...]) -> Cells:
    return {name: np.ascontiguousarray(records[name]) for name in columns}


def _ends(kind: str, events: np.ndarray, values: np.ndarray, starts: np.ndarray) -> Cells:
    at = starts if kind == "first" else np.append(starts[1:], len(values))[: len(starts)] - 1
    found: Cells = {name: np.ascontiguousarray(events[name][at]) for name in ("event", "created", "sequence")}
    found["value"] = np.ascontiguousarray(values[at]).view(np.int64)
    return found


def _chosen(kind: str, left: Cells, right: Cells) -> Cells:
    before = np.zeros(len(left["event"]), bool)  # whether the left one is the older
    tie = ~before
    for name in ("event", "created", "sequence"):
        before |= tie & (left[name] < right[name])
        tie &= left[name] == right[name]
    mine = before | tie if kind == "first" else ~before
    return {name: np.where(mine, left[name], right[name]) for name in left}


def _states(kind: str, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    ends = np.append(starts[1:], len(values))[: len(starts)]
    found = np.empty(len(starts), object)
    for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        part = np.ascontiguousarray(values[a:b])
        found[i] = (
            distinct.to_bytes(distinct.of_hashes(part)) if kind == "hll"
            else quantiles.to_bytes(quantiles.of_values(part))
        )  # fmt: skip
    return found


def _merged(kind: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    module: Any = distinct if kind == "hll" else quantiles
    found = np.empty(len(left), object)
    for i, pair in enumerate(zip(left, right, strict=True)):
        found[i] = module.to_bytes(module.merge([module.from_bytes(one) for one in pair]))
    return found
