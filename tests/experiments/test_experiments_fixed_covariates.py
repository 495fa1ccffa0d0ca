"""CUPED and post-stratification against least squares, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.fixed.covariates import cuped, post_stratified, theta
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.ratios import ratio_metric
from flyball.experiments.stats import Stats


def arm(rng: np.random.Generator, n: int, effect: float) -> dict[str, np.ndarray]:
    """Return a metric with two covariates that explain much of it."""
    before, visits = rng.gamma(2, 2, n), rng.poisson(3, n).astype(float)
    return {"y": 5 + effect + 0.8 * before - 0.5 * visits + rng.normal(0, 1, n), "before": before, "visits": visits}


@pytest.mark.parametrize("covariates", [["before"], ["before", "visits"]])
def test_the_effect_is_that_of_least_squares_with_covariates(covariates: list[str]) -> None:
    rng = np.random.default_rng(1)
    t, c = arm(rng, 300, 0.3), arm(rng, 500, 0.0)
    columns = [np.r_[np.ones(300), np.zeros(500)], *(np.r_[t[name], c[name]] for name in covariates)]
    fit = sm.OLS(np.r_[t["y"], c["y"]], sm.add_constant(np.column_stack(columns))).fit(cov_type="HC2")
    found = cuped(Stats.of(t), Stats.of(c), "y", covariates)
    assert found.effect == pytest.approx(fit.params[1], rel=1e-9)
    assert theta(Stats.of(t), Stats.of(c), "y", covariates) == pytest.approx(tuple(fit.params[2:]))
    assert found.effect / found.statistic == pytest.approx(fit.bse[1], rel=0.02)


def test_variance_falls_by_the_squared_correlation() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (2, 20_000))
    y = 0.8 * x + 0.6 * rng.normal(0, 1, x.shape)
    t, c = (Stats.of({"y": y[i], "x": x[i]}) for i in (0, 1))
    raw, less = welch_t(t["y"], c["y"]), cuped(t, c, "y", "x")
    ratio = ((less.upper - less.lower) / (raw.upper - raw.lower)) ** 2
    assert ratio == pytest.approx(1 - 0.64, abs=0.02)
    assert less.notes == ("the covariate takes away 64 % of the variance",)


@pytest.mark.parametrize("scale", ["difference", "relative"])
def test_adjusted_intervals_cover_and_bias_is_absent_in_unequal_arms(scale: str) -> None:
    rng = np.random.default_rng(3)
    runs, effects, hits = 800, [], 0
    truth = 0.4 if scale == "difference" else 0.4 / (5 + 0.8 * 4 - 0.5 * 3)
    for _ in range(runs):
        found = cuped(Stats.of(arm(rng, 40, 0.4)), Stats.of(arm(rng, 80, 0.0)), "y", ["before", "visits"], scale=scale)
        effects.append(found.effect)
        hits += found.lower <= truth <= found.upper
    assert stats.binom.ppf(0.001, runs, 0.94) <= hits <= stats.binom.ppf(0.999, runs, 0.96)
    assert abs(np.mean(effects) - truth) < 4 * np.std(effects) / math.sqrt(runs)


def test_covariates_that_say_nothing_change_nothing() -> None:
    rng = np.random.default_rng(4)
    t, c = arm(rng, 200, 0.3), arm(rng, 200, 0.0)
    t["flat"], c["flat"] = np.full(200, 3.0), np.full(200, 3.0)
    t["twice"], c["twice"] = 2 * t["before"], 2 * c["before"]
    one = cuped(Stats.of(t), Stats.of(c), "y", "before")
    assert cuped(Stats.of(t), Stats.of(c), "y", ["before", "twice"]).effect == pytest.approx(one.effect)
    flat = cuped(Stats.of(t), Stats.of(c), "y", "flat")
    assert flat.effect == pytest.approx(welch_t(t["y"], c["y"]).effect)
    assert "0 %" in flat.notes[-1]


def test_an_offset_of_a_billion_in_a_covariate_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    t, c = arm(rng, 200, 0.3), arm(rng, 300, 0.0)
    near = cuped(Stats.of(t), Stats.of(c), "y", "before")
    t["before"], c["before"] = t["before"] + 1e9, c["before"] + 1e9
    far = cuped(Stats.of(t), Stats.of(c), "y", "before")
    assert (far.effect, far.p) == (pytest.approx(near.effect, rel=1e-5), pytest.approx(near.p, rel=1e-4))


def test_a_ratio_metric_is_sharpened_too() -> None:
    rng = np.random.default_rng(6)
    arms = []
    for rate in (0.22, 0.2):
        own = np.clip(rng.normal(rate, 0.08, 2_000), 0.01, 0.9)
        views, old = rng.integers(5, 60, 2_000), rng.integers(5, 60, 2_000)
        arms.append(Stats.of({"clicks": rng.binomial(views, own), "views": views, "old": rng.binomial(old, own) / old}))
    raw, less = ratio_metric(*arms, "clicks", "views"), cuped(*arms, "clicks", "old", over="views")
    assert less.upper - less.lower < 0.9 * (raw.upper - raw.lower)
    assert less.lower < 0.02 < less.upper


@pytest.mark.parametrize(
    ("covariates", "says"),
    [([], "covariates are"), (["before", "before"], "covariates are"), (["y"], "both metric and covariate")],
)
def test_covariates_that_make_no_sense_are_refused(covariates: list[str], says: str) -> None:
    rng = np.random.default_rng(7)
    both = Stats.of(arm(rng, 50, 0.0))
    with pytest.raises(InputError, match=says):
        cuped(both, both, "y", covariates)


def test_a_covariate_that_is_the_outcome_is_found_out() -> None:
    rng = np.random.default_rng(8)
    t, c = (Stats.of({"y": y, "leak": 2 * y + 1}) for y in rng.normal(0, 1, (2, 50)))
    with pytest.raises(InputError, match="without remainder"):
        cuped(t, c, "y", "leak")
    with pytest.raises(InputError, match="treatment has 1 unit"):
        cuped(Stats.of({"y": [1.0], "x": [2.0]}), c, "y", "x")


def strata(rng: np.random.Generator, shares: list[float], n: int, effect: float) -> dict[str, Stats]:
    which = rng.choice(3, n, p=shares)
    y = np.array([0.0, 10.0, 30.0])[which] + effect + rng.normal(0, 2, n)
    return {name: Stats.of({"y": y[which == i]}) for i, name in enumerate("abc")}


def test_post_stratification_is_the_weighted_sum_of_strata() -> None:
    rng = np.random.default_rng(9)
    t, c = strata(rng, [0.5, 0.3, 0.2], 400, 1.0), strata(rng, [0.5, 0.3, 0.2], 300, 0.0)
    weights = {s: (t[s].n + c[s].n) / 700 for s in "abc"}
    found = post_stratified(t, c, "y", shares=weights)
    assert post_stratified(t, c, "y").effect == pytest.approx(found.effect)
    assert found.effect == pytest.approx(sum(w * (t[s].mean("y") - c[s].mean("y")) for s, w in weights.items()))
    variance = sum(w * w * (t[s].variance("y") / t[s].n + c[s].variance("y") / c[s].n) for s, w in weights.items())
    assert found.effect / found.statistic == pytest.approx(math.sqrt(variance))
    assert found.n == (400, 300)


def test_an_unlucky_split_is_put_right_and_the_interval_covers() -> None:
    rng = np.random.default_rng(10)
    runs, hits, wide, narrow = 600, 0, 0.0, 0.0
    for _ in range(runs):
        t, c = strata(rng, [0.5, 0.3, 0.2], 150, 1.0), strata(rng, [0.5, 0.3, 0.2], 150, 0.0)
        found = post_stratified(t, c, "y")
        whole = welch_t(t["a"].merge(t["b"]).merge(t["c"])["y"], c["a"].merge(c["b"]).merge(c["c"])["y"])
        hits += found.lower <= 1.0 <= found.upper
        narrow, wide = narrow + found.upper - found.lower, wide + whole.upper - whole.lower
    assert stats.binom.ppf(0.001, runs, 0.94) <= hits <= stats.binom.ppf(0.999, runs, 0.96)
    assert narrow < 0.25 * wide


def test_one_stratum_is_welch() -> None:
    rng = np.random.default_rng(11)
    x, y = rng.normal(1, 2, 30), rng.normal(0, 1, 40)
    found, welch = post_stratified({"all": Stats.of({"y": x})}, {"all": Stats.of({"y": y})}, "y"), welch_t(x, y)
    assert (found.ci, found.p) == (pytest.approx(welch.ci), pytest.approx(welch.p))


def test_declared_shares_weigh_the_strata() -> None:
    rng = np.random.default_rng(12)
    t, c = strata(rng, [0.5, 0.3, 0.2], 400, 1.0), strata(rng, [0.5, 0.3, 0.2], 300, 0.0)
    only = post_stratified(t, c, "y", shares={"a": 1.0, "b": 0.0, "c": 0.0})
    assert only.ci == pytest.approx(welch_t(t["a"]["y"], c["a"]["y"]).ci)
    with pytest.raises(InputError, match="summing to 1"):
        post_stratified(t, c, "y", shares={"a": 0.5, "b": 0.1, "c": 0.1})


def test_thin_and_missing_strata_are_refused_by_name() -> None:
    thin, thick = Stats.of({"y": [1.0]}), Stats.of({"y": [1.0, 2.0]})
    with pytest.raises(InputError, match="stratum 'fr' has 1 units of control"):
        post_stratified({"fr": thick}, {"fr": thin}, "y")
    with pytest.raises(InputError, match="merge rare strata"):
        post_stratified({"fr": thick}, {"de": thick}, "y")
