"""One metric of one treatment against the control: the fixed test that fits the metric, and what can be said of it.

The surprise: sequential and group plans start from the same estimate. Whatever the metric is, its effect is a smooth
function of means, so effect and standard error are all that an always-valid interval needs, for large samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flyball.errors import InputError, UnknownName
from flyball.experiments.design.metric import Kind, Metric
from flyball.experiments.design.types import ArmData
from flyball.experiments.estimate import Alternative, Estimate, Scale
from flyball.experiments.fixed.pivots import critical
from flyball.experiments.fixed.shares import count_of
from flyball.experiments.sequential.confidence import spread_apart
from flyball.experiments.stats import Moments, Stats

__all__ = ["Effect", "effect_of", "estimate_of", "log_ratio_of", "refuse_wrong_kind"]


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect with its standard error, as one look sees it.

    Args:
        estimate: The fixed test's estimate.
        se: Its standard error, > 0.
        rare: Units of both arms that differ from the rest, of a proportion: the fewer of yes and no.
        caution: Factor >= 1 on `se` for looks at small arms of unequal size (see `spread_apart`); 1 for equal arms.
    """

    estimate: Estimate
    se: float
    rare: float = math.inf
    caution: float = 1.0

    @property
    def value(self) -> float:
        """Treatment less control, on the estimate's scale."""
        return self.estimate.effect

    @property
    def df(self) -> float:
        """Degrees of freedom of the standard error; inf where it is taken as known."""
        return self.estimate.df if self.estimate.df is not None else math.inf

    @property
    def n(self) -> int:
        """Units of both arms."""
        return sum(self.estimate.n)


def effect_of(metric: Metric, treatment: ArmData, control: ArmData) -> Effect:
    """Return the effect on a metric, treatment less control.

    Raises:
        InputError: too few units, or no variation.
    """
    estimate = estimate_of(metric, treatment, control, level=0.95)
    rare = math.inf
    if metric.kind is Kind.PROPORTION and not metric.covariate and not treatment.strata:
        # the score interval is not symmetric: take the standard error of the difference of two means
        both = [data.metrics[metric.name][metric.of] for data in (treatment, control)]
        se = math.sqrt(math.fsum(arm.m2 / arm.n / arm.n for arm in both))
        yes = math.fsum(arm.n * arm.mean for arm in both)
        rare = min(yes, math.fsum(arm.n for arm in both) - yes)
    else:
        se = _half(estimate, estimate.lower, estimate.upper)
    if not (se > 0.0 and math.isfinite(se)):
        raise InputError(f"metric {metric.name!r} does not vary; there is nothing to judge it by yet")
    return Effect(estimate, se, rare, _caution(metric, treatment, control))


def log_ratio_of(metric: Metric, treatment: ArmData, control: ArmData) -> Effect:
    """Return the logarithm of treatment / control, which is nearer to normal than the ratio.

    Raises:
        InputError: an arm is near zero, or they lie on both sides of it.
    """
    found = estimate_of(metric, treatment, control, level=0.95, scale=Scale.RELATIVE)
    effect, lower, upper = (math.log1p(v) for v in (found.effect, found.lower, found.upper))
    moved = replace(found, effect=effect, lower=lower, upper=upper)
    return Effect(moved, _half(found, lower, upper), caution=_caution(metric, treatment, control))


def _caution(metric: Metric, treatment: ArmData, control: ArmData) -> float:
    """Return by how much the standard error grows when a small arm may not judge its own spread.

    Quantiles take theirs from ranks, which skewed values do not deceive.
    """
    if metric.kind is Kind.QUANTILE:
        return 1.0
    name = metric.name
    pairs = [(treatment.metrics[name], control.metrics[name])]
    if treatment.strata and control.strata:
        one, other = _common(metric, treatment, control)
        pairs = [(one[stratum], other[stratum]) for stratum in one]
    own = apart = 0.0
    for t, c in pairs:
        mine, theirs = _residuals(metric, t, c)
        weight = float(t.n + c.n) ** 2
        own += weight * (mine.variance / mine.n + theirs.variance / theirs.n)
        apart += weight * spread_apart(mine, theirs)
    return math.sqrt(apart / own) if own > 0.0 else 1.0


def _residuals(metric: Metric, t: Stats, c: Stats) -> tuple[Moments, Moments]:
    """Return each arm's values as the test sees them: linearised, and less what covariates explain."""
    from flyball.experiments.fixed.covariates import theta
    from flyball.experiments.fixed.ratios import linearised

    weights = [{metric.of: 1.0}] * 2
    if metric.over:
        weights = [linearised(arm, metric.of, metric.over, "an arm") for arm in (t, c)]
    slopes = theta(t, c, weights[1], metric.covariate) if metric.covariate else ()
    less = {covariate: -slope for covariate, slope in zip(metric.covariate, slopes, strict=True)}
    mine, theirs = (arm.combine({**each, **less}) for arm, each in zip((t, c), weights, strict=True))
    return mine, theirs


def _half(estimate: Estimate, lower: float, upper: float) -> float:
    """Return the standard error behind a symmetric interval."""
    df = estimate.df if estimate.df is not None else math.inf
    return (upper - lower) / 2.0 / critical(estimate.level, Alternative.TWO_SIDED, df)


def estimate_of(
    metric: Metric, treatment: ArmData, control: ArmData, *, level: float, scale: Scale = Scale.DIFFERENCE
) -> Estimate:
    """Return the fixed test of a metric: stratified, adjusted by covariates, of a ratio, a quantile or a mean.

    The relative scale takes the delta method, so that its standard error serves every plan.

    Raises:
        InputError: as `effect_of`.
    """
    from flyball.experiments.fixed import covariates, means, proportions, quantiles, ratios

    name, of, over = metric.name, metric.of, metric.over or None
    t, c = treatment.metrics[name], control.metrics[name]
    if metric.kind is Kind.QUANTILE:
        if scale is not Scale.DIFFERENCE:
            raise InputError("a quantile's effect is told in the metric's own unit")
        both = (treatment.clusters.get(name), control.clusters.get(name))
        clusters = None if both[0] is None or both[1] is None else (both[0], both[1])
        return quantiles.quantile_effect(
            treatment.values[name], control.values[name], metric.quantile, clusters=clusters, level=level
        )
    if treatment.strata and control.strata:
        strata = _common(metric, treatment, control)
        return covariates.post_stratified(*strata, of, over=over, scale=scale, method="delta", level=level)
    if metric.covariate:
        return covariates.cuped(t, c, of, metric.covariate, over=over, scale=scale, method="delta", level=level)
    if over is not None:
        return ratios.ratio_metric(t, c, of, over, scale=scale, method="delta", level=level)
    if scale is Scale.RELATIVE:
        return ratios.relative_effect(t[of], c[of], method="delta", level=level)
    if metric.kind is Kind.PROPORTION:
        return proportions.two_proportions_z(t[of], c[of], level=level)
    return means.welch_t(t[of], c[of], level=level)


def refuse_wrong_kind(metric: Metric, data: ArmData) -> None:
    """Raise InputError where a proportion's values are not zeros and ones: only those have m2 = n p (1 - p)."""
    if metric.name not in data.metrics:
        raise UnknownName.of("statistics of metric", metric.name, data.metrics)
    if metric.kind is Kind.QUANTILE and metric.name not in data.values:
        raise InputError(f"metric {metric.name!r} is a quantile: it needs all values, not only their statistics")
    if metric.kind is not Kind.PROPORTION or data.metrics[metric.name].n == 0:
        return
    moments = data.metrics[metric.name][metric.of]
    try:
        count_of(moments)
    except InputError as error:
        raise InputError(
            f"metric {metric.name!r} is a proportion, but column {metric.of!r} holds more than 0 and 1 "
            f'(mean {moments.mean:.4g}); say kind="mean" or "count"'
        ) from error


def _common(metric: Metric, treatment: ArmData, control: ArmData) -> tuple[dict[str, Stats], dict[str, Stats]]:
    """Return the strata in which both arms have two units; others say nothing about a difference."""
    arms = [{s: found[metric.name] for s, found in data.strata.items()} for data in (treatment, control)]
    both = [s for s, stats in arms[0].items() if stats.n >= 2 and s in arms[1] and arms[1][s].n >= 2]
    if not both:
        raise InputError(f"metric {metric.name!r} has no stratum with two units in both arms yet")
    return {s: arms[0][s] for s in both}, {s: arms[1][s] for s in both}
