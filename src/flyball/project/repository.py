"""Take a model out of service and bring it back, on all workers at once; audited.

The surprise: its route stays in the table, with everything it says, so that coming back needs no promotion.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from flyball.errors import UnknownName

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["Action", "change_service"]

Action = Literal["load", "unload"]


def change_service(project: Project, action: Action, model: str, *, actor: str = "cli") -> dict[str, Any]:
    """Put a model into service or out of it; return {name, state, table_version} when every worker does so.

    Raises:
        UnknownName: there is no such action, or no version of the model was ever promoted.
        ConflictError: another process is changing the routes.
    """
    from flyball.project.releases import exclusive
    from flyball.units import to_micros

    if action not in {"load", "unload"}:
        raise UnknownName.of("repository action", action, ["load", "unload"])
    unloaded, now = action == "unload", project.clock.now()
    with exclusive(project) as (routes, fence):
        table = routes.current()
        if model not in table.models:
            raise UnknownName.of("served model", model, table.models)
        route = table.models[model]
        new = table
        if route.unloaded is not unloaded:
            made = replace(route, unloaded=unloaded)
            new = table.following(made, fence=fence, now=to_micros(now), cause="repository")
            routes.commit(new, expected=table.version, fence=fence)
            project.database.audit.record(now, actor, f"{action}ed", model, {"table": new.version})
    return {"name": model, "state": "UNAVAILABLE" if unloaded else "READY", "table_version": new.version}
