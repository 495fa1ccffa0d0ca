"""Values that are no values are refused with a sentence, by every test alike: never NaN, never a raw error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball import experiments as fx
from flyball.errors import InputError
from flyball.experiments.stats import Moments, Stats

GOOD = Moments(500, 1.0, 500.0)
BROKEN = [Moments(10, math.nan, 1.0), Moments(10, math.inf, 1.0), Moments(10, 1.0, math.nan), Moments(10, 1.0, -1.0),
          Moments(-5, 1.0, 1.0)]  # fmt: skip
OF_MEANS = [
    fx.welch_t,
    fx.pooled_t,
    fx.cohens_d,
    fx.hedges_g,
    fx.relative_effect,
    fx.mean_difference_sequence,
    lambda t, c: fx.mean_difference_sequence(t, c, sigma=1.0),
    lambda t, c: fx.msprt(t, c, tau=0.1),
    lambda t, c: fx.msprt(t, c, tau=0.1, sigma=1.0),
    lambda t, c: fx.mean_sequence(c) if t is GOOD else fx.mean_sequence(t),
    lambda t, c: fx.dunnett({"t": t, "c": c}, "c"),
    lambda t, c: fx.simpson({"a": (t, c), "b": (GOOD, GOOD)}),
    lambda t, c: fx.heterogeneity({"a": (t, c), "b": (GOOD, GOOD)}),
    lambda t, c: fx.novelty({0: (t, c), 1: (GOOD, GOOD), 2: (GOOD, GOOD)}),
    lambda t, c: fx.credible_difference(fx.mean_posterior(t), fx.mean_posterior(c)),
]


@pytest.mark.parametrize("broken", BROKEN, ids=str)
@pytest.mark.parametrize("test", OF_MEANS)
def test_broken_moments_are_refused_in_either_arm(test, broken) -> None:
    with pytest.raises(InputError):
        test(broken, GOOD)
    with pytest.raises(InputError):
        test(GOOD, broken)


@pytest.mark.parametrize("test", [fx.welch_t, fx.mann_whitney, fx.mean_difference_sequence,
                                  lambda t, c: fx.permutation(t, c, rng=np.random.default_rng(1)),
                                  lambda t, c: fx.quantile_effect(t, c, 0.5)])  # fmt: skip
def test_words_in_place_of_numbers_are_refused_in_words(test) -> None:
    with pytest.raises(InputError, match="something else than numbers"):
        test(["1.5", "n/a", "2"], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1.5])
def test_counts_and_rates_that_are_no_counts_are_refused(value) -> None:
    with pytest.raises(InputError):
        fx.Count(value, 10)
    with pytest.raises(InputError):
        fx.Rate(value, 10.0)


def test_an_e_value_that_weighs_nothing_changes_nothing() -> None:
    assert fx.mean_log_e([math.inf, math.log(4.0)], [0.0, 0.5]) == pytest.approx(math.log(2.0))
    assert fx.mean_log_e([-math.inf, math.log(4.0)]) == pytest.approx(math.log(2.0))


def test_a_product_of_nothing_and_everything_is_refused() -> None:
    with pytest.raises(InputError, match="one by one"):
        fx.product_log_e([math.inf, -math.inf])
    assert fx.product_log_e([math.inf, 1.0]) == math.inf


@pytest.mark.parametrize("bad", [{"candidate": -1, "control": 2}, {"candidate": math.nan, "control": 0}])
def test_failures_below_zero_or_missing_never_become_evidence(bad) -> None:
    with pytest.raises(InputError, match="episodes"):
        fx.OddsProcess().fail(**bad, odds=1.0)


def test_stats_of_words_name_the_column() -> None:
    with pytest.raises(InputError, match="'spend'"):
        Stats.of({"spend": ["a", "b"]})


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_plans_of_means_do_not_depend_on_the_unit(unit) -> None:
    plain, scaled = fx.plan_means(sd=10.0, effect=5.0), fx.plan_means(sd=10.0 * unit, effect=5.0 * unit)
    assert scaled.n == plain.n == (64, 64)
    smallest = fx.plan_means(sd=10.0 * unit, n=100).effect / unit
    assert smallest == pytest.approx(fx.plan_means(sd=10.0, n=100).effect)
