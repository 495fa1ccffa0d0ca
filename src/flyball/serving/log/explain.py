"""What happened to one prediction, read back from the log.

The id says which worker wrote it and when, so few segments are opened; shadow answers and outcomes may lie anywhere
later, in any worker's segments. The surprise: frames are searched as bytes before they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flyball.errors import FlyballError, UnknownName
from flyball.features.spec import Status
from flyball.layout import Layout
from flyball.records.segment import read_frames
from flyball.records.types import Outcome, Prediction, Record, Shadow, decode
from flyball.registry.artifacts import read_manifest
from flyball.rollout.routing import BUCKETS, RoutingTable, VersionRef
from flyball.serving.log.ids import parts_of
from flyball.units import from_micros

__all__ = ["explain", "find"]

_SLACK = 60_000_000_000  # ns a clock may have been set back
_STAGES = ("parse", "features", "wait", "model")


def explain(
    layout: Layout, prediction: str, *, shipped: Callable[[str], Iterable[Record]] = lambda _: ()
) -> dict[str, Any]:
    """Return everything known about a prediction as plain data.

    Args:
        layout: The project's paths.
        prediction: Its id.
        shipped: Returns the records of an id that lie in shipped files; asked when the segments do not hold it.

    Raises:
        UnknownName: the log does not hold it.
    """
    found, shadows, outcomes = find(layout.log, prediction)
    if found is None:
        found, shadows, outcomes = _sorted_out([*shipped(prediction.removesuffix("#0")), *shadows, *outcomes])
    if found is None:
        raise UnknownName(
            f"there is no prediction {prediction!r} in the log; "
            "take the id from an answer's prediction_id (row k of several is id#k)"
        )
    table = _table(layout, found.table)
    return {
        "prediction_id": found.id,
        "model": found.model,
        "version": found.version,
        "assigned": _assigned(found, table),
        "arm": found.arm,
        "why": _why(found, table),
        "control": found.control,
        "table_version": found.table,
        "rollout": table.models[found.model].rollout if table and found.model in table.models else None,
        "unit": found.unit,
        "at": from_micros(found.at).isoformat(),
        "inputs": found.inputs,
        "features": _features(layout, found, table),
        "value": found.value,
        "error": found.error,
        "fallback": found.fallback,
        "latency_us": {**dict(zip(_STAGES, found.stages, strict=True)), "total": found.total},
        "shadow": [{"version": s.version, "value": s.value, "error": s.error, "latency_us": s.total} for s in shadows],
        "outcome": _outcome(found, outcomes),
    }


def find(log: Path, prediction: str) -> tuple[Prediction | None, list[Shadow], list[Outcome]]:
    """Return the prediction's record, its shadow answers and its outcomes (lowest revision first)."""
    wanted = prediction.removesuffix("#0")
    parts = parts_of(wanted)
    born, slot = (parts[0] * 1000, parts[1]) if parts else (0, None)
    found = _sorted_out(record for path in _segments(log, born, slot) for record in _records(path, wanted))
    if found[0] is None and born:  # a clock that jumped back makes files older than what is in them
        found = _sorted_out(record for path in _segments(log, 0, slot) for record in _records(path, wanted))
    return found


def _sorted_out(records: Iterable[Record]) -> tuple[Prediction | None, list[Shadow], list[Outcome]]:
    found: Prediction | None = None
    shadows: list[Shadow] = []
    outcomes: list[Outcome] = []
    for record in records:
        match record:
            case Prediction():
                found = record
            case Shadow():
                shadows.append(record)
            case Outcome():
                outcomes.append(record)
    return found, shadows, sorted(outcomes, key=lambda o: (o.revision, o.received))


def _segments(log: Path, born: int, slot: int | None) -> Iterator[Path]:
    """Yield the segments written to since `born` (ns), the writer's own worker first."""
    folders = sorted(log.glob("*"), key=lambda f: (f.name != f"w{slot}", f.name))
    for folder in folders:
        for path in sorted(folder.glob("*.seg")):
            if path.stat().st_mtime_ns >= born - _SLACK:
                yield path


def _records(path: Path, wanted: str) -> Iterator[Record]:
    needle = wanted.encode()
    for frame in read_frames(path):
        if needle in frame.payload:
            for record in decode(frame.payload):
                if getattr(record, "id", None) == wanted:
                    yield record


def _table(layout: Layout, version: int) -> RoutingTable | None:
    try:
        return RoutingTable.from_json(layout.table(version).read_bytes())
    except (OSError, ValueError):
        return None


def _why(found: Prediction, table: RoutingTable | None) -> str:
    route = table.models.get(found.model) if table else None
    share = f" ({route.candidate_cut / BUCKETS * 100:g} % of units)" if route else ""
    text = {
        "share": f"the unit's bucket lies in the candidate's share{share}",
        "control": "the unit's bucket lies in the control cohort of the champion",
        "champion": "the unit's bucket lies outside of the candidate's share and the control cohort",
        "veto": "the unit belongs to the candidate, whose traffic this worker had removed",
        "kill switch": "the unit belongs to the candidate, and candidate traffic was switched off",
        "version": "the caller asked for this version by name",
        "holdout": "the unit lies in the holdout, which always gets the champion",
        "variant": f"the unit's bucket lies in the range of variant {found.arm}",
        "header": "a tester asked for this arm by header",
    }.get(found.why, found.why)
    if found.why == "champion" and route is not None and route.candidate is None:
        text = "there was no candidate"
    if text.startswith("segment "):
        text = f"the request's attributes fit {text}"
    if found.fallback:
        text += f"; that arm failed ({found.error}) and the champion answered"
    return text


def _features(layout: Layout, found: Prediction, table: RoutingTable | None) -> list[dict[str, Any]]:
    names = _names(layout, found, table)
    known = len(names) == len(found.features)
    return [
        {
            "name": names[k] if known else f"column {k}",
            "value": None if value != value else value,  # noqa: PLR0124  NaN is the only value that differs from itself
            "status": Status(found.statuses[k]).name if k < len(found.statuses) else None,
        }
        for k, value in enumerate(found.features)
    ]


def _names(layout: Layout, found: Prediction, table: RoutingTable | None) -> tuple[str, ...]:
    """Column names of the assigned version, which is not the one that answered when the champion stepped in."""
    route = table.models.get(found.model) if table else None
    if route is None:
        return ()
    refs: list[VersionRef | None] = [route.champion, route.candidate, *(v.version for v in route.variants), *route.warm]
    assigned = _assigned(found, table)
    ref = next((r for r in refs if r is not None and r.version == assigned), None)
    try:
        return read_manifest(layout.root / ref.path, ref.digest).service.names if ref else ()
    except FlyballError:
        return ()


def _assigned(found: Prediction, table: RoutingTable | None) -> str:
    """Return the version the router chose, whose features were served, whoever answered in the end."""
    route = table.models.get(found.model) if table else None
    if route is None:
        return found.version
    if found.arm == "candidate" and route.candidate:
        return route.candidate.version
    return next((v.version.version for v in route.variants if v.name == found.arm), found.version)


def _outcome(found: Prediction, outcomes: list[Outcome]) -> dict[str, Any] | None:
    if not outcomes:
        return None
    last = outcomes[-1]
    error = last.value - found.value if isinstance(found.value, float) else None
    return {
        "value": last.value,
        "event_time": from_micros(last.event).isoformat(),
        "received": from_micros(last.received).isoformat(),
        "source": last.source,
        "revision": last.revision,
        "error": error,
        "revisions": len(outcomes),
        "age_s": (last.event - found.at) / 1e6,
    }
