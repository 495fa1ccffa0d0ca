"""Equivalence and non-inferiority against statsmodels, and by their error rates."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind

from flyball.errors import InputError, UnknownName
from flyball.experiments.estimate import Estimate
from flyball.experiments.fixed.counts import Rate, poisson_rates
from flyball.experiments.fixed.covariates import cuped
from flyball.experiments.fixed.margins import MarginVerdict, equivalence, non_inferiority
from flyball.experiments.fixed.means import welch_t
from flyball.experiments.fixed.proportions import newcombe, two_proportions_z
from flyball.experiments.fixed.ratios import ratio_metric, relative_effect
from flyball.experiments.fixed.shares import Count
from flyball.experiments.stats import Moments, Stats


def test_two_one_sided_tests_agree_with_statsmodels() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.1, 1, 120), rng.normal(0, 1.5, 90)
    p, _, _ = ttost_ind(x, y, -0.4, 0.6, usevar="unequal")
    found = equivalence(x, y, margin=(-0.4, 0.6))
    assert found.p == pytest.approx(p)
    assert (found.estimate.level, found.level) == (pytest.approx(0.9), 0.95)


@pytest.mark.parametrize(
    ("mean", "n", "verdict"),
    [(10.1, 5_000, "equivalent"), (10.1, 50, "inconclusive"), (11.0, 5_000, "different"), (9.0, 5_000, "different")],
)
def test_verdicts_of_equivalence(mean: float, n: int, verdict: str) -> None:
    found = equivalence(Moments(n, mean, 4.0 * n), Moments(n, 10.0, 4.0 * n), margin=0.3)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("mean", "up", "down"),
    [
        (10.5, "superior", "inferior"),
        (10.05, "non-inferior", "non-inferior"),
        (9.95, "non-inferior", "non-inferior"),
        (9.5, "inferior", "superior"),
        (9.8, "inconclusive", "superior"),
    ],
)
def test_verdicts_of_non_inferiority_in_both_directions(mean: float, up: str, down: str) -> None:
    t, c = Moments(5_000, mean, 2e4), Moments(5_000, 10.0, 2e4)
    assert non_inferiority(t, c, margin=0.2).verdict == up
    assert non_inferiority(t, c, margin=0.2, direction="down").verdict == down


def test_swapping_arms_is_swapping_the_direction() -> None:
    t, c = Moments(700, 9.97, 2e3), Moments(500, 10.0, 3e3)
    there, back = non_inferiority(t, c, margin=0.2), non_inferiority(c, t, margin=0.2, direction="down")
    assert (there.verdict, there.p) == (back.verdict, pytest.approx(back.p))
    assert (there.lower, back.upper) == (-0.2, 0.2)


def test_any_test_can_carry_a_margin() -> None:
    rng = np.random.default_rng(2)
    t, c = (
        Stats.of({"y": y, "x": y + rng.normal(0, 0.5, 4_000), "v": rng.integers(3, 9, 4_000)})
        for y in rng.normal(5, 1, (2, 4_000))
    )
    for test, margin in (
        (partial(ratio_metric, numerator="y", denominator="v"), 0.05),
        (partial(ratio_metric, numerator="y", denominator="v", scale="relative"), 0.05),
        (partial(cuped, metric="y", covariates="x"), 0.1),
    ):
        assert non_inferiority(t, c, margin=margin, test=test).verdict in {"non-inferior", "superior"}
        assert equivalence(t, c, margin=margin, test=test).verdict == "equivalent"
    assert equivalence(t["y"], c["y"], margin=0.02, test=relative_effect).verdict == "equivalent"


def test_rates_take_their_margin_as_a_factor() -> None:
    found = non_inferiority(Rate(1000, 10.0), Rate(1000, 10.0), margin=0.2, direction="down", test=poisson_rates)
    assert (found.verdict, found.upper) == ("non-inferior", pytest.approx(1.2))
    assert equivalence(Rate(1000, 10.0), Rate(1000, 10.0), margin=0.2, test=poisson_rates).lower == pytest.approx(
        1 / 1.2
    )


def test_p_and_interval_never_disagree_for_shares() -> None:
    for x in range(85, 125):
        found = non_inferiority(Count(x, 1000), Count(110, 1000), margin=0.02, test=two_proportions_z)
        assert (found.p <= 0.05) == (found.estimate.lower >= -0.02)


def test_at_the_margin_non_inferiority_is_claimed_as_seldom_as_stated() -> None:
    rng = np.random.default_rng(3)
    runs, claims = 800, 0
    for x, y in zip(rng.binomial(400, 0.15, runs), rng.binomial(400, 0.20, runs), strict=True):
        found = non_inferiority(Count(int(x), 400), Count(int(y), 400), margin=0.05, test=two_proportions_z)
        claims += found.verdict in {MarginVerdict.NON_INFERIOR, MarginVerdict.SUPERIOR}
    assert stats.binom.ppf(0.001, runs, 0.04) <= claims <= stats.binom.ppf(0.999, runs, 0.055)


def test_nothing_is_claimed_from_absence_of_evidence() -> None:
    found = equivalence([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], margin=0.5)
    assert found.verdict == "inconclusive"
    assert found.to_dict()["verdict"] == "inconclusive" and "inconclusive" in str(found)


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan"), float("inf"), (0.1, 0.2), (0.2, -0.2)])
def test_a_margin_without_room_for_no_effect_is_refused(margin) -> None:
    with pytest.raises(InputError, match="margin is"):
        equivalence([1.0, 2.0], [1.0, 2.5], margin=margin)


def without_null(treatment: Count, control: Count, *, null: float = 0.0, **options: Any) -> Estimate:
    return newcombe(treatment, control, **options)


def test_tests_without_p_and_unknown_directions_are_refused() -> None:
    with pytest.raises(UnknownName, match="up"):
        non_inferiority([1.0, 2.0], [1.0, 2.5], margin=0.1, direction="higher")
    with pytest.raises(InputError, match="level is 0.4"):
        equivalence([1.0, 2.0], [1.0, 2.5], margin=0.1, level=0.4, test=welch_t)
    with pytest.raises(InputError, match="no p value"):
        equivalence(Count(1, 2), Count(1, 2), margin=0.1, test=without_null)
