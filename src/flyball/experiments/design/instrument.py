"""Whether the experiment can be believed: sample ratio first, then exposure, segments, days, outliers, luck.

The surprise: the sample ratio of a running experiment is judged by an e-process, at a level far below that of the
metrics, because it is looked at as often as the metrics are and a false alarm stops everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from flyball.errors import InputError
from flyball.experiments.design.metric import Kind, Metric
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.design.result import Comparison
from flyball.experiments.design.rulers import Look
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.stats import Moments, Stats
from flyball.experiments.trust.check import Check, TrustReport, Verdict
from flyball.experiments.trust.srm import RatioProcess, srm_test

__all__ = ["instrument", "sample_ratio"]

K = TypeVar("K", str, int)

_CROSSED = 0.01  # share of units in two arms from which nothing can be believed
_DAYS = 3  # days that a trend needs
_TWO_WEEKS = 14  # days below which a weekday came once, and cannot be told from that day
_FEW = 3  # units an arm that leaving one out needs


def sample_ratio(experiment: Experiment, units: Mapping[str, int], earlier: Sequence[Look] = ()) -> RatioProcess:
    """Return the evidence against the designed sample ratio, with its peak over this look and those before.

    Args:
        experiment: Whose shares.
        units: Distinct units by arm, so far.
        earlier: The looks before.
    """
    arms = [arm for arm, _ in experiment.arms]
    process = RatioProcess.of([experiment.weights[arm] for arm in arms]).seen([units.get(arm, 0) for arm in arms])
    return replace(process, peak=max([process.peak, *(look.ratio for look in earlier)]))


def instrument(
    experiment: Experiment, arms: Mapping[str, ArmData], comparisons: Sequence[Comparison], ratio: RatioProcess
) -> TrustReport:
    """Return every check of an experiment.

    Args:
        experiment: The design.
        arms: What each arm has shown.
        comparisons: The effects, for the check of those that are too good.
        ratio: What `sample_ratio` found.
    """
    checks = [_ratio(experiment, arms, ratio), _crossed(arms), *_exposed(arms)]
    for metric in experiment.primary:
        for arm in experiment.treatments:
            checks += _of_metric(metric, arm, arms[arm], arms[experiment.control])
    checks += _too_good(experiment, comparisons)
    return TrustReport.of(*checks)


def _ratio(experiment: Experiment, arms: Mapping[str, ArmData], ratio: RatioProcess) -> Check:
    names = [arm for arm, _ in experiment.arms]
    counts, shares = [arms[arm].units for arm in names], [experiment.weights[arm] for arm in names]
    if sum(counts) == 0:
        return Check("sample ratio", Verdict.PASSING, "no unit was exposed yet", {"n": 0})
    if experiment.plan.kind is PlanKind.FIXED:
        return srm_test(counts, shares, names=names)
    return ratio.check()


def _exposed(arms: Mapping[str, ArmData]) -> list[Check]:
    """Compare exposure with assignment, where it is known who was assigned."""
    from flyball.experiments.trust.exposure import exposure

    assigned = {arm: data.assigned for arm, data in arms.items() if data.assigned is not None}
    if len(assigned) < len(arms):
        return []
    return [exposure(assigned, {arm: min(arms[arm].units, n) for arm, n in assigned.items()}).check]


def _crossed(arms: Mapping[str, ArmData]) -> Check:
    crossed = sum(data.crossed for data in arms.values())
    seen = sum(data.units + data.crossed for data in arms.values())
    share = crossed / seen if seen else 0.0
    verdict = Verdict.FAILED if share >= _CROSSED else Verdict.WARNING if share >= _CROSSED / 10 else Verdict.PASSING
    text = f"{share:.2%} of the exposures are of units seen in two arms" if crossed else "no unit was seen in two arms"
    return Check("crossed units", verdict, text, {"share": share, "crossed": crossed})


def _of_metric(metric: Metric, arm: str, treatment: ArmData, control: ArmData) -> list[Check]:
    from flyball.experiments.trust.heterogeneity import weekday_effects
    from flyball.experiments.trust.novelty import novelty
    from flyball.experiments.trust.outliers import influence_of
    from flyball.experiments.trust.simpson import simpson

    if metric.kind in (Kind.QUANTILE, Kind.RATIO):  # all of these are of means
        return []
    checks = []
    strata = _pairs(metric, treatment.strata, control.strata)
    if len(strata) > 1:
        checks.append(simpson({str(k): pair for k, pair in strata.items()}).check)
    days = _pairs(metric, treatment.days, control.days)
    if len(days) >= _DAYS:
        checks.append(novelty({float(str(k)): pair for k, pair in days.items()}).check)
    if len(days) >= _TWO_WEEKS and treatment.calendar and control.calendar:
        checks.append(weekday_effects(_weekdays(days)).check)
    both = [(data.metrics[metric.name][metric.of], data.tails.get(metric.name)) for data in (treatment, control)]
    (t, t_ends), (c, c_ends) = both
    if t_ends and c_ends and min(t.n, c.n) >= _FEW and not metric.covariate:
        checks.append(influence_of((t, t_ends), (c, c_ends)).check)
    return [Check(f"{c.name} of {metric.name}, {arm}", c.verdict, c.sentence, c.numbers) for c in checks]


def _weekdays(days: Mapping[int, tuple[Moments, Moments]]) -> dict[int, tuple[Moments, Moments]]:
    """Return both arms' moments by weekday, Monday 0; day 0 of the calendar, 1970-01-01, was a Thursday."""
    found: dict[int, tuple[Moments, Moments]] = {}
    for day, (t, c) in days.items():
        known = found.get((day + 3) % 7, (Moments(), Moments()))
        found[(day + 3) % 7] = known[0].merge(t), known[1].merge(c)
    return found


def _pairs(
    metric: Metric, treatment: Mapping[K, Mapping[str, Stats]], control: Mapping[K, Mapping[str, Stats]]
) -> dict[K, tuple[Moments, Moments]]:
    """Return both arms' moments of the groups that both have."""
    return {
        key: (found[metric.name][metric.of], control[key][metric.name][metric.of])
        for key, found in treatment.items()
        if key in control and min(found[metric.name].n, control[key][metric.name].n) > 0
    }


def _too_good(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Check]:
    from flyball.experiments.trust.twyman import twyman

    found = []
    for c in comparisons:
        if c.estimate is None:
            continue
        try:
            check = twyman(c.estimate)
        except InputError:
            continue
        if not check.passed:
            found.append(Check(f"{check.name} of {c.metric}, {c.arm}", check.verdict, check.sentence, check.numbers))
    return found
