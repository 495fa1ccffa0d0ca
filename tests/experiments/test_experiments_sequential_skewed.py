"""Asymptotic sequences keep their level where the arms are unequal and values are skewed: the canary's usual case."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.experiments import ArmData, Metric, Msprt, mean_bounds, mean_difference_sequence
from flyball.experiments.design.compare import effect_of
from flyball.experiments.design.rulers import Sequential
from flyball.experiments.estimate import Alternative
from flyball.experiments.sequential.confidence import difference, spread_apart
from flyball.experiments.stats import Moments, Stats

LOOKS = [*range(500, 6000, 100)]


def _runs(draw, share, runs, seed):
    """Yield per run the (treatment, control) moments at each look: both arms have one law."""
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        values, mine = draw(rng, LOOKS[-1]), rng.random(LOOKS[-1]) < share
        yield [
            (_moments(values[:n][mine[:n]]), _moments(values[:n][~mine[:n]]))
            for n in LOOKS
            if min(mine[:n].sum(), (~mine[:n]).sum()) >= 2
        ]


def _moments(values):
    return Moments(len(values), float(values.mean()), float(((values - values.mean()) ** 2).sum()))


def _rare(rng, n):
    return (rng.random(n) < 0.02).astype(float)


def _spend(rng, n):
    return (rng.random(n) < 0.05) * rng.lognormal(3.0, 1.0, n)


@pytest.mark.parametrize("draw", [_rare, _spend])
def test_a_small_arm_of_skewed_values_is_not_called_lower_than_it_is(draw) -> None:
    # 300 A/A runs, 10 % in the treatment, 55 looks; with each arm's own variance 15 to 30 % of them alarmed
    runs, alarms = 300, dict.fromkeys(("mixture", "msprt", "rollout"), 0)
    tau = 0.1 * math.sqrt(float(draw(np.random.default_rng(0), 100_000).var()))
    for looks in _runs(draw, 0.1, runs, 11):
        alarms["mixture"] += any(mean_difference_sequence(t, c).significant for t, c in looks)
        alarms["msprt"] += any(Msprt(tau=tau).look(t, c).significant for t, c in looks)
        bounds = [difference([pair], lower=0.01, upper=0.01) for pair in looks]
        alarms["rollout"] += any(b.lower > 0.0 or b.upper < 0.0 for b in bounds)
    slack = 3.0 * math.sqrt(0.05 * 0.95 / runs)
    assert alarms["mixture"] / runs <= 0.05 + slack
    assert alarms["msprt"] / runs <= 0.05 + slack
    assert alarms["rollout"] / runs <= 0.02 + 3.0 * math.sqrt(0.02 * 0.98 / runs)


def test_of_equal_arms_the_spread_is_that_of_their_own_variances() -> None:
    one, other = Moments(500, 1.0, 700.0), Moments(500, 2.0, 100.0)
    own = one.variance / one.n + other.variance / other.n
    assert spread_apart(one, other) == pytest.approx(own, rel=1e-12)


def test_the_larger_of_own_and_pooled_spread_is_taken() -> None:
    noisy, calm = Moments(50, 0.0, 49.0 * 9.0), Moments(5000, 0.0, 4999.0)
    assert spread_apart(noisy, calm) == pytest.approx(9.0 / 50 + 1.0 / 5000)
    blind = Moments(50, 0.0, 0.0)
    assert spread_apart(blind, calm) == pytest.approx(4999.0 / 5048.0 * (1 / 50 + 1 / 5000))


def test_values_that_never_varied_bound_nothing() -> None:
    zeros = Moments(50, 0.0, 0.0)
    own = mean_bounds(zeros, lower=0.01, upper=0.05)
    assert (own.lower, own.upper) == (-math.inf, math.inf)
    both = difference([(zeros, zeros)], lower=0.01, upper=0.05)
    assert (both.lower, both.upper) == (-math.inf, math.inf)


@pytest.mark.parametrize("draw", [_rare, _spend])
def test_a_sequential_plan_of_unequal_arms_keeps_its_level(draw) -> None:
    # the same of whole experiments with weights 1 to 9; with each arm's own variance 18 % of the spend runs alarmed
    metric, ruler, runs, alarms = Metric("spend"), Sequential(), 200, 0
    for looks in _runs(draw, 0.1, runs, 12):
        alarms += any(_significant(metric, ruler, t, c) for t, c in looks[::3])
    assert alarms / runs <= 0.05 + 3.0 * math.sqrt(0.05 * 0.95 / runs)


def _significant(metric: Metric, ruler: Sequential, treatment: Moments, control: Moments) -> bool:
    arms = [ArmData(m.n, {metric.name: Stats(m.n, (metric.of,), (m.mean,), ((m.m2,),))}) for m in (treatment, control)]
    span = ruler.span("spend/new", effect_of(metric, *arms), level=0.95, side=Alternative.TWO_SIDED)
    return span.lower > 0.0 or span.upper < 0.0


def test_caution_is_one_for_equal_arms_and_follows_covariates_and_ratios() -> None:
    rng = np.random.default_rng(3)

    def arm(name: str, n: int, sd: float) -> ArmData:
        before = rng.normal(size=n)
        columns = {"y": before + sd * rng.normal(size=n), "before": before, "views": rng.poisson(9.0, n) + 1.0}
        return ArmData(n, {name: Stats.of(columns)})

    equal = Metric("m", of="y", covariate="before")
    assert effect_of(equal, arm("m", 400, 1.0), arm("m", 400, 2.0)).caution == pytest.approx(1.0, abs=1e-9)
    adjusted = effect_of(equal, arm("m", 60, 0.1), arm("m", 4000, 1.0))
    assert adjusted.caution * adjusted.se == pytest.approx(1.0 / math.sqrt(60), rel=0.05)
    ratio = Metric("m", kind="ratio", of="y", over="views")
    found = effect_of(ratio, arm("m", 60, 1.0), arm("m", 4000, 1.0))
    assert 1.0 <= found.caution < 1.5
