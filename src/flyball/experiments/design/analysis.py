"""Judge an experiment: from each arm's statistics to a verdict in words, by the plan that was made before.

The surprise: the order matters. The instrument is judged first (a sample ratio that does not fit ends it), then whether
the plan allows a verdict at this look, then guardrails, and only then the effect everybody waits for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flyball.errors import UnknownName
from flyball.experiments.design import words
from flyball.experiments.design.belief import beliefs_of
from flyball.experiments.design.instrument import instrument, sample_ratio
from flyball.experiments.design.judge import judged, measured
from flyball.experiments.design.metric import Kind, Role
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.design.result import Comparison, Finding, Impact, Outcome, Result
from flyball.experiments.design.rulers import Look, ruler_of
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.fixed.multiple import Correction
from flyball.experiments.trust.check import Verdict

__all__ = ["analyze"]


def analyze(
    experiment: Experiment, arms: Mapping[str, ArmData], *, earlier: Sequence[Look] = (), ended: bool = False
) -> Result:
    """Judge an experiment.

    Args:
        experiment: The design.
        arms: What each arm has shown.
        earlier: The looks before (`Result.look`), oldest first: a group plan goes on from them, and a sample ratio
            that was wrong at any of them stays wrong.
        ended: Whether no more data will come; a fixed plan then has its verdict, however small it stayed.

    Returns:
        The result: printable, and plain data by `to_dict`.

    Raises:
        UnknownName: an arm is missing.
        InputError: a metric's data is no data of its kind.

    Example:
        >>> from flyball.experiments import ArmData, Experiment, Metric, Stats, plan
        >>> e = Experiment("checkout", arms={"old": 0.5, "new": 0.5}, planned_units=40_000, plan=plan.fixed(),
        ...                metrics=[Metric("paid", kind="proportion")])
        >>> rate = lambda k, n: ArmData(n, {"paid": Stats(n, ("paid",), (k / n,), ((k * (n - k) / n,),))})
        >>> print(analyze(e, {"old": rate(2000, 20_000), "new": rate(2200, 20_000)}).sentence)
        new raises paid by 10 % [3.87, 16.5]; ship new
    """
    for arm, _ in experiment.arms:
        if arm not in arms:
            raise UnknownName.of(f"data of experiment {experiment.name!r} for arm", arm, arms)
    units = {arm: arms[arm].units for arm, _ in experiment.arms}
    total = sum(units.values())
    arms = {arm: arms[arm] for arm, _ in experiment.arms}
    seen = measured(experiment, arms)
    comparisons = judged(experiment, ruler_of(experiment, total, earlier=earlier), seen, total)
    ratio = sample_ratio(experiment, units, earlier)
    trust = instrument(experiment, arms, comparisons, ratio)
    final = experiment.plan.kind is not PlanKind.FIXED or ended or total >= (experiment.planned_units or 0)
    full = ended or total >= (experiment.planned_units or math.inf)
    outcome, winner, deciding = _decide(experiment, comparisons, full=full)
    sentence = words.verdict(outcome, winner, experiment.control, deciding,
                             words.more_units(deciding, experiment.planned_units, total))  # fmt: skip
    if not trust.trusted:
        broken = "; ".join(c.sentence for c in trust.worst if c.verdict is Verdict.FAILED)
        outcome, winner, sentence = Outcome.UNTRUSTED, "", f"do not read the effects: {broken}"
    elif not final:
        missing = words.more_units((), experiment.planned_units, total)
        outcome, winner = Outcome.WAIT, ""
        sentence = f"not enough data yet: {missing}; a fixed plan has no verdict before its planned size"
    z = {"/".join(key): s.effect.value / s.effect.se for key, s in seen.items() if s.effect is not None}
    time = min(total / experiment.planned_units, 1.0) if experiment.planned_units else 0.0
    return Result(
        experiment.name, experiment.digest, outcome, winner, sentence, comparisons, trust,
        _impacts(experiment, arms, comparisons), units, experiment.planned_units, final,
        Look(time, z, ratio.peak), _notes(experiment, arms, comparisons), beliefs_of(experiment, arms),
    )  # fmt: skip


def _decide(
    experiment: Experiment, comparisons: Sequence[Comparison], *, full: bool
) -> tuple[Outcome, str, list[Comparison]]:
    """Return what to do, the arm to ship, and the comparisons that say so."""
    outcomes = {arm: _of_arm([c for c in comparisons if c.arm == arm], full=full) for arm in experiment.treatments}
    shipping = [arm for arm, (outcome, _) in outcomes.items() if outcome is Outcome.SHIP]
    if shipping:
        best = max(shipping, key=lambda arm: _gain(experiment, outcomes[arm][1]))
        return Outcome.SHIP, best, outcomes[best][1]
    for outcome in (Outcome.WAIT, Outcome.INCONCLUSIVE, Outcome.SAME):
        if any(found is outcome for found, _ in outcomes.values()):
            return outcome, "", [c for found, deciding in outcomes.values() for c in deciding if found is outcome]
    return Outcome.KEEP, "", [c for _, deciding in outcomes.values() for c in deciding]


def _of_arm(mine: Sequence[Comparison], *, full: bool) -> tuple[Outcome, list[Comparison]]:
    primary = [c for c in mine if c.role is Role.PRIMARY]
    guardrails = [c for c in mine if c.role is Role.GUARDRAIL]
    if worse := [c for c in (*primary, *guardrails) if c.finding is Finding.WORSE]:
        return Outcome.KEEP, worse
    unsettled = Outcome.INCONCLUSIVE if full else Outcome.WAIT
    better = [c for c in primary if c.finding is Finding.BETTER]
    open_rails = [c for c in guardrails if c.finding is Finding.OPEN]
    if better:
        return (unsettled, [*better, *open_rails]) if open_rails else (Outcome.SHIP, [*better, *guardrails])
    if all(c.finding is Finding.SAME for c in primary):
        return Outcome.SAME, primary
    return unsettled, [c for c in primary if c.finding is Finding.OPEN]


def _gain(experiment: Experiment, deciding: Sequence[Comparison]) -> float:
    """Return how much better the first primary metric became, in standard errors where it has no relative scale."""
    first = next(c for c in deciding if c.role is Role.PRIMARY)
    sign = experiment.metric(first.metric).sign
    assert first.estimate is not None, "a metric that got better has an estimate"
    return sign * first.estimate.effect


def _impacts(
    experiment: Experiment, arms: Mapping[str, ArmData], comparisons: Sequence[Comparison]
) -> tuple[Impact, ...]:
    """Return what each effect was worth in the arm that had it; a ratio counts per unit of its denominator."""
    found = []
    for c in comparisons:
        metric = experiment.metric(c.metric)
        if metric.value is None or c.estimate is None or metric.kind is Kind.QUANTILE:
            continue
        units = arms[c.arm].units
        stats = arms[c.arm].metrics[c.metric]
        times = metric.value * units * (stats.mean(metric.over) if metric.over else 1.0)
        ends = sorted((c.estimate.lower * times, c.estimate.upper * times)) if times else [0.0, 0.0]
        found.append(Impact(c.metric, c.arm, units, metric.value, c.estimate.effect * times, ends[0], ends[1]))
    return tuple(found)


def _notes(experiment: Experiment, arms: Mapping[str, ArmData], comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    notes = []
    if crossed := max(data.crossed for data in arms.values()):
        notes.append(f"up to {crossed:,} units were seen in two arms and are left out")
    for metric in experiment.metrics:
        if pending := sum(data.pending.get(metric.name, 0) for data in arms.values()):
            notes.append(f"{metric.name}: {pending:,} units are still within their window and do not count yet")
    if experiment.plan.kind is PlanKind.SEQUENTIAL:
        notes.append("intervals hold at every look; they are asymptotic, and unbounded below 50 units an arm")
    families = [sum(c.role is role for c in comparisons) for role in (Role.PRIMARY, Role.SECONDARY)]
    if experiment.correction is not Correction.NONE and max(families) > 1:
        split = experiment.plan.kind is PlanKind.GROUP or experiment.correction is Correction.DUNNETT
        notes.append(
            f"p values are corrected ({experiment.correction}) over arms and metrics of a role, and decide; "
            + ("the level of intervals is split likewise" if split else "each interval stands for itself")
        )
    return tuple(notes)
