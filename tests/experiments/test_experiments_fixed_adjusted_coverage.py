"""Adjusted effects cover where the adjustment itself is noisy: large relative effects, few units, strata that differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.experiments import Stats, cuped, post_stratified, relative_effect
from flyball.experiments.stats import Moments

RUNS = 1000
LEAST = 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / RUNS)


@pytest.mark.parametrize("method", ["fieller", "delta"])
def test_cuped_covers_a_doubled_metric_whose_covariate_explains_nearly_all(method) -> None:
    # without the noise of the covariates' common mean 82 % of these intervals held the truth
    rng, covered = np.random.default_rng(5), 0
    for _ in range(RUNS):
        t, c = _arm(rng, 200, 20.0), _arm(rng, 250, 10.0)
        found = cuped(t, c, "y", "x", scale="relative", method=method)
        covered += found.lower <= 1.0 <= found.upper
    assert covered / RUNS >= LEAST


def _arm(rng, n, mean):
    before = rng.normal(size=n)
    return Stats.of({"y": mean + 4.0 * (0.95 * before + math.sqrt(1 - 0.95**2) * rng.normal(size=n)), "x": before})


def test_cuped_of_eight_units_and_three_covariates_is_the_analysis_of_covariance() -> None:
    # without the slopes' own error 91 % of these intervals held the truth
    rng, covered = np.random.default_rng(6), 0
    for _ in range(RUNS):
        t, c = _small(rng, 1.0), _small(rng, 0.0)
        found = cuped(t, c, "y", ["a", "b", "c"])
        covered += found.lower <= 1.0 <= found.upper
    assert covered / RUNS >= LEAST


def _small(rng, shift):
    x = rng.normal(size=(8, 3))
    y = shift + x.sum(axis=1) + rng.normal(size=8)
    return Stats.of({"y": y, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2]})


def test_cuped_of_equal_arms_has_the_standard_error_of_least_squares() -> None:
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(8)
    n = 12
    x = rng.normal(size=(2 * n, 2))
    arm = np.repeat([1.0, 0.0], n)
    noise = rng.normal(size=n)
    noise = np.r_[noise, -noise]  # both arms' residuals alike in size, as least squares pools them
    y = 2.0 * arm + x @ [1.0, -1.0] + noise
    fit = api.OLS(y, np.c_[np.ones(2 * n), arm, x]).fit()
    t, c = (Stats.of({"y": y[arm == a], "p": x[arm == a, 0], "q": x[arm == a, 1]}) for a in (1.0, 0.0))
    found = cuped(t, c, "y", ["p", "q"])
    assert found.effect == pytest.approx(fit.params[1], rel=1e-10)
    assert found.effect / found.statistic == pytest.approx(fit.bse[1], rel=1e-10)


def test_post_stratification_covers_the_effect_of_all_units_when_strata_gain_differently() -> None:
    # one stratum gains 20, the other 2: with the strata's shares taken as known 48 % of the intervals held the truth
    rng, covered, relative = np.random.default_rng(7), 0, 0
    for _ in range(RUNS):
        t, c = _strata(rng, 2.0), _strata(rng, 1.0)
        found = post_stratified(t, c, "y")
        covered += found.lower <= 11.0 <= found.upper
        found = post_stratified(t, c, "y", scale="relative")
        relative += found.lower <= 1.0 <= found.upper
    assert covered / RUNS >= LEAST
    assert relative / RUNS >= LEAST


def _strata(rng, factor):
    which = rng.integers(0, 2, 200)
    y = (np.where(which == 1, 20.0, 2.0) + rng.normal(size=200)) * factor
    return {str(s): Stats.of({"y": y[which == s]}) for s in (0, 1)}


def test_shares_that_are_given_have_no_noise() -> None:
    rng = np.random.default_rng(1)
    t, c = _strata(rng, 2.0), _strata(rng, 1.0)
    shares = {s: (t[s].n + c[s].n) / 400 for s in t}
    given, counted = post_stratified(t, c, "y", shares=shares), post_stratified(t, c, "y")
    assert given.effect == pytest.approx(counted.effect)
    assert given.upper - given.lower < 0.5 * (counted.upper - counted.lower)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("method", ["fieller", "delta"])
def test_relative_effects_do_not_depend_on_the_unit(scale, method) -> None:
    plain = relative_effect(Moments(400, 5.5, 400.0), Moments(500, 5.0, 500.0), method=method)
    t, c = (Moments(n, mean * scale, n * scale * scale) for n, mean in ((400, 5.5), (500, 5.0)))
    found = relative_effect(t, c, method=method)
    assert (found.effect, *found.ci) == pytest.approx((plain.effect, *plain.ci))
