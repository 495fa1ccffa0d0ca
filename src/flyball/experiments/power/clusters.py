"""What clusters and covariates do to the noise of a test: more units, or fewer.

The surprise: both are one factor on the variance. A covariate with R² = 0.5 halves the units (CUPED: Deng, Xu, Kohavi,
Walker 2013), and clusters of 50 with an intraclass correlation of 0.05 multiply them by 3.45 (Kish 1965).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flyball.errors import InputError

__all__ = ["Clusters", "check_r2", "clusters_note", "noise_factor"]


@dataclass(frozen=True, slots=True)
class Clusters:
    """Units that come in groups which are randomised whole: stores, sessions of a user, schools.

    Args:
        size: Mean units of a cluster, >= 1.
        icc: Correlation of two units of one cluster, in [0, 1].
        cv: Coefficient of variation of the sizes, >= 0.

    Example:
        >>> round(Clusters(50, 0.05).design_effect, 2), round(Clusters(50, 0.05, cv=0.6).design_effect, 2)
        (3.45, 4.35)
    """

    size: float
    icc: float
    cv: float = 0.0

    def __post_init__(self) -> None:
        if not (1.0 <= self.size < math.inf and 0.0 <= self.icc <= 1.0 and 0.0 <= self.cv < math.inf):
            raise InputError(f"clusters have size {self.size}, icc {self.icc}, cv {self.cv}; the size is >= 1, the "
                             "correlation in [0, 1], the variation >= 0")  # fmt: skip

    @property
    def design_effect(self) -> float:
        """How many times the units of a test without clusters are needed (Eldridge et al. 2006, equation 3)."""
        return 1.0 + ((self.cv**2 + 1.0) * self.size - 1.0) * self.icc

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"size": self.size, "icc": self.icc, "cv": self.cv, "design_effect": self.design_effect}


def noise_factor(r2: float, clusters: Clusters | None) -> float:
    """Return by which factor covariates and clusters change the variance of a mean of units."""
    return (1.0 - r2) * (clusters.design_effect if clusters else 1.0)


def check_r2(r2: float) -> float:
    """Return the share of variance that covariates explain, in [0, 1); raises InputError."""
    if not 0.0 <= r2 < 1.0:
        raise InputError(f"r2 is {r2}; it is the share of variance that covariates explain, in [0, 1)")
    return r2


def clusters_note(clusters: Clusters | None) -> tuple[str, ...]:
    """Return the note that a plan's units count a design effect."""
    return () if clusters is None else (f"a design effect of {clusters.design_effect:.2f} is counted in",)
