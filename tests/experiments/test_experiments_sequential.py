"""The sequential tests against closed forms, scipy and simulation."""

import math
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.sequential.confidence import difference, mean_bounds, radius, rate_lower, rate_upper
from flyball.experiments.sequential.odds import THETAS, OddsProcess, odds
from flyball.experiments.stats import Moments
from flyball.experiments.trust.srm import ratio_e_value


def run_odds(rng, *, share, base, ratio, requests, bin_size, known=True):
    """Return (peak log e, candidate requests at the breach of 1/0.01 or None) of one run."""
    process, n_c, n_b = OddsProcess(), 0, 0
    bins = requests // bin_size
    c = rng.binomial(bin_size, share, bins)
    f_c, f_b = rng.binomial(c, base * ratio), rng.binomial(bin_size - c, base)
    cum_c, cum = np.cumsum(c), np.cumsum(np.full(bins, bin_size))
    for i in np.nonzero(f_c + f_b)[0]:
        n_c, n_b = int(cum_c[i]), int(cum[i] - cum_c[i])
        o = odds((n_c, n_b), known=share / (1 - share) if known else 0.0)
        process = process.fail(candidate=int(f_c[i]), control=int(f_b[i]), odds=o)
        if process.breached(0.01):
            return process.peak, n_c
    return process.peak, None


def test_each_factor_equals_the_binomial_likelihood_ratio():
    o, m = 0.25, 0.2
    process = OddsProcess(margin=m).fail(candidate=3, control=2, odds=o)
    null = o * (1 + m)
    q0 = null / (null + 1)
    for theta, log in zip(THETAS, process.logs, strict=True):
        q = theta * null / (theta * null + 1)
        assert log == pytest.approx(stats.binom.logpmf(3, 5, q) - stats.binom.logpmf(3, 5, q0))
    assert process.e_value == pytest.approx(np.mean(np.exp(process.logs)))


@pytest.mark.parametrize("prior", [0, 1, 7, 60])
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_counts_that_include_the_failure_make_the_expectation_exactly_one(prior, share):
    total = 0.0
    for k in range(prior + 1):
        weight = stats.binom.pmf(k, prior, share)
        ours = OddsProcess().fail(candidate=1, control=0, odds=odds((k + 1, prior - k))).e_value
        theirs = OddsProcess().fail(candidate=0, control=1, odds=odds((k, prior - k + 1))).e_value
        total += weight * (share * ours + (1 - share) * theirs)
    assert total == pytest.approx(1.0, abs=1e-9)


def test_larger_odds_never_give_more_evidence():
    for who in ({"candidate": 1, "control": 0}, {"candidate": 0, "control": 1}):
        values = [OddsProcess().fail(**who, odds=o).e_value for o in (0.01, 0.1, 1.0, 10.0)]
        assert values == sorted(values, reverse=True)


def test_a_process_survives_its_dictionary():
    process = OddsProcess(margin=0.1).fail(candidate=2, control=9, odds=0.1)
    assert OddsProcess.from_dict(process.to_dict()) == process


def test_no_information_when_one_arm_was_never_seen():
    assert OddsProcess().fail(candidate=3, control=0, odds=odds((3, 0))).e_value == pytest.approx(1.0)


@pytest.mark.parametrize("bin_size", [1, 500])
@pytest.mark.parametrize("known", [True, False])
def test_continuous_looks_at_equal_arms_seldom_alarm(bin_size, known):
    rng = np.random.default_rng(7 + bin_size)
    runs = 200
    alarms = sum(
        run_odds(rng, share=0.05, base=0.02, ratio=1.0, requests=20_000, bin_size=bin_size, known=known)[1] is not None
        for _ in range(runs)
    )
    assert alarms <= stats.binom.ppf(0.999, runs, 0.01)  # 8 of 200: what 1 % may show by chance


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_ten_times_the_errors_are_found_within_600_candidate_requests(share):
    rng = np.random.default_rng(11)
    found = [
        run_odds(rng, share=share, base=0.001, ratio=10.0, requests=int(4000 / share), bin_size=10)[1]
        for _ in range(60)
    ]
    assert np.median([n if n is not None else math.inf for n in found]) <= 600


def test_moments_agree_with_numpy_and_merge_and_remove():
    rng = np.random.default_rng(3)
    x = rng.lognormal(size=101)
    both = Moments.of(x[:40]).merge(Moments.of(x[40:]))
    assert (both.mean, both.variance) == (pytest.approx(x.mean()), pytest.approx(x.var(ddof=1)))
    less = both.remove(x[7])
    assert (less.n, less.mean) == (100, pytest.approx(np.delete(x, 7).mean()))
    assert less.variance == pytest.approx(np.delete(x, 7).var(ddof=1))


def test_the_radius_is_the_published_formula():
    n, alpha = 300, 0.02
    rho2 = (-2 * math.log(2 * alpha) + math.log(-2 * math.log(2 * alpha)) + 1) / 500
    want = math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(1 + math.sqrt(n * rho2 + 1) / (2 * alpha)))
    assert radius(n, 1.0, alpha=alpha) == pytest.approx(want)
    assert radius(n, 1.0, alpha=alpha) > stats.norm.ppf(1 - alpha) / math.sqrt(n)  # the price of looking always


@lru_cache(maxsize=4)
def radii(n, alpha):
    """Return the radius of a variance of 1 after each of n values."""
    return np.array([radius(k, 1.0, alpha=alpha) for k in range(1, n + 1)])


def ever_above(x, alpha, burn=50):
    """Tell whether the lower bound ever exceeds the true mean 0, looking at every value."""
    n = np.arange(1, len(x) + 1)
    mean = np.cumsum(x) / n
    var = np.maximum(np.cumsum(x * x) / n - mean**2, 0) * n / np.maximum(n - 1, 1)
    return bool(np.any((mean - np.sqrt(var) * radii(len(x), alpha) > 0)[burn - 1 :]))


@pytest.mark.parametrize("name", ["normal", "skewed", "heavy"])
def test_lower_bounds_of_means_hold_at_all_looks(name):
    rng = np.random.default_rng(5)
    draw = {
        "normal": lambda: rng.normal(size=2000),
        "skewed": lambda: rng.exponential(size=2000) - 1,
        "heavy": lambda: rng.standard_t(3, size=2000),
    }[name]
    runs, alpha = 300, 0.01
    failures = sum(ever_above(draw(), alpha) for _ in range(runs))
    assert failures <= stats.binom.ppf(0.999, runs, alpha)


def test_a_difference_of_half_a_deviation_is_found():
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(50):
        strata = [(Moments.of(rng.normal(0.5, 1, 150)), Moments.of(rng.normal(0, 1, 900))) for _ in range(2)]
        found += difference(strata, lower=0.01, upper=0.05).lower > 0
    assert found >= 45


def test_strata_keep_a_bad_day_from_blaming_the_candidate():
    rng = np.random.default_rng(8)
    quiet = (Moments.of(rng.normal(0, 1, 10)), Moments.of(rng.normal(0, 1, 990)))
    stormy = (Moments.of(rng.normal(5, 1, 500)), Moments.of(rng.normal(5, 1, 500)))
    bounds = difference([quiet, stormy], lower=0.01, upper=0.05)
    assert bounds.lower < 0 < bounds.upper < 0.5


def test_too_few_values_have_no_bounds():
    assert mean_bounds(Moments.of([1.0] * 49), lower=0.01, upper=0.05).lower == -math.inf


def test_rate_bounds_lie_outside_the_fixed_sample_ones_and_cover():
    for k, n in [(0, 500), (3, 500), (50, 500), (500, 500)]:
        exact = stats.binomtest(k, n).proportion_ci(0.9, method="exact")
        assert rate_upper(k, n, alpha=0.05) >= min(exact.high, 1 - 1e-12)
        assert rate_lower(k, n, alpha=0.05) <= exact.low
    rng = np.random.default_rng(9)
    misses = 0
    for _ in range(200):
        k = np.cumsum(rng.random(2000) < 0.01)
        looks = range(100, 2000, 100)
        misses += any(rate_upper(int(k[i]), i + 1, alpha=0.05) < 0.01 for i in looks)
    assert misses <= stats.binom.ppf(0.999, 200, 0.05)


def test_sample_ratio_agrees_with_the_closed_form_and_seldom_alarms():
    log = stats.betabinom.logpmf(60, 100, 50, 50) - stats.binom.logpmf(60, 100, 0.5)
    assert ratio_e_value([60, 40], [0.5, 0.5]) == pytest.approx(math.exp(log))
    rng = np.random.default_rng(10)
    alarms = 0
    for _ in range(300):
        c = np.cumsum(rng.binomial(100, 0.1, 100))
        alarms += any(ratio_e_value([int(k), 100 * (i + 1) - int(k)], [0.1, 0.9]) >= 100 for i, k in enumerate(c))
    assert alarms <= stats.binom.ppf(0.999, 300, 0.01)


def test_shares_must_be_a_distribution():
    with pytest.raises(InputError, match="summing to 1"):
        ratio_e_value([1, 2], [0.5, 0.6])
