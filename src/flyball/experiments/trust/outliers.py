"""How much of the effect hangs on a few units? Leave-one-out influence and the fewest units that turn the sign.

The surprise: all leave-one-out effects cost O(n), because taking a unit away moves a mean by (x - mean) / (n - 1); no
test is run again but on the worst unit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.pivots import mean_of, p_value, satterthwaite
from flyball.experiments.stats import Moments, moments
from flyball.experiments.tails import Tails
from flyball.experiments.trust.check import Check, Verdict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Influence", "influence", "influence_of"]


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
    samples = [np.asarray(values, dtype=np.float64) for values in (treatment, control)]
    a, b = (moments(values) for values in samples)
    tails = [_tails(values, most) for values in samples]
    return influence_of((a, tails[0]), (b, tails[1]), fragile=fragile, alpha=alpha)


def influence_of(
    treatment: tuple[Moments, Tails], control: tuple[Moments, Tails], *, fragile: float = 0.001, alpha: float = 0.05
) -> Influence:
    """Find the same from each arm's moments and its extreme values, as a scan of any size keeps them.

    Args:
        treatment: Moments and ends of the treatment, n >= 3; as many removals are tried as the ends are long.
        control: The same of the control.
        fragile: Share of all units; an effect that so few units carry is called fragile.
        alpha: Level of the p values.

    Raises:
        InputError: fewer than 3 units in an arm, or no extreme values.

    Example:
        >>> from flyball.experiments.stats import moments
        >>> new, old = [*range(20), 4000], [*range(21)]
        >>> influence_of((moments(new), Tails.of(new)), (moments(old), Tails.of(old))).fewest
        1
    """
    (a, new), (b, old) = treatment, control
    if min(a.n, b.n) < 3:
        raise InputError(f"{a.n} and {b.n} units; leaving one out needs 3 in each arm")
    if not (new.lowest and old.lowest):
        raise InputError("an arm has no extreme values; give the ends of its values, as Tails.of does")
    effect = a.mean - b.mean
    # change of the effect without each extreme unit: the treatment's falls without its largest, the control's rises
    falls = ((a.mean - new.highest[0]) / (a.n - 1), (old.lowest[0] - b.mean) / (b.n - 1))
    rises = ((a.mean - new.lowest[0]) / (a.n - 1), (old.highest[0] - b.mean) / (b.n - 1))
    toward, least = (falls, min) if effect > 0.0 else (rises, max)
    change = least(toward)
    worst = (new.highest[0], old.lowest[0]) if effect > 0.0 else (new.lowest[0], old.highest[0])
    pair = (a.remove(worst[0]), b) if toward[0] == change else (a, b.remove(worst[1]))
    tried, fewest = _fewest(a, new, b, old, effect)
    carries = -change / effect if effect else 0.0
    return Influence(effect, _welch(a, b), effect + min(falls), effect + max(rises), _welch(*pair), carries, fewest,
                     tried, (a.n, b.n), fragile, alpha)  # fmt: skip


def _fewest(a: Moments, new: Tails, b: Moments, old: Tails, effect: float) -> tuple[int, int | None]:
    ends = (new.highest, old.lowest) if effect >= 0.0 else (new.lowest, old.highest)
    sign = 1.0 if effect >= 0.0 else -1.0
    upper = _without_ends(sign, a, ends[0]) + sign * effect  # falls with every removal
    lower = -_without_ends(-sign, b, ends[1])  # rises
    tried = min(len(upper), len(lower)) - 1
    if effect == 0.0:
        return tried, 0
    needed = np.searchsorted(lower, upper)  # removals from the control that meet j removals from the treatment
    total = np.where(needed < len(lower), needed + np.arange(len(upper)), np.iinfo(np.int64).max)
    return tried, int(total.min()) if int(total.min()) <= tried else None


def _without_ends(sign: float, arm: Moments, ends: Sequence[float]) -> NDArray[np.float64]:
    """Return sign x (mean of the others - mean of all) after 0, 1, 2, ... of the extreme values were taken away."""
    gone = sign * (np.asarray(ends[: arm.n - 2]) - arm.mean)
    return np.concatenate([[0.0], -np.cumsum(gone) / (arm.n - np.arange(1, len(gone) + 1))])


def _tails(values: NDArray[np.float64], most: float) -> Tails:
    n = len(values)
    kept = max(min(n - 2, max(10, math.ceil(most * n))), 0)
    if kept == 0:
        return Tails()
    lowest = np.sort(np.partition(values, kept - 1)[:kept])
    highest = np.sort(np.partition(values, n - kept)[n - kept :])[::-1]
    return Tails(tuple(lowest.tolist()), tuple(highest.tolist()), kept)


def _welch(a: Moments, b: Moments) -> float:
    """Return Welch's p value, also of arms that do not vary once the outlier is gone: 1 if they are equal, else 0."""
    one, other = mean_of(a, "treatment"), mean_of(b, "control")
    squared = one.variance + other.variance
    if squared <= 0.0:
        return 1.0 if a.mean == b.mean else 0.0
    return p_value((a.mean - b.mean) / math.sqrt(squared), Alternative.TWO_SIDED, satterthwaite(one, other))
