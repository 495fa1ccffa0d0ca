"""Differences of rates at every look, always-valid p values and the combination of evidence."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from flyball.errors import InputError
from flyball.experiments.sequential.always_valid import (
    AlwaysValid,
    e_to_p,
    mean_log_e,
    p_to_log_e,
    product_log_e,
    running_p,
)
from flyball.experiments.sequential.rates import rate_difference_sequence

logs = st.floats(-50.0, 50.0)


def test_the_evidence_is_the_mixture_over_the_best_common_rate():
    (a, m), (b, n) = (30, 200), (12, 210)
    mixed = sum(stats.betabinom.logpmf(k, s, 0.5, 2.0) - math.log(math.comb(s, k)) for k, s in ((a, m), (b, n)))
    pooled = (a + b) / (m + n)
    best = (a + b) * math.log(pooled) + (m + n - a - b) * math.log1p(-pooled)
    assert rate_difference_sequence((a, m), (b, n)).p == pytest.approx(min(1.0, math.exp(best - mixed)), rel=1e-6)


def test_a_bound_is_where_the_best_likelihood_falls_below_alpha_of_the_mixture():
    (a, m), (b, n) = (30, 200), (12, 210)
    found = rate_difference_sequence((a, m), (b, n))
    mixed = sum(stats.betabinom.logpmf(k, s, 0.5, 2.0) - math.log(math.comb(s, k)) for k, s in ((a, m), (b, n)))
    for delta in found.ci:

        def log(p, d=delta):
            return -(a * math.log(p + d) + (m - a) * math.log1p(-p - d) + b * math.log(p) + (n - b) * math.log1p(-p))

        low, high = max(0.0, -delta) + 1e-9, min(1.0, 1.0 - delta) - 1e-9
        best = -optimize.minimize_scalar(log, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).fun
        assert mixed - best == pytest.approx(math.log(20), abs=1e-4)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
def test_looking_every_20_requests_seldom_alarms_between_equal_arms(rate):
    rng, runs, looks, alpha = np.random.default_rng(1), 1000, 500, 0.05
    n = 10 * np.arange(1, looks + 1)
    a, b = (rng.binomial(10, rate, (runs, looks)).cumsum(axis=1) for _ in range(2))
    log_gamma = np.vectorize(math.lgamma)

    def beta(x, y):
        return log_gamma(x) + log_gamma(y) - log_gamma(x + y)

    table = {s: beta(0.5 + np.arange(s + 1), 2.0 + s - np.arange(s + 1)) - beta(0.5, 2.0) for s in n[::10]}
    worst = np.zeros(runs)
    for i in range(0, looks, 10):  # the code's formula for "no difference", in arrays
        k, s = a[:, i] + b[:, i], 2 * n[i]
        p = k / s
        best = np.where(k > 0, k * np.log(np.maximum(p, 1e-300)), 0) + np.where(
            k < s, (s - k) * np.log1p(-np.minimum(p, 1 - 1e-16)), 0
        )
        worst = np.maximum(worst, table[n[i]][a[:, i]] + table[n[i]][b[:, i]] - best)
    log_e = table[n[490]][a[:, 490]] + table[n[490]][b[:, 490]] - best
    top = int(log_e.argmax())
    last = rate_difference_sequence((int(a[top, 490]), int(n[490])), (int(b[top, 490]), int(n[490])))
    assert last.p == pytest.approx(min(1.0, math.exp(-log_e[top])), rel=1e-6)  # the array is the code's own answer
    assert (worst >= math.log(1 / alpha)).sum() <= stats.binom.ppf(0.999, runs, alpha)


def test_the_true_difference_is_kept_with_unequal_arms():
    rng, runs, missed = np.random.default_rng(2), 120, 0
    for _ in range(runs):
        t, c = rng.binomial(20, 0.08, 40).cumsum(), rng.binomial(180, 0.05, 40).cumsum()
        out = False
        for i in (1, 4, 9, 19, 39):
            found = rate_difference_sequence((int(t[i]), 20 * (i + 1)), (int(c[i]), 180 * (i + 1)), level=0.9)
            out |= not found.lower <= 0.03 <= found.upper
        missed += out
    assert missed <= stats.binom.ppf(0.999, runs, 0.1)


def test_a_doubled_rate_is_found():
    found = rate_difference_sequence((200, 2000), (100, 2000))
    assert found.significant
    assert found.p < 0.001
    assert rate_difference_sequence((200, 2000), (100, 2000), alternative="less").p == 1.0
    assert rate_difference_sequence((200, 2000), (100, 2000), alternative="greater").upper == math.inf


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 0), (0, 0)), ((0, 1), (1, 1)), ((0, 500), (0, 500)), ((500, 500), (500, 500)), ((0, 10**6), (0, 3)),
        ((10**6, 10**12), (10**6, 10**12)), ((10**12, 10**12), (0, 10**12)), ((1, 2), (0, 0)),
    ],
)  # fmt: skip
def test_edges_have_finite_bounds_that_hold_the_estimate(one, other):
    found = rate_difference_sequence(one, other)
    assert -1.0 <= found.lower <= found.effect <= found.upper <= 1.0
    assert 0.0 <= found.p <= 1.0
    if one == other:
        assert not found.significant
        assert found.p == pytest.approx(1.0)


@given(a=st.integers(0, 50), b=st.integers(0, 80))
@settings(max_examples=30, deadline=None)
def test_swapping_the_arms_flips_every_sign(a, b):
    there, back = rate_difference_sequence((a, 50), (b, 80)), rate_difference_sequence((b, 80), (a, 50))
    assert there.effect == pytest.approx(-back.effect)
    assert there.ci == pytest.approx((-back.upper, -back.lower), abs=1e-9)
    assert there.p == pytest.approx(back.p)


def test_impossible_counts_are_refused():
    with pytest.raises(InputError, match="the treatment has 3 events of 2"):
        rate_difference_sequence((3, 2), (0, 1))


def test_the_running_minimum_holds_whenever_one_stops():
    rng, runs, alpha = np.random.default_rng(3), 1000, 0.05
    steps = rng.normal(-0.5 * 0.04, 0.2, (runs, 2000))  # log of a likelihood ratio: expectation of e is 1
    found = [running_p(path[::50]) for path in steps.cumsum(axis=1)]
    assert all(np.all(np.diff(p) <= 0) for p in found[:20])
    assert sum(p[-1] <= alpha for p in found) <= stats.binom.ppf(0.999, runs, alpha)


@given(values=st.lists(logs, min_size=1, max_size=6))
def test_means_lie_between_and_products_add(values):
    assert min(values) - 1e-9 <= mean_log_e(values) <= max(values) + 1e-9
    assert product_log_e(values) == pytest.approx(sum(values), abs=1e-9)
    assert mean_log_e(values) == pytest.approx(mean_log_e(values[::-1]))
    watched = AlwaysValid()
    for value in values:
        watched = watched.look(value)
    assert watched.p == running_p(values)[-1] == e_to_p(max([0.0, *values]))
    assert AlwaysValid.from_dict(json.loads(json.dumps(watched.to_dict()))) == watched


def test_a_calibrated_p_value_is_an_e_value():
    for kappa in (0.2, 0.5, 0.8):
        mean = integrate.quad(lambda p, k=kappa: math.exp(p_to_log_e(p, kappa=k)), 0, 1)[0]
        assert mean == pytest.approx(1.0, abs=1e-6)
    assert math.exp(p_to_log_e(0.01)) == pytest.approx(5.0)
    assert p_to_log_e(0.0) == math.inf


def test_evidence_beyond_floats_and_wrong_values_are_handled():
    assert e_to_p(5000.0) == 0.0
    assert mean_log_e([-math.inf, 0.0]) == pytest.approx(math.log(0.5))
    assert mean_log_e([3000.0, 1.0], [0.5, 0.5]) == pytest.approx(3000 - math.log(2))
    assert mean_log_e([math.log(4.0), 0.0], [0.25, 0.0]) == pytest.approx(0.0)
    with pytest.raises(InputError, match="nan"):
        AlwaysValid().look(math.nan)
    with pytest.raises(InputError, match="no e-values"):
        mean_log_e([])
    with pytest.raises(InputError, match="sum of at most 1"):
        mean_log_e([1.0, 2.0], [0.9, 0.9])
    with pytest.raises(InputError, match="p value lies"):
        p_to_log_e(1.2)
    with pytest.raises(InputError, match="kappa"):
        p_to_log_e(0.2, kappa=1.0)
