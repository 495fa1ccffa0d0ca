"""The joint law of several t statistics that share one control and one variance.

Given the control's mean z and the pooled standard deviation s the arms are independent, so the chance that any t lies
beyond c is a double integral of a product (Dunnett 1955, equation 4). The surprise: it is the complement that is
integrated, each factor from its own tail, so that small p values keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from flyball.experiments.fixed.spreads import spreads

__all__ = ["Contrasts"]


@dataclass(frozen=True, slots=True)
class Contrasts:
    """Treatments of known sizes against one control.

    Args:
        loads: Correlation of each t with the control's mean: sqrt(n / (n + n of the control)), shape (k,).
        df: Degrees of freedom of the pooled variance.
        two_sided: Whether both directions count.
    """

    loads: tuple[float, ...]
    df: float
    two_sided: bool

    @classmethod
    def of(cls, control: int, treatments: Sequence[int], df: float, two_sided: bool) -> Contrasts:
        """Return the contrasts of arms with so many units."""
        return cls(tuple(math.sqrt(n / (n + control)) for n in treatments), df, two_sided)

    def beyond(self, c: float) -> float:
        """Return the chance that any t (or |t|) exceeds c when no arm differs."""
        scales, weights = spreads(self.df)
        return min(1.0, max(0.0, math.fsum(w * self._beyond(c * s) for s, w in zip(scales, weights, strict=True))))

    def critical(self, alpha: float) -> float:
        """Return the c that any t exceeds with chance alpha."""
        return _critical(self, alpha)

    def _beyond(self, c: float) -> float:
        """Return the chance for a known variance, integrated over the control's mean."""
        if self.two_sided and c <= 0.0:
            return 1.0
        z, weights = _means(c, max(self.loads))
        log_inside = np.zeros_like(z)
        for load, n_alike in _grouped(self.loads):
            own = math.sqrt(1.0 - load * load)
            out = special.ndtr(-(c - load * z) / own)
            if self.two_sided:
                out = out + special.ndtr(-(c + load * z) / own)
            with np.errstate(divide="ignore"):
                log_inside += n_alike * np.log1p(-np.minimum(out, 1.0))
        return float(weights @ -np.expm1(log_inside))


@lru_cache(maxsize=256)  # arms of one size ask again and again
def _critical(contrasts: Contrasts, alpha: float) -> float:
    low, high = -10.0, 4.0
    while contrasts.beyond(high) > alpha:
        low, high = high, 2.0 * high
    return float(optimize.brentq(lambda c: contrasts.beyond(c) - alpha, low, high, xtol=1e-9))


def _grouped(loads: Sequence[float]) -> list[tuple[float, int]]:
    return [(load, loads.count(load)) for load in dict.fromkeys(loads)]


def _means(c: float, load: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights for the control's mean: even steps, fine enough for the steepest factor."""
    reach = min(38.0, 9.0 + abs(c))
    step = min(0.1, math.sqrt(1.0 - load * load) / (4.0 * load))
    n = min(2 * math.ceil(reach / step) + 1, 20_001)
    z = np.linspace(-reach, reach, n)
    return z, np.exp(-0.5 * z * z) * (2.0 * reach / (n - 1) / math.sqrt(2.0 * math.pi))
