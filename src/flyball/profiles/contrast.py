"""Contrast two profiles column by column: how far apart, and how surely.

The surprise: a column's null share is a finding of its own, named "x is null", because a source that stops sending a
value leaves the distribution of the values that do come untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flyball.profiles.distances import distance, jensen_shannon, ks_statistic
from flyball.profiles.significance import chi_square_p, ks_p

if TYPE_CHECKING:
    import numpy.typing as npt

    from flyball.profiles.profile import ColumnProfile, Edges, Profile

__all__ = ["NULLS", "Contrast", "contrast"]

NULLS = " is null"


@dataclass(frozen=True, slots=True)
class Contrast:
    """One column's distance and its p value (Kolmogorov-Smirnov for numbers, chi-square for categories)."""

    name: str
    distance: float
    p: float


def contrast(base: Profile, current: Profile) -> list[Contrast]:
    """Return a contrast for each column with values on both sides, and for each null share that is not 0 on both.

    Both profiles have the same edges (`Profile.same_edges`); the caller has checked.
    """
    found = []
    for edges, a, b in zip(base.edges, base.columns, current.columns, strict=True):
        if a.n and b.n:
            found.append(Contrast(edges.name, distance(edges, a, b), _p_value(edges, a, b)))
        if (a.nulls or b.nulls) and (a.n + a.nulls) and (b.n + b.nulls):
            left, right = _null_counts(a), _null_counts(b)
            found.append(Contrast(edges.name + NULLS, jensen_shannon(left, right), chi_square_p(left, right)))
    return found


def _p_value(edges: Edges, a: ColumnProfile, b: ColumnProfile) -> float:
    if edges.kind == "category":
        return chi_square_p(a.counts, b.counts)
    return ks_p(ks_statistic(a.counts, b.counts), a.n, b.n)


def _null_counts(column: ColumnProfile) -> npt.NDArray[np.int64]:
    return np.array([column.nulls, column.n], dtype=np.int64)
