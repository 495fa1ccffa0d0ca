"""Add raw events known at T to what the cells of many values answered.

The surprise: raw events are added up from the newest on, value by value, exactly as `one` does it for a lone value, so
that both give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.features.cells.kinds import Cells, combine, nothing
from flyball.features.cells.layout import Range, Shape
from flyball.features.kernel import wholes
from flyball.features.types import is_vector

__all__ = ["add_heads", "known_heads"]


def known_heads(heads: np.ndarray, owner: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw events known at T and whose they are, the newest of each value first; given by (value, event)."""
    heads, owner = heads[::-1], owner[::-1]
    seen = heads["known"] <= at
    return (heads, owner) if seen.all() else (heads[seen], owner[seen])


def add_heads(
    shape: Shape, kind: str, ranges: Sequence[Range], low: np.ndarray, found: Cells, heads: np.ndarray,
    owner: np.ndarray,
) -> None:  # fmt: skip
    """Add raw events to the folds of a cumulative kind, in place.

    Args:
        shape: The values' shape.
        kind: The block's kind.
        ranges: The block's ranges.
        low: Their old edges; events after them are inside.
        found: Columns of shape (ranges, n values, ...).
        heads: As `known_heads` returns them.
        owner: Which value each is of.
    """
    n = found["count"].shape[1]
    inside = heads["event"] > low[:, None]
    for slot in dict.fromkeys(span.slot for span in ranges):
        mine = [r for r, span in enumerate(ranges) if span.slot == slot]
        part = inside if len(mine) == len(ranges) else inside[mine]
        if slot >= 0:
            part = part & shape.valid(heads, slot)
        column, which = part.nonzero()
        if len(which):
            values = heads[f"s{slot}"][which] if slot >= 0 else None
            _add(kind, found, mine, values, column * n + owner[which])


def _add(kind: str, found: Cells, mine: list[int], values: np.ndarray | None, owner: np.ndarray) -> None:
    every = len(mine) == len(found["count"])
    held = found if every else {name: column[mine] for name, column in found.items()}
    added = _folded(kind, tuple(found), values, owner, held["count"].size)
    shaped = {name: column.reshape(held[name].shape) for name, column in added.items()}
    for name, column in combine(kind, held, shaped).items():
        found[name][slice(None) if every else mine] = column


def _folded(kind: str, columns: tuple[str, ...], values: np.ndarray | None, owner: np.ndarray, n: int) -> Cells:
    """Fold raw events, newest first, into the part that each is of."""
    count = np.bincount(owner, minlength=n)
    part: Cells = {"count": count}
    if values is None or kind == "rows":
        return part
    if is_vector(kind):
        part["sums"] = np.zeros((n, values.shape[1]))
        np.add.at(part["sums"], owner, values.astype(np.float64))
    for name, half in zip(("high", "low"), wholes.parts(values) if kind == "wholes" else (), strict=False):
        if name in columns:
            part[name] = np.zeros(n, np.int64)
            np.add.at(part[name], owner, half)
    with np.errstate(all="ignore"):
        if "sum" in columns:
            part["sum"] = np.bincount(owner, values, n)
        if "m2" in columns:
            away = values - (part["sum"] / np.maximum(count, 1))[owner]
            drift = np.bincount(owner, away, n)
            own = np.maximum(np.bincount(owner, away * away, n) - drift * drift / np.maximum(count, 1), 0.0)
            part["m2"] = np.where(count > 1, own, 0.0)
    for name, ufunc in (("min", np.minimum), ("max", np.maximum)):
        if name in columns:
            part[name] = np.full(n, nothing(kind, name), values.dtype)
            ufunc.at(part[name], owner, values)
    return part
