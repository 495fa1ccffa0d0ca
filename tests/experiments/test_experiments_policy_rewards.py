"""Rewards turned round so that more is better."""

from __future__ import annotations

import pytest
from experiments_kit import rate
from hypothesis import given
from hypothesis import strategies as st

from flyball.experiments.bayes import beta_posterior, mean_posterior
from flyball.experiments.estimate import Direction
from flyball.experiments.policy.rewards import Rewards, posterior_of, turned, turned_value
from flyball.experiments.stats import Moments, moments


@given(st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_amounts_turned_are_the_moments_of_the_negative_amounts(values: list[float]) -> None:
    ours = turned(Moments.of(values), Rewards.NORMAL, Direction.DOWN)
    wanted = Moments.of([-v for v in values])
    assert (ours.n, ours.mean, ours.m2) == (wanted.n, pytest.approx(wanted.mean), pytest.approx(wanted.m2))


@given(st.integers(0, 50), st.integers(0, 50))
def test_hits_turned_are_misses(hits: int, misses: int) -> None:
    n = hits + misses
    ours = turned(rate(hits, n), Rewards.BERNOULLI, Direction.DOWN)
    wanted = rate(misses, n)
    assert (ours.n, ours.m2) == (wanted.n, pytest.approx(wanted.m2))
    assert posterior_of(ours, Rewards.BERNOULLI).mean == pytest.approx(beta_posterior(misses, n).mean)


@pytest.mark.parametrize("rewards", list(Rewards))
@pytest.mark.parametrize("direction", list(Direction))
@given(value=st.floats(0.0, 1.0))
def test_turning_twice_is_nothing(rewards: Rewards, direction: Direction, value: float) -> None:
    once = turned_value(value, rewards, direction)
    assert turned_value(once, rewards, direction) == pytest.approx(value)


def test_amounts_are_believed_as_a_mean() -> None:
    sample = moments([1.0, 3.0, 4.0])
    assert posterior_of(sample, Rewards.NORMAL) == mean_posterior(sample)
