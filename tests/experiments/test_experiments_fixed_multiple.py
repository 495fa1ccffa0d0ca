"""Corrections and many arms against statsmodels, scipy, Dunnett's table and simulation."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from flyball.errors import InputError, UnknownName
from flyball.experiments.fixed.arms import compare_arms, dunnett
from flyball.experiments.fixed.dunnett import Contrasts
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.multiple import adjusted, benjamini_hochberg, bonferroni, holm
from flyball.experiments.fixed.proportions import newcombe, two_proportions_z
from flyball.experiments.fixed.ratios import relative_effect
from flyball.experiments.fixed.shares import Count
from flyball.experiments.stats import Moments

BLOODS = {"control": [7.40, 8.50, 7.20, 8.24, 9.84, 8.32], "a": [9.76, 8.80, 7.68, 9.36],
          "b": [12.80, 9.68, 12.16, 9.20, 10.55]}  # fmt: skip  # Dunnett (1955)


@pytest.mark.parametrize("ps", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 1.0, 0.0, 0.02], [0.049]])
def test_corrections_agree_with_statsmodels(ps: list[float]) -> None:
    for ours, theirs in ((holm, "holm"), (bonferroni, "bonferroni"), (benjamini_hochberg, "fdr_bh")):
        assert ours(ps) == pytest.approx(multipletests(ps, method=theirs)[1].tolist(), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_step_up_agrees_with_scipy_and_step_down_with_its_definition(ps: list[float]) -> None:
    assert benjamini_hochberg(ps) == pytest.approx(stats.false_discovery_control(ps).tolist(), abs=1e-12)
    rising = sorted(ps)
    by_definition = [
        max(min(1.0, (len(ps) - j) * rising[j]) for j in range(rising.index(p) + rising.count(p))) for p in ps
    ]
    assert holm(ps) == pytest.approx(by_definition, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_corrections_do_not_care_for_order_and_never_lower_a_p(ps: list[float], random) -> None:
    order = list(range(len(ps)))
    random.shuffle(order)
    for correct in (holm, bonferroni, benjamini_hochberg):
        found = correct(ps)
        assert all(p <= q <= 1 for p, q in zip(ps, found, strict=True))
        assert correct([ps[i] for i in order]) == tuple(found[i] for i in order)
    assert all(a <= b for a, b in zip(holm(ps), bonferroni(ps), strict=True))


def test_no_p_values_are_no_p_values() -> None:
    assert holm([]) == bonferroni([]) == benjamini_hochberg([]) == ()
    with pytest.raises(InputError, match="hold nan"):
        holm([0.1, math.nan])
    with pytest.raises(UnknownName, match="holm"):
        adjusted([0.1], "hold")


@pytest.mark.parametrize(
    ("df", "row"),
    [  # Dunnett (1964), Biometrics 20, two-sided 5 %, 1 to 5 treatments, equal sizes
        (10, [2.23, 2.57, 2.76, 2.89, 2.99]),
        (20, [2.09, 2.38, 2.54, 2.65, 2.73]),
        (10**9, [1.96, 2.21, 2.35, 2.44, 2.51]),
    ],
)
def test_critical_values_are_those_of_dunnetts_table(df: float, row: list[float]) -> None:
    for k, value in enumerate(row, start=1):
        assert Contrasts.of(9, [9] * k, df, True).critical(0.05) == pytest.approx(value, abs=0.0065)


def test_one_sided_critical_values_are_those_of_dunnetts_table() -> None:
    for k, value in enumerate([1.64, 1.92, 2.06, 2.16, 2.23], start=1):
        assert Contrasts.of(9, [9] * k, 1e9, False).critical(0.05) == pytest.approx(value, abs=0.0065)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_dunnett_agrees_with_scipy(alternative: str) -> None:
    theirs = stats.dunnett(
        BLOODS["a"], BLOODS["b"], control=BLOODS["control"], alternative=alternative, rng=np.random.default_rng(1)
    )
    ours = dunnett(BLOODS, "control", alternative=alternative)
    interval = theirs.confidence_interval(0.95)
    assert [c.p_adjusted for c in ours.comparisons] == pytest.approx(theirs.pvalue.tolist(), abs=5e-4)
    assert [c.estimate.statistic for c in ours.comparisons] == pytest.approx(theirs.statistic.tolist())
    assert [c.estimate.lower for c in ours.comparisons] == pytest.approx(np.asarray(interval.low).tolist(), abs=0.01)
    assert [c.estimate.upper for c in ours.comparisons] == pytest.approx(np.asarray(interval.high).tolist(), abs=0.01)


def test_dunnett_of_one_treatment_is_students_t() -> None:
    found = dunnett({"c": [1.0, 2.0, 4.0], "t": [3.0, 5.0, 6.0, 6.5]}, "c")["t"]
    assert found.p_adjusted == pytest.approx(stats.ttest_ind([1, 2, 4], [3, 5, 6, 6.5]).pvalue, rel=1e-6)


def test_dunnett_keeps_the_digits_of_small_p_values_and_huge_arms() -> None:
    n = 10**12
    arms = {"c": Moments(n, 0.0, float(n)), "t": Moments(n, 2e-5, float(n)), "u": Moments(n, 0.0, float(n))}
    found = dunnett(arms, "c")
    z = 2e-5 / math.sqrt(2 / n)
    assert 2 * stats.norm.sf(z) < found["t"].p_adjusted < 4.00001 * stats.norm.sf(z)
    assert found["u"].p_adjusted > 0.99 and found.significant == ("t",)


def test_dunnett_holds_its_level_over_all_arms() -> None:
    rng = np.random.default_rng(2)
    runs, k, n = 40_000, 3, 8
    means = rng.normal(0, 1 / math.sqrt(n), (runs, k + 1))
    s = np.sqrt(rng.chisquare((k + 1) * (n - 1), runs) / ((k + 1) * (n - 1)))
    peak = np.abs((means[:, 1:] - means[:, :1]) / (s[:, None] * math.sqrt(2 / n))).max(axis=1)
    alarms = int((peak > Contrasts.of(n, [n] * k, (k + 1) * (n - 1), True).critical(0.05)).sum())
    assert abs(alarms - 0.05 * runs) < 3.3 * math.sqrt(runs * 0.05 * 0.95)


def test_adjusted_p_decides_and_intervals_hold_together() -> None:
    arms = {name: Moments(1000, mean, 1000.0) for name, mean in {"c": 0.0, "s": 0.2, "t": 0.098, "u": 0.02}.items()}
    found = compare_arms(arms, "c")
    alone = [welch_t(arms[name], arms["c"]).p for name in "stu"]
    assert [c.p_adjusted for c in found.comparisons] == pytest.approx(holm(alone))
    assert [c.estimate.p for c in found.comparisons] == pytest.approx(alone)
    assert found.significant == ("s",)  # t would have been alone: p = 0.03
    assert found["t"].estimate.ci == pytest.approx(welch_t(arms["t"], arms["c"], level=1 - 0.05 / 3).ci)
    assert compare_arms(arms, "c", correction="none").significant == ("s", "t")
    assert compare_arms(arms, "c", correction="none")["t"].estimate.level == 0.95


def test_false_discovery_intervals_widen_with_the_share_found() -> None:
    arms = {name: Moments(1000, mean, 1000.0) for name, mean in {"c": 0.0, "s": 0.2, "t": 0.15, "u": 0.02}.items()}
    found = compare_arms(arms, "c", correction="benjamini-hochberg")
    assert found.significant == ("s", "t")
    assert found["s"].estimate.level == pytest.approx(1 - 0.05 * 2 / 3)


@pytest.mark.parametrize("correction", ["holm", "bonferroni", "dunnett", "benjamini-hochberg"])
def test_five_equal_arms_seldom_raise_any_alarm(correction: str) -> None:
    rng = np.random.default_rng(3)
    runs, alarms = (60 if correction == "dunnett" else 2_000), 0
    for means in rng.normal(0, 0.1, (runs, 6)):
        arms = {str(i): Moments(100, float(mean), 99.0) for i, mean in enumerate(means)}
        alarms += bool(compare_arms(arms, "0", correction=correction).significant)
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)


def test_any_test_compares_many_arms() -> None:
    arms = {"c": Count(100, 1000), "s": Count(150, 1000), "t": Count(101, 1000)}
    assert compare_arms(arms, "c", test=two_proportions_z).significant == ("s",)
    means = {name: count.moments for name, count in arms.items()}
    found = compare_arms(means, "c", test=partial(relative_effect, method="delta"))
    assert found["s"].estimate.effect == pytest.approx(0.5)
    assert found.to_dict()["comparisons"][0]["arm"] == "s" and "differs" in str(found)


def test_comparisons_that_cannot_be_made_are_refused() -> None:
    arms = {"c": Count(100, 1000), "s": Count(150, 1000)}
    with pytest.raises(UnknownName, match="arm"):
        compare_arms(arms, "d", test=two_proportions_z)
    with pytest.raises(UnknownName, match="dunnett"):
        compare_arms(arms, "c", test=two_proportions_z, correction="dunnet")
    with pytest.raises(UnknownName, match="treatment"):
        _ = compare_arms(arms, "c", test=two_proportions_z)["c"]
    with pytest.raises(InputError, match="only arm"):
        compare_arms({"c": Count(1, 2)}, "c", test=two_proportions_z)
    with pytest.raises(InputError, match="no p value"):
        compare_arms(arms, "c", test=newcombe)
    with pytest.raises(InputError, match="constant"):
        dunnett({"a": [1.0, 1.0], "b": [1.0, 1.0]}, "a")
    with pytest.raises(InputError, match="each needs one"):
        dunnett({"a": [1.0], "b": [1.0]}, "a")
