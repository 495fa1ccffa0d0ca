"""Partial aggregates of a set of values: count, sum, squared deviations, least, greatest; they merge in any order.

The surprise: null and NaN are the same nothing here. A value that is not a number is never folded, so one bad row
does not make a day's mean NaN. Integers are exact up to 2**53, because sums are float64; beyond it see `wholes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flyball.features.spec import Stat, Status

__all__ = [
    "PARTIAL", "Floats", "Ints", "Partials", "combine", "empty", "finish", "fold", "merge", "of_values", "spread",
]  # fmt: skip

PARTIAL = np.dtype([("count", "<i8"), ("sum", "<f8"), ("m2", "<f8"), ("min", "<f8"), ("max", "<f8")])
"""One partial: rows folded, their sum, sum of squared deviations from their mean, least and greatest value."""

_NULL = np.uint8(Status.NULL)
Partials: TypeAlias = npt.NDArray[np.void]  # of dtype PARTIAL
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


def empty(n: int) -> Partials:
    """Return `n` partials of nothing: count 0, min +inf, max -inf."""
    partials = np.zeros(n, dtype=PARTIAL)
    partials["min"] = np.inf
    partials["max"] = -np.inf
    return partials


def of_values(values: Floats) -> Partials:
    """Return one partial per value; NaN gives an empty one."""
    partials = empty(len(values))
    valid = ~np.isnan(values)
    partials["count"] = valid
    partials["sum"] = np.where(valid, values, 0.0)
    partials["min"] = np.where(valid, values, np.inf)
    partials["max"] = np.where(valid, values, -np.inf)
    return partials


def fold(values: Floats, starts: Ints) -> Partials:
    """Fold consecutive segments of values.

    Args:
        values: Shape (n,), float64, NaN where there is none.
        starts: Shape (s,), first position of each segment, not decreasing; a segment ends where the next begins, the
            last at n. Equal starts make an empty segment.

    Returns:
        Shape (s,), PARTIAL.
    """
    result = empty(len(starts))
    lengths, full, cuts = _segments(starts, len(values))
    if not len(cuts):
        return result
    valid = ~np.isnan(values)
    first = cuts[0]
    clean = np.where(valid, values, 0.0)
    count = np.add.reduceat(valid, cuts, dtype=np.int64)
    with np.errstate(all="ignore"):
        total = np.add.reduceat(clean, cuts)
        mean = total / np.maximum(count, 1)
        away = np.where(valid[first:], values[first:] - np.repeat(mean, lengths), 0.0)
        inner = cuts - first
        drift = np.add.reduceat(away, inner)  # what rounding left in the mean
        m2 = np.add.reduceat(away * away, inner) - drift * drift / np.maximum(count, 1)
    result["count"][full] = count
    result["sum"][full] = total
    result["m2"][full] = np.where(count > 1, np.maximum(m2, 0.0), 0.0)
    result["min"][full] = np.minimum.reduceat(np.where(valid, values, np.inf), cuts)
    result["max"][full] = np.maximum.reduceat(np.where(valid, values, -np.inf), cuts)
    return result


def merge(partials: Partials, starts: Ints) -> Partials:
    """Merge consecutive segments of partials into one each; `starts` as in `fold`.

    Pairwise update of squared deviations after Chan, Golub and LeVeque (1979), for many parts at once.
    """
    result = empty(len(starts))
    lengths, full, cuts = _segments(starts, len(partials))
    if not len(cuts):
        return result
    first = cuts[0]
    count = np.add.reduceat(partials["count"], cuts)
    total = np.add.reduceat(partials["sum"], cuts)
    with np.errstate(all="ignore"):
        n = partials["count"][first:]
        means = partials["sum"][first:] / np.maximum(n, 1)
        away = np.where(n > 0, means - np.repeat(total / np.maximum(count, 1), lengths), 0.0)
        between = np.add.reduceat(n * away * away, cuts - first)
    result["count"][full] = count
    result["sum"][full] = total
    result["m2"][full] = np.add.reduceat(partials["m2"], cuts) + between
    result["min"][full] = np.minimum.reduceat(partials["min"], cuts)
    result["max"][full] = np.maximum.reduceat(partials["max"], cuts)
    return result


def combine(left: Partials, right: Partials, *, deviations: bool = True) -> Partials:
    """Merge two arrays of partials element by element; `deviations` False leaves m2 at 0, where nobody asks for it."""
    result = np.empty(len(left), dtype=PARTIAL)
    with np.errstate(all="ignore"):
        result["sum"] = left["sum"] + right["sum"]
        result["m2"] = spread(left, right) if deviations else 0.0
    result["count"] = left["count"] + right["count"]
    result["min"] = np.minimum(left["min"], right["min"])
    result["max"] = np.maximum(left["max"], right["max"])
    return result


def spread(left: Partials | Mapping[str, npt.NDArray[Any]], right: Partials | Mapping[str, npt.NDArray[Any]]) -> Floats:
    """Return the squared deviations of two parts taken together, element by element (count, sum and m2 of each)."""
    n, m = left["count"], right["count"]
    with np.errstate(all="ignore"):
        delta = right["sum"] / np.maximum(m, 1) - left["sum"] / np.maximum(n, 1)
        between = np.where((n > 0) & (m > 0), delta * delta * (n * (m / np.maximum(n + m, 1))), 0.0)
        found: Floats = left["m2"] + right["m2"] + between
        return found


def finish(partials: Partials | Mapping[str, npt.NDArray[Any]], stat: Stat) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Turn partials, or those of their columns that the statistic needs, into values and statuses.

    Count and sum of nothing are 0 and PRESENT; mean, min and max of nothing, and the sample variance and standard
    deviation of fewer than two values, are NaN with status NULL. Infinities fold as such; where that leaves no number
    (inf - inf, the deviation from an infinite mean) the answer is NULL too.
    """
    count = partials["count"]
    least = 2 if stat in {Stat.STD, Stat.VAR} else 1
    with np.errstate(all="ignore"):
        match stat:
            case Stat.COUNT:
                return count.astype(np.float64), np.zeros(count.shape, dtype=np.uint8)
            case Stat.SUM:
                total = partials["sum"].copy()
                return total, np.isnan(total) * _NULL
            case Stat.MEAN:
                raw = partials["sum"] / np.maximum(count, 1)
            case Stat.STD:
                raw = np.sqrt(_variance(partials))
            case Stat.VAR:
                raw = _variance(partials)
            case Stat.MIN:
                raw = partials["min"]
            case _:
                raw = partials["max"]
    lacking = (count < least) | np.isnan(raw)
    if not lacking.any():
        return raw, np.zeros(count.shape, dtype=np.uint8)
    return np.where(lacking, np.nan, raw), lacking * _NULL


def _variance(partials: Partials | Mapping[str, npt.NDArray[Any]]) -> Floats:
    raw = partials["m2"] / np.maximum(partials["count"] - 1, 1)
    found: Floats = np.where(np.isfinite(partials["sum"]), raw, np.nan)
    return found


def _segments(starts: Ints, n: int) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """Return lengths of the segments that are not empty, which those are, and their starts."""
    lengths = np.diff(starts, append=n)
    full = lengths > 0
    return lengths[full], full, starts[full]
