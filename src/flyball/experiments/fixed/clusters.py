"""Rows that come in clusters: several requests, orders or sessions of one unit, which are assigned together.

The surprise: such a comparison has as many independent values as it has clusters, so ten million rows of three
units say next to nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyball.errors import InputError
from flyball.experiments.fixed.pivots import values_of
from flyball.experiments.stats import Missing

__all__ = ["by_cluster", "unit_index"]


def unit_index(units: ArrayLike, rows: int) -> NDArray[np.int64]:
    """Return the number of each row's unit, from 0, shape (rows,); raises InputError where not every row has one."""
    index = np.unique(np.asarray(units), return_inverse=True)[1]
    if index.shape != (rows,):
        raise InputError(f"{index.size} units for {rows} rows; give the unit of each row")
    return index.astype(np.int64)


def by_cluster(
    sample: ArrayLike, clusters: ArrayLike, arm: str, missing: Missing
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return rows sorted by cluster and the starts of the clusters with the end, shape (clusters + 1,).

    Args:
        sample: Values, shape (n,).
        clusters: The cluster of each row, shape (n,); numbers or names.
        arm: Whose rows, for the messages.
        missing: What to do with NaN: refuse, or drop the row.

    Raises:
        InputError: lengths differ, a value is missing, or there are fewer than two clusters.
    """
    values, labels = np.asarray(sample, dtype=np.float64), np.asarray(clusters)
    if values.shape != labels.shape:
        raise InputError(f"{arm} has values of shape {values.shape} and clusters of shape {labels.shape}; one per row")
    if missing == "drop":
        labels = labels[np.isfinite(values)]
    values = values_of(values, arm, least=2, missing=missing)
    _, which = np.unique(labels, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.flatnonzero(np.diff(which[order], prepend=-1, append=int(which.max()) + 1))
    if len(starts) < 3:
        raise InputError(f"{arm} has {len(starts) - 1} cluster; a comparison of clusters needs at least 2 in each arm")
    return values[order], starts
