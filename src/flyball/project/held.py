"""Why workers of this node keep the traffic of a model's candidate off by themselves, in sentences.

The surprise: nothing of this is in the control database. A worker that sees its candidate's host die asks nobody, and
what it says stands in the shared map only as long as it is so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flyball.errors import FlyballError

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["held_back"]


def held_back(project: Project, model: str) -> list[str]:
    """Return one sentence per worker that sends the candidate nothing, none when all do or no node runs here."""
    from flyball.adapters.local.running import read_running
    from flyball.adapters.local.tables import host_name, read_table
    from flyball.serving.shared.slots import SharedMap

    running = read_running(project.layout)
    if running is None:
        return []
    try:
        shared = SharedMap.open(project.layout.map)
    except FlyballError:
        return []
    try:
        said = shared.vetoes(model)
        route = read_table(project.layout, shared.table_version).models.get(model) if said else None
    except FlyballError:
        route = None
    finally:
        shared.close()
    if route is None or route.candidate is None:
        return said
    deaths = running.restarts.get(host_name(route.candidate.digest), 0)
    died = (
        f" (that process died {deaths} time{'s' * (deaths > 1)} so far; see {host_name(route.candidate.digest)}.log)"
        if deaths
        else ""
    )
    return [text + died for text in said]
