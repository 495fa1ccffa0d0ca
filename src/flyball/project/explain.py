"""Explain a prediction: what the log says, and how old what it served was.

The log keeps values and their status, not the events they came from: that would cost every request what few ask for.
The event times are read from history here, as-known at T, which is what serving went by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.errors import FlyballError
from flyball.units import from_micros, to_micros

if TYPE_CHECKING:
    from flyball.features.spec import ViewSpec
    from flyball.project.root import Project

__all__ = ["explain"]


def explain(project: Project, prediction_id: str, *, reveal: bool = False) -> dict[str, Any]:
    """Return everything known about a prediction.

    Raises:
        UnknownName: the log holds no such prediction.
    """
    from datetime import datetime

    from flyball.registry.artifacts import read_manifest
    from flyball.serving.log import explain as log

    found = log.explain(project.layout, prediction_id, shipped=project.log.shipped_records_of)
    if reveal:
        from flyball.serving.log.personal import reveal as in_plain

        keys = project.personal_keys()
        found["inputs"] = in_plain(found["inputs"], keys)
        found["unit"] = in_plain({"unit": found["unit"]}, keys)["unit"]
    at = to_micros(datetime.fromisoformat(found["at"]))
    version = project.database.versions.get(found["model"], found["assigned"])
    service = read_manifest(project.root / version.path, version.digest).service
    times = {view.name: _newest_event(project, view, found["inputs"], at) for view in service.views}
    views = {column.name: column.view for column in service.columns if column.kind == "view"}
    for feature in found["features"]:
        event = times.get(views.get(feature["name"]) or "")
        feature["view"] = views.get(feature["name"])
        feature["newest_event"] = None if event is None else from_micros(event).isoformat()
        feature["age_s"] = None if event is None else (at - event) / 1e6
    return found


def _newest_event(project: Project, view: ViewSpec, inputs: dict[str, Any], at: int) -> int | None:
    """Return the event time (µs) of the newest row of the request's entity that was known at T, None without one."""
    keys = [key.name for key in view.entity.keys]
    if any(inputs.get(key) is None for key in keys):
        return None
    try:
        rows = project.engine.scan(view.source, columns=keys)
    except FlyballError:  # the source is gone; the rest of the story still stands
        return None
    mine = rows.column("__known").to_numpy() <= at
    for key in keys:
        value = inputs[key][0] if isinstance(inputs[key], list) else inputs[key]
        mine &= np.asarray(rows.column(key).to_numpy(zero_copy_only=False) == value)
    events = rows.column("__event").to_numpy()[mine]
    return int(events.max()) if len(events) else None
