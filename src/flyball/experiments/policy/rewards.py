"""What a reward is, turned so that more of it is better, and what is believed of its mean.

The surprise: "down is good" needs no rules of its own. Rewards are turned round once, at the border, and everything
behind it looks for the largest; numbers for readers are turned back.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from flyball.experiments.bayes import BetaPosterior, StudentPosterior, beta_posterior, mean_posterior
from flyball.experiments.estimate import Direction
from flyball.experiments.stats import Moments

__all__ = ["Rewards", "posterior_of", "turned", "turned_value"]


class Rewards(StrEnum):
    """What a unit's reward is."""

    BERNOULLI = "bernoulli"  # 0 or 1
    NORMAL = "normal"  # any number; its mean is judged


def turned(arm: Moments, rewards: Rewards, direction: Direction) -> Moments:
    """Return the moments of rewards of which more is better: for "down", of misses instead of hits, or of -value."""
    return replace(arm, mean=turned_value(arm.mean, rewards, direction))


def turned_value(mean: float, rewards: Rewards, direction: Direction) -> float:
    """Return a mean reward turned, or turned back: the same calculation."""
    if direction is Direction.UP:
        return mean
    return 1.0 - mean if rewards is Rewards.BERNOULLI else -mean


def posterior_of(arm: Moments, rewards: Rewards) -> BetaPosterior | StudentPosterior:
    """Return the belief about an arm's mean reward; raises InputError for normal rewards without two that differ."""
    if rewards is Rewards.NORMAL:
        return mean_posterior(arm)
    return beta_posterior(min(max(arm.mean * arm.n, 0.0), arm.n), arm.n)
