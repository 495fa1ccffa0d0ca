"""Ratios and relative effects against root finding, simulation and the bounds of good sense."""

from __future__ import annotations

import math

import numpy as np
import pytest
from experiments_kit import moments_of
from scipy import optimize, stats

from flyball.errors import InputError, UnknownName
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.ratios import ratio_metric, relative_effect
from flyball.experiments.stats import Moments, Stats

T, C = Moments(900, 10.6, 9 * 899.0), Moments(400, 10.0, 16 * 399.0)


def test_fiellers_ends_are_where_the_t_statistic_is_critical() -> None:
    found, welch = relative_effect(T, C), welch_t(T, C)
    k = stats.t.ppf(0.975, welch.df)

    def excess(r: float) -> float:
        return (T.mean - (1 + r) * C.mean) ** 2 / (T.variance / T.n + (1 + r) ** 2 * C.variance / C.n) - k * k

    roots = optimize.brentq(excess, -0.5, found.effect), optimize.brentq(excess, found.effect, 0.5)
    assert found.ci == pytest.approx(roots, rel=1e-9)
    assert (found.effect, found.p) == (pytest.approx(0.06), pytest.approx(welch.p))


def test_fieller_leaves_zero_out_exactly_when_welch_does() -> None:
    for mean in np.linspace(10.2, 10.8, 61):
        t = Moments(900, float(mean), 9 * 899.0)
        assert relative_effect(t, C).significant == welch_t(t, C).significant


def test_delta_and_fieller_agree_when_the_control_is_sharp() -> None:
    t, c = Moments(10**6, 10.1, 9e6), Moments(10**6, 10.0, 9e6)
    assert relative_effect(t, c, method="delta").ci == pytest.approx(relative_effect(t, c).ci, abs=2e-7)


@pytest.mark.parametrize("method", ["fieller", "delta"])
def test_swapped_arms_give_the_inverse_ratio(method: str) -> None:
    there, back = relative_effect(T, C, method=method), relative_effect(C, T, method=method)
    assert (1 + there.lower) * (1 + back.upper) == pytest.approx(1.0)
    assert (1 + there.upper) * (1 + back.lower) == pytest.approx(1.0)
    assert there.p == pytest.approx(back.p)


@pytest.mark.parametrize("method", ["fieller", "delta"])
def test_negative_metrics_keep_the_sign_of_the_difference(method: str) -> None:
    t, c = Moments(900, -9.4, 9 * 899.0), Moments(400, -10.0, 16 * 399.0)
    found = relative_effect(t, c, method=method)
    assert found.effect == pytest.approx(0.06)
    assert found.lower < 0.06 < found.upper and "negative" in found.notes[-1]
    assert (welch_t(t, c).p < 0.05) == (found.p < 0.05)
    greater = relative_effect(t, c, method=method, alternative="greater", level=0.975)
    assert greater.ci == (pytest.approx(found.lower, abs=1e-5), math.inf)


@pytest.mark.parametrize("mean", [0.0, 0.1, -0.1, 0.599])
def test_a_control_near_zero_is_refused(mean: float) -> None:
    with pytest.raises(InputError, match="standard errors from zero"):
        relative_effect(T, Moments(400, mean, 16 * 399.0))


def test_a_level_that_reaches_zero_is_refused_as_well() -> None:
    with pytest.raises(InputError, match="no finite interval"):
        relative_effect(T, Moments(400, 0.7, 16 * 399.0), level=0.9999)


def test_delta_needs_both_arms_on_one_side() -> None:
    with pytest.raises(InputError, match="both sides of zero"):
        relative_effect(Moments(900, -5.0, 900.0), C, method="delta")
    with pytest.raises(UnknownName, match="fieller"):
        relative_effect(T, C, method="feiller")
    with pytest.raises(InputError, match="above -1"):
        relative_effect(T, C, null=-1.0)


@pytest.mark.parametrize("method", ["fieller", "delta"])
def test_relative_intervals_cover_with_a_noisy_control(method: str) -> None:
    rng = np.random.default_rng(21)
    runs, n, hits = 2_500, 60, 0
    for x, y in zip(rng.exponential(1.3, (runs, n)), rng.exponential(1.0, (runs, n)), strict=True):
        found = relative_effect(moments_of(x), moments_of(y), method=method)
        hits += found.lower <= 0.3 <= found.upper
    assert stats.binom.ppf(0.001, runs, 0.94) <= hits <= stats.binom.ppf(0.999, runs, 0.96)


def users(rng: np.random.Generator, n: int, rate: float) -> Stats:
    """Return users whose click rates differ, with many views each."""
    views = rng.integers(1, 40, n)
    return Stats.of({"clicks": rng.binomial(views, np.clip(rng.normal(rate, 0.05, n), 0, 1)), "views": views})


def test_the_standard_error_of_a_ratio_is_that_of_the_linearised_units() -> None:
    rng = np.random.default_rng(1)
    t, c = users(rng, 500, 0.22), users(rng, 400, 0.20)
    found = ratio_metric(t, c, "clicks", "views")
    by_hand = 0.0
    for arm in (t, c):  # Deng, Knoblich, Lu (2018), equation 4
        r, mean = arm.mean("clicks") / arm.mean("views"), arm.mean("views")
        spread = arm.variance("clicks") - 2 * r * arm.covariance("clicks", "views") + r * r * arm.variance("views")
        by_hand += spread / mean**2 / arm.n
    assert found.effect / found.statistic == pytest.approx(math.sqrt(by_hand))


@pytest.mark.parametrize("scale", ["difference", "relative"])
def test_the_interval_of_a_ratio_covers_where_pooled_views_would_not(scale: str) -> None:
    rng = np.random.default_rng(2)
    runs, hits, naive = 1_000, 0, 0
    truth = 0.02 if scale == "difference" else 0.1
    for _ in range(runs):
        t, c = users(rng, 300, 0.22), users(rng, 300, 0.20)
        found = ratio_metric(t, c, "clicks", "views", scale=scale)
        hits += found.lower <= truth <= found.upper
        views = [arm.n * arm.mean("views") for arm in (t, c)]
        se = math.sqrt(0.22 * 0.78 / views[0] + 0.2 * 0.8 / views[1])
        naive += abs(t.mean("clicks") / t.mean("views") - c.mean("clicks") / c.mean("views") - 0.02) < 1.96 * se
    assert stats.binom.ppf(0.001, runs, 0.945) <= hits <= stats.binom.ppf(0.999, runs, 0.955)
    assert naive < stats.binom.ppf(0.001, runs, 0.95)


def test_a_ratio_over_ones_is_the_mean() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(2, 1, 50), rng.normal(1, 1, 60)
    t, c = Stats.of({"y": x, "one": np.ones(50)}), Stats.of({"y": y, "one": np.ones(60)})
    found, welch = ratio_metric(t, c, "y", "one"), welch_t(x, y)
    assert (found.ci, found.p) == (pytest.approx(welch.ci), pytest.approx(welch.p))


def test_a_denominator_near_zero_and_unknown_columns_are_refused() -> None:
    arm = Stats.of({"y": [1.0, 2.0, 3.0], "x": [-1.0, 0.5, 1.0]})
    with pytest.raises(InputError, match="the x of treatment is"):
        ratio_metric(arm, arm, "y", "x")
    with pytest.raises(UnknownName, match="column"):
        ratio_metric(arm, arm, "y", "z")
    both = users(np.random.default_rng(1), 9, 0.2)
    with pytest.raises(UnknownName, match="there is no scale here"):
        ratio_metric(both, both, "clicks", "views", scale="ratio")
