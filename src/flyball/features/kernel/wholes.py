"""Exact folds of int64: sums of any size, least and greatest; they merge in any order.

The surprise: a sum is two int64, of the values' high and low 32 bits, so that it cannot overflow under 2**31 values
and does not depend on the order. A sum that does not fit into int64 in the end is null, never wrapped and never an
error at read; declare the feature as float to get it rounded instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.features.kernel.partials import Ints
from flyball.features.spec import Stat, Status

__all__ = ["GREATEST", "LEAST", "WHOLE", "combine", "empty", "finish", "fold", "parts"]

WHOLE = np.dtype([("count", "<i8"), ("high", "<i8"), ("low", "<i8"), ("min", "<i8"), ("max", "<i8")])
"""One partial: values folded, sums of their high and low halves, least and greatest."""
LEAST, GREATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_LOW = (1 << 32) - 1
_Wholes = npt.NDArray[Any]


def parts(values: Ints) -> tuple[Ints, Ints]:
    """Return the high (signed) and low (unsigned) halves of int64 values."""
    return values >> 32, values & _LOW


def empty(n: int) -> _Wholes:
    """Return `n` partials of nothing."""
    found = np.zeros(n, WHOLE)
    found["min"], found["max"] = GREATEST, LEAST
    return found


def fold(values: Ints, starts: Ints) -> _Wholes:
    """Fold consecutive segments, none of them empty, of values without nulls."""
    found = empty(len(starts))
    if len(starts):
        high, low = parts(values)
        found["count"] = np.diff(starts, append=len(values))
        found["high"], found["low"] = np.add.reduceat(high, starts), np.add.reduceat(low, starts)
        found["min"], found["max"] = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return found


def combine(left: _Wholes, right: _Wholes) -> _Wholes:
    """Merge two arrays of partials element by element."""
    found = np.empty(len(left), WHOLE)
    for name in ("count", "high", "low"):
        found[name] = left[name] + right[name]
    found["min"] = np.minimum(left["min"], right["min"])
    found["max"] = np.maximum(left["max"], right["max"])
    return found


def finish(partials: _Wholes | Mapping[str, Ints], stat: Stat) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """Return int64 values (0 where null) and statuses, of partials or of the columns that the statistic needs.

    The sum of nothing is 0, its extremes are null.
    """
    if stat is Stat.SUM:
        high, low = partials["high"] + (partials["low"] >> 32), partials["low"] & _LOW
        good = (high >= -(1 << 31)) & (high < 1 << 31)
        raw = (np.where(good, high, 0) << 32) | np.where(good, low, 0)
    else:
        good = partials["count"] > 0
        raw = np.where(good, partials["min" if stat is Stat.MIN else "max"], 0)
    return raw, np.where(good, Status.PRESENT, Status.NULL).astype(np.uint8)
