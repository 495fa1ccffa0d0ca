"""Shares against Newcombe's tables, R's help pages, statsmodels and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats
from statsmodels.stats import proportion as sm

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.exact import fisher_exact
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.proportions import chi_square, newcombe, two_proportions_z
from flyball.experiments.fixed.shares import Count, clopper_pearson, count_of, wilson
from flyball.experiments.stats import Moments, moments

PAIRS = [
    ((56, 70), (48, 80)),
    ((9, 10), (3, 10)),
    ((10, 10), (0, 10)),
    ((5, 56), (0, 29)),
    ((0, 10), (0, 20)),
    ((6, 7), (2, 7)),
]
# Newcombe (1998), Statistics in Medicine 17, 873-890, table II: method 10 (hybrid score)
HYBRID = [(0.0524, 0.3339), (0.1705, 0.8090), (0.6075, 1.0), (-0.0381, 0.1926), (-0.1611, 0.2775), (0.0582, 0.8062)]
counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))).map(lambda c: Count(*c))


@pytest.mark.parametrize(
    ("count", "score", "exact"),
    [  # Newcombe (1998), Statistics in Medicine 17, 857-872, table I: methods 3 and 5
        ((81, 263), (0.2553, 0.3662), (0.2527, 0.3676)),
        ((15, 148), (0.0624, 0.1605), (0.0578, 0.1617)),
        ((0, 20), (0.0, 0.1611), (0.0, 0.1684)),
        ((1, 29), (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_intervals_of_one_share_are_those_of_newcombes_table(count, score, exact) -> None:
    assert wilson(Count(*count)).ci == pytest.approx(score, abs=5.1e-5)
    assert clopper_pearson(Count(*count)).ci == pytest.approx(exact, abs=5.1e-5)


@given(counts, st.sampled_from([0.8, 0.95, 0.999]))
def test_intervals_of_one_share_agree_with_statsmodels(count: Count, level: float) -> None:
    x, n = count.successes, count.n
    for ours, theirs in ((wilson, "wilson"), (clopper_pearson, "beta")):
        low, high = sm.proportion_confint(x, n, 1 - level, method=theirs)
        assert ours(count, level=level).ci == pytest.approx((low, high), abs=1e-10)


def test_one_sided_limits_leave_the_whole_tail_on_one_side() -> None:
    count = Count(7, 50)
    assert wilson(count, alternative="greater").lower == pytest.approx(wilson(count, level=0.9).lower)
    assert clopper_pearson(count, alternative="less").ci == (
        0.0,
        pytest.approx(clopper_pearson(count, level=0.9).upper),
    )


def test_one_failure_in_a_trillion_has_an_interval() -> None:
    low, high = clopper_pearson(Count(1, 10**12)).ci
    assert (low, high) == (pytest.approx(2.5318e-14, rel=1e-4), pytest.approx(5.5716e-12, rel=1e-4))  # Poisson limits
    assert 0.0 < wilson(Count(1, 10**12)).lower < 1e-12 < wilson(Count(1, 10**12)).upper


@pytest.mark.parametrize(("pair", "limits"), list(zip(PAIRS, HYBRID, strict=True)))
def test_the_hybrid_interval_is_that_of_newcombes_table(pair, limits) -> None:
    found = newcombe(Count(*pair[0]), Count(*pair[1]))
    assert found.ci == pytest.approx(limits, abs=5.1e-5)
    assert found.p is None


def fitted_z(t: Count, c: Count, null: float) -> float:
    """Return the score statistic with shares that maximise the likelihood under `null`, by plain search."""

    def unlikeliness(p: float) -> float:
        q = p + null
        return -float(
            special.xlogy(t.successes, q) + special.xlogy(t.n - t.successes, 1 - q)
            + special.xlogy(c.successes, p) + special.xlogy(c.n - c.successes, 1 - p)
        )  # fmt: skip

    ends = (max(0.0, -null) + 1e-12, min(1.0, 1.0 - null) - 1e-12)
    p = optimize.minimize_scalar(unlikeliness, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    q = p + null
    return (t.share - c.share - null) / math.sqrt(q * (1 - q) / t.n + p * (1 - p) / c.n)


@pytest.mark.parametrize("pair", PAIRS)
def test_each_end_of_the_score_interval_is_where_the_fitted_z_is_1_96(pair) -> None:
    t, c = Count(*pair[0]), Count(*pair[1])
    for end, z in zip(two_proportions_z(t, c).ci, (1.95996, -1.95996), strict=True):
        if abs(end) < 1.0:
            assert fitted_z(t, c, end) == pytest.approx(z, rel=1e-4)


MEE = [(0.0533, 0.3377), (0.1821, 0.8370), (0.6777, 1.0), (-0.0313, 0.1926), (-0.1611, 0.2775), (0.0544, 0.8478)]


@pytest.mark.parametrize(("pair", "limits"), list(zip(PAIRS, MEE, strict=True)))
def test_the_score_interval_is_mees_in_newcombes_table(pair, limits) -> None:  # table II, method 5
    assert two_proportions_z(Count(*pair[0]), Count(*pair[1])).ci == pytest.approx(limits, abs=5.1e-5)


@given(counts, counts, st.sampled_from([0.9, 0.95, 0.99]))
def test_p_and_score_interval_never_disagree(t: Count, c: Count, level: float) -> None:
    found = two_proportions_z(t, c, level=level)
    assert -1.0 <= found.lower <= found.effect <= found.upper <= 1.0
    if abs(found.p - (1 - level)) > 1e-9:
        assert (found.p < 1 - level) == found.significant


@pytest.mark.parametrize("alternative", list(Alternative))
def test_the_pooled_z_agrees_with_statsmodels(alternative: Alternative) -> None:
    word = {"greater": "larger", "less": "smaller"}.get(str(alternative), "two-sided")
    z, p = sm.proportions_ztest([310, 280], [5000, 5100], alternative=word)
    found = two_proportions_z(Count(310, 5000), Count(280, 5100), alternative=alternative)
    assert (found.statistic, found.p) == (pytest.approx(z), pytest.approx(p))


@pytest.mark.parametrize("null", [-0.05, 0.02, 0.3])
def test_a_shifted_null_fits_the_shares_under_it(null: float) -> None:  # statsmodels 0.15 fits others, less likely ones
    t, c = Count(120, 400), Count(90, 380)
    assert two_proportions_z(t, c, null=null).statistic == pytest.approx(fitted_z(t, c, null), rel=1e-6)


@pytest.mark.parametrize("x", [0, 1])
def test_no_conversion_and_only_conversions_show_no_difference_and_keep_an_interval(x: int) -> None:
    found = two_proportions_z(Count(100 * x, 100), Count(200 * x, 200))
    assert (found.effect, found.p, found.statistic) == (0.0, 1.0, 0.0)
    assert -0.1 < found.lower < 0.0 < found.upper < 0.1


def test_all_against_none_is_certain_and_bounded() -> None:
    found = two_proportions_z(Count(50, 50), Count(0, 50))
    assert (found.effect, found.upper, found.significant) == (1.0, 1.0, True)
    assert two_proportions_z(Count(0, 50), Count(50, 50)).ci == (-1.0, pytest.approx(-found.lower))


def test_a_single_unit_in_each_arm_has_an_answer() -> None:
    assert two_proportions_z(Count(1, 1), Count(0, 1)).p == pytest.approx(2 * stats.norm.sf(math.sqrt(2)))


def test_a_trillion_units_at_one_in_a_billion_keep_their_digits() -> None:
    n = 10**12
    found = two_proportions_z(Count(1200, n), Count(1000, n))
    assert found.statistic == pytest.approx(200 / math.sqrt(2200), rel=1e-6)
    assert found.ci == pytest.approx((2e-10 - 1.96 * math.sqrt(2200) / n, 2e-10 + 1.96 * math.sqrt(2200) / n), rel=2e-3)


def test_shares_come_from_counts_moments_and_zeros_and_ones_alike() -> None:
    bits = np.r_[np.ones(30), np.zeros(70)]
    assert count_of(bits) == count_of(moments(bits)) == count_of(bits.astype(bool)) == Count(30, 100)
    assert welch_t(Count(30, 100).moments, Count(20, 100).moments).effect == pytest.approx(0.1)
    big = Count(123_456_789_012, 10**12)
    assert count_of(big.moments) == big


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ([0, 1, 2], "a value of 2"),
        ([0.0, math.nan], "unit 1"),
        (Moments(10, 0.5, 9.0), "not those of zeros and ones"),
        (Moments(10, 1.5, 0.1), "not those of zeros and ones"),
        (Moments(0, 0.0, 0.0), "n = 0"),
        ([], "0 units"),
        ([[0, 1], [1, 0]], r"shape \(2, 2\)"),
    ],
)
def test_what_is_no_share_is_refused(sample, says: str) -> None:
    with pytest.raises(InputError, match=says):
        wilson(sample)


@pytest.mark.parametrize(("x", "n"), [(0, 0), (-1, 5), (6, 5), (1.5, 5)])
def test_an_impossible_count_is_refused(x, n) -> None:
    with pytest.raises(InputError):
        Count(x, n)


def test_fixed_width_counts_do_not_overflow() -> None:
    assert two_proportions_z(Count(np.int32(10**9), np.int32(2 * 10**9)), Count(10**9, 2 * 10**9)).p == 1.0


def test_smokers_of_rs_help_page_for_prop_test() -> None:
    arms = {str(i): Count(x, n) for i, (x, n) in enumerate([(83, 86), (90, 93), (129, 136), (70, 82)])}
    found = chi_square(arms)
    assert (found.statistic, found.df, found.p) == (
        pytest.approx(12.6, abs=0.005),
        3,
        pytest.approx(0.005585, abs=5e-7),
    )
    table = [[c.successes, c.n - c.successes] for c in arms.values()]
    assert found.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


def test_chi_square_of_two_arms_is_the_squared_z() -> None:
    t, c = Count(310, 5000), Count(280, 5100)
    found, z = chi_square({"t": t, "c": c}), two_proportions_z(t, c)
    assert (found.statistic, found.p) == (pytest.approx(z.statistic**2), pytest.approx(z.p))


def test_chi_square_without_any_conversion_tells_nothing_apart() -> None:
    found = chi_square({"a": Count(0, 9), "b": Count(0, 4), "c": Count(0, 1)})
    assert (found.statistic, found.p, found.notes[0][:7]) == (0.0, 1.0, "no unit")
    assert found.to_dict()["arms"]["b"]["n"] == 4
    with pytest.raises(InputError, match="there are 1 arms"):
        chi_square({"a": Count(0, 9)})


def test_the_lady_tasting_tea_is_as_in_r() -> None:  # whose root search stops at five digits
    found = fisher_exact(Count(3, 4), Count(1, 4))
    assert (found.effect, found.p) == (pytest.approx(6.408309, rel=1e-5), pytest.approx(0.4857, abs=5e-5))
    greater = fisher_exact(Count(3, 4), Count(1, 4), alternative="greater")
    assert (greater.p, greater.lower) == (pytest.approx(0.2429, abs=5e-5), pytest.approx(0.3135693, rel=2e-5))


def test_convictions_of_twins_are_as_in_r() -> None:
    found = fisher_exact(Count(2, 17), Count(10, 13))
    assert (found.p, found.effect) == (pytest.approx(0.0005367, abs=5e-8), pytest.approx(0.04693661, abs=5e-8))
    less = fisher_exact(Count(2, 17), Count(10, 13), alternative="less")
    assert (less.p, less.upper) == (pytest.approx(0.0004652, abs=5e-8), pytest.approx(0.2849601, rel=1e-5))


@given(counts, counts)
def test_fisher_agrees_with_scipy_in_every_tail(t: Count, c: Count) -> None:
    if t.successes + c.successes in (0, t.n + c.n):
        with pytest.raises(InputError, match="odds ratio does not exist"):
            fisher_exact(t, c)
        return
    table = [[t.successes, t.n - t.successes], [c.successes, c.n - c.successes]]
    for side in Alternative:
        assert fisher_exact(t, c, alternative=side).p == pytest.approx(
            stats.fisher_exact(table, str(side)).pvalue, rel=1e-6
        )


@pytest.mark.parametrize(
    "table", [((13, 40), (5, 44)), ((0, 12), (5, 14)), ((9, 9), (3, 8)), ((700, 2000), (640, 2100))]
)
def test_fishers_interval_agrees_with_scipys_conditional_odds_ratio(table) -> None:
    t, c = Count(*table[0]), Count(*table[1])
    theirs = stats.contingency.odds_ratio([[t.successes, t.n - t.successes], [c.successes, c.n - c.successes]])
    found, interval = fisher_exact(t, c), theirs.confidence_interval(0.95)
    assert found.effect == pytest.approx(theirs.statistic, rel=1e-5)
    assert found.ci == pytest.approx((interval.low, interval.high), rel=1e-5)


def test_fisher_with_few_successes_among_a_trillion_is_binomial() -> None:
    found = fisher_exact(Count(14, 10**12), Count(4, 10**12))
    assert found.p == pytest.approx(stats.binomtest(14, 18, 0.5).pvalue, rel=1e-6)
    with pytest.raises(InputError, match="two_proportions_z"):
        fisher_exact(Count(5 * 10**11, 10**12), Count(5 * 10**11, 10**12))


def test_a_shifted_odds_ratio_moves_the_p_value_to_the_end_of_the_interval() -> None:
    upper = fisher_exact(Count(13, 40), Count(5, 44)).upper
    assert fisher_exact(Count(13, 40), Count(5, 44), null=upper, alternative="less").p == pytest.approx(0.025, rel=1e-6)
