"""Poisson rates against R's help page and scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative
from flyball.experiments.fixed.counts import Rate, poisson_rates


def test_two_rates_are_as_on_rs_help_page_for_poisson_test() -> None:
    found = poisson_rates(Rate(11, 800), Rate(6 + 8 + 7, 1083 + 1050 + 878))
    assert (found.effect, found.p) == (pytest.approx(1.971488, abs=5e-7), pytest.approx(0.07967, abs=5e-6))
    assert found.ci == pytest.approx((0.8584264, 4.2772659), abs=5e-7)


@given(st.integers(0, 200), st.integers(1, 200), st.floats(0.5, 50), st.floats(0.5, 50))
def test_the_interval_is_where_each_one_sided_test_is_at_its_tail(x: int, y: int, e: float, f: float) -> None:
    found = poisson_rates(Rate(x, e), Rate(y, f))
    if x:
        assert poisson_rates(Rate(x, e), Rate(y, f), null=found.lower, alternative="greater").p == pytest.approx(
            0.025, rel=1e-6
        )
    assert poisson_rates(Rate(x, e), Rate(y, f), null=found.upper, alternative="less").p == pytest.approx(
        0.025, rel=1e-6
    )


@pytest.mark.parametrize("alternative", list(Alternative))
def test_p_is_the_binomial_test_given_the_total(alternative: Alternative) -> None:
    found = poisson_rates(Rate(30, 2.0), Rate(20, 3.0), alternative=alternative)
    assert found.p == pytest.approx(stats.binomtest(30, 50, 0.4, alternative=str(alternative)).pvalue)


def test_huge_counts_tend_to_the_normal_limit() -> None:
    found = poisson_rates(Rate(10**12 + 3 * 10**6, 1.0), Rate(10**12, 1.0))
    assert found.p == pytest.approx(2 * stats.norm.sf(3e6 / math.sqrt(2e12 + 3e6)), rel=1e-4)
    assert found.lower == pytest.approx(1 + 3e-6 - 1.96 * math.sqrt(2e-12), abs=1e-8)


def test_no_event_in_one_arm_leaves_one_end_open() -> None:
    found = poisson_rates(Rate(5, 10.0), Rate(0, 10.0))
    assert (found.effect, found.upper) == (math.inf, math.inf)
    assert 0.9 < found.lower < 1.0 and "no event" in found.notes[-1]
    assert found.to_dict()["effect"] is None
    assert poisson_rates(Rate(0, 10.0), Rate(5, 10.0)).ci == (0.0, pytest.approx(1 / found.lower))


@pytest.mark.parametrize(("events", "exposure"), [(-1, 1.0), (1.5, 1.0), (1, 0.0), (1, math.inf), (1, math.nan)])
def test_an_impossible_rate_is_refused(events, exposure) -> None:
    with pytest.raises(InputError):
        Rate(events, exposure)


def test_no_event_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="neither arm had an event"):
        poisson_rates(Rate(0, 1.0), Rate(0, 2.0))
    with pytest.raises(InputError, match="null is 0"):
        poisson_rates(Rate(1, 1.0), Rate(0, 2.0), null=0.0)
