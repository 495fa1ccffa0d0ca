"""Power of tests of two proportions, by the unpooled z and, for small samples, exactly.

The surprise: at 20 units an arm the z test's true power, and even its true level, miss the formula by a point or more;
so a small plan carries the exact power beside the formula's.

Fleiss, Levin, Paik (2003), section 4.1; Cohen (1988) for h and the arcsine form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats as sp

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative, alternative_of, check_level
from flyball.experiments.power.clusters import Clusters, check_r2, clusters_note, noise_factor
from flyball.experiments.power.means import z_power
from flyball.experiments.power.plan import PowerPlan, absolute, solve

__all__ = ["Proportions", "exact_power", "plan_proportions"]

Test = Literal["unpooled", "pooled", "arcsine"]
_TESTS = ("arcsine", "pooled", "unpooled")
_SMALL = 500  # units of an arm up to which a plan carries its exact power


@dataclass(frozen=True, slots=True)
class Proportions:
    """The difference of two proportions.

    Args:
        base: The control's proportion, in (0, 1).
        test: The z test's standard error: "unpooled", "pooled" (under no effect), or "arcsine".
        r2: Share of the variance that covariates explain, in [0, 1).
        clusters: How units are clustered; None if they are not.
        kind: What the values are.
    """

    base: float
    test: Test = "unpooled"
    r2: float = 0.0
    clusters: Clusters | None = None
    kind: str = "proportions"

    def __post_init__(self) -> None:
        if not 0.0 < self.base < 1.0:
            raise InputError(f"base is {self.base}; the control's proportion lies between 0 and 1, such as 0.1")
        if self.test not in _TESTS:
            raise UnknownName.of("test of proportions", self.test, _TESTS)
        check_r2(self.r2)

    @property
    def scale(self) -> float:
        """The deviation of a unit in the control."""
        return math.sqrt(self.base * (1.0 - self.base))

    @property
    def largest(self) -> float:
        """The effect that takes the nearer end of [0, 1]; the search takes the sign's own end."""
        return 1.0

    def power(self, effect: float, n: tuple[float, float], *, alpha: float, alternative: Alternative) -> float:
        """Return the power of the z test; an effect beyond [0, 1] counts as its end."""
        p, q = min(max(self.base + effect, 0.0), 1.0), self.base
        inflation = noise_factor(self.r2, self.clusters)
        m, k = n[0] / inflation, n[1] / inflation
        if self.test == "arcsine":
            shift = _h(p, q) / math.sqrt(1.0 / m + 1.0 / k)
            return z_power(shift, alpha=alpha, alternative=alternative)
        own = math.sqrt(p * (1.0 - p) / m + q * (1.0 - q) / k)
        if self.test == "unpooled":
            return z_power((p - q) / own, alpha=alpha, alternative=alternative)
        pooled = (p * m + q * k) / (m + k)
        null = math.sqrt(pooled * (1.0 - pooled) * (1.0 / m + 1.0 / k))
        return z_power((p - q) / own, alpha=alpha, alternative=alternative, widened=null / own)

    def standardised(self, effect: float) -> float:
        """Return Cohen's h."""
        return _h(min(max(self.base + effect, 0.0), 1.0), self.base)

    def describe(self) -> dict[str, Any]:
        """Return plain data."""
        return {"base": self.base, "test": self.test, "r2": self.r2,
                "clusters": self.clusters and self.clusters.to_dict()}  # fmt: skip


def plan_proportions(
    *,
    base: float,
    effect: float | None = None,
    relative: float | None = None,
    n: int | tuple[int, int] | None = None,
    power: float | None = None,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
    ratio: float = 1.0,
    comparisons: int = 1,
    test: Test = "unpooled",
    r2: float = 0.0,
    clusters: Clusters | None = None,
) -> PowerPlan:
    """Return the missing one of effect, units and power for the difference of two proportions.

    Args:
        base: The control's proportion, in (0, 1).
        effect: Treatment less control: 0.01 is one percentage point.
        relative: The same as a share of `base`: 0.05 is 5 % more.
        n: Units of the control, or of (treatment, control).
        power: Chance to find the effect; 0.8 unless both others are given.
        level: Confidence of the whole experiment.
        alternative: "two-sided", "greater" or "less".
        ratio: Units of a treatment for each of the control.
        comparisons: Treatments compared with the control, each tested at alpha / comparisons.
        test: The z test's standard error.
        r2: Share of the variance that covariates explain.
        clusters: How units are clustered.

    Returns:
        `PowerPlan`; up to 500 units an arm a note gives the exact power of the pooled z test with these sizes.

    Raises:
        InputError: a value is out of its range, or base + effect leaves [0, 1].

    Example:
        >>> plan_proportions(base=0.10, effect=0.02).n
        (3839, 3839)
        >>> round(plan_proportions(base=0.10, n=10_000).effect, 4)
        0.0122
    """
    shift = absolute(effect, relative, base)
    if shift is not None and not 0.0 <= base + shift <= 1.0:
        raise InputError(f"base {base} with an effect of {shift} is {base + shift}, no proportion; plan for less")
    problem = Proportions(base, test, r2, clusters)
    plan = solve(problem, effect=shift, n=n, power=power, level=level, alternative=alternative, ratio=ratio,
                 comparisons=comparisons, notes=clusters_note(clusters))  # fmt: skip
    if not 0.0 <= base + plan.effect <= 1.0:
        raise InputError(f"{plan.n} units find no effect with a power of {plan.power}; take more units")
    if max(plan.n) > _SMALL or clusters is not None or r2 > 0.0:
        return plan
    exact = exact_power(base + plan.effect, base, plan.n, level=1.0 - plan.alpha, alternative=alternative)
    return replace(plan, notes=(f"exactly, the pooled z test finds it with {exact:.1%}",))


def exact_power(
    treatment: float,
    control: float,
    n: tuple[int, int],
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> float:
    """Return the true chance that the pooled z test rejects, summed over all tables.

    Args:
        treatment: The treatment's proportion, in [0, 1]; equal to the control's, this is the test's true level.
        control: The control's proportion, in [0, 1].
        n: Units of (treatment, control), each in [1, 5000].
        level: Confidence.
        alternative: "two-sided", "greater" or "less".

    Example:
        >>> round(exact_power(0.5, 0.5, (20, 20)), 4)  # the true level: 5 % were asked for
        0.0425
    """
    side, alpha = alternative_of(alternative), 1.0 - check_level(level)
    if not (0.0 <= treatment <= 1.0 and 0.0 <= control <= 1.0 and 1 <= min(n) <= max(n) <= 5000):
        raise InputError(f"proportions {treatment} and {control} with {n} units; proportions lie in [0, 1] and sizes "
                         "in [1, 5000]")  # fmt: skip
    x, y = np.arange(n[0] + 1), np.arange(n[1] + 1)
    gap = x[:, None] / n[0] - y[None, :] / n[1]
    pooled = (x[:, None] + y[None, :]) / (n[0] + n[1])
    se = np.sqrt(pooled * (1.0 - pooled) * (1.0 / n[0] + 1.0 / n[1]))
    z = np.divide(gap, se, out=np.zeros_like(gap), where=se > 0.0)
    match side:
        case Alternative.TWO_SIDED:
            rejected = np.abs(z) >= sp.norm.isf(alpha / 2.0)
        case Alternative.GREATER:
            rejected = z >= sp.norm.isf(alpha)
        case Alternative.LESS:
            rejected = -z >= sp.norm.isf(alpha)
    weights = sp.binom.pmf(x, n[0], treatment), sp.binom.pmf(y, n[1], control)
    return float(weights[0] @ rejected.astype(float) @ weights[1])


def _h(p: float, q: float) -> float:
    return 2.0 * math.asin(math.sqrt(p)) - 2.0 * math.asin(math.sqrt(q))
