"""The difference of two rates at every look, exactly, from zero failures to all.

Each arm's failures have a likelihood, and a beta mixture of likelihoods that no true rate can beat by 1 / alpha at any
look more often than alpha. The product over both arms is held against the *best* pair of rates with the difference in
question (universal inference: Wasserman, Ramdas, Balakrishnan 2020; Robbins 1970). The surprise: nothing need be known
of the allocation, and a rate of zero in both arms is no special case. The price: one-sided bounds are no nearer than
two-sided ones, and `hypergeometric` or `OddsProcess` find a harm sooner where only "which arm is worse" is asked.
"""

from __future__ import annotations

import math

from flyball.errors import InputError
from flyball.experiments.estimate import Alternative, Estimate, alternative_of, check_level
from flyball.experiments.sequential.beta import log_likelihood, log_mixture

__all__ = ["rate_difference_sequence"]

_PRIOR = (0.5, 2.0)  # beta prior of each arm's rate


def rate_difference_sequence(
    treatment: tuple[int, int],
    control: tuple[int, int],
    *,
    level: float = 0.95,
    alternative: Alternative | str = Alternative.TWO_SIDED,
) -> Estimate:
    """Return rate(treatment) - rate(control) with an interval and a p value that hold at every look.

    The state is the four counts; they add up over shards, days and nodes as long as the rates stay what they are.

    Args:
        treatment: (events, units) of the treatment so far.
        control: (events, units) of the control so far.
        level: Confidence over all looks together.
        alternative: "two-sided", "greater" or "less".

    Returns:
        `Estimate`; exact at any size. An empty arm leaves the interval (-1, 1) and p = 1.

    Raises:
        InputError: counts are negative, or more events than units.

    Example:
        >>> print(rate_difference_sequence((90, 1000), (40, 1000)))
        beta-mixture sequence: +0.05 [+0.004268, +0.0985] at 95%, p = 0.00923, n = 1,000 against 1,000
    """
    side, alpha = alternative_of(alternative), 1.0 - check_level(level)
    for name, (events, n) in (("treatment", treatment), ("control", control)):
        if not 0 <= events <= n:
            raise InputError(f"the {name} has {events} events of {n} units; events are between 0 and the units")
    if 0 in (treatment[1], control[1]):
        return _estimate(0.0, -1.0, 1.0, 1.0, treatment, control, level, side)
    effect = treatment[0] / treatment[1] - control[0] / control[1]
    evidence = log_mixture(*treatment, prior=_PRIOR) + log_mixture(*control, prior=_PRIOR)
    cut = evidence + math.log(alpha)  # differences whose best likelihood stays below are excluded
    lower = _edge(treatment, control, cut, inside=effect, outside=-1.0)
    upper = _edge(treatment, control, cut, inside=effect, outside=1.0)
    wrong = (side is Alternative.GREATER and effect <= 0.0) or (side is Alternative.LESS and effect >= 0.0)
    log_e = 0.0 if wrong else evidence - _profile(treatment, control, 0.0)[0]
    return _estimate(effect, lower, upper, math.exp(min(-log_e, 0.0)), treatment, control, level, side)


def _estimate(
    effect: float, lower: float, upper: float, p: float, one: tuple[int, int], other: tuple[int, int], level: float,
    side: Alternative,
) -> Estimate:  # fmt: skip
    rates = [events / n if n else None for events, n in (one, other)]
    return Estimate(effect, *side.ends(lower, upper), p, None, (one[1], other[1]), "beta-mixture sequence", level, side,
                    treatment=rates[0], control=rates[1])  # fmt: skip


def _edge(one: tuple[int, int], other: tuple[int, int], cut: float, *, inside: float, outside: float) -> float:
    """Return the difference at which the best likelihood falls to the cut, from outside.

    The best likelihood is concave in the difference, so after a few halvings Newton's steps come from outside only.
    """
    for _ in range(12):
        middle = (inside + outside) / 2.0
        inside, outside = (inside, middle) if _profile(one, other, middle)[0] <= cut else (middle, outside)
    for _ in range(40):
        value, slope = _profile(one, other, outside)
        step = (value - cut) / slope if slope and math.isfinite(value) else 0.0
        if abs(step) <= 1e-12 or not min(inside, outside) < outside - step < max(inside, outside):
            break
        outside -= step
    return outside


def _profile(one: tuple[int, int], other: tuple[int, int], delta: float) -> tuple[float, float]:
    """Return the largest log likelihood of rates (m + delta, m) and its slope in delta.

    It is concave in m: Newton's steps, halving where they leave the bracket.
    """
    low, high = max(0.0, -delta), min(1.0, 1.0 - delta)
    m = (one[0] - one[1] * delta + other[0]) / (one[1] + other[1])
    m = min(max(m, 0.99 * low + 0.01 * high), 0.01 * low + 0.99 * high)  # off the ends, where the slope is infinite
    for _ in range(80):
        slope = _slope(*one, m + delta) + _slope(*other, m)
        low, high = (m, high) if slope > 0.0 else (low, m)
        step = m + slope / (_curve(*one, m + delta) + _curve(*other, m))
        following = step if low < step < high else (low + high) / 2.0
        if abs(following - m) <= 1e-15 * m:
            break
        m = following
    best = max((low, m, high), key=lambda at: log_likelihood(*one, at + delta) + log_likelihood(*other, at))
    value = log_likelihood(*one, best + delta) + log_likelihood(*other, best)
    held = not 1e-12 < best + delta < 1.0 - 1e-12  # the treatment's rate is at its end: the control's moves with delta
    return value, -_slope(*other, best) if held else _slope(*one, best + delta)


def _slope(events: int, n: int, rate: float) -> float:
    rate = min(max(rate, 1e-300), 1.0 - 1e-16)
    return events / rate - (n - events) / (1.0 - rate)


def _curve(events: int, n: int, rate: float) -> float:
    rate = min(max(rate, 1e-150), 1.0 - 1e-16)
    return events / rate / rate + (n - events) / (1.0 - rate) / (1.0 - rate)
