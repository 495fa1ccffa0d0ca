"""How much of the effect hangs on a few units? Leave-one-out influence and the fewest units that turn the sign.

The surprise: all leave-one-out effects cost O(n), because taking a unit away moves a mean by (x - mean) / (n - 1); no
test is run again but on the worst unit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from flyball.errors import InputError
from flyball.experiments.stats import Moments, moments
from flyball.experiments.trust.check import Check, Verdict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Influence", "influence"]


@dataclass(frozen=True, slots=True)
class Influence:
    """How the effect changes when units are taken away.

    Args:
        effect: Treatment mean less control mean, all units.
        p: Welch's two-sided p value of all units.
        low: The smallest effect with one unit left out.
        high: The largest effect with one unit left out.
        without: p value without the one unit that carries most of the effect.
        carries: Share of the effect that goes with that unit; above 1 the sign turns.
        fewest: Fewest units whose removal takes the effect to 0 or beyond; None when more than were tried.
        tried: How many removals were tried at most.
        n: Units of (treatment, control).
        fragile: Share of the units from which on the effect is no longer called fragile.
        alpha: Level of the p values.
    """

    effect: float
    p: float
    low: float
    high: float
    without: float
    carries: float
    fewest: int | None
    tried: int
    n: tuple[int, int]
    fragile: float
    alpha: float

    @property
    def check(self) -> Check:
        """Warns when one unit makes the verdict, or a handful makes the sign of an effect that is called found."""
        numbers = {"effect": self.effect, "low": self.low, "high": self.high, "p": self.p, "p without": self.without,
                   "carries": self.carries, "fewest": self.fewest}  # fmt: skip
        few = max(1, math.floor(self.fragile * sum(self.n)))
        if self.p < self.alpha <= self.without:
            text = f"one unit makes the verdict: without it p is {self.without:.2g} instead of {self.p:.2g}"
            return Check("outliers", Verdict.WARNING, f"{text}; winsorise by a limit declared beforehand", numbers)
        if self.p < self.alpha and self.fewest is not None and self.fewest <= few:
            text = f"without {self.fewest} of {sum(self.n):,} units the effect is gone"
            return Check("outliers", Verdict.WARNING, f"{text}; winsorise by a limit declared beforehand", numbers)
        text = f"with any one unit left out the effect is from {self.low:+.3g} to {self.high:+.3g}"
        return Check("outliers", Verdict.PASSING, text, numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self) | {"n": list(self.n), "check": self.check.to_dict()}

    def __str__(self) -> str:
        return str(self.check)


def influence(
    treatment: ArrayLike, control: ArrayLike, *, fragile: float = 0.001, most: float = 0.01, alpha: float = 0.05
) -> Influence:
    """Find how much the difference in means hangs on single units, in O(n).

    Args:
        treatment: One value per unit, shape (n,), n >= 3, finite.
        control: One value per unit, shape (m,), m >= 3, finite.
        fragile: Share of all units; an effect that so few units carry is called fragile.
        most: Share of each arm that is tried for removal at most, in (0, 1).
        alpha: Level of the p values.

    Raises:
        InputError: fewer than 3 units in an arm, or a value is missing.

    Example:
        >>> import numpy as np
        >>> whale = np.r_[np.arange(20.0), 4000.0]
        >>> result = influence(whale, np.arange(21.0))
        >>> round(result.carries, 3), result.fewest
        (1.003, 1)
    """
    new, old = np.asarray(treatment, dtype=np.float64), np.asarray(control, dtype=np.float64)
    a, b = moments(new), moments(old)
    if min(a.n, b.n) < 3:
        raise InputError(f"{a.n} and {b.n} units; leaving one out needs 3 in each arm")
    effect = a.mean - b.mean
    shifts = [(new - a.mean) / (1 - a.n), (old - b.mean) / (b.n - 1)]  # change of the effect without each unit
    low, high = (effect + float(f([f(s) for s in shifts])) for f in (np.min, np.max))
    toward = np.min if effect > 0.0 else np.max
    arm = int(np.argmin([s.min() for s in shifts]) if effect > 0.0 else np.argmax([s.max() for s in shifts]))
    worst = int(shifts[arm].argmin() if effect > 0.0 else shifts[arm].argmax())
    change = float(toward(shifts[arm]))
    pair = (a.remove(float(new[worst])), b) if arm == 0 else (a, b.remove(float(old[worst])))
    tried, fewest = _fewest(new, old, a, b, effect, most)
    carries = -change / effect if effect else 0.0
    return Influence(effect, _welch(a, b), low, high, _welch(*pair), carries, fewest, tried, (a.n, b.n), fragile, alpha)


def _fewest(
    new: NDArray[np.float64], old: NDArray[np.float64], a: Moments, b: Moments, effect: float, most: float
) -> tuple[int, int | None]:
    sign = 1.0 if effect >= 0.0 else -1.0
    upper = _means_without_top(sign * (new - a.mean), most) + sign * (a.mean - b.mean)  # falls with every removal
    lower = -_means_without_top(-sign * (old - b.mean), most)  # rises
    tried = min(len(upper), len(lower)) - 1
    if effect == 0.0:
        return tried, 0
    needed = np.searchsorted(lower, upper)  # removals from the control that meet j removals from the treatment
    total = np.where(needed < len(lower), needed + np.arange(len(upper)), np.iinfo(np.int64).max)
    return tried, int(total.min()) if int(total.min()) <= tried else None


def _means_without_top(values: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    n = len(values)
    count = min(n - 2, max(10, math.ceil(most * n)))
    top = np.sort(np.partition(values, n - count)[n - count :])[::-1]
    left = values.sum() - np.concatenate([[0.0], np.cumsum(top)])
    return np.asarray(left / (n - np.arange(count + 1)))


def _welch(a: Moments, b: Moments) -> float:
    va, vb = a.variance / a.n, b.variance / b.n
    if va + vb <= 0.0:
        return 1.0 if a.mean == b.mean else 0.0
    df = (va + vb) ** 2 / (va**2 / (a.n - 1) + vb**2 / (b.n - 1))
    return float(2.0 * special.stdtr(df, -abs(a.mean - b.mean) / math.sqrt(va + vb)))
