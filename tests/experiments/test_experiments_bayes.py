"""Posteriors against closed forms, scipy's quadrature, and draws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from flyball.errors import InputError
from flyball.experiments.bayes import (
    BetaPosterior,
    MeanPrior,
    StudentPosterior,
    beta_posterior,
    credible_difference,
    expected_loss,
    mean_posterior,
    probability_best,
)
from flyball.experiments.stats import Moments, moments


def miller(one: BetaPosterior, other: BetaPosterior) -> float:
    """P(other > one), Evan Miller's closed form for a whole-numbered a (Formulas for Bayesian A/B testing, 2015)."""
    i = np.arange(int(other.a))
    log = special.betaln(one.a + i, one.b + other.b) - np.log(other.b + i)
    return float(np.exp(log - special.betaln(1 + i, other.b) - special.betaln(one.a, one.b)).sum())


@pytest.mark.parametrize(
    ("one", "other"),
    [((7, 10), (4, 10)), ((100, 1000), (120, 1000)), ((1, 100_000), (5, 90_000)), ((0, 10), (0, 10)), ((0, 0), (5, 5)),
     ((10, 10), (0, 10)), ((3, 10), (500, 1_000))],
)  # fmt: skip
def test_the_better_rate_of_two_is_evan_millers_formula(one, other):
    a, b = beta_posterior(*one), beta_posterior(*other)
    worse, better = probability_best([a, b])
    assert better == pytest.approx(miller(a, b), abs=1e-9)
    assert worse + better == pytest.approx(1.0)


def test_three_and_four_arms_are_scipys_quadrature():
    arms = [beta_posterior(k, 40, prior=(0.5, 0.5)) for k in (0, 2, 3, 5)]
    for count in (3, 4):
        ours = probability_best(arms[:count])
        for i in range(1, count):

            def density(x, i=i, count=count):
                rest = [stats.beta.cdf(x, a.a, a.b) for j, a in enumerate(arms[:count]) if j != i]
                return stats.beta.pdf(x, arms[i].a, arms[i].b) * math.prod(rest)

            reference = integrate.quad(density, 0, 1, epsabs=1e-12, points=[0.01, 0.05, 0.1, 0.2])[0]
            assert ours[i] == pytest.approx(reference, abs=1e-8)


def test_normal_beliefs_with_many_units_have_the_closed_form():
    a, b = Moments(100_000, 1.0, 4.0 * 99_999), Moments(100_000, 1.02, 4.0 * 99_999)
    gap, error = 0.02, math.sqrt(8.0 / 100_000)
    one, other = mean_posterior(a), mean_posterior(b)
    assert probability_best([one, other])[1] == pytest.approx(stats.norm.cdf(gap / error), abs=1e-6)
    z = gap / error
    loss = error * (stats.norm.pdf(z) - z * stats.norm.sf(z))  # E[(X)+] of a normal X with mean -gap
    assert expected_loss([one, other])[1] == pytest.approx(loss, rel=1e-3)
    assert expected_loss([one, other])[0] == pytest.approx(loss + gap, rel=1e-4)


def test_the_expected_loss_of_rates_is_a_double_integral():
    a, b = beta_posterior(7, 20), beta_posterior(9, 20)
    reference = integrate.dblquad(
        lambda y, x: (y - x) * stats.beta.pdf(x, a.a, a.b) * stats.beta.pdf(y, b.a, b.b), 0, 1, lambda x: x, 1
    )[0]
    assert expected_loss([a, b])[0] == pytest.approx(reference, rel=1e-6)
    assert expected_loss([a, b])[0] - expected_loss([a, b])[1] == pytest.approx(b.mean - a.mean, rel=1e-9)


def test_a_tiny_loss_keeps_its_digits():
    sure = expected_loss([beta_posterior(300, 1000), beta_posterior(450, 1000)])
    assert 0.0 < sure[1] < 1e-9


def test_narrow_and_wide_beliefs_are_resolved_alike():
    wide, narrow = beta_posterior(3, 10), beta_posterior(333_333, 1_000_000)
    assert probability_best([narrow, wide])[1] == pytest.approx(wide.sf(np.array([1 / 3]))[0], abs=1e-5)
    assert sum(probability_best([wide, narrow, beta_posterior(1, 2)])) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [10**9, 10**12])
def test_huge_counts_are_the_normal_law(n):
    a, b = beta_posterior(n // 10, n), beta_posterior(n // 10 + round(0.5 * n**0.5), n)
    z = (b.mean - a.mean) / math.hypot(a.sd, b.sd)
    assert probability_best([a, b])[1] == pytest.approx(stats.norm.cdf(z), abs=1e-5)
    low, high = a.interval()
    assert high - low == pytest.approx(2 * 1.959964 * a.sd, rel=1e-4)


def test_beta_intervals_are_scipys():
    arm = beta_posterior(3, 50, prior=(0.5, 0.5))
    reference = stats.beta(3.5, 47.5)
    assert arm.interval(0.9) == pytest.approx(reference.interval(0.9))
    assert (arm.mean, arm.sd) == (pytest.approx(reference.mean()), pytest.approx(reference.std()))


def test_the_flat_prior_gives_the_interval_of_the_t_test():
    values = np.random.default_rng(1).normal(3, 2, 12)
    ours = mean_posterior(values)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert ours.interval() == pytest.approx((reference.low, reference.high))
    assert ours.sd == pytest.approx(stats.t(11, values.mean(), values.std(ddof=1) / math.sqrt(12)).std())


def test_a_prior_counts_as_units_that_were_seen_before():
    earlier, later = np.array([1.0, 4.0, 2.5, 3.0]), np.array([6.0, 5.0, 7.5])
    seen = moments(earlier)
    prior = MeanPrior(seen.mean, math.sqrt(seen.m2 / 3), units=4, df=3)
    ours, pooled = mean_posterior(later, prior=prior), mean_posterior(np.r_[earlier, later])
    assert (ours.df, ours.location, ours.scale) == pytest.approx((pooled.df, pooled.location, pooled.scale))


@pytest.mark.parametrize("sample", [[], [1.0], [2.0, 2.0, 2.0]])
def test_too_little_data_needs_a_prior(sample):
    with pytest.raises(InputError, match="or a prior"):
        mean_posterior(sample)
    assert mean_posterior(sample, prior=MeanPrior(0.0, 1.0)).scale > 0.0


@pytest.mark.parametrize(("k", "n", "prior"), [(3, 2, (1, 1)), (-1, 2, (1, 1)), (1, 2, (0, 1)), (math.nan, 2, (1, 1))])
def test_counts_that_cannot_be_are_refused(k, n, prior):
    with pytest.raises(InputError):
        beta_posterior(k, n, prior=prior)


def test_what_is_no_belief_is_refused():
    for bad in ([], [StudentPosterior(3, 0.0, 0.0)], [StudentPosterior(3, math.nan, 1.0)]):
        with pytest.raises(InputError):
            probability_best(bad)
    with pytest.raises(InputError):
        MeanPrior(0.0, 0.0)
    with pytest.raises(InputError):
        mean_posterior(Moments(5, math.nan, 1.0))
    assert expected_loss([mean_posterior([1.0, 2.0]), mean_posterior([1.0, 3.0, 2.0])]) == (math.inf, math.inf)
    assert probability_best([beta_posterior(1, 2)]) == (1.0,)
    assert expected_loss([beta_posterior(1, 2)]) == (0.0,)


def test_the_credible_difference_is_that_of_draws():
    new, old = beta_posterior(60, 400), beta_posterior(40, 380)
    ours = credible_difference(new, old, level=0.9)
    rng, draws = np.random.default_rng(2), 400_000
    gap = rng.beta(new.a, new.b, draws) - rng.beta(old.a, old.b, draws)
    assert ours.lower == pytest.approx(np.quantile(gap, 0.05), abs=4 * 0.0002)
    assert ours.upper == pytest.approx(np.quantile(gap, 0.95), abs=4 * 0.0002)
    assert ours.statistic == pytest.approx((gap > 0).mean(), abs=4 * 0.5 / math.sqrt(draws))
    assert ours.p is None
    assert "probability" in str(ours)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=4), st.randoms())
def test_the_order_of_arms_is_no_matter_and_probabilities_sum_to_one(counts, random):
    arms = [beta_posterior(k, k + more) for k, more in counts]
    order = list(range(len(arms)))
    random.shuffle(order)
    straight, turned = probability_best(arms), probability_best([arms[i] for i in order])
    assert math.fsum(straight) == pytest.approx(1.0)
    assert turned == pytest.approx([straight[i] for i in order], abs=1e-9)
    assert min(expected_loss(arms)) >= 0.0


@settings(max_examples=25)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_swapping_the_arms_flips_the_difference(a, b, c, d):
    new, old = beta_posterior(a, a + b), beta_posterior(c, c + d)
    there, back = credible_difference(new, old), credible_difference(old, new)
    assert back.effect == pytest.approx(-there.effect)
    assert (back.lower, back.upper) == pytest.approx((-there.upper, -there.lower), abs=1e-7)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_and_offset_change_nothing_but_the_unit(scale):
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 50), rng.normal(0.2, 1, 60)
    near = expected_loss([mean_posterior(a), mean_posterior(b)])
    moved = expected_loss([mean_posterior(a * scale - 5 * scale), mean_posterior(b * scale - 5 * scale)])
    assert moved == pytest.approx([x * scale for x in near], rel=1e-6)


def test_credible_intervals_cover_when_the_prior_is_true():
    rng, runs = np.random.default_rng(4), 2000
    rates = rng.beta(2, 20, runs)
    hits = rng.binomial(80, rates)
    ends = [beta_posterior(int(k), 80, prior=(2, 20)).interval(0.9) for k in hits]
    covered = np.mean([low <= rate <= high for (low, high), rate in zip(ends, rates, strict=True)])
    assert abs(covered - 0.9) < 4 * math.sqrt(0.9 * 0.1 / runs)
