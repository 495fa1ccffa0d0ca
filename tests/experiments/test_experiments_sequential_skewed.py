"""Asymptotic sequences keep their level where the arms are unequal and values are skewed: the canary's usual case."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.experiments import Msprt, mean_bounds, mean_difference_sequence
from flyball.experiments.sequential.confidence import difference, spread_apart
from flyball.experiments.stats import Moments

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
