"""Ratio, difference, log1p, clip and buckets.

The surprise: NaN is a value, not a null. A ratio of NaN is NaN, and only a null argument, or the zero rule, gives null.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from flyball.features.spec import TransformSpec
from flyball.features.transforms.column import Column, numbers, params

__all__ = ["bucket", "clip", "difference", "log1p", "one_bucket", "one_difference", "one_ratio", "ratio"]


def ratio(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return a / b; where b is zero (of either sign) what `zero` says: null (None) or a number. float64."""
    a, b = (numbers(c, "ratio") for c in arguments)
    zero = params(transform).get("zero")
    none = b == 0
    with np.errstate(all="ignore"):
        found = a / np.where(none, 1.0, b)
    valid = arguments[0].valid & arguments[1].valid
    if zero is None:
        return Column(found, valid & ~none)
    return Column(np.where(none, float(zero), found), valid)  # type: ignore[arg-type]


def one_ratio(transform: TransformSpec) -> Callable[[list[float]], float]:
    """Return the same for one row."""
    zero: Any = params(transform).get("zero")

    def one(values: list[float]) -> float:
        a, b = values
        if b == 0:
            return math.nan if zero is None or math.isnan(a) else float(zero)
        return float(a) / float(b)

    return one


def difference(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return a - b: float64, or of two int64 exactly int64, null beyond 64 bits."""
    left, right = arguments
    valid = left.valid & right.valid
    if transform.type == "int64" and left.values.dtype.kind == right.values.dtype.kind == "i":
        a, b = left.values.astype(np.int64), right.values.astype(np.int64)
        with np.errstate(all="ignore"):
            value = a - b
        return Column(value, valid & (((a ^ b) & (a ^ value)) >= 0))
    with np.errstate(all="ignore"):
        return Column(numbers(left, "difference") - numbers(right, "difference"), valid)


def one_difference(transform: TransformSpec) -> Callable[[list[float]], float]:
    """Return the same for one row, as float."""
    del transform
    return lambda values: float(values[0]) - float(values[1])


def log1p(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return the natural logarithm of 1 + x, null where x <= -1. float64."""
    del transform
    x = numbers(arguments[0], "log1p")
    low = x <= -1
    return Column(np.log1p(np.where(low, 0.0, x)), arguments[0].valid & ~low)


def clip(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return x held between `low` and `high` (either may be None). float64; NaN stays NaN."""
    given: dict[str, Any] = dict(params(transform))
    low, high = float(given.get("low", -math.inf)), float(given.get("high", math.inf))
    return Column(np.clip(numbers(arguments[0], "clip"), low, high), arguments[0].valid)


def bucket(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return how many `edges` are <= x (0 to their number), or the label of that number; null for null and NaN."""
    given = params(transform)
    x = numbers(arguments[0], "bucket")
    valid = arguments[0].valid & ~np.isnan(x)
    place = np.searchsorted(np.array(given["edges"], dtype=np.float64), np.where(valid, x, 0.0), "right")
    labels = given.get("labels")
    if labels is None:
        return Column(place.astype(np.int64), valid)
    return Column(np.array(labels, dtype=object)[place], valid)


def one_bucket(transform: TransformSpec) -> Callable[[list[float]], float]:
    """Return the same for one row; buckets with labels have no number."""
    edges: Any = [float(e) for e in params(transform)["edges"]]  # type: ignore[union-attr, arg-type]
    return lambda values: math.nan if values[0] != values[0] else float(bisect_right(edges, values[0]))
