"""Distances between histograms on the same edges: Wasserstein, Jensen-Shannon, PSI, Kolmogorov-Smirnov.

The surprise: with per-bin sums the signed area between two distribution functions is known exactly in every bin, also
in the two open ones, so the Wasserstein distance here differs from the samples' own only where they cross in a bin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from flyball.profiles.profile import ColumnProfile, Edges

__all__ = ["distance", "jensen_shannon", "ks_statistic", "psi", "wasserstein"]

Counts = npt.NDArray[np.int64]


def distance(edges: Edges, reference: ColumnProfile, current: ColumnProfile) -> float:
    """Return the size of a change: Wasserstein / reference sd for numbers, Jensen-Shannon distance for categories.

    A column that was constant in the reference is measured in units of max(|its value|, 1). NaN if a side is empty.
    """
    if edges.kind == "category":
        return jensen_shannon(reference.counts, current.counts)
    return wasserstein(edges, reference, current) / (edges.sd or max(abs(edges.center), 1.0))


def wasserstein(edges: Edges, reference: ColumnProfile, current: ColumnProfile) -> float:
    """Return the first Wasserstein distance in the column's own unit, >= 0; NaN if a side is empty.

    It is the sum over bins of |area between the distribution functions|: a lower bound of the samples' distance.
    """
    if not reference.n or not current.n:
        return math.nan
    areas = _areas(edges, reference) - _areas(edges, current)
    return float(np.abs(areas).sum()) / edges.scale


def jensen_shannon(reference: Counts, current: Counts) -> float:
    """Return the Jensen-Shannon distance (root of the divergence in bits), in [0, 1]; NaN if a side is empty."""
    if not reference.sum() or not current.sum():
        return math.nan
    p, q = reference / reference.sum(), current / current.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0.0) + np.where(q > 0, q * np.log2(q / middle), 0.0)
    return math.sqrt(min(max(float(terms.sum()) / 2, 0.0), 1.0))


def psi(reference: Counts, current: Counts, *, floor: float = 1e-4) -> float:
    """Return the population stability index in nats, >= 0.

    Args:
        reference: Counts per bin, shape (k,), k >= 2.
        current: Counts per bin on the same edges.
        floor: Smallest share given to an empty bin, in (0, 1/k).

    Returns:
        About 0.1 is small and 0.25 large by custom, whatever the sample size; NaN if a side is empty.

    Example:
        >>> import numpy as np
        >>> round(psi(np.array([50, 50]), np.array([60, 40])), 4)
        0.0405
    """
    if not reference.sum() or not current.sum():
        return math.nan
    p = np.maximum(reference / reference.sum(), floor)
    q = np.maximum(current / current.sum(), floor)
    return float(((q - p) * np.log(q / p)).sum())


def ks_statistic(reference: Counts, current: Counts) -> float:
    """Return the largest distance of the distribution functions over the bins' edges, in [0, 1]; NaN if empty."""
    if not reference.sum() or not current.sum():
        return math.nan
    gap = np.cumsum(reference) / reference.sum() - np.cumsum(current) / current.sum()
    return float(np.abs(gap).max())


def _areas(edges: Edges, column: ColumnProfile) -> npt.NDArray[np.float64]:
    """Return the integral of F over each bin, of F - 1 over the last, in scaled units; shape (bins,)."""
    if not len(edges.values):
        return np.array([-column.sums[0] / column.n])
    at = (edges.values - edges.center) * edges.scale
    below = np.cumsum(column.counts)[:-1] / column.n
    steps = np.concatenate((at[:1] * below[:1], np.diff(at * below), at[-1:] * (1.0 - below[-1:])))
    return steps - column.sums / column.n
