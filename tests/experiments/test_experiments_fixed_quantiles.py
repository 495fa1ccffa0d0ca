"""Quantile effects against the known density and by coverage, plain and clustered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.fixed.quantiles import quantile_effect


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9, 0.99])
def test_the_standard_error_is_near_the_one_with_the_true_density(q: float) -> None:
    rng = np.random.default_rng(4)
    n, law = 200_000, stats.lognorm(1.0)
    found = quantile_effect(rng.lognormal(0, 1, n), rng.lognormal(0, 1, n), q)
    theory = math.sqrt(2 * q * (1 - q) / n) / law.pdf(law.ppf(q))
    assert (found.upper - found.lower) / 2 / 1.96 == pytest.approx(
        theory, rel=0.12
    )  # two spacings of about 1 / sqrt(n) error


@pytest.mark.parametrize(("q", "n"), [(0.5, 40), (0.5, 400), (0.9, 400), (0.99, 2_000)])
def test_the_interval_covers(q: float, n: int) -> None:
    rng = np.random.default_rng(int(1000 * q) + n)
    runs, hits = 1_000, 0
    truth = float(stats.lognorm(1.0).ppf(q)) * (math.exp(0.2) - 1)
    for _ in range(runs):
        found = quantile_effect(rng.lognormal(0.2, 1, n), rng.lognormal(0, 1, 2 * n), q)
        hits += found.lower <= truth <= found.upper
    assert stats.binom.ppf(0.001, runs, 0.93) <= hits  # at most two points short in samples this small
    assert hits <= stats.binom.ppf(0.999, runs, 0.98)


def test_clusters_widen_the_interval_so_that_it_covers() -> None:
    rng = np.random.default_rng(9)
    runs, hits, naive = 400, 0, 0
    for _ in range(runs):
        arms = []
        for _arm in range(2):
            rows = rng.integers(1, 15, 150)
            who = np.repeat(np.arange(150), rows)
            arms.append((rng.normal(0, 1, 150)[who] + rng.normal(0, 0.5, len(who)), who))
        (x, u), (y, v) = arms
        found, plain = quantile_effect(x, y, 0.75, clusters=(u, v)), quantile_effect(x, y, 0.75)
        hits += found.lower <= 0 <= found.upper
        naive += plain.lower <= 0 <= plain.upper
    assert found.n == (150, 150)
    assert stats.binom.ppf(0.001, runs, 0.94) <= hits <= stats.binom.ppf(0.999, runs, 0.975)
    assert naive < 0.8 * runs


def test_the_relative_scale_reads_a_slower_p99_as_a_share() -> None:
    rng = np.random.default_rng(3)
    found = quantile_effect(1.5 * rng.lognormal(0, 0.5, 20_000), rng.lognormal(0, 0.5, 20_000), 0.99, scale="relative")
    assert found.lower < 0.5 < found.upper
    assert found.significant


def test_the_quantile_is_numpys() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 1, 101), rng.normal(0, 1, 250)
    found = quantile_effect(x, y, 0.3)
    assert (found.treatment, found.control) == (pytest.approx(np.quantile(x, 0.3)), pytest.approx(np.quantile(y, 0.3)))


@pytest.mark.parametrize(
    ("n", "q", "says"),
    [(300, 0.99, "too few for the 0.99 quantile"), (1, 0.5, "at least 2"), (5, 0.5, "too few"), (100, 1.0, "q is 1.0")],
)
def test_too_few_units_are_refused(n: int, q: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        quantile_effect(np.arange(n), np.arange(1000), q)


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99, 0.999])
def test_the_number_of_rows_that_is_asked_for_is_enough(q: float) -> None:
    with pytest.raises(InputError, match="it takes about") as refused:
        quantile_effect(np.arange(5), np.arange(5), q)
    needed = int(str(refused.value).rpartition(" ")[2].replace(",", ""))
    assert quantile_effect(np.arange(needed), np.arange(needed), q).effect == 0.0


def test_a_metric_too_coarse_for_quantiles_is_refused() -> None:
    with pytest.raises(InputError, match="too coarse"):
        quantile_effect([2.0] * 100, [2.0] * 90 + [3.0] * 10, 0.5)
