"""Exact quantiles of ranges of rows, for many ranges at once.

A wavelet matrix (Claude, Navarro and Ordonez 2015) finds the k-th smallest of a range bit by bit of its rank. The
surprise: it is never kept. All requests go down together, so each level is made from the one above and forgotten; and
a request may have several ranges, whose counts simply add up, which is how late rows are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flyball.features.kernel.partials import Floats, Ints

__all__ = ["quantile"]


def quantile(values: Floats, begin: Sequence[Ints], end: Sequence[Ints], q: float) -> Floats:
    """Return the q-quantile (the ceil(q n)-th smallest) of the n values in each request's ranges, NaN where n is 0.

    Args:
        values: Without NaN, shape (m,).
        begin: Per range of a request, where it begins, shape (requests,).
        end: Where it ends; equal where it is empty. Ranges of one request do not overlap.
        q: Above 0 and below 1.
    """
    found = np.full(len(begin[0]), np.nan)
    n = np.sum([b - a for a, b in zip(begin, end, strict=True)], axis=0)
    some = np.flatnonzero(n)
    if len(some):
        order = np.argsort(values, kind="stable")
        nth = np.maximum(np.ceil(q * n[some]), 1).astype(np.int64) - 1
        found[some] = values[order[_ranks(order, [a[some] for a in begin], [b[some] for b in end], nth)]]
    return found


def _ranks(order: Ints, low: list[Ints], high: list[Ints], nth: Ints) -> Ints:
    """Return the rank among all values of the nth smallest in each request's ranges."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    found = np.zeros(len(nth), np.int64)
    for bit in reversed(range(len(order).bit_length())):
        zero = ranks >> bit & 1 == 0
        zeros = np.concatenate(([0], np.cumsum(zero)))
        left = [(zeros[a], zeros[b]) for a, b in zip(low, high, strict=True)]
        count = np.sum([b - a for a, b in left], axis=0)
        right = nth >= count
        nth = np.where(right, nth - count, nth)
        found |= right.astype(np.int64) << bit
        low = [np.where(right, zeros[-1] + a - z, z) for a, (z, _) in zip(low, left, strict=True)]
        high = [np.where(right, zeros[-1] + b - z, z) for b, (_, z) in zip(high, left, strict=True)]
        ranks = np.concatenate((ranks[zero], ranks[~zero]))
    return found
