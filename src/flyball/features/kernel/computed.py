"""Computed features: functions of a view's other features, evaluated after them, in batch and at read alike.

The surprise: a value that is absent counts as what it was replaced by. A feature with a default enters a function as
its default, whatever its status; without one it enters as null, and the function's own rule says what comes of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flyball.features.spec import FeatureSpec, Stat, Status

if TYPE_CHECKING:
    from flyball.features.spec import ViewSpec

__all__ = ["with_computed"]

Statuses = npt.NDArray[np.uint8]


def with_computed(
    view: ViewSpec, values: Mapping[str, npt.NDArray[Any]], statuses: Mapping[str, Statuses]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Statuses]]:
    """Add a view's computed features to its stored ones.

    Args:
        view: The view; a computed feature may be of computed features before it.
        values: Feature name -> n values as transforms take them (times int64 µs, vectors (n, k) float32, texts
            objects). What a position holds where there is no value does not matter, its status says so.
        statuses: Feature name -> n statuses, uint8.

    Returns:
        (values, statuses) with the computed features among them. A computed value is PRESENT where the function gives
        one, else NULL; MISSING where it gives none and all its arguments are MISSING.
    """
    from flyball.features import transforms

    found, status = dict(values), dict(statuses)
    features = {f.name: f for f in view.features}
    for feature in view.features:
        if feature.transform is None:
            continue
        names = feature.transform.args
        arguments = [_filled(features[n], found[n], status[n]) for n in names]
        result, valid = transforms.evaluate(feature.transform, [a for a, _ in arguments], [v for _, v in arguments])
        found[feature.name] = result
        status[feature.name] = _status(result, valid, [status[n] for n in names])
    return found, status


def _filled(
    feature: FeatureSpec, values: npt.NDArray[Any], status: Statuses
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return an argument's values, defaults in place, and where it has one."""
    absent = status != Status.PRESENT
    if not absent.any():
        return values, ~absent
    if feature.default is not None:
        values = values.copy()
        values[absent] = feature.default
        return values, np.ones(len(values), bool)
    if feature.stat in {Stat.COUNT, Stat.SUM}:  # of what was never seen they are 0, as everywhere
        return values, status != Status.NULL
    return values, ~absent


def _status(result: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, arguments: list[Statuses]) -> Statuses:
    good = np.ones(len(result), bool) if valid is None else np.asarray(valid, bool)
    if result.dtype.kind == "f":
        nan = np.isnan(result)
        good = good & ~(nan.any(axis=1) if nan.ndim > 1 else nan)
    unseen = np.zeros(len(good), bool)
    if arguments:
        unseen = np.logical_and.reduce([s == Status.MISSING for s in arguments])
    return np.where(good, Status.PRESENT, np.where(unseen, Status.MISSING, Status.NULL)).astype(np.uint8)
