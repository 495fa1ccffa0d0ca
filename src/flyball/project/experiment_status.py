"""What an experiment shows while it runs: exposures against the plan, the sample ratio, days left, a verdict so far.

The surprise: a fixed plan shows no verdict before its size, however loudly it is asked. A p value that is watched until
it is small gets small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flyball.errors import FlyballError
from flyball.experiments.design.analysis import analyze
from flyball.experiments.design.instrument import sample_ratio
from flyball.experiments.design.plans import PlanKind
from flyball.experiments.lifecycle import State

if TYPE_CHECKING:
    from flyball.experiments.design.rulers import Look
    from flyball.experiments.design.types import Experiment
    from flyball.experiments.lifecycle import ExperimentStatus
    from flyball.experiments.trust.check import Check
    from flyball.project.experiment_data import Gathered

__all__ = ["days_left", "ratio_of", "status_of"]


def ratio_of(experiment: Experiment, exposed: Mapping[str, int], looks: Sequence[Look] = ()) -> Check:
    """Return whether units arrive as designed, by a test that holds at every look; `looks` are those recorded."""
    return sample_ratio(experiment, exposed, looks).check()


def status_of(
    experiment: Experiment, status: ExperimentStatus, gathered: Gathered | None, looks: Sequence[Look], now: datetime
) -> dict[str, Any]:
    """Return all that there is to show; `looks` are those of a group plan so far."""
    exposed = gathered.exposed if gathered is not None else dict.fromkeys(experiment.shares, 0)
    seen, planned = sum(exposed.values()), experiment.planned_units
    return {
        "name": experiment.name, "state": str(status.state), "hypothesis": experiment.hypothesis,
        "digest": status.digest, "model": experiment.model, "flag": experiment.flag, "arms": experiment.shares,
        "created": status.created, "started": status.started, "ended": status.ended, "reason": status.reason,
        "ship": status.ship, "tables": list(status.tables), "exposed": exposed,
        "crossed": _crossed(gathered), "left_out": dict(gathered.left_out) if gathered is not None else {},
        "units": seen, "planned_units": planned, "progress": None if not planned else seen / planned,
        "ends": experiment.ends, "days_left": days_left(experiment, status, seen, now),
        "coverage": _coverage(experiment, gathered),
        "silent": dict(gathered.silent) if gathered is not None else {},
        "ratio": ratio_of(experiment, exposed, looks).to_dict(),
        "verdict": _verdict(experiment, status, gathered, looks),
    }  # fmt: skip


def _crossed(gathered: Gathered | None) -> int:
    return 0 if gathered is None else max((data.crossed for data in gathered.arms.values()), default=0)


def _coverage(experiment: Experiment, gathered: Gathered | None) -> dict[str, float | None]:
    """Return the share of exposed units whose window has closed, by metric."""
    found: dict[str, float | None] = {}
    for metric in experiment.metrics:
        units = 0 if gathered is None else sum(data.units for data in gathered.arms.values())
        pending = 0 if gathered is None else sum(data.pending.get(metric.name, 0) for data in gathered.arms.values())
        found[metric.name] = None if not units else 1.0 - pending / units
    return found


def days_left(experiment: Experiment, status: ExperimentStatus, seen: int, now: datetime) -> float | None:
    """Return days until the end, or until the planned units came at the pace so far, whichever is sooner."""
    if status.state is not State.RUNNING:
        return None
    found = [] if experiment.ends is None else [max((experiment.ends - now).total_seconds() / 86_400, 0.0)]
    ran = (now - status.started).total_seconds() / 86_400 if status.started is not None else 0.0
    if experiment.planned_units and seen and ran > 0:
        found.append(max(experiment.planned_units - seen, 0) * ran / seen)
    return min(found, default=None)


def _verdict(
    experiment: Experiment, status: ExperimentStatus, gathered: Gathered | None, looks: Sequence[Look]
) -> dict[str, Any]:
    seen, ended = 0 if gathered is None else sum(gathered.exposed.values()), not status.active
    if gathered is None or not seen:
        return {"valid": False, "sentence": "not enough data yet: nobody was exposed so far"}
    planned = experiment.planned_units or 0
    if experiment.plan.kind is PlanKind.FIXED and seen < planned and not ended:
        missing = f"about {planned - seen:,} more exposures"
        return {"valid": False, "sentence": f"a fixed plan is judged once, at {planned:,} units: {missing}"}
    if experiment.plan.kind is PlanKind.GROUP and not ended:
        taken = f"{len(looks)} of {experiment.plan.looks} looks are taken"
        return {"valid": False, "sentence": f"a group plan is judged at its looks; {taken}; take one: exp analyze"}
    try:
        result = analyze(experiment, gathered.arms, earlier=looks, ended=ended)
    except FlyballError as error:  # such as arms too small for any test: a state, not a failure
        return {"valid": False, "sentence": f"not enough data yet: {error}"}
    return {"valid": result.final, **result.to_dict()}
