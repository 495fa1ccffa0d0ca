"""Exact contributions of decision trees, in the sense of path-dependent TreeSHAP (Lundberg, Erion and Lee 2018).

A feature that a coalition lacks sends a row down both branches, weighted by the training rows that took each. The
surprise: we walk no tree. For one leaf, with z_j the share of training rows kept by feature j's splits on its path and
o_j whether the row passes them, the Shapley sum over coalitions of the path's d features is an integral,

    phi_i = leaf * (o_i - z_i) * integral over t in [0, 1] of prod over j != i of (o_j t + z_j (1 - t)),

because the weight s!(d-1-s)!/d! is the integral of t^s (1-t)^(d-1-s). The integrand is a polynomial of degree d - 1,
so Gauss-Legendre with ceil(d / 2) points is exact, and all leaves of all trees and rows are done in one pass of numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

__all__ = ["Forest", "Tree"]

_BLOCK = 1 << 21  # float64 numbers of one temporary array: 16 MiB


@dataclass(frozen=True, slots=True)
class Tree:
    """One fitted tree: arrays over its nodes, node 0 the root.

    `left` and `right` are node numbers, below 0 at leaves; a row goes left when x <= `threshold`, and when x is NaN and
    `missing_left`. `cover` is the weight of the training rows that came by, `value` (nodes, c) the answer of leaves.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    cover: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, slots=True)
class Forest:
    """Sum of trees, unrolled into leaves: L leaves of at most D distinct features on their paths, c outputs.

    Unused places of `kept` hold 1 and never contribute. `edge_*` are the splits on all paths, ordered by the place
    (leaf * D + position) that they belong to.
    """

    feature: np.ndarray  # (L, D)
    kept: np.ndarray  # (L, D) share of training rows that this feature's splits keep
    value: np.ndarray  # (L, c)
    edge_feature: np.ndarray
    edge_threshold: np.ndarray
    edge_missing_left: np.ndarray
    edge_left: np.ndarray  # whether the path goes left there
    edge_place: np.ndarray
    base: np.ndarray  # (c,) mean answer over the training rows
    k: int

    @classmethod
    def of(cls, trees: list[Tree], *, k: int, offset: np.ndarray) -> Self:
        """Unroll trees over `k` features; `offset` (c,) is added to every answer."""
        leaves = [leaf for tree in trees for leaf in _leaves(tree)]
        width = max((len(leaf.places) for leaf in leaves), default=0) or 1
        feature = np.zeros((len(leaves), width), dtype=np.intp)
        kept = np.ones((len(leaves), width))
        edges: list[tuple[int, float, bool, bool, int]] = []
        base = np.array(offset, dtype=np.float64)
        for row, leaf in enumerate(leaves):
            for column, (name, place) in enumerate(leaf.places.items()):
                feature[row, column], kept[row, column] = name, place.kept
                edges += [(name, *split, row * width + column) for split in place.splits]
            base += leaf.value * kept[row].prod()
        parts = list(zip(*edges, strict=True)) or [()] * 5
        value = np.array([leaf.value for leaf in leaves], dtype=np.float64).reshape(len(leaves), len(base))
        return cls(
            feature, kept, value, np.array(parts[0], dtype=np.intp), np.array(parts[1], dtype=np.float64),
            np.array(parts[2], dtype=bool), np.array(parts[3], dtype=bool), np.array(parts[4], dtype=np.intp), base, k,
        )  # fmt: skip

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """Return the contributions (n, k, c) of a matrix (n, k)."""
        n, c = len(matrix), self.value.shape[1]
        out = np.zeros((n, self.k, c))
        points, weights = _quadrature(self.feature.shape[1])
        per_row = self.feature.size * max(len(points), 1)
        rows = max(1, _BLOCK // max(per_row, 1))
        leaves = max(1, _BLOCK // (self.feature.shape[1] * len(points)))
        for first in range(0, n, rows):
            block = matrix[first : first + rows]
            for leaf in range(0, len(self.feature), leaves):
                out[first : first + rows] += self._block(block, slice(leaf, leaf + leaves), points, weights)
        return out

    def _block(self, matrix: np.ndarray, leaves: slice, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        feature, kept, value = self.feature[leaves], self.kept[leaves], self.value[leaves]
        n, (count, width), c = len(matrix), feature.shape, value.shape[1]
        passes = self._passes(matrix, leaves, count, width)
        share = np.zeros((n, count, width))
        for t, weight in zip(points, weights, strict=True):
            share += weight * _others(passes * t + kept * (1.0 - t))
        share *= passes - kept
        place = np.arange(n)[:, None] * self.k + feature.ravel()[None, :]
        out = np.empty((n, self.k, c))
        for output in range(c):
            summed = np.bincount(
                place.ravel(), weights=(share * value[:, output, None]).ravel(), minlength=n * self.k
            )  # fmt: skip
            out[:, :, output] = summed.reshape(n, self.k)
        return out

    def _passes(self, matrix: np.ndarray, leaves: slice, count: int, width: int) -> np.ndarray:
        """Return (n, leaves, D) of 1.0 where a row passes all splits of a place, else 0.0."""
        lo, hi = np.searchsorted(self.edge_place, [leaves.start * width, (leaves.start + count) * width])
        out = np.ones((len(matrix), count * width))
        if lo == hi:
            return out.reshape(len(matrix), count, width)
        x = matrix[:, self.edge_feature[lo:hi]]
        left = (x <= self.edge_threshold[lo:hi]) | (np.isnan(x) & self.edge_missing_left[lo:hi])
        places, starts = np.unique(self.edge_place[lo:hi] - leaves.start * width, return_index=True)
        out[:, places] = np.logical_and.reduceat(left == self.edge_left[lo:hi], starts, axis=1)
        return out.reshape(len(matrix), count, width)


@dataclass(slots=True)
class _Place:
    kept: float
    splits: list[tuple[float, bool, bool]]


@dataclass(frozen=True, slots=True)
class _Leaf:
    value: np.ndarray
    places: dict[int, _Place]


def _leaves(tree: Tree) -> list[_Leaf]:
    found: list[_Leaf] = []
    stack: list[tuple[int, list[tuple[int, float, float, bool, bool]]]] = [(0, [])]
    while stack:
        node, path = stack.pop()
        if tree.left[node] < 0:
            found.append(_Leaf(tree.value[node], _merge(path)))
            continue
        for child, left in ((int(tree.left[node]), True), (int(tree.right[node]), False)):
            kept = float(tree.cover[child]) / float(tree.cover[node]) if tree.cover[node] else 0.0
            split = float(tree.threshold[node]), bool(tree.missing_left[node]), left
            stack.append((child, [*path, (int(tree.feature[node]), kept, *split)]))
    return found


def _merge(path: list[tuple[int, float, float, bool, bool]]) -> dict[int, _Place]:
    """Return one place per feature: its shares multiplied, its splits together."""
    places: dict[int, _Place] = {}
    for feature, kept, threshold, missing, left in path:
        place = places.setdefault(feature, _Place(1.0, []))
        place.kept *= kept
        place.splits.append((threshold, missing, left))
    return places


def _others(factors: np.ndarray) -> np.ndarray:
    """Return for each last-axis element the product of all others; without division, because a share may be 0."""
    out = np.ones_like(factors)
    np.cumprod(factors[..., :-1], axis=-1, out=out[..., 1:])
    after = np.cumprod(factors[..., :0:-1], axis=-1)[..., ::-1]
    out[..., :-1] *= after
    return out


def _quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Gauss-Legendre points and weights on [0, 1], exact for polynomials of `degree` - 1."""
    points, weights = np.polynomial.legendre.leggauss(max(1, (degree + 1) // 2))
    return (points + 1.0) / 2.0, weights / 2.0
