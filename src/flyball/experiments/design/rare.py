"""Guardrails on what hardly ever happens: errors, complaints, refunds, counted exactly.

The surprise: the best case is the one that a standard error cannot judge. Where neither arm had an error there is no
variation, and yet 3,000 units without one rule out that one in a hundred fails.
"""

from __future__ import annotations

from dataclasses import replace

from flyball.experiments.design.metric import Kind, Metric
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.design.types import ArmData
from flyball.experiments.estimate import Alternative, Estimate

__all__ = ["RARE", "Counts", "counts_of", "rare_bounds"]

RARE = 20  # units that did, or did not, below which a proportion is far from normal
Counts = tuple[tuple[int, int], tuple[int, int]]  # (units that did, units) of treatment and control


def counts_of(metric: Metric, treatment: ArmData, control: ArmData) -> Counts | None:
    """Return the counts of a plain proportion; None for what is no count, or is compared within groups."""
    if metric.kind is not Kind.PROPORTION or metric.covariate or (treatment.strata and control.strata):
        return None
    both = [data.metrics[metric.name][metric.of] for data in (treatment, control)]
    if min(arm.n for arm in both) == 0:
        return None
    one, other = ((round(arm.mean * arm.n), arm.n) for arm in both)
    return one, other


def rare_bounds(counts: Counts, kind: PlanKind, level: float) -> Estimate:
    """Return the difference with two one-sided bounds of that level, together of level 2 level - 1.

    A fixed plan takes Newcombe's hybrid score bounds; any other the beta-mixture sequence, which holds at every look.
    """
    from flyball.experiments.fixed.proportions import newcombe
    from flyball.experiments.fixed.shares import Count
    from flyball.experiments.sequential.rates import rate_difference_sequence

    def bound(side: Alternative) -> Estimate:
        if kind is PlanKind.FIXED:
            return newcombe(Count(*counts[0]), Count(*counts[1]), level=level, alternative=side)
        return rate_difference_sequence(*counts, level=level, alternative=side)

    low, high = bound(Alternative.GREATER), bound(Alternative.LESS)
    return replace(low, upper=high.upper, p=None, level=2.0 * level - 1.0, alternative=Alternative.TWO_SIDED)
