"""Welch's and Student's t against R, scipy, and sums that are hard to add."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.means import pooled_t, welch_t
from flyball.experiments.stats import Moments, Stats

SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]  # R's data set `sleep`, of Student (1908)
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_welch_gives_what_the_help_page_of_r_prints_for_sleep() -> None:
    found = welch_t(SLEEP_1, SLEEP_2)
    assert found.statistic == pytest.approx(-1.8608, abs=5e-5)
    assert found.df == pytest.approx(17.776, abs=5e-4)
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert found.ci == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)
    assert (found.treatment, found.control, found.n) == (pytest.approx(0.75), pytest.approx(2.33), (10, 10))


def test_student_gives_what_r_prints_for_sleep() -> None:
    found = pooled_t(SLEEP_1, SLEEP_2)
    assert (found.df, found.p) == (18, pytest.approx(0.07919, abs=5e-6))
    assert found.ci == pytest.approx((-3.363874, 0.203874), abs=5e-7)


@pytest.mark.parametrize("alternative", list(Alternative))
@pytest.mark.parametrize(("test", "equal"), [(welch_t, False), (pooled_t, True)])
def test_every_alternative_agrees_with_scipy(test, equal, alternative: Alternative) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.gamma(2, 3, 31), rng.gamma(2, 2, 80)
    theirs = stats.ttest_ind(x, y, equal_var=equal, alternative=str(alternative))
    interval = theirs.confidence_interval(0.9)
    ours = test(x, y, level=0.9, alternative=alternative)
    assert (ours.statistic, ours.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    assert ours.ci == pytest.approx((interval.low, interval.high))


def test_a_shifted_null_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(1, 2, 40), rng.normal(0, 1, 25)
    statistic, p, df = CompareMeans.from_data(x, y).ttest_ind(usevar="unequal", value=0.5)
    ours = welch_t(x, y, null=0.5)
    assert (ours.statistic, ours.p, ours.df) == (pytest.approx(statistic), pytest.approx(p), pytest.approx(df))
    assert "+0.5" in ours.notes[0]


def test_moments_and_arrays_give_one_answer() -> None:
    assert welch_t(Moments.of(SLEEP_1), Stats.of({"x": SLEEP_2})["x"]).p == pytest.approx(welch_t(SLEEP_1, SLEEP_2).p)


def test_an_offset_of_a_billion_changes_nothing() -> None:
    near, far = welch_t(SLEEP_1, SLEEP_2), welch_t(np.array(SLEEP_1) + 1e9, np.array(SLEEP_2) + 1e9)
    assert (far.effect, far.p) == (pytest.approx(near.effect, rel=1e-6), pytest.approx(near.p, rel=1e-5))


def test_a_trillion_users_keep_their_digits() -> None:
    n = 10**12
    found = welch_t(Moments(n, 10.00001, 4.0 * n), Moments(n, 10.0, 4.0 * n))
    assert found.statistic == pytest.approx(1e-5 / math.sqrt(8.0 / n), rel=1e-6)
    assert found.p == pytest.approx(2 * stats.norm.sf(found.statistic), rel=1e-4)


def test_a_tail_of_1e_minus_200_is_not_rounded_to_zero() -> None:
    found = welch_t(Moments(10**6, 0.043, 1e6), Moments(10**6, 0.0, 1e6))
    assert 0.0 < found.p < 1e-190


def test_one_constant_arm_is_no_obstacle() -> None:
    found = welch_t([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert (found.df, found.p) == (pytest.approx(2.0), pytest.approx(stats.ttest_1samp([1, 2, 3], 1.0).pvalue))


def test_variances_of_1e_minus_300_do_not_vanish() -> None:
    found = welch_t(np.array(SLEEP_1) * 1e-150, np.array(SLEEP_2) * 1e-150)
    assert found.p == pytest.approx(0.07939, abs=5e-6)


@pytest.mark.parametrize(
    ("treatment", "control", "says"),
    [
        ([], [1.0, 2.0], "treatment has 0 units"),
        ([1.0, 2.0], [1.0], "control has 1 unit;"),
        ([3.0, 3.0], [3.0, 3.0], "both arms are constant"),
        ([0.1] * 7, [0.3] * 9, "both arms are constant"),
        ([1.0, math.nan], [1.0, 2.0], 'missing="drop"'),
        ([1.0, math.inf], [1.0, 2.0], "inf for unit 1"),
        (Moments(5, math.nan, 1.0), [1.0, 2.0], "must be finite"),
        (Moments(5, 1.0, -1.0), [1.0, 2.0], "not negative"),
    ],
)
def test_what_cannot_be_tested_is_refused_in_words(treatment, control, says: str) -> None:
    with pytest.raises(InputError, match=says):
        welch_t(treatment, control)


def test_student_takes_one_unit_beside_two() -> None:
    assert pooled_t([5.0], [1.0, 2.0]).df == 1
    with pytest.raises(InputError, match="three in all"):
        pooled_t([5.0], [1.0])


def test_levels_alternatives_and_nulls_are_checked() -> None:
    with pytest.raises(InputError, match="level is 95"):
        welch_t(SLEEP_1, SLEEP_2, level=95)
    with pytest.raises(InputError, match="one-sided interval needs more than 0.5"):
        welch_t(SLEEP_1, SLEEP_2, level=0.4, alternative="less")
    with pytest.raises(UnknownName, match="two-sided"):
        welch_t(SLEEP_1, SLEEP_2, alternative="two sided")
    with pytest.raises(InputError, match="null is nan"):
        welch_t(SLEEP_1, SLEEP_2, null=math.nan)
