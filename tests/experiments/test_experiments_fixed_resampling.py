"""Permutation and bootstrap against enumeration, scipy, and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.resampling import bootstrap, permutation

T, C = [5.1, 4.9, 6.2, 5.8, 5.5], [4.1, 4.4, 5.0, 4.6]


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def p_by_hand(t, c, shift: float, side: str) -> float:
    """Enumerate all splits after taking `shift` off the treatment."""
    pool = np.concatenate((np.asarray(t) - shift, c))
    own, found = np.mean(pool[: len(t)]) - np.mean(pool[len(t) :]), []
    for chosen in itertools.combinations(range(len(pool)), len(t)):
        rest = np.delete(pool, chosen)
        found.append(pool[list(chosen)].mean() - rest.mean())
    difference = np.array(found)
    return float(np.mean(difference >= own - 1e-9 if side == "greater" else difference <= own + 1e-9))


@pytest.mark.parametrize("alternative", list(Alternative))
def test_all_splits_give_scipys_exact_p(alternative: Alternative) -> None:
    theirs = stats.permutation_test(
        (T, C), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=np.inf, alternative=str(alternative)
    )
    assert permutation(T, C, rng=rng(), alternative=alternative).p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("shift", [-0.3, 0.2, 1.0, 1.7])
@pytest.mark.parametrize("side", ["greater", "less"])
def test_a_shifted_null_is_enumerated_right(shift: float, side: str) -> None:
    assert permutation(T, C, rng=rng(), null=shift, alternative=side).p == pytest.approx(p_by_hand(T, C, shift, side))


def test_the_interval_ends_where_the_enumerated_test_begins_to_reject() -> None:
    low, high = permutation(T, C, rng=rng(), level=0.9).ci
    for shift, side in ((low, "greater"), (high, "less")):
        out = -1e-6 if side == "greater" else 1e-6
        assert p_by_hand(T, C, shift + out, side) <= 0.05 < p_by_hand(T, C, shift - out, side)


def test_random_reshufflings_come_near_the_t_test_in_large_arms() -> None:
    r = rng(1)
    x, y = r.normal(0.2, 1, 400), r.normal(0, 1, 300)
    found, t = permutation(x, y, rng=r), stats.ttest_ind(x, y)
    low, high = t.confidence_interval()
    assert found.p == pytest.approx(t.pvalue, abs=4 * math.sqrt(t.pvalue / 9_999))
    assert found.ci == pytest.approx((low, high), abs=0.02)


def test_one_seed_gives_one_answer_and_p_is_never_zero() -> None:
    x, y = np.arange(50) + 100.0, np.arange(50)
    first, second = (permutation(x, y, rng=rng(3), resamples=199) for _ in range(2))
    assert first == second
    assert first.p == pytest.approx(2 / 200)


def test_few_units_for_the_level_are_refused() -> None:
    with pytest.raises(InputError, match="too few for an interval"):
        permutation([1.0, 2.0], [3.0, 4.0], rng=rng())
    with pytest.raises(InputError, match="at least 2"):
        permutation([1.0], [3.0, 4.0], rng=rng())


def test_the_permutation_interval_covers_and_its_test_keeps_its_level() -> None:
    r = rng(5)
    runs, hits, alarms = 800, 0, 0
    for _ in range(runs):
        found = permutation(r.exponential(1, 12) + 1.0, r.exponential(1, 9), rng=r, resamples=399)
        hits += found.lower <= 1.0 <= found.upper
        alarms += permutation(r.exponential(1, 12), r.exponential(1, 9), rng=r, resamples=399).p <= 0.05
    assert hits >= stats.binom.ppf(0.001, runs, 0.95)
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_bootstrap_is_scipys(method: str) -> None:
    r = rng(2)
    x, y = r.lognormal(0, 1, 60), r.lognormal(0, 1, 80)
    ours = bootstrap(x, y, rng=rng(4), method=method, statistic="median", resamples=1_999)
    theirs = stats.bootstrap(
        (x, y), lambda a, b, axis: np.median(a, axis) - np.median(b, axis), method=method, n_resamples=1_999, rng=rng(4)
    ).confidence_interval
    assert ours.ci == pytest.approx((theirs.low, theirs.high), abs=0.08)  # other batches draw in another order
    assert ours.effect == pytest.approx(np.median(x) - np.median(y))


def test_a_function_of_ones_own_is_resampled_too() -> None:
    x, y = rng(1).normal(0, 2, 80), rng(2).normal(0, 1, 80)
    found = bootstrap(x, y, rng=rng(), statistic=lambda v: float(np.std(v)), resamples=499)
    assert found.effect == pytest.approx(np.std(x) - np.std(y)) and found.significant


def test_the_bootstrap_of_means_comes_near_welch() -> None:
    x, y = rng(1).normal(1, 2, 500), rng(2).normal(0, 1, 700)
    low, high = stats.ttest_ind(x, y, equal_var=False).confidence_interval()
    assert bootstrap(x, y, rng=rng(), resamples=1_999).ci == pytest.approx((low, high), abs=0.03)
    assert bootstrap(x, y, rng=rng(), resamples=499, alternative="less").lower == -math.inf


def clustered(r: np.random.Generator, users: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and their users: each user's rows share a level."""
    rows = r.integers(1, 12, users)
    who = np.repeat(np.arange(users), rows)
    return effect + r.normal(0, 1, users)[who] + r.normal(0, 0.5, len(who)), who


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_whole_clusters_cover_where_single_rows_do_not(statistic: str) -> None:
    r = rng(8)
    runs = 200 if statistic == "mean" else 50
    hits, naive = 0, 0
    for _ in range(runs):
        (x, u), (y, v) = clustered(r, 50, 0.0), clustered(r, 50, 0.0)
        found = bootstrap(x, y, rng=r, statistic=statistic, method="percentile", resamples=299, clusters=(u, v))
        hits += found.lower <= 0.0 <= found.upper
        plain = bootstrap(x, y, rng=r, statistic=statistic, method="percentile", resamples=199)
        naive += plain.lower <= 0.0 <= plain.upper
    assert hits >= stats.binom.ppf(0.001, runs, 0.93)  # the percentile interval of 50 clusters is a little short
    assert naive < stats.binom.ppf(0.001, runs, 0.93)


def test_clusters_of_one_row_are_rows() -> None:
    x, y = rng(1).normal(1, 2, 40), rng(2).normal(0, 1, 50)
    plain = bootstrap(x, y, rng=rng(), resamples=299)
    alone = bootstrap(x, y, rng=rng(), resamples=299, clusters=(np.arange(40), np.arange(50)))
    assert alone.ci == pytest.approx(plain.ci) and alone.n == (40, 50)


def test_clusters_may_have_any_labels_and_lose_rows_that_lack_a_value() -> None:
    x, who = [1.0, 2.0, math.nan, 4.0, 3.0], ["a", "b", "c", "a", "d"]
    found = bootstrap(x, [1.0, 2.0, 2.5], rng=rng(), resamples=199, clusters=(who, [1, 2, 3]), missing="drop")
    assert found.n == (3, 3)
    assert found.treatment == pytest.approx(2.5)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UnknownName, match="bca"):
        bootstrap(T, C, rng=rng(), method="bc")
    with pytest.raises(UnknownName, match="median"):
        bootstrap(T, C, rng=rng(), statistic="medain")
    with pytest.raises(InputError, match="resamples is 10"):
        bootstrap(T, C, rng=rng(), resamples=10)
    with pytest.raises(InputError, match="one per row"):
        bootstrap(T, C, rng=rng(), clusters=([1, 2], [1, 2, 3, 4]))
    with pytest.raises(InputError, match="has 1 cluster"):
        bootstrap(T, C, rng=rng(), clusters=([1] * 5, [1, 2, 3, 4]))
    with pytest.raises(InputError, match="unit 1"):
        bootstrap([1.0, math.nan], C, rng=rng())
