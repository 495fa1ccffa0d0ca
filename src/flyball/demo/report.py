"""What the demo found, as one document: counts, errors by day with and without the loop, releases, drift.

"Without the loop" is the first champion's answer to the same rows with the same served feature values, so both columns
are about the same trips.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flyball.demo.trips import NEW_YORK
from flyball.features.matrix import to_matrix
from flyball.features.offline import service_history
from flyball.loop.story import lines
from flyball.records.log import follow
from flyball.records.types import Prediction
from flyball.rollout.types import Phase, RolloutStatus
from flyball.training.types import RunState

if TYPE_CHECKING:
    from flyball.demo.story import Demo
    from flyball.monitoring.types import DriftWindow
    from flyball.project import Project

__all__ = ["judge", "summarise"]

_VERDICTS = {Phase.PROMOTED: "promoted", Phase.ROLLED_BACK: "rolled_back"}


def summarise(project: Project, demo: Demo) -> dict[str, Any]:
    """Return the document of `flyball demo --json`."""
    served = demo.served
    seconds = np.array(served.seconds or [0.0])
    retrained = _retrained(project)
    drift = [w for w in project.monitor("eta").drift(limit=10_000) if w.level != "none"]
    return {
        "trips_served": len(served.value),
        "failed_requests": served.failed,
        "latency_ms": {"p50": _ms(np.quantile(seconds, 0.5)), "p99": _ms(np.quantile(seconds, 0.99))},
        "rollouts": [_rollout(project, demo, status) for _, status in project.database.rollouts.list("eta")],
        "drift_first_alarm": drift[0].start.astimezone(NEW_YORK).isoformat() if drift else None,
        "drift": [{"start": _day(w), "level": w.level, "text": w.text, "version": w.version} for w in drift],
        "retrained_versions": [r["version"] for r in retrained if r["version"] is not None],
        "retrainings": retrained,
        "skew": _skew(project, demo),
        "error_by_day": _error_by_day(project, demo),
        "wall_s": round(demo.wall, 1),
        "own_overhead_s": round(sum(served.overhead), 1),
        "own_overhead_each_s": [round(s, 1) for s in served.overhead],
        "peak_pss_mb": round(demo.peak_pss / 1e6),
        "ticks": served.ticks,
        "story": lines(project.loop.why("eta")),
        "timezone": "New York",
        "folder": str(project.root),
    }


def judge(report: dict[str, Any]) -> tuple[float, float]:
    """Return the mean error with and without the loop over the weekdays from 23 March on, weighted by trips."""
    late = [d for d in report["error_by_day"] if _is_late_weekday(date.fromisoformat(d["day"]))]
    weights = [d["trips"] for d in late]
    if not late:
        return 0.0, 0.0
    return (
        float(np.average([d["with_loop"] for d in late], weights=weights)),
        float(np.average([d["without_loop"] for d in late], weights=weights)),
    )


def _is_late_weekday(day: date) -> bool:
    return day >= date(2020, 3, 23) and day.weekday() < 5


def _rollout(project: Project, demo: Demo, status: RolloutStatus) -> dict[str, Any]:
    version = project.database.versions.get("eta", status.candidate)
    ended = status.finished or project.clock.now()
    evidence = project.rollout("eta", status.candidate).explain()
    return {
        "version": status.candidate,
        "cause": demo.causes.get(status.candidate, version.cause),
        "verdict": _VERDICTS.get(status.phase, "paused" if status.phase is Phase.PAUSED else "running"),
        "reason": status.reason,
        "candidate_requests": evidence["candidate_requests"],
        "started_at": status.created.astimezone(NEW_YORK).isoformat(),
        "decided_at": ended.astimezone(NEW_YORK).isoformat(),
        "decided_after_s": (ended - status.created).total_seconds(),
    }


def _retrained(project: Project) -> list[dict[str, Any]]:
    """Return the versions that the loop made, with what became of them."""
    made = []
    for run in project.database.runs.list("eta"):
        if run.trigger is None:
            continue
        version = project.database.versions.get("eta", run.version) if run.version else None
        made.append(
            {
                "version": run.version,
                "cause": run.cause,
                "at": run.created.isoformat(),
                "gate": "passing" if run.state is RunState.SUCCEEDED else str(run.state),
                "lifecycle": str(version.lifecycle) if version else None,
            }
        )
    return made


def _trips(demo: Demo) -> np.ndarray:
    """Return the trips that were answered, in order of pickup."""
    return np.array(sorted(demo.served.value), dtype=np.int64)


def _day(window: DriftWindow) -> str:
    return window.start.astimezone(NEW_YORK).date().isoformat()


def _skew(project: Project, demo: Demo) -> dict[str, int]:
    """Recompute every served vector offline, as-known at its request, and count the values that differ.

    Counts and whole numbers must be equal, means within 1e-12 of their size.
    """
    ids = [demo.served.prediction[int(t)] for t in _trips(demo)]
    if not ids:
        return {"vectors": 0, "values": 0, "different": 0}
    records = _records(project, ids)
    service = project.models["eta"].load(demo.champion).manifest.service
    requests = pa.table({i.name: [r.inputs[i.name] for r in records] for i in service.inputs})
    at = np.array([r.at for r in records], dtype=np.int64)
    offline = to_matrix(service_history(project.engine, requests, service, at), service.names)
    served = np.array([r.features for r in records], dtype=np.float64)
    same = np.isclose(served, offline, rtol=1e-12, atol=1e-12, equal_nan=True)
    return {"vectors": len(ids), "values": int(same.size), "different": int((~same).sum())}


def _error_by_day(project: Project, demo: Demo) -> list[dict[str, Any]]:
    trips = _trips(demo)
    if not len(trips):
        return []
    truth = demo.trips.minutes[trips]
    answered = np.array([demo.served.value[int(t)] for t in trips])
    features = _served_features(project, [demo.served.prediction[int(t)] for t in trips])
    alone = project.models["eta"].load(demo.champion).predict(features)
    days = demo.trips.day[trips]
    table = []
    for day in np.unique(days):
        mask = days == day
        table.append(
            {
                "day": str(day),
                "trips": int(mask.sum()),
                "with_loop": round(float(np.abs(answered - truth)[mask].mean()), 4),
                "without_loop": round(float(np.abs(alone - truth)[mask].mean()), 4),
            }
        )
    return table


def _served_features(project: Project, ids: list[str]) -> np.ndarray:
    """Return the logged feature values of predictions, shape (len(ids), k)."""
    return np.array([r.features for r in _records(project, ids)], dtype=np.float64)


def _records(project: Project, ids: list[str]) -> list[Prediction]:
    """Return the logged predictions with these ids, in their order."""
    found: dict[str, Prediction] = {}
    for batch in follow(project.layout.log, {}):
        found.update((r.id, r) for r in batch.records if isinstance(r, Prediction))
    return [found[i] for i in ids]


def _ms(seconds: float) -> float:
    return round(float(seconds) * 1e3, 2)
