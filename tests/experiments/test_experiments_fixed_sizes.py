"""Standardised effects against the noncentral t, Hedges' table and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from experiments_kit import moments_of
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.fixed.shares import Count
from flyball.experiments.fixed.sizes import _noncentral, cohens_d, cohens_h, hedges_g, unbias
from flyball.experiments.stats import Moments


@pytest.mark.parametrize(("m", "j"), [(2, 0.5642), (3, 0.7236), (4, 0.7979), (5, 0.8408), (10, 0.9228), (20, 0.9619)])
def test_j_is_that_of_the_table_of_hedges(m: int, j: float) -> None:
    assert unbias(m) == pytest.approx(j, abs=1e-4)  # Hedges (1981), table 1


def test_j_keeps_its_digits_at_any_size() -> None:
    for m in (1e3, 1e6, 1e9, 1e12):
        assert 1 - unbias(m) == pytest.approx(3 / (4 * m) + 7 / (32 * m * m), rel=1e-4, abs=2e-16)  # its expansion


@pytest.mark.parametrize(("statistic", "df"), [(2.0, 3), (-25.0, 3), (6.0, 60), (-9.0, 103), (28.0, 500), (0.0, 10)])
def test_ends_in_every_tail_agree_with_the_noncentral_t(statistic: float, df: int) -> None:
    n = (df + 2) / 2
    for end, tail in zip(_noncentral(statistic, df, math.sqrt(2 / n), 0.025), (0.975, 0.025), strict=True):
        found = stats.nct.cdf(abs(statistic), df, math.copysign(1, statistic) * end / math.sqrt(2 / n))
        assert found == pytest.approx(tail if statistic >= 0 else 1 - tail, rel=1e-4)


def test_the_ends_of_d_put_t_at_its_tails() -> None:
    t, c = Moments(20, 10.5, 19.0), Moments(12, 10.0, 11.0)
    found = cohens_d(t, c)
    root = math.sqrt(20 * 12 / 32)
    assert found.statistic == pytest.approx(stats.ttest_ind_from_stats(10.5, 1, 20, 10.0, 1, 12).statistic)
    assert found.effect == pytest.approx(0.5)
    assert stats.nct.sf(found.statistic, 30, found.lower * root) == pytest.approx(0.025, rel=1e-6)
    assert stats.nct.cdf(found.statistic, 30, found.upper * root) == pytest.approx(0.025, rel=1e-6)


def test_exact_and_normal_ends_meet() -> None:
    small, large = (cohens_d(Moments(n, 0.3, n - 1.0), Moments(n, 0.0, n - 1.0)) for n in (1001, 1002))
    assert large.ci == pytest.approx(small.ci, abs=3e-4)


def test_a_trillion_units_have_a_size() -> None:
    n = 10**12
    found = hedges_g(Moments(n, 0.2, float(n)), Moments(n, 0.0, float(n)))
    assert found.effect == pytest.approx(0.2)
    assert found.upper - found.lower == pytest.approx(2 * 1.96 * math.sqrt(2.01 / n), rel=1e-2)


def test_a_huge_size_in_a_tiny_sample_has_an_interval() -> None:
    found = cohens_d([100.0, 101.0, 102.0], [0.0, 1.0, 2.0])
    assert found.effect == pytest.approx(100.0) and 0 < found.lower < 100 < found.upper


def test_d_covers_and_g_is_unbiased() -> None:
    rng = np.random.default_rng(5)
    runs, hits, sizes = 500, 0, []
    for x, y in zip(rng.normal(0.8, 1, (runs, 8)), rng.normal(0, 1, (runs, 6)), strict=True):
        found = cohens_d(moments_of(x), moments_of(y))
        hits += found.lower <= 0.8 <= found.upper
        sizes.append(hedges_g(moments_of(x), moments_of(y)).effect)
    assert stats.binom.ppf(0.001, runs, 0.95) <= hits <= stats.binom.ppf(0.999, runs, 0.95)
    assert np.mean(sizes) == pytest.approx(0.8, abs=4 * np.std(sizes) / math.sqrt(runs))


def test_h_is_cohens() -> None:
    found = cohens_h(Count(50, 100), Count(40, 100))  # Cohen (1988), table 6.2.2: phi(.50) = 1.571, phi(.40) = 1.369
    assert found.effect == pytest.approx(1.571 - 1.369, abs=1e-3)
    assert found.p == pytest.approx(2 * stats.norm.sf(found.effect / math.sqrt(0.02)))
    assert (found.treatment, found.control) == (0.5, 0.4)


def test_h_stays_within_pi() -> None:
    found = cohens_h(Count(3, 3), Count(0, 3))
    assert (found.effect, found.upper) == (pytest.approx(math.pi), pytest.approx(math.pi))


def test_constant_and_tiny_arms_are_refused() -> None:
    with pytest.raises(InputError, match="constant"):
        cohens_d([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(InputError, match="it takes 4"):
        hedges_g([1.0], [2.0, 3.0])
