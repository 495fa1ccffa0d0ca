"""Normal-mixture sequences and the mSPRT: closed forms, every look of many A/A runs, and power against the fixed test."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative
from flyball.experiments.sequential.confidence import radius
from flyball.experiments.sequential.mixture import (
    mean_difference_sequence,
    mean_sequence,
    mixture_p,
    mixture_radius,
    mixture_tau2,
    spread_of,
)
from flyball.experiments.sequential.msprt import CONFLICT, Msprt, msprt
from flyball.experiments.stats import Moments

TWO, GREATER, LESS = Alternative.TWO_SIDED, Alternative.GREATER, Alternative.LESS


def z_boundary(looks, *, tuned, alpha, side):
    """Return the critical |Z| after each number of values, from the code's own radius at unit variance."""
    tau2 = mixture_tau2(1.0, tuned=tuned, alpha=alpha, alternative=side)
    return np.array([mixture_radius(1 / n, tau2=tau2, alpha=alpha, alternative=side) * math.sqrt(n) for n in looks])


def z_paths(draw, runs, n, burn):
    """Return studentised means after every value from `burn` on, shape (runs, n - burn + 1)."""
    x = draw((runs, n))
    k = np.arange(1, n + 1)
    mean = np.cumsum(x, axis=1) / k
    var = (np.cumsum(x * x, axis=1) / k - mean**2) * k / np.maximum(k - 1, 1)
    return (mean * np.sqrt(k) / np.sqrt(np.maximum(var, 1e-300)))[:, burn - 1 :]


def test_the_two_sided_p_is_the_reciprocal_of_the_mixed_likelihood_ratio():
    effect, spread, tau2 = 0.3, 0.02, 0.05

    def ratio(d):
        return stats.norm.pdf(effect, d, math.sqrt(spread)) / stats.norm.pdf(effect, 0, math.sqrt(spread))

    mixed = integrate.quad(lambda d: ratio(d) * stats.norm.pdf(d, 0, math.sqrt(tau2)), -3, 3)[0]
    assert mixture_p(effect, spread, tau2=tau2, alternative=TWO) == pytest.approx(1 / mixed, rel=1e-9)


def test_the_one_sided_radius_is_that_of_the_rollout_for_equal_mixtures():
    n, variance, alpha = 300, 2.5, 0.02
    spent = -2 * math.log(2 * alpha)
    rho2 = (spent + math.log(spent) + 1) / 500
    ours = mixture_radius(variance / n, tau2=rho2 * variance, alpha=alpha, alternative=GREATER)
    assert ours == pytest.approx(radius(n, variance, alpha=alpha))


@given(
    effect=st.floats(0.01, 2.0),
    spread=st.floats(1e-4, 0.5),
    tau2=st.floats(1e-3, 10.0),
    side=st.sampled_from([TWO, GREATER]),
)
def test_p_is_the_level_at_which_the_interval_touches_zero(effect, spread, tau2, side):
    p = mixture_p(effect, spread, tau2=tau2, alternative=side)
    if 1e-12 < p < 0.5:
        assert mixture_radius(spread, tau2=tau2, alpha=p, alternative=side) == pytest.approx(effect, rel=1e-6)


def test_the_tuning_is_near_the_best_one():
    for n in (100.0, 10_000.0):
        ours = mixture_radius(
            1 / n, tau2=mixture_tau2(1.0, tuned=n, alpha=0.05, alternative=TWO), alpha=0.05, alternative=TWO
        )
        best = min(mixture_radius(1 / n, tau2=t / n, alpha=0.05, alternative=TWO) for t in np.geomspace(0.5, 100, 400))
        assert ours <= 1.001 * best


@pytest.mark.parametrize("side", [TWO, GREATER])
@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("normal", lambda rng: lambda shape: rng.normal(size=shape)),
        ("skewed", lambda rng: lambda shape: 1 - rng.exponential(size=shape)),
        ("rare", lambda rng: lambda shape: (rng.random(shape) < 0.3) - 0.3),
    ],
)
def test_looking_after_every_value_seldom_alarms_without_an_effect(side, name, draw):
    runs, n, burn, alpha = 1000, 3000, 50, 0.05
    z = z_paths(draw(np.random.default_rng(1)), runs, n, burn)
    boundary = z_boundary(range(burn, n + 1), tuned=500.0, alpha=alpha, side=side)
    far = (z if side is GREATER else np.abs(z)) > boundary
    assert far.any(axis=1).sum() <= stats.binom.ppf(0.999, runs, alpha)  # 72 of 1000


def test_a_z_test_repeated_every_100_requests_alarms_in_half_of_all_equal_pairs_and_ours_does_not():
    runs, looks, every = 2000, 100, 100  # 10,000 requests an arm: the 54 % is for a longer run
    rng = np.random.default_rng(54)
    sums = rng.normal(0, math.sqrt(2 * every), (runs, looks)).cumsum(axis=1)  # differences of pairs, variance 2 each
    n = every * np.arange(1, looks + 1)
    z = np.abs(sums / np.sqrt(2 * n))
    naive = (z > stats.norm.isf(0.025)).any(axis=1).mean()
    tau2 = mixture_tau2(4.0, tuned=5000.0, alpha=0.05, alternative=TWO)
    boundary = [mixture_radius(2 / k, tau2=tau2, alpha=0.05, alternative=TWO) / math.sqrt(2 / k) for k in n]
    ours = (z > boundary).any(axis=1)
    assert 0.34 < naive < 0.41  # Armitage, McPherson, Rowe (1969): 100 looks, 37.4 %
    assert ours.sum() <= stats.binom.ppf(0.999, runs, 0.05)
    longer = rng.normal(size=(1000, 2000)).cumsum(axis=1) / np.sqrt(np.arange(1, 2001))
    assert 0.47 < (np.abs(longer) > stats.norm.isf(0.025)).any(axis=1).mean() < 0.60  # 2,000 looks: the 54 %


def test_an_exact_sequence_covers_from_the_first_pair_with_unequal_and_changing_arms():
    runs, looks, alpha, sigma = 1000, 200, 0.05, 2.0
    rng = np.random.default_rng(3)
    shares = np.where(np.arange(looks) < 100, 3, 20)  # the allocation of the treatment rises on the way
    n_t, n_c = np.cumsum(shares), np.cumsum(np.full(looks, 40))
    t = rng.normal(0, sigma * np.sqrt(shares), (runs, looks)).cumsum(axis=1) / n_t
    c = rng.normal(0, sigma * np.sqrt(40), (runs, looks)).cumsum(axis=1) / n_c
    reach = [
        mean_difference_sequence(Moments(int(a), 0.0, 1.0), Moments(int(b), 0.0, 1.0), sigma=sigma).upper
        for a, b in zip(n_t, n_c, strict=True)
    ]
    missed = (np.abs(t - c) > reach).any(axis=1).sum()
    assert missed <= stats.binom.ppf(0.999, runs, alpha)


def test_power_and_stopping_against_the_fixed_test():
    runs, fixed, alpha = 1000, 1000, 0.05
    d = (stats.norm.isf(0.025) + stats.norm.isf(0.2)) / math.sqrt(fixed)  # the effect a fixed test finds with 80 %
    x = np.random.default_rng(4).normal(d, 1, (runs, 4 * fixed)).cumsum(axis=1)
    n = np.arange(1, 4 * fixed + 1)
    crossed = x / np.sqrt(n) > z_boundary(n, tuned=fixed, alpha=alpha, side=TWO)
    stop = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1, 4 * fixed + 1)
    assert (stop <= 2 * fixed).mean() > 0.80  # twice the units at the worst ...
    assert np.median(stop) < 1.15 * fixed  # ... and about the fixed size in the middle


def test_swapping_the_arms_flips_every_sign():
    one, other = Moments(400, 1.2, 500.0), Moments(700, 1.0, 600.0)
    for call in (mean_difference_sequence, lambda a, b, **k: msprt(a, b, tau=0.2, **k)):
        there, back = call(one, other), call(other, one)
        assert (there.effect, there.lower, there.upper) == (-back.effect, -back.upper, -back.lower)
        assert there.p == back.p
        assert call(one, other, alternative="greater").p == call(other, one, alternative="less").p
        assert call(one, other, alternative="greater").lower == -call(other, one, alternative="less").upper


@given(scale=st.floats(1e-3, 1e6))
def test_a_change_of_unit_changes_nothing_but_the_unit(scale):
    one, other = Moments(400, 1.2, 500.0), Moments(700, 1.0, 600.0)
    big = [Moments(m.n, m.mean * scale, m.m2 * scale**2) for m in (one, other)]
    plain, scaled = mean_difference_sequence(one, other), mean_difference_sequence(*big)
    assert scaled.lower == pytest.approx(plain.lower * scale, rel=1e-6)
    assert scaled.p == pytest.approx(plain.p, rel=1e-6)


def test_the_interval_is_one_sided_where_asked_and_nearer():
    one, other = Moments(400, 1.2, 500.0), Moments(400, 1.0, 500.0)
    both, above, below = (mean_difference_sequence(one, other, alternative=a) for a in ("two-sided", "greater", "less"))
    assert above.upper == math.inf
    assert below.lower == -math.inf
    assert both.lower < above.lower
    assert above.p < both.p
    assert below.p == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([], []),
        ([1.0], []),
        ([1.0], [2.0]),
        ([0.0] * 100, [0.0] * 100),
        ([1.0] * 100, [1.0] * 100),
        ([0.0] * 10, [0.0, 1.0] * 500),
    ],
)
def test_where_nothing_can_be_said_the_interval_is_unbounded(one, other):
    for found in (mean_difference_sequence(one, other), msprt(one, other, tau=1.0)):
        assert (found.lower, found.upper, found.p) == (-math.inf, math.inf, 1.0)
        assert found.notes
    assert mean_sequence(one).upper == (math.inf if len(one) < 50 or len(set(one)) < 2 else pytest.approx(0.0, abs=9))


def test_known_deviations_speak_from_the_first_value():
    assert mean_sequence([3.0], sigma=1.0).lower > -math.inf
    assert "exact" in mean_sequence([3.0], sigma=1.0).notes[0]
    assert "asymptotic" in mean_sequence(list(range(60))).notes[0]


def test_huge_counts_offsets_and_negative_metrics_keep_their_digits():
    n = 10**12
    found = mean_difference_sequence(Moments(n, -1e9 + 1e-4, n * 1.0), Moments(n, -1e9, n * 1.0))
    assert found.lower < found.effect < found.upper
    assert found.significant
    assert found.effect == pytest.approx(1e-4, rel=1e-2)
    assert found.p < 1e-300


def test_wrong_arguments_are_refused_with_what_was_needed():
    x = list(range(100))
    with pytest.raises(InputError, match="nan"):
        mean_sequence([1.0, math.nan])
    with pytest.raises(InputError, match="sigma is 0"):
        mean_sequence(x, sigma=0.0)
    with pytest.raises(InputError, match="tuned is 0"):
        mean_sequence(x, tuned=0.0)
    with pytest.raises(InputError, match="level is 1"):
        mean_sequence(x, level=1.0)
    with pytest.raises(UnknownName, match="two-sided"):
        mean_difference_sequence(x, x, alternative="both")
    with pytest.raises(InputError, match="tau is 0"):
        msprt(x, x, tau=0.0)
    with pytest.raises(InputError, match="sigma is -1"):
        Msprt(tau=1.0, sigma=-1.0)


def test_the_msprt_is_the_published_likelihood_ratio():
    n, tau, variance, gap = 500, 0.3, 1.7, 0.25  # Johari et al. (2022), equal arms: V = 2 sigma²
    moments = [Moments(n, m, variance * (n - 1)) for m in (gap, 0.0)]
    v = 2 * variance
    ratio = math.sqrt(v / (v + n * tau**2)) * math.exp(n**2 * tau**2 * gap**2 / (2 * v * (v + n * tau**2)))
    assert msprt(*moments, tau=tau).p == pytest.approx(1 / ratio)


def test_the_msprt_remembers_its_looks():
    strong = (Moments(500, 0.4, 500.0), Moments(500, 0.0, 500.0))
    weak = (Moments(5000, 0.01, 5000.0), Moments(5000, 0.0, 5000.0))
    test = Msprt(tau=0.2).look(*strong)
    assert test.look(*weak).p == test.p
    assert test.look(*weak).significant
    assert CONFLICT in test.estimate(*weak).notes  # an effect of 0.4 that became 0.01
    again = Msprt.from_dict(json.loads(json.dumps(test.to_dict())))
    assert again == test
    assert again.look(*weak) == test.look(*weak)
    assert Msprt.from_dict(json.loads(json.dumps(Msprt(tau=1.0).to_dict()))) == Msprt(tau=1.0)


def test_continuous_looks_at_the_msprt_of_rates_seldom_alarm():
    runs, looks, tau = 1000, 400, 0.05
    rng = np.random.default_rng(9)
    n = 50 * np.arange(1, looks + 1)
    t, c = (rng.binomial(50, 0.3, (runs, looks)).cumsum(axis=1) / n for _ in range(2))
    var = (t * (1 - t) + c * (1 - c)) / (n - 1)
    p = np.sqrt(1 + tau**2 / var) * np.exp(-((t - c) ** 2) * tau**2 / (2 * var * (var + tau**2)))
    moments = [Moments(int(n[7]), float(a[0, 7]), float(a[0, 7] * (1 - a[0, 7]) * n[7])) for a in (t, c)]
    assert msprt(*moments, tau=tau).p == pytest.approx(min(1.0, p[0, 7]), rel=1e-9)  # the code's, in one array
    assert spread_of(*moments) == pytest.approx(var[0, 7])
    assert (p.min(axis=1) <= 0.05).sum() <= stats.binom.ppf(0.999, runs, 0.05)
