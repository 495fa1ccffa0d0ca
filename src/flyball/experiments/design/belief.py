"""What to believe of each arm after the data, beside the verdict: probability to be best, and what a choice may cost.

The surprise: nothing here decides. A plan keeps its promise by its intervals; these numbers answer another question,
for whom a wrong choice costs little and waiting costs much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flyball.errors import InputError
from flyball.experiments.design.metric import Kind, Metric, Role
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.estimate import finite

__all__ = ["Belief", "beliefs_of"]

_KINDS = (Kind.PROPORTION, Kind.MEAN, Kind.COUNT)


@dataclass(frozen=True, slots=True)
class Belief:
    """The posterior of one metric in one arm, from a prior that says next to nothing.

    Args:
        metric: The metric.
        arm: The arm, the control too.
        mean: Expected value.
        lower: Lower end of its equal-tailed credible interval, of probability 1 - alpha.
        upper: Its upper end.
        best: Probability that no arm is better.
        loss: What choosing this arm costs on average, in the metric's unit; inf where nobody can say.
    """

    metric: str
    arm: str
    mean: float
    lower: float
    upper: float
    best: float
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; an infinite loss is None."""
        return asdict(self) | {"loss": finite(self.loss)}

    def __str__(self) -> str:
        return (f"{self.arm}: best in {self.metric} with {self.best:.1%}, expected loss {self.loss:.3g} "
                f"(posterior {self.mean:.4g} [{self.lower:.4g}, {self.upper:.4g}])")  # fmt: skip


def beliefs_of(experiment: Experiment, arms: Mapping[str, ArmData]) -> tuple[Belief, ...]:
    """Return the beliefs in all arms, of plain proportions, means and counts; () where the plan does not ask.

    Covariates and strata are not used, and guardrails are not chosen by: an arm is best in what it is made for.
    """
    if not experiment.plan.posterior:
        return ()
    found: list[Belief] = []
    for metric in experiment.metrics:
        if metric.kind in _KINDS and metric.role is not Role.GUARDRAIL:
            found += _of_metric(experiment, metric, arms)
    return tuple(found)


def _of_metric(experiment: Experiment, metric: Metric, arms: Mapping[str, ArmData]) -> list[Belief]:
    from flyball.experiments.bayes import expected_loss, probability_best
    from flyball.experiments.policy.rewards import Rewards, posterior_of, turned, turned_value

    rewards = Rewards.BERNOULLI if metric.kind is Kind.PROPORTION else Rewards.NORMAL
    level, sign = 1.0 - experiment.plan.alpha, metric.sign
    samples = {arm: arms[arm].metrics[metric.name][metric.of] for arm, _ in experiment.arms}
    try:
        posteriors = [posterior_of(turned(s, rewards, metric.direction), rewards) for s in samples.values()]
        best, losses = probability_best(posteriors), expected_loss(posteriors)
    except InputError:  # an arm without units, or without any spread
        return []
    beliefs = []
    for arm, posterior, chance, loss in zip(samples, posteriors, best, losses, strict=True):
        ends = posterior.interval(level)
        mean, low, high = (turned_value(v, rewards, metric.direction) for v in (posterior.mean, *ends))
        beliefs.append(Belief(metric.name, arm, mean, *((low, high) if sign > 0 else (high, low)), chance, loss))
    return beliefs
