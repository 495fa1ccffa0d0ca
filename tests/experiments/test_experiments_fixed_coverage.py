"""How often intervals hold the truth and tests cry wolf: by summing over all outcomes, else by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.fixed.counts import Rate, poisson_rates
from flyball.experiments.fixed.exact import fisher_exact
from flyball.experiments.fixed.means import pooled_t, welch_t
from flyball.experiments.fixed.proportions import newcombe, two_proportions_z
from flyball.experiments.fixed.shares import Count, clopper_pearson, wilson
from flyball.experiments.stats import Moments

SHARES = np.linspace(0.02, 0.98, 49)


def test_clopper_pearson_always_covers_and_wilson_does_on_average() -> None:
    n, averages = 30, {}
    for method in (clopper_pearson, wilson):
        ends = np.array([method(Count(x, n)).ci for x in range(n + 1)])
        holds = (ends[:, :1] <= SHARES) & (ends[:, 1:] >= SHARES)
        averages[method] = (stats.binom.pmf(np.arange(n + 1)[:, None], n, SHARES) * holds).sum(axis=0)
    assert averages[clopper_pearson].min() >= 0.95
    assert averages[wilson].mean() == pytest.approx(0.95, abs=0.01)
    assert averages[wilson].min() > 0.90


@pytest.mark.parametrize("method", [two_proportions_z, newcombe])
def test_intervals_of_a_difference_of_shares_cover_on_average_in_small_arms(method) -> None:
    n, m = 18, 12
    ends = np.array([[method(Count(x, n), Count(y, m)).ci for y in range(m + 1)] for x in range(n + 1)])
    covered = []
    for p in SHARES[::6]:
        for q in SHARES[::6]:
            weights = np.outer(stats.binom.pmf(np.arange(n + 1), n, p), stats.binom.pmf(np.arange(m + 1), m, q))
            covered.append(float(weights[(ends[..., 0] <= p - q) & (p - q <= ends[..., 1])].sum()))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
    assert min(covered) > 0.88


def fisher_p(x: int, n: int, y: int, m: int) -> float:
    try:
        return fisher_exact(Count(x, n), Count(y, m)).p or 0.0
    except InputError:
        return 1.0  # no success or no failure at all: nothing is claimed


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_fishers_test_never_exceeds_its_level(share: float) -> None:
    n, m = 16, 11
    p = np.array([[fisher_p(x, n, y, m) for y in range(m + 1)] for x in range(n + 1)])
    weights = np.outer(stats.binom.pmf(np.arange(n + 1), n, share), stats.binom.pmf(np.arange(m + 1), m, share))
    for level in (0.1, 0.05, 0.01):
        assert weights[p <= level].sum() <= level


@pytest.mark.parametrize(("rate", "ratio"), [(2.0, 1.0), (5.0, 2.0), (8.0, 0.5)])
def test_the_interval_of_poisson_rates_always_covers(rate: float, ratio: float) -> None:
    reach = 30
    chance = np.outer(stats.poisson.pmf(np.arange(reach), rate * ratio), stats.poisson.pmf(np.arange(reach), 2 * rate))
    held = chance[0, 0]  # no event at all is refused: nothing false is said
    for x in range(reach):
        for y in range(reach):
            if x + y and chance[x, y] > 1e-9:
                lower, upper = poisson_rates(Rate(x, 1.0), Rate(y, 2.0)).ci
                held += chance[x, y] * (lower <= ratio <= upper)
    assert held >= 0.95 - 1e-6


def moments_of(values: np.ndarray) -> list[Moments]:
    means = values.mean(axis=1)
    squares = ((values - means[:, None]) ** 2).sum(axis=1)
    return [Moments(values.shape[1], float(a), float(b)) for a, b in zip(means, squares, strict=True)]


def test_welch_keeps_its_level_where_student_does_not() -> None:
    rng = np.random.default_rng(31)
    runs = 5_000
    few, many = moments_of(rng.normal(0, 4, (runs, 10))), moments_of(rng.normal(0, 1, (runs, 40)))
    welch = sum(welch_t(t, c).significant for t, c in zip(few, many, strict=True))
    student = sum(pooled_t(t, c).significant for t, c in zip(few, many, strict=True))
    assert (
        abs(welch - 0.05 * runs) < 3.3 * math.sqrt(runs * 0.05 * 0.95) + 0.005 * runs
    )  # Welch's own error is below 0.5 %
    assert student > 0.25 * runs


@pytest.mark.parametrize(("level", "alternative"), [(0.9, "two-sided"), (0.95, "greater"), (0.99, "less")])
def test_intervals_of_means_cover_at_every_level_and_side(level: float, alternative: str) -> None:
    rng = np.random.default_rng(32)
    runs = 6_000
    t, c = moments_of(rng.normal(1.5, 2, (runs, 15))), moments_of(rng.normal(1.0, 1, (runs, 25)))
    held = 0
    for a, b in zip(t, c, strict=True):
        found = welch_t(a, b, level=level, alternative=alternative)
        held += found.lower <= 0.5 <= found.upper
    assert abs(held - level * runs) < 3.3 * math.sqrt(runs * level * (1 - level)) + 0.003 * runs


def test_the_power_of_student_is_that_of_the_noncentral_t() -> None:
    rng = np.random.default_rng(33)
    runs, n, d = 6_000, 30, 0.6
    found = sum(
        pooled_t(t, c).significant
        for t, c in zip(moments_of(rng.normal(d, 1, (runs, n))), moments_of(rng.normal(0, 1, (runs, n))), strict=True)
    )
    k, shift = stats.t.ppf(0.975, 2 * n - 2), d * math.sqrt(n / 2)
    power = stats.nct.sf(k, 2 * n - 2, shift) + stats.nct.cdf(-k, 2 * n - 2, shift)
    assert abs(found - power * runs) < 3.3 * math.sqrt(runs * power * (1 - power))
