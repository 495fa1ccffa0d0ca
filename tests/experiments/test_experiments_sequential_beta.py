"""Beta mixtures against scipy's own beta functions, and the bounds that follow from them."""

from __future__ import annotations

import math

import pytest
from scipy import special, stats

from flyball.experiments.sequential.beta import log_likelihood, log_mixture, rate_bound

COUNTS = [(0, 1), (1, 1), (0, 500), (3, 1000), (500, 1000), (10**6, 10**9)]


@pytest.mark.parametrize(("events", "n"), COUNTS)
@pytest.mark.parametrize("prior", [(0.5, 10.0), (0.5, 2.0), (20.0, 20.0)])
def test_the_mixture_is_a_ratio_of_beta_functions(events: int, n: int, prior: tuple[float, float]) -> None:
    a, b = prior
    wanted = special.betaln(a + events, b + n - events) - special.betaln(a, b)
    assert log_mixture(events, n, prior=prior) == pytest.approx(wanted, rel=1e-11, abs=1e-9)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.99])
@pytest.mark.parametrize(("events", "n"), COUNTS[:5])
def test_the_likelihood_is_the_binomials_without_its_coefficient(events: int, n: int, rate: float) -> None:
    ways = special.gammaln(n + 1) - special.gammaln(events + 1) - special.gammaln(n - events + 1)
    assert log_likelihood(events, n, rate) == pytest.approx(stats.binom.logpmf(events, n, rate) - ways, abs=1e-8)


@pytest.mark.parametrize(("events", "n", "rate", "wanted"), [
    (0, 9, 0.0, 0.0), (1, 9, 0.0, -math.inf), (9, 9, 1.0, 0.0), (8, 9, 1.0, -math.inf), (0, 0, 0.5, 0.0),
])  # fmt: skip
def test_impossible_rates_have_no_likelihood(events: int, n: int, rate: float, wanted: float) -> None:
    assert log_likelihood(events, n, rate) == wanted


@pytest.mark.parametrize(("events", "n"), [(0, 50), (3, 1000), (500, 1000), (50, 50)])
def test_at_a_bound_the_mixture_is_just_refuted(events: int, n: int) -> None:
    mixture = log_mixture(events, n, prior=(0.5, 2.0))
    for outside in (0.0, 1.0):
        bound = rate_bound(events, n, prior=(0.5, 2.0), alpha=0.05, outside=outside)
        if bound != outside:
            assert mixture - log_likelihood(events, n, bound) == pytest.approx(math.log(20.0), abs=1e-6)
        else:
            assert events in (0, n)


def test_nothing_is_refuted_by_nothing() -> None:
    assert [rate_bound(0, 0, prior=(0.5, 2.0), alpha=0.05, outside=end) for end in (0.0, 1.0)] == [0.0, 1.0]
