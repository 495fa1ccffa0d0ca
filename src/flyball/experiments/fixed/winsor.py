"""Winsorising: values beyond limits are moved to the limits, in every arm alike.

One buyer of ten thousand pens decides no test. The surprise: quantiles are taken over all arms together; taken arm by
arm they would clip an effect away, or make one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyball.errors import InputError
from flyball.experiments.estimate import finite
from flyball.experiments.fixed.pivots import values_of
from flyball.experiments.stats import Missing

__all__ = ["Winsorised", "winsorise"]


@dataclass(frozen=True, slots=True)
class Winsorised:
    """Arms with their outermost values moved to the limits.

    Args:
        arms: Values by arm, each of the shape it came in (less what was dropped).
        lower: Lower limit; -inf for none.
        upper: Upper limit; inf for none.
        clipped: Share of values moved, by arm.
    """

    arms: Mapping[str, NDArray[np.float64]]
    lower: float
    upper: float
    clipped: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return limits and shares as plain data; an open limit is None."""
        return {"lower": finite(self.lower), "upper": finite(self.upper), "clipped": dict(self.clipped)}

    def __str__(self) -> str:
        shares = ", ".join(f"{arm} {share:.2%}" for arm, share in self.clipped.items())
        return f"winsorised to [{self.lower:.4g}, {self.upper:.4g}]; moved: {shares}"


def winsorise(
    arms: Mapping[str, ArrayLike],
    *,
    limits: tuple[float | None, float | None] | None = None,
    quantiles: tuple[float | None, float | None] | None = None,
    missing: Missing = "refuse",
) -> Winsorised:
    """Return the arms clipped at limits, or at quantiles of all arms together, that were declared beforehand.

    Args:
        arms: Values by arm, each of shape (n,).
        limits: (lower, upper) in the metric's unit; None for an open end.
        quantiles: (lower, upper) in [0, 1], instead of limits; None for an open end.
        missing: What to do with NaN: refuse, or drop the unit.

    Raises:
        InputError: neither or both of limits and quantiles, ends in the wrong order, no arm, or a missing value.

    Example:
        >>> print(winsorise({"a": [1, 2, 3, 400], "b": [2, 2, 5, 1]}, limits=(0, 10)))
        winsorised to [0, 10]; moved: a 25.00%, b 0.00%
    """
    if (limits is None) == (quantiles is None) or not arms:
        raise InputError("winsorise takes arms and either limits or quantiles, such as quantiles=(None, 0.99)")
    values = {name: values_of(sample, name, missing=missing) for name, sample in arms.items()}
    if limits is not None:
        lower = -math.inf if limits[0] is None else float(limits[0])
        upper = math.inf if limits[1] is None else float(limits[1])
    else:
        assert quantiles is not None
        lower, upper = _at(values, quantiles)
    if not lower <= upper:
        raise InputError(f"limits are {lower:g} to {upper:g}; the lower one may not exceed the upper one")
    clipped = {name: float(np.mean((v < lower) | (v > upper))) for name, v in values.items()}
    return Winsorised({name: np.clip(v, lower, upper) for name, v in values.items()}, lower, upper, clipped)


def _at(arms: Mapping[str, NDArray[np.float64]], quantiles: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = (end if q is None else q for end, q in zip((0.0, 1.0), quantiles, strict=True))
    if not 0.0 <= low < high <= 1.0:
        raise InputError(f"quantiles are {quantiles}; they rise and lie in [0, 1], such as (0.01, 0.99)")
    pooled = np.concatenate(list(arms.values()))
    lower = -math.inf if quantiles[0] is None else float(np.quantile(pooled, low))
    upper = math.inf if quantiles[1] is None else float(np.quantile(pooled, high))
    return lower, upper
