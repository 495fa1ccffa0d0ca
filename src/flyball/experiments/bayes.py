"""What to believe of rates and means after the data: posteriors, probability to be best, expected loss.

Everything is computed by quadrature, not by drawing: the same data give the same digits, and a loss of 1e-9 is seen.
The surprise: a posterior may be looked at whenever one likes, but stopping when "probability best" passes 95 % is no
test with 5 % errors; `policy.bandits.won` says which rules are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import optimize, special

from flyball.errors import InputError
from flyball.experiments.estimate import Estimate, check_level
from flyball.experiments.stats import Sample, moments

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Cdf = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = [
    "BetaPosterior", "MeanPrior", "Posterior", "StudentPosterior", "beta_posterior", "credible_difference",
    "expected_loss", "mean_posterior", "probability_best",
]  # fmt: skip

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_ALMOST_ONE = 1.0 - 2.0**-53
_TAILS = np.array([1e-15, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.05, 0.2])


class Posterior(Protocol):
    """A continuous distribution of one arm's value."""

    @property
    def mean(self) -> float:
        """The expected value."""

    @property
    def n(self) -> int:
        """How many units speak for it."""

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of at most x."""

    def sf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of more than x."""

    def quantile(self, below: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value with so much probability below it."""

    def quantile_above(self, above: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value with so much probability above it."""


class _Readable:
    """What every posterior says of itself."""

    __slots__ = ()

    def interval(self: Any, level: float = 0.95) -> tuple[float, float]:
        """Return the equal-tailed credible interval; raises InputError for a level outside (0, 1)."""
        tail = np.array([(1.0 - check_level(level)) / 2.0])
        return float(self.quantile(tail)[0]), float(self.quantile_above(tail)[0])

    def __str__(self: Any) -> str:
        low, high = self.interval()
        return f"{self.mean:.4g} [{low:.4g}, {high:.4g}] with 95%, n = {self.n:,}"


@dataclass(frozen=True, slots=True)
class BetaPosterior(_Readable):
    """Belief about a rate: Beta(a, b)."""

    a: float
    b: float
    n: int = 0

    @property
    def mean(self) -> float:
        """The expected rate."""
        return self.a / (self.a + self.b)

    @property
    def sd(self) -> float:
        """The standard deviation of the belief."""
        return math.sqrt(self.mean * (1.0 - self.mean) / (self.a + self.b + 1.0))

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that the rate is at most x."""
        return np.asarray(special.betainc(self.a, self.b, np.clip(x, 0.0, 1.0)))

    def sf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that the rate is above x."""
        return np.asarray(special.betaincc(self.a, self.b, np.clip(x, 0.0, 1.0)))

    def quantile(self, below: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rate that has so much belief below it."""
        return np.asarray(special.betaincinv(self.a, self.b, below))

    def quantile_above(self, above: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rate that has so much belief above it."""
        return np.asarray(special.betainccinv(self.a, self.b, above))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kind": "beta", "a": self.a, "b": self.b, "n": self.n, "mean": self.mean}


@dataclass(frozen=True, slots=True)
class StudentPosterior(_Readable):
    """Belief about a mean whose variance is unknown too: location + scale x Student's t."""

    df: float
    location: float
    scale: float
    n: int = 0

    @property
    def mean(self) -> float:
        """The expected mean."""
        return self.location

    @property
    def sd(self) -> float:
        """The standard deviation of the belief; infinite up to 2 degrees of freedom."""
        return self.scale * math.sqrt(self.df / (self.df - 2.0)) if self.df > 2.0 else math.inf

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that the mean is at most x."""
        return np.asarray(special.stdtr(self.df, (x - self.location) / self.scale))

    def sf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that the mean is above x."""
        return np.asarray(special.stdtr(self.df, (self.location - x) / self.scale))

    def quantile(self, below: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean that has so much belief below it."""
        return np.asarray(self.location + self.scale * special.stdtrit(self.df, below))

    def quantile_above(self, above: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean that has so much belief above it."""
        return np.asarray(self.location - self.scale * special.stdtrit(self.df, above))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kind": "student", "df": self.df, "location": self.location, "scale": self.scale, "n": self.n}


@dataclass(frozen=True, slots=True)
class MeanPrior:
    """Belief about a mean before the data, as if it had been seen in earlier units (normal-inverse-gamma).

    Args:
        mean: The expected mean.
        sd: The expected standard deviation of a unit's value, > 0.
        units: How many units the belief about the mean weighs, > 0.
        df: How many units the belief about the standard deviation weighs, > 0.
    """

    mean: float
    sd: float
    units: float = 1.0
    df: float = 1.0

    def __post_init__(self) -> None:
        if not (min(self.sd, self.units, self.df) > 0.0 and math.isfinite(self.mean + self.sd + self.units + self.df)):
            raise InputError(f"{self} is no prior; sd, units and df are finite and above 0")


def beta_posterior(successes: float, n: int, *, prior: tuple[float, float] = (1.0, 1.0)) -> BetaPosterior:
    """Return the belief about a rate after `successes` of n units.

    Args:
        successes: Units that converted, in [0, n].
        n: Units, >= 0.
        prior: (a, b) of the beta prior, both > 0; (1, 1) is uniform, (0.5, 0.5) Jeffreys'.

    Raises:
        InputError: counts or prior out of bounds.

    Example:
        >>> round(beta_posterior(7, 10).mean, 4)
        0.6667
    """
    if not 0 <= successes <= n < math.inf or not 0.0 < min(prior) <= max(prior) < math.inf:
        raise InputError(f"{successes} of {n} units with prior {prior}; 0 <= successes <= n and a prior above 0")
    return BetaPosterior(prior[0] + successes, prior[1] + n - successes, int(n))


def mean_posterior(sample: Sample | ArrayLike, *, prior: MeanPrior | None = None) -> StudentPosterior:
    """Return the belief about a mean (Gelman et al., Bayesian Data Analysis, section 3.3).

    Args:
        sample: `Moments`, or values of shape (n,).
        prior: What was believed before; None is the flat prior, whose interval is that of the t test.

    Raises:
        InputError: without a prior, fewer than 2 units or no spread; a prior mends both.

    Example:
        >>> low, high = mean_posterior([1.0, 2.0, 3.0, 4.0]).interval()
        >>> round(low, 4), round(high, 4)
        (0.4457, 4.5543)
    """
    seen = moments(sample)
    if prior is None:
        if seen.n < 2 or seen.m2 <= 0.0:
            raise InputError(f"{seen.n} units with variance {seen.variance:g}; two units that differ, or a prior")
        return StudentPosterior(seen.n - 1, seen.mean, math.sqrt(seen.variance / seen.n), seen.n)
    weight, df = prior.units + seen.n, prior.df + seen.n
    apart = seen.mean - prior.mean
    spread = prior.df * prior.sd**2 + seen.m2 + prior.units * seen.n / weight * apart**2
    location = prior.mean + apart * seen.n / weight
    return StudentPosterior(df, location, math.sqrt(spread / df / weight), seen.n)


def probability_best(posteriors: Sequence[Posterior]) -> tuple[float, ...]:
    """Return each arm's probability to have the largest value.

    The integral of an arm's density times the others' distribution functions is taken over the arm's own quantiles,
    in panels between the quantiles of all arms, so that narrow and wide posteriors are resolved alike.

    Args:
        posteriors: One per arm, shape (k,), k >= 1, independent.

    Returns:
        Probabilities, shape (k,), summing to 1; good to about 1e-9.

    Example:
        >>> [round(p, 4) for p in probability_best([beta_posterior(7, 10), beta_posterior(4, 10)])]
        [0.9008, 0.0992]
    """
    arms = _checked(posteriors)
    if len(arms) == 1:
        return (1.0,)
    points = _breaks(arms)
    raw = [_best(arm, [other.cdf for j, other in enumerate(arms) if j != i], points) for i, arm in enumerate(arms)]
    total = math.fsum(raw)
    return tuple(p / total for p in raw)


def expected_loss(posteriors: Sequence[Posterior]) -> tuple[float, ...]:
    """Return for each arm how much is lost on average by choosing it: E[max of the others above it].

    Args:
        posteriors: One per arm, shape (k,), independent.

    Returns:
        Losses >= 0 in the metric's unit, shape (k,); inf where a mean of Student's t with 1 degree of freedom does
        not exist.

    Example:
        >>> [round(loss, 4) for loss in expected_loss([beta_posterior(7, 10), beta_posterior(4, 10)])]
        [0.0094, 0.2594]
    """
    arms = _checked(posteriors)
    if any(isinstance(arm, StudentPosterior) and arm.df <= 1.0 for arm in arms):
        return (math.inf,) * len(arms)
    x, width = _panels(_breaks(arms))
    losses = []
    for i, arm in enumerate(arms):
        others = [np.log1p(-np.minimum(other.sf(x), _ALMOST_ONE)) for j, other in enumerate(arms) if j != i]
        beaten = -np.expm1(np.sum(others, axis=0)) if others else np.zeros_like(x)
        losses.append(float((width * arm.cdf(x) * beaten).sum()))
    return tuple(losses)


def credible_difference(treatment: Posterior, control: Posterior, *, level: float = 0.95) -> Estimate:
    """Return treatment less control with its equal-tailed credible interval; `statistic` is P(treatment is larger).

    Args:
        treatment: Belief about the treatment.
        control: Belief about the control.
        level: Probability of the interval, in (0, 1).

    Example:
        >>> print(credible_difference(beta_posterior(120, 1000), beta_posterior(100, 1000)))
        Bayes: +0.01996 [-0.007471, +0.04747] at 95%, n = 1,000 against 1,000
          the treatment is larger with probability 92.3%
    """
    _checked([treatment, control])
    tail = (1.0 - check_level(level)) / 2.0
    larger = probability_best([treatment, control])[0]
    ends = np.array([1e-12])
    most = float(treatment.quantile_above(ends)[0] - control.quantile(ends)[0])
    least = float(treatment.quantile(ends)[0] - control.quantile_above(ends)[0])
    lower = _quantile_of_difference(treatment, control, tail, least, most)
    upper = _quantile_of_difference(treatment, control, 1.0 - tail, least, most)
    note = f"the treatment is larger with probability {larger:.1%}"
    return Estimate(treatment.mean - control.mean, lower, upper, None, larger, (treatment.n, control.n), "Bayes",
                    level=level, treatment=treatment.mean, control=control.mean, notes=(note,))  # fmt: skip


def _checked(posteriors: Sequence[Posterior]) -> Sequence[Posterior]:
    if not posteriors:
        raise InputError("no posterior was given; one per arm is needed")
    for arm in posteriors:
        if not math.isfinite(arm.mean) or (isinstance(arm, StudentPosterior) and not arm.scale > 0.0):
            raise InputError(f"{arm!r} is no belief to compare; its centre is finite and its scale above 0")
    return list(posteriors)


def _breaks(arms: Sequence[Posterior]) -> NDArray[np.float64]:
    middle = np.array([0.5])
    parts = [(arm.quantile(_TAILS), arm.quantile(middle), arm.quantile_above(_TAILS)) for arm in arms]
    return np.unique(np.concatenate([part for arm in parts for part in arm]))


def _panels(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half = np.diff(points) / 2.0
    x = (points[:-1] + half)[:, None] + half[:, None] * _NODES
    return x.ravel(), (half[:, None] * _WEIGHTS).ravel()


def _best(arm: Posterior, others: Sequence[Cdf], points: NDArray[np.float64]) -> float:
    """P(arm is best): below its median over u = cdf, above it over u = sf, so that neither tail loses digits."""
    total = 0.0
    for share, at in ((arm.cdf, arm.quantile), (arm.sf, arm.quantile_above)):
        inner = share(points)
        inner = inner[(inner > 1e-16) & (inner < 0.5)]  # less weighs nothing, and quantiles of it are no numbers
        u, width = _panels(np.unique(np.concatenate([[0.0, 0.5], inner])))
        x = at(u)
        total += float((width * np.prod([cdf(x) for cdf in others], axis=0)).sum())
    return total


def _quantile_of_difference(treatment: Posterior, control: Posterior, below: float, least: float, most: float) -> float:
    new, old = _breaks([treatment]), _breaks([control])

    def excess(gap: float) -> float:
        points = np.union1d(old, new - gap)
        return _best(control, [lambda x: treatment.cdf(x + gap)], points) - below

    return float(optimize.brentq(excess, least, most, xtol=1e-15, rtol=1e-12))
