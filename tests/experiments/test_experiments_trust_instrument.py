"""A/A runs, Twyman's law and inverted arms."""

import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, Scale
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.stats import moments
from flyball.experiments.trust.aa import aa_split, aa_test
from flyball.experiments.trust.check import Verdict
from flyball.experiments.trust.inversion import inverted
from flyball.experiments.trust.twyman import twyman


def welch(treatment, control, *, alternative="two-sided", scale=Scale.DIFFERENCE):
    result = stats.ttest_ind(treatment, control, equal_var=False, alternative=alternative)
    low, high = result.confidence_interval(0.95)
    a, b = moments(treatment), moments(control)
    effect = a.mean - b.mean
    if scale is Scale.RATIO:
        ratio, error = a.mean / b.mean, math.sqrt(a.variance / a.n / a.mean**2 + b.variance / b.n / b.mean**2)
        effect, low, high = ratio, ratio * math.exp(-1.96 * error), ratio * math.exp(1.96 * error)
    elif scale is Scale.RELATIVE:
        effect, low, high = effect / b.mean, low / b.mean, high / b.mean
    return Estimate(effect, low, high, float(result.pvalue), float(result.statistic), (a.n, b.n), "Welch's t",
                    alternative=Alternative(alternative), scale=scale, treatment=a.mean, control=b.mean)  # fmt: skip


def test_a_sound_test_passes_and_its_numbers_are_scipys():
    result = aa_test(
        lambda rng: welch_t(rng.normal(size=20), rng.normal(size=30)), rng=np.random.default_rng(1), runs=800
    )
    assert result.check.passed
    assert result.ks == pytest.approx(stats.kstest(result.p_values, "uniform").statistic)
    wilson = stats.binomtest(result.false_positives, 800).proportion_ci(method="wilson")
    assert (result.lower, result.upper) == (pytest.approx(wilson.low), pytest.approx(wilson.high))
    assert sum(result.to_dict()["bins"]) == 800


def test_peeking_until_it_is_significant_fails():
    def peek(rng):
        data = rng.normal(size=(2, 400))
        return min(welch_t(data[0, :n], data[1, :n]).p for n in range(50, 401, 50))

    result = aa_test(peek, rng=np.random.default_rng(2), runs=200)
    assert result.check.verdict is Verdict.FAILED
    assert result.rate > 0.12


def test_a_test_that_never_speaks_warns():
    shy = aa_test(lambda rng: min(1.0, 3.0 * rng.random()), rng=np.random.default_rng(3), runs=500)
    assert shy.check.verdict is Verdict.WARNING


def test_rows_of_the_same_unit_tested_as_if_they_were_units_are_found_out():
    rng = np.random.default_rng(4)
    units = np.repeat(np.arange(200), 10)
    rows = rng.normal(size=200)[units] + 0.3 * rng.normal(size=2000)
    assert aa_split(rows, welch_t, rng=rng, units=units, runs=200).check.verdict is Verdict.FAILED
    assert aa_split(rows, welch_t, rng=rng, runs=400).check.passed


def test_the_same_seed_gives_the_same_runs():
    one, other = (aa_test(lambda r: r.random(), rng=np.random.default_rng(5), runs=50) for _ in range(2))
    assert one == other


def test_what_cannot_be_an_aa_test_is_refused():
    rng = np.random.default_rng(6)
    with pytest.raises(InputError, match="runs"):
        aa_test(lambda r: 0.5, rng=rng, runs=5)
    with pytest.raises(InputError, match="p = nan"):
        aa_test(lambda r: math.nan, rng=rng)
    with pytest.raises(InputError):
        aa_split([1.0, 2.0, 3.0], lambda a, b: 0.5, rng=rng)
    with pytest.raises(InputError):
        aa_split([1.0] * 8, lambda a, b: 0.5, rng=rng, share=1.0)
    with pytest.raises(InputError):
        aa_split([1.0] * 8, lambda a, b: 0.5, rng=rng, units=[1, 2])


def found(effect, low, high, n=(50_000, 50_000), **more):
    return Estimate(effect, low, high, 0.01, 1.0, n, "test", **more)


def test_an_effect_beyond_the_plausible_one_warns_whatever_its_p():
    assert twyman(found(0.2, 0.1, 0.3), plausible=0.1).verdict is Verdict.WARNING
    assert twyman(found(-0.2, -0.3, -0.1), plausible=0.1).verdict is Verdict.WARNING
    assert twyman(found(0.05, 0.0, 0.1), plausible=0.1).passed
    assert twyman(found(1.6, 1.4, 1.8, scale=Scale.RATIO)).verdict is Verdict.WARNING
    assert twyman(found(0.04, 0.01, 0.07, control=0.05)).verdict is Verdict.WARNING
    assert twyman(found(0.04, 0.01, 0.07, control=0.50)).passed


def test_ten_standard_errors_from_a_handful_of_units_warn():
    few = found(1.0, 0.9, 1.1, n=(40, 40))
    assert twyman(few).numbers["z"] == pytest.approx(1.96 / 0.1, rel=1e-3)
    assert "standard errors from 40 units" in twyman(few).sentence
    assert twyman(found(1.0, 0.9, 1.1)).passed
    one_sided = found(1.0, 0.9, math.inf, n=(40, 40), alternative=Alternative.GREATER)
    assert twyman(one_sided).numbers["z"] == pytest.approx(1.645 / 0.1, rel=1e-3)


def test_an_effect_without_spread_warns_and_no_effect_passes():
    assert "without any spread" in twyman(found(1.0, 1.0, 1.0)).sentence
    assert twyman(found(0.0, 0.0, 0.0)).passed
    assert twyman(found(0.3, -math.inf, math.inf)).passed
    with pytest.raises(InputError):
        twyman(found(1, 0, 2), plausible=0.0)


@pytest.mark.parametrize("scale", [Scale.DIFFERENCE, Scale.RATIO])
@pytest.mark.parametrize("shift", [0.0, 1.0, -0.5])
def test_a_fair_test_turns_with_its_arms(scale, shift):
    rng = np.random.default_rng(7)
    check = inverted(welch, rng.normal(5 + shift, 1, 60), rng.normal(5, 1, 80), scale=scale)
    assert check.passed, check


def test_relative_effects_and_one_sided_tests_turn_too():
    rng = np.random.default_rng(8)
    new, old = rng.normal(6, 1, 60), rng.normal(5, 1, 80)
    check = inverted(welch, new, old, scale=Scale.RELATIVE)
    assert check.passed
    assert check.numbers["swapped"] == pytest.approx(-check.numbers["effect"] / (1 + check.numbers["effect"]))
    assert inverted(welch, new, old, alternative="greater").passed


def test_a_test_that_filters_one_arm_is_found_out():
    def biased(treatment, control):
        return welch(treatment[treatment > 4.0], control)

    rng = np.random.default_rng(9)
    check = inverted(biased, rng.normal(5, 1, 400), rng.normal(5, 1, 400))
    assert check.verdict is Verdict.FAILED
    slightly = inverted(lambda a, b: welch(a + 1e-3, b), rng.normal(7, 1, 400), rng.normal(5, 1, 400))
    assert slightly.verdict is Verdict.WARNING


def test_a_test_that_returns_no_estimate_cannot_be_turned():
    with pytest.raises(InputError, match="float"):
        inverted(lambda a, b: 0.5, [1.0], [2.0])
