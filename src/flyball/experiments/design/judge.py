"""Every metric of every treatment against the control, by the plan and corrected for how many there are.

The surprise: guardrails are not corrected. All of them must be shown to be safe before anything ships, and to demand
that every one of several tests passes makes no more mistakes than one test does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from flyball.errors import InputError
from flyball.experiments.design import words
from flyball.experiments.design.compare import Effect, effect_of, log_ratio_of, refuse_wrong_kind
from flyball.experiments.design.manytoone import Key, Seen, many_to_one
from flyball.experiments.design.metric import Metric, Role
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.design.rare import RARE, Counts, counts_of, rare_bounds
from flyball.experiments.design.result import Comparison, Finding
from flyball.experiments.design.rulers import Ruler, Span
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.estimate import Alternative, Estimate
from flyball.experiments.fixed import multiple
from flyball.experiments.fixed.multiple import Correction

__all__ = ["Key", "Seen", "judged", "measured"]


def measured(experiment: Experiment, arms: Mapping[str, ArmData]) -> dict[Key, Seen]:
    """Return what every comparison shows.

    Raises:
        InputError: a metric's data is not of its kind.
    """
    control = arms[experiment.control]
    found = {}
    for metric in experiment.metrics:
        for data in arms.values():
            refuse_wrong_kind(metric, data)
        for arm in experiment.treatments:
            found[metric.name, arm] = _seen(metric, arms[arm], control)
        if experiment.correction is Correction.DUNNETT and metric.role is not Role.GUARDRAIL:
            found |= many_to_one(experiment, metric, found, arms)
    return found


def judged(experiment: Experiment, ruler: Ruler, seen: Mapping[Key, Seen], units: int) -> tuple[Comparison, ...]:
    """Return every comparison, metrics in the order of the design.

    Args:
        experiment: The design.
        ruler: Its plan at this look.
        seen: What `measured` found.
        units: Units of all arms so far.
    """
    found: dict[Key, Comparison] = {}
    for role in (Role.PRIMARY, Role.SECONDARY):
        keys = [(m.name, arm) for m in experiment.of(role) for arm in experiment.treatments]
        found |= _family(experiment, ruler, {key: seen[key] for key in keys}, units)
    for metric in experiment.of(Role.GUARDRAIL):
        for arm in experiment.treatments:
            found[metric.name, arm] = _guardrail(experiment, ruler, metric, arm, seen[metric.name, arm], units)
    return tuple(found[m.name, arm] for m in experiment.metrics for arm in experiment.treatments)


def _seen(metric: Metric, treatment: ArmData, control: ArmData) -> Seen:
    counts = counts_of(metric, treatment, control)
    try:
        effect = effect_of(metric, treatment, control)
    except InputError as error:
        return Seen(None, why=str(error), counts=counts)
    try:
        return Seen(effect, log_ratio_of(metric, treatment, control), counts=counts)
    except InputError:  # a control near zero has no relative effect
        return Seen(effect, counts=counts)


def _family(experiment: Experiment, ruler: Ruler, seen: Mapping[Key, Seen], units: int) -> dict[Key, Comparison]:
    """Judge the comparisons of one role: intervals at the plan's level, p values corrected together."""
    parts = _parts(experiment, seen)
    level = 1.0 - experiment.plan.alpha / parts
    spans = {k: _span(ruler, k, s.effect, level) for k, s in seen.items() if s.effect is not None}
    ps = {key: span.p if seen[key].p is None else seen[key].p for key, span in spans.items()}
    if parts > 1 or experiment.correction is Correction.DUNNETT:  # whose p values know of all arms already
        adjusted = {key: None if p is None else min(p * parts, 1.0) for key, p in ps.items()}
    else:
        adjusted = _adjust(experiment.correction, ps)
    return {
        key: _nothing(experiment.metric(key[0]), key[1], s.why)
        if s.effect is None
        else _comparison(experiment, ruler, key, s, s.effect, spans[key], adjusted[key], level, units)
        for key, s in seen.items()
    }


def _parts(experiment: Experiment, seen: Mapping[Key, Seen]) -> int:
    """Return into how many parts alpha is split where intervals are drawn before the p values are known."""
    if experiment.correction is Correction.DUNNETT:  # it covers the arms of a metric
        return max(len({metric for metric, _ in seen}), 1)
    split = experiment.plan.kind is PlanKind.GROUP and experiment.correction is not Correction.NONE
    return max(len(seen), 1) if split else 1


def _comparison(
    experiment: Experiment,
    ruler: Ruler,
    key: Key,
    seen: Seen,
    effect: Effect,
    span: Span,
    p: float | None,
    level: float,
    units: int,
) -> Comparison:
    metric, arm = experiment.metric(key[0]), key[1]
    estimate = _by_plan(effect, span, level, ruler.method)
    relative = _relative(ruler, key, seen, level)
    margin = _margin(metric, effect)
    if p is not None and p <= experiment.plan.alpha:
        finding = Finding.BETTER if effect.value * metric.sign > 0 else Finding.WORSE
    else:
        same = margin is not None and max(-span.lower, span.upper) < margin
        finding = Finding.SAME if same else Finding.OPEN
    power, more = _power(experiment, ruler, effect, span, margin, level, units)
    text = words.finding(metric.name, arm, finding, estimate, relative, margin)
    return Comparison(metric.name, arm, metric.role, finding, text, estimate, relative, p, margin, None, power, more)


def _guardrail(experiment: Experiment, ruler: Ruler, metric: Metric, arm: str, seen: Seen, units: int) -> Comparison:
    """Judge non-inferiority: safe when harm beyond the margin is ruled out, worse when harm is shown and that is not.

    A relative margin moves with the control. Where up is good that only narrows the true interval, where down is good
    its error is at most 1 + margin times as large; the interval is widened by that.
    """
    effect, key = seen.effect, (metric.name, arm)
    if (effect is None or effect.rare < RARE) and seen.counts is not None and not _moves(metric):
        return _rare(experiment, metric, arm, seen.counts)
    if effect is None:
        return _nothing(metric, arm, seen.why)
    level, margin = 1.0 - experiment.plan.alpha, _margin(metric, effect) or 0.0
    widened = effect
    if metric.sign < 0 and metric.margin is not None:
        widened = replace(effect, se=effect.se * (1.0 + metric.margin.relative))
    lower = ruler.span("/".join(key), widened, level=level, side=Alternative.GREATER).lower
    upper = ruler.span("/".join(key), widened, level=level, side=Alternative.LESS).upper
    worst, least = (-lower, -upper) if metric.sign > 0 else (upper, lower)
    finding = Finding.SAFE if worst < margin else Finding.WORSE if least > 0.0 else Finding.OPEN
    both = 2.0 * level - 1.0  # two one-sided bounds
    span = Span(lower, upper, None)
    estimate, relative = _by_plan(effect, span, both, ruler.method), _relative(ruler, key, seen, both)
    power, more = _power(experiment, ruler, effect, span, margin, both, units)
    text = _harm(metric, arm, finding, estimate, relative, margin, worst)
    return Comparison(metric.name, arm, metric.role, finding, text, estimate, relative, None, margin, worst,
                      power, more)  # fmt: skip


def _rare(experiment: Experiment, metric: Metric, arm: str, counts: Counts) -> Comparison:
    """Judge a guardrail on what hardly ever happened, by counts: no standard error is to be had of them."""
    margin = metric.margin.absolute if metric.margin is not None else 0.0
    found = rare_bounds(counts, experiment.plan.kind, 1.0 - experiment.plan.alpha)
    worst, least = (-found.lower, -found.upper) if metric.sign > 0 else (found.upper, found.lower)
    finding = Finding.SAFE if worst < margin else Finding.WORSE if least > 0.0 else Finding.OPEN
    text = _harm(metric, arm, finding, found, None, margin, worst)
    return Comparison(metric.name, arm, metric.role, finding, text, found, None, None, margin, worst)


def _moves(metric: Metric) -> bool:
    """Say whether a metric's margin moves with the control."""
    return metric.margin is not None and metric.margin.relative > 0.0


def _harm(
    metric: Metric, arm: str, finding: Finding, estimate: Estimate, relative: tuple[float, float, float] | None,
    margin: float, worst: float,
) -> str:  # fmt: skip
    if finding is not Finding.OPEN:
        return words.finding(metric.name, arm, finding, estimate, relative, margin)
    return f"harm to {metric.name} of {arm} is not ruled out: {worst:.3g} at worst, where {margin:.3g} is accepted"


def _nothing(metric: Metric, arm: str, why: str) -> Comparison:
    return Comparison(
        metric.name, arm, metric.role, Finding.OPEN, f"{metric.name} of {arm} cannot be judged yet: {why}"
    )


def _span(ruler: Ruler, key: Key, effect: Effect, level: float) -> Span:
    return ruler.span("/".join(key), effect, level=level, side=Alternative.TWO_SIDED)


def _by_plan(effect: Effect, span: Span, level: float, method: str) -> Estimate:
    own = effect.estimate
    named = f"{own.method}, {method}" if method else own.method
    return replace(own, lower=span.lower, upper=span.upper, p=span.p, level=level, method=named,
                   statistic=effect.value / effect.se)  # fmt: skip


def _adjust(correction: Correction, ps: Mapping[Key, float | None]) -> dict[Key, float | None]:
    known = {key: p for key, p in ps.items() if p is not None}
    return {**ps, **dict(zip(known, multiple.adjusted(list(known.values()), correction), strict=True))}


def _margin(metric: Metric, effect: Effect) -> float | None:
    return None if metric.margin is None else metric.margin.at(effect.estimate.control or 0.0)


def _relative(ruler: Ruler, key: Key, seen: Seen, level: float) -> tuple[float, float, float] | None:
    """Return the effect as a share of the control, from the interval of the logarithm of the ratio."""
    if seen.ratio is None:
        return None
    span = ruler.span("/".join(key), seen.ratio, level=level, side=Alternative.TWO_SIDED)
    return math.expm1(seen.ratio.value), math.expm1(span.lower), _expm1(span.upper)


def _expm1(value: float) -> float:
    return math.expm1(value) if value < 700.0 else math.inf


def _power(
    experiment: Experiment, ruler: Ruler, effect: Effect, span: Span, margin: float | None, level: float, units: int
) -> tuple[float | None, int | None]:
    """Return the chance that an effect of the margin is seen at this look, and how many more units it takes."""
    if not margin:
        return None, None
    from scipy.special import ndtr

    reach = (span.upper - span.lower) / 2.0
    power = float(ndtr((margin - reach) / effect.se)) if math.isfinite(reach) else 0.0
    needed = ruler.units(effect, margin, level=level, power=experiment.plan.power)
    scaled = needed / effect.n * units  # of all arms, as they fill alike
    return power, max(math.ceil(scaled - units), 0) if math.isfinite(scaled) and scaled < 1e15 else None
