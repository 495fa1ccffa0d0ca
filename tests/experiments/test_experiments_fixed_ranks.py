"""Ranks against Hollander and Wolfe, scipy, and the matrix of all differences."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed import ranks
from flyball.experiments.fixed.ranks import kth_difference, mann_whitney

AT_TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]  # Hollander and Wolfe, table 4.1
EARLY = [1.15, 0.88, 0.90, 0.74, 1.21]


def all_differences(x, y) -> np.ndarray:
    return np.sort(np.subtract.outer(np.asarray(x), np.asarray(y)).ravel())


def test_the_membranes_of_hollander_and_wolfe() -> None:
    found = mann_whitney(AT_TERM, EARLY, alternative="greater")
    assert (found.statistic, found.p) == (35.0, pytest.approx(0.1272, abs=5e-5))  # as on R's help page of wilcox.test
    assert found.effect == pytest.approx(0.305)
    differences = all_differences(AT_TERM, EARLY)
    rank = 9  # qwilcox(0.025, 10, 5) in R
    assert mann_whitney(AT_TERM, EARLY).ci == pytest.approx((differences[rank - 1], differences[-rank]))


@pytest.mark.parametrize("alternative", list(Alternative))
@pytest.mark.parametrize("ties", [False, True])
def test_p_agrees_with_scipy(alternative: Alternative, ties: bool) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0.3, 1, 37), rng.normal(0, 1, 44)
    x, y = (np.round(x, 1), np.round(y, 1)) if ties else (x, y)
    theirs = stats.mannwhitneyu(x, y, alternative=str(alternative), method="asymptotic" if ties else "exact")
    ours = mann_whitney(x, y, alternative=alternative)
    assert (ours.statistic, ours.p) == (theirs.statistic, pytest.approx(theirs.pvalue, rel=1e-9))


@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=30),
    st.lists(st.integers(-20, 20), min_size=1, max_size=30),
    st.data(),
)
def test_any_difference_by_rank_is_found_without_the_matrix(x, y, data) -> None:
    k = data.draw(st.integers(1, len(x) * len(y)))
    found = kth_difference(np.sort(np.array(x, float)), np.sort(np.array(y, float)), k)
    assert found == all_differences(x, y)[k - 1]


@pytest.mark.parametrize(
    "make",
    [lambda r, n: r.normal(0, 1, n), lambda r, n: r.integers(0, 4, n).astype(float), lambda r, n: r.lognormal(0, 3, n)],
)
def test_the_search_by_halving_finds_the_same(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_FEW", 10)
    rng = np.random.default_rng(1)
    x, y = np.sort(make(rng, 211)), np.sort(make(rng, 173))
    differences = all_differences(x, y)
    for k in [1, 2, 100, 18_000, 18_252, 30_000, len(differences) - 1, len(differences)]:
        assert kth_difference(x, y, k) == pytest.approx(differences[k - 1], abs=1e-13 * abs(x).max())


def test_two_arms_of_100_000_take_megabytes() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.gamma(2, 1, 100_000) + 0.05, rng.gamma(2, 1, 100_000)
    tracemalloc.start()
    found = mann_whitney(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    assert found.lower < 0.05 < found.upper and found.upper - found.lower < 0.03
    assert found.p == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").pvalue, rel=1e-6)


def test_values_that_are_mostly_zero_are_compared_by_ties() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.poisson(0.02, 50_000), rng.poisson(0.01, 50_000)
    found = mann_whitney(x, y)
    assert (found.effect, found.lower, found.upper) == (0.0, 0.0, 0.0)  # the median of all differences is a tie
    assert found.p == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").pvalue, rel=1e-6)


def test_a_shifted_null_moves_the_treatment() -> None:
    assert mann_whitney(AT_TERM, EARLY, null=0.25).p == pytest.approx(mann_whitney(np.array(AT_TERM) - 0.25, EARLY).p)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([], [1.0], "treatment has 0 units"),
        ([1.0, 1.0], [1.0], "every value of both arms is 1"),
        ([2.0], [1.0], "too few for an interval"),
        ([1.0, math.nan], [2.0], 'missing="drop"'),
    ],
)
def test_what_ranks_cannot_tell_is_refused(x, y, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mann_whitney(x, y)


def test_missing_values_are_dropped_when_asked() -> None:
    assert mann_whitney([*AT_TERM, math.nan], EARLY, missing="drop").n == (10, 5)


def test_the_interval_holds_the_true_shift_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    runs, hits = 600, 0
    for _ in range(runs):
        found = mann_whitney(rng.exponential(1, 30) + 0.5, rng.exponential(1, 20))
        hits += found.lower <= 0.5 <= found.upper
    assert hits >= stats.binom.ppf(0.001, runs, 0.95)  # exact: at least 95 %
    assert hits <= stats.binom.ppf(0.999, runs, 0.96)
