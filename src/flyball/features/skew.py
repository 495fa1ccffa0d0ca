"""Compare what was served with what history says should have been: skew, measured value by value. Pure.

A served value and its recomputed one agree when both are absent, or both are there and equal: exactly for counts,
whole numbers, truths and what is copied from a row; within 1e-12 of max(|mean|, std) for floats that were summed in
another order. The surprise: approximate answers (distinct, quantile) count as exact, because batch and serving merge
the same sketches with the same kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyball.features.spec import FeatureService, ServiceColumn, Stat

__all__ = ["ColumnSkew", "Example", "compare", "is_exact"]

_SUMMED = frozenset({Stat.SUM, Stat.MEAN, Stat.STD, Stat.VAR})
_RELATIVE = 1e-12
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Example:
    """One difference: the prediction, and the value served and recomputed (None where there was none)."""

    prediction: str
    served: float | None
    recomputed: float | None


@dataclass(frozen=True, slots=True)
class ColumnSkew:
    """One column of the matrix over some predictions.

    `mismatch` counts values that differ, `missing` those that history has and serving did not, `extra` the reverse.
    `exact` says that none is allowed; `worst` is the largest difference.
    """

    name: str
    view: str
    exact: bool
    compared: int
    mismatch: int
    missing: int
    extra: int
    worst: float
    examples: tuple[Example, ...] = ()

    @property
    def skewed(self) -> int:
        """Values that are not what they should have been."""
        return self.mismatch + self.missing + self.extra


def is_exact(service: FeatureService, column: ServiceColumn) -> bool:
    """Whether a column's values must be equal to the last bit."""
    if column.kind != "view":
        return True  # inputs as they came, and functions that run as the same code on one row
    view = next((v for v in service.views if v.name == column.view), None)
    feature = None if view is None else next((f for f in view.features if f.name == column.name), None)
    if feature is None or view is None:
        return True
    if feature.transform is not None:
        by_name = {f.name: f for f in view.features}
        return not any(by_name[a].stat in _SUMMED for a in feature.transform.args if a in by_name)
    if feature.stat is Stat.SUM:
        return feature.type == "int64"
    return feature.stat not in _SUMMED


def compare(
    ids: Sequence[str],
    served: npt.NDArray[np.float64],
    recomputed: npt.NDArray[np.float64],
    service: FeatureService,
) -> list[ColumnSkew]:
    """Compare two matrices column by column.

    Args:
        ids: Prediction ids, n of them.
        served: What the log holds, float64, shape (n, k); NaN where there was none.
        recomputed: What history says, same shape.
        service: Whose columns these are.
    """
    found, at = [], 0
    for column in service.columns:
        for part in range(column.width):
            name = column.name if column.width == 1 else f"{column.name}_{part}"
            found.append(_column(name, column, ids, served[:, at], recomputed[:, at], exact=is_exact(service, column)))
            at += 1
    return found


def _column(
    name: str,
    column: ServiceColumn,
    ids: Sequence[str],
    served: npt.NDArray[np.float64],
    recomputed: npt.NDArray[np.float64],
    *,
    exact: bool,
) -> ColumnSkew:
    here, there = ~np.isnan(served), ~np.isnan(recomputed)
    both = here & there
    with np.errstate(invalid="ignore"):
        apart = np.where(served == recomputed, 0.0, np.abs(served - recomputed))
    apart[~both] = 0.0
    differs = both & ~(apart <= _tolerance(recomputed, there, exact=exact))
    wrong = np.flatnonzero(differs | (here != there))
    examples = tuple(Example(ids[i], _value(served[i]), _value(recomputed[i])) for i in wrong[:_EXAMPLES])
    return ColumnSkew(
        name, column.view or "", exact, len(served), int(differs.sum()), int((there & ~here).sum()),
        int((here & ~there).sum()), float(apart.max(initial=0.0)), examples,
    )  # fmt: skip


def _tolerance(
    values: npt.NDArray[np.float64], there: npt.NDArray[np.bool_], *, exact: bool
) -> npt.NDArray[np.float64] | float:
    known = values[there & np.isfinite(values)]
    if exact or not len(known):
        return 0.0
    scale = max(abs(float(known.mean())), float(known.std()))
    allowed: npt.NDArray[np.float64] = _RELATIVE * np.maximum(np.nan_to_num(np.abs(values), posinf=0.0), scale)
    return allowed


def _value(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
