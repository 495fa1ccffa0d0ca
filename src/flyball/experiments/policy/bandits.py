"""Who gets how much traffic, and when has an arm won? Shares for a bandit, from each arm's moments.

Shares are probabilities, computed and not drawn: they go into the routing table and into the log as propensities, so
that other policies can be judged off-policy later. The surprise: Thompson sampling's shares *are* the posterior
probabilities to be best, so no draw is needed to allocate by it.

References: Thompson (1933); Auer, Cesa-Bianchi and Fischer (2002), UCB1 and epsilon-greedy; Scott (2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flyball.errors import InputError, UnknownName
from flyball.experiments.bayes import Posterior, expected_loss, probability_best
from flyball.experiments.estimate import Direction, direction_of, finite
from flyball.experiments.policy.rewards import Rewards, posterior_of, turned, turned_value
from flyball.experiments.sequential.confidence import mean_bounds, rate_lower, rate_upper
from flyball.experiments.stats import Moments, checked

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Allocation", "Winner", "allocate", "choose", "epsilon_greedy", "floored", "thompson", "ucb1",
           "won"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Allocation:
    """Shares of the next stretch of traffic.

    Args:
        shares: Probability of each arm, by name, summing to 1: the propensity to log.
        best: Each arm's posterior probability to be best.
        policy: The rule.
        floor: The least share of any arm.
    """

    shares: Mapping[str, float]
    best: Mapping[str, float]
    policy: str
    floor: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"shares": dict(self.shares), "best": dict(self.best), "policy": self.policy, "floor": self.floor}

    def __str__(self) -> str:
        return f"{self.policy}: " + ", ".join(f"{arm} {share:.1%}" for arm, share in self.shares.items())


@dataclass(frozen=True, slots=True)
class Winner:
    """Whether an arm has won.

    Args:
        arm: Its name; None while nobody has.
        rule: How it was judged.
        anytime: Whether the rule's error holds however often it is asked.
        score: The leader's number on the rule's scale: gap between bounds, probability, or loss.
        leader: The arm that is ahead.
        sentence: The verdict in words.
    """

    arm: str | None
    rule: str
    anytime: bool
    score: float
    leader: str
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; an infinite score is None."""
        return {"arm": self.arm, "rule": self.rule, "anytime": self.anytime, "score": finite(self.score),
                "leader": self.leader, "sentence": self.sentence}  # fmt: skip

    def __str__(self) -> str:
        return self.sentence


def thompson(posteriors: Sequence[Posterior]) -> tuple[float, ...]:
    """Return the shares of Thompson sampling, shape (k,): each arm's probability to be best."""
    return probability_best(posteriors)


def epsilon_greedy(means: Sequence[float], *, epsilon: float = 0.1) -> tuple[float, ...]:
    """Return the shares of epsilon-greedy: `epsilon` spread over all arms, the rest to the best (split on ties).

    Raises:
        InputError: no arm, a mean that is not finite, or epsilon outside [0, 1].

    Example:
        >>> [round(share, 3) for share in epsilon_greedy([0.1, 0.3, 0.3], epsilon=0.3)]
        [0.1, 0.45, 0.45]
    """
    if not means or not all(map(math.isfinite, means)) or not 0.0 <= epsilon <= 1.0:
        raise InputError(f"means {list(means)} and epsilon {epsilon}; finite means and an epsilon in [0, 1] are needed")
    return tuple(epsilon / len(means) + (1.0 - epsilon) * share for share in _largest(means))


def ucb1(means: Sequence[float], counts: Sequence[int], *, scale: float = 1.0) -> tuple[float, ...]:
    """Return the shares of UCB1: all to the largest mean + scale * sqrt(2 ln n / n_i) (Auer et al. 2002, figure 1).

    Arms without a unit come first. Its shares are 0 and 1, from which nothing can be learned off-policy: give
    `allocate` a floor.

    Args:
        means: Mean reward per arm, shape (k,).
        counts: Units per arm, shape (k,).
        scale: Width of the rewards' range; 1 for rewards in [0, 1].

    Example:
        >>> ucb1([0.5, 0.4], [1000, 10]), ucb1([0.5, 0.4, 0.0], [10, 10, 0])
        ((0.0, 1.0), (0.0, 0.0, 1.0))
    """
    if not means or len(means) != len(counts) or min(counts) < 0 or not scale > 0.0:
        raise InputError(f"means {list(means)}, counts {list(counts)}, scale {scale}; one count >= 0 per mean")
    if 0 in counts:
        return _largest([float(n == 0) for n in counts])
    total = math.log(sum(counts))
    return _largest([mean + scale * math.sqrt(2.0 * total / n) for mean, n in zip(means, counts, strict=True)])


def floored(shares: Sequence[float], floor: float) -> tuple[float, ...]:
    """Return shares of at least `floor`, in [0, 1/k]: what is above the floor is split as before."""
    if not 0.0 <= floor * len(shares) <= 1.0 + 1e-12:
        raise InputError(f"floor {floor} for {len(shares)} arms; it is from 0 to {1 / max(len(shares), 1):.3g}")
    return tuple(floor + (1.0 - floor * len(shares)) * share for share in shares)


def choose(shares: Mapping[str, float], rng: np.random.Generator) -> tuple[str, float]:
    """Draw an arm; return it with its propensity, to be logged with the outcome."""
    names = list(shares)
    total = math.fsum(shares.values())
    arm = names[int(rng.choice(len(names), p=[share / total for share in shares.values()]))]
    return arm, shares[arm] / total


def allocate(
    arms: Mapping[str, Moments], *, rewards: str = "bernoulli", policy: str = "thompson", floor: float = 0.05,
    epsilon: float = 0.1, scale: float = 1.0, direction: Direction | str = Direction.UP, burn: int = 0,
) -> Allocation:  # fmt: skip
    """Return the shares of the next stretch.

    Args:
        arms: Rewards of each arm so far, two arms or more.
        rewards: "bernoulli" (0 or 1) or "normal" (anything else).
        policy: "thompson", "epsilon-greedy" or "ucb1".
        floor: Least share of any arm, in [0, 1/k]; above 0 every arm keeps being learned about.
        epsilon: Share that epsilon-greedy spreads over all arms.
        scale: Width of the rewards' range, for UCB1.
        direction: "up" when large rewards are good, "down" when small ones are.
        burn: Units that every arm needs before shares follow rewards; equal shares until then. Normal rewards need 2
            that differ in any case.

    Raises:
        InputError: fewer than two arms, rewards that do not fit, or a floor too large.

    Example:
        >>> print(allocate({"champion": Moments(1000, 0.10, 90.0), "v7": Moments(1000, 0.13, 113.1)}))
        thompson: champion 6.6%, v7 93.4%
    """
    kind, good = _asked(arms, rewards, direction)
    burn = max(burn, 2) if kind is Rewards.NORMAL else burn
    blank = kind is Rewards.NORMAL and any(arm.m2 <= 0.0 for arm in arms.values())
    if blank or min(arm.n for arm in arms.values()) < burn:
        even = dict.fromkeys(arms, 1.0 / len(arms))
        return Allocation(even, even, f"{policy}, equal shares until every arm has {max(burn, 2)} units", floor)
    upward = [turned(arm, kind, good) for arm in arms.values()]
    best = probability_best([posterior_of(arm, kind) for arm in upward])
    rules: dict[str, Callable[[], Sequence[float]]] = {
        "thompson": lambda: best,
        "epsilon-greedy": lambda: epsilon_greedy([arm.mean for arm in upward], epsilon=epsilon),
        "ucb1": lambda: ucb1([arm.mean for arm in upward], [arm.n for arm in upward], scale=scale),
    }
    if policy not in rules:
        raise UnknownName.of("policy", policy, rules)
    shares = floored(rules[policy](), floor)
    return Allocation(dict(zip(arms, shares, strict=True)), dict(zip(arms, best, strict=True)), policy, floor)


def won(
    arms: Mapping[str, Moments], *, rewards: str = "bernoulli", rule: str = "confidence", alpha: float = 0.05,
    threshold: float = 0.95, loss: float = 0.0, min_units: int = 100, direction: Direction | str = Direction.UP,
) -> Winner:  # fmt: skip
    """Tell whether an arm has won.

    "confidence" is valid at every look and under any allocation that follows the past: each arm has a bound that
    holds at every look at level alpha / k, and an arm wins when its lower bound is above all others' upper bounds;
    a wrong arm wins with probability at most alpha (exact for Bernoulli rewards, asymptotic from 50 units for normal
    ones). It takes an arm's rewards to be alike over time. "probability" (P(best) >= threshold) and "loss" (expected
    loss <= loss) are decisions, not tests: asked again and again they pick a wrong arm more often than 1 - threshold.

    Args:
        arms: Rewards of each arm so far, two arms or more.
        rewards: "bernoulli" or "normal".
        rule: "confidence", "probability" or "loss".
        alpha: Error of "confidence", in (0, 1).
        threshold: Probability of "probability", in (0.5, 1).
        loss: Largest expected loss of "loss", in the reward's unit, >= 0.
        min_units: Units that every arm needs before one may win.
        direction: "up" when large rewards are good, "down" when small ones are.

    Example:
        >>> rate = lambda k, n: Moments(n, k / n, k * (n - k) / n)
        >>> print(won({"champion": rate(100, 2000), "v7": rate(220, 2000)}))
        v7 has won: its rate is at least 0.0844, the others' at most 0.0707, at every look with error 5%
    """
    kind, good = _asked(arms, rewards, direction)
    names, upward = list(arms), [turned(arm, kind, good) for arm in arms.values()]
    leader = names[max(range(len(names)), key=lambda i: (upward[i].mean, -i))]
    least = min(arm.n for arm in upward)
    match rule:
        case "confidence":
            answer = _by_confidence(dict(zip(names, upward, strict=True)), kind, alpha, leader, good)
        case "probability" | "loss":
            if (kind is Rewards.NORMAL and any(arm.n < 2 or arm.m2 <= 0.0 for arm in upward)) or least == 0:
                return Winner(None, rule, False, 0.0, leader, "no arm has won: an arm has no rewards that differ yet")
            answer = _by_belief(names, [posterior_of(arm, kind) for arm in upward], rule, threshold, loss)
        case _:
            raise UnknownName.of("rule", rule, ["confidence", "probability", "loss"])
    if answer.arm is not None and least < min_units:
        sentence = f"no arm has won: the smallest has {least:,} of {min_units:,} units"
        return replace(answer, arm=None, sentence=sentence)
    return answer


def _by_confidence(arms: Mapping[str, Moments], kind: Rewards, alpha: float, leader: str, good: Direction) -> Winner:
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha is {alpha}; it is an error between 0 and 1, such as 0.05")
    ends = {name: _ends(arm, kind, alpha / len(arms)) for name, arm in arms.items()}
    lower, upper = ends[leader][0], max(end[1] for name, end in ends.items() if name != leader)
    gap = lower - upper
    if gap <= 0.0 or math.isnan(gap):
        sentence = f"no arm has won yet: {leader} leads, within what chance explains"
        return Winner(None, "confidence", True, -math.inf if math.isnan(gap) else gap, leader, sentence)
    what = "rate" if kind is Rewards.BERNOULLI else "mean"
    lower, upper = (turned_value(end, kind, good) for end in (lower, upper))  # told on the scale that was asked about
    ours, theirs = ("at least", "at most") if good is Direction.UP else ("at most", "at least")
    sentence = f"{leader} has won: its {what} is {ours} {lower:.3g}, the others' {theirs} {upper:.3g}"
    return Winner(leader, "confidence", True, gap, leader, f"{sentence}, at every look with error {alpha:.0%}")


def _by_belief(
    names: Sequence[str], posteriors: Sequence[Posterior], rule: str, threshold: float, loss: float
) -> Winner:
    best, losses = probability_best(posteriors), expected_loss(posteriors)
    at = max(range(len(names)), key=best.__getitem__) if rule == "probability" else losses.index(min(losses))
    score = best[at] if rule == "probability" else losses[at]
    enough = score >= threshold if rule == "probability" else score <= loss
    text = f"{names[at]} is best with probability {best[at]:.1%}, expected loss {losses[at]:.3g}"
    sentence = f"{names[at]} has won: {text}" if enough else f"no arm has won yet: {text}"
    return Winner(names[at] if enough else None, rule, False, score, names[at], sentence)


def _ends(arm: Moments, kind: Rewards, alpha: float) -> tuple[float, float]:
    if kind is Rewards.NORMAL:
        bounds = mean_bounds(arm, lower=alpha, upper=alpha)
        return bounds.lower, bounds.upper
    hits, half = round(arm.mean * arm.n), alpha / 2.0
    misses = arm.n - hits  # the mixture is made for small rates: ask it for hits and for misses, each at half the error
    lower = max(rate_lower(hits, arm.n, alpha=half), 1.0 - rate_upper(misses, arm.n, alpha=half))
    upper = min(rate_upper(hits, arm.n, alpha=half), 1.0 - rate_lower(misses, arm.n, alpha=half))
    return lower, upper


def _asked(arms: Mapping[str, Moments], rewards: str, direction: Direction | str) -> tuple[Rewards, Direction]:
    if rewards not in list(Rewards):
        raise UnknownName.of("rewards", rewards, [str(kind) for kind in Rewards])
    good = direction_of(direction)
    if len(arms) < 2:
        raise InputError(f"{len(arms)} arm; a bandit needs two or more")
    for name, arm in arms.items():
        checked(arm, f"the moments of {name!r}")
        if rewards == Rewards.BERNOULLI and not -1e-9 <= arm.mean <= 1.0 + 1e-9:
            raise InputError(f"arm {name!r} has mean {arm.mean:g}; say rewards='normal' when they are not 0 or 1")
    return Rewards(rewards), good


def _largest(values: Sequence[float]) -> tuple[float, ...]:
    top = max(values)
    winners = [value == top for value in values]
    return tuple(float(w) / sum(winners) for w in winners)
