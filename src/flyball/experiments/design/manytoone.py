"""What a look shows of each comparison; and Dunnett's test, where one interval must know of all arms.

The surprise: with Dunnett's the arms share one variance too. The interval of a quiet arm is as wide as the arms are on
average, which is what makes it hold together with the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flyball.errors import InputError
from flyball.experiments.design.compare import Effect
from flyball.experiments.design.metric import Metric
from flyball.experiments.design.rare import Counts
from flyball.experiments.design.types import ArmData, Experiment

__all__ = ["Key", "Seen", "many_to_one"]

Key = tuple[str, str]  # metric, arm


@dataclass(frozen=True, slots=True)
class Seen:
    """What one comparison shows at this look: an effect, the logarithm of the arms' ratio, or why there is none.

    `p` is the p value over all arms, where the test compares all of them at once.
    """

    effect: Effect | None
    ratio: Effect | None = None
    why: str = ""
    counts: Counts | None = None  # of a plain proportion
    p: float | None = None


def many_to_one(
    experiment: Experiment, metric: Metric, seen: Mapping[Key, Seen], arms: Mapping[str, ArmData]
) -> dict[Key, Seen]:
    """Return a metric's comparisons with Dunnett's intervals and p values instead of their own.

    Args:
        experiment: Whose arms; the error is split over the metrics of the metric's role.
        metric: A plain mean, count or proportion.
        seen: What each comparison shows by itself.
        arms: What each arm has shown.
    """
    from flyball.experiments.fixed.arms import dunnett

    level = 1.0 - experiment.plan.alpha / len(experiment.of(metric.role))
    order = (experiment.control, *experiment.treatments)
    samples = {arm: arms[arm].metrics[metric.name][metric.of] for arm in order}
    keys = [(metric.name, arm) for arm in experiment.treatments]
    try:
        compared = dunnett(samples, experiment.control, level=level)
    except InputError as error:
        return {key: Seen(None, why=str(error)) for key in keys}
    variance = math.fsum(m.m2 for m in samples.values()) / (sum(m.n for m in samples.values()) - len(samples))
    found = {}
    for key in keys:
        one = compared[key[1]]
        se = math.sqrt(variance / samples[key[1]].n + variance / samples[experiment.control].n)
        reach = (one.estimate.upper - one.estimate.lower) / 2.0 / se
        ratio = _reaching(seen[key].ratio, reach, level)
        found[key] = Seen(Effect(one.estimate, se), ratio, p=one.p_adjusted)
    return found


def _reaching(effect: Effect | None, reach: float, level: float) -> Effect | None:
    """Return an effect with an interval of so many standard errors."""
    if effect is None:
        return None
    ends = (effect.value - reach * effect.se, effect.value + reach * effect.se)
    return replace(effect, estimate=replace(effect.estimate, lower=ends[0], upper=ends[1], level=level))
