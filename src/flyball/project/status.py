"""How everything is, in one document; read quickly and without user code.

The surprise: it is told without the control database too. Then the models are those of the routing table in force.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flyball.errors import FlyballError, Unavailable
from flyball.project.held import held_back
from flyball.project.releases import stormy

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["status"]


def status(project: Project) -> dict[str, Any]:
    """Return node, models with champion, rollout, drift and freeze, and the newest alerts.

    `degraded` says why the control database cannot be read, None when all is well; without it only the node and the
    champions that are served are known.

    Raises:
        Unavailable: the control database cannot be read, and nothing was ever served here.
    """
    from flyball.adapters.local.running import read_running

    running = read_running(project.layout)
    document: dict[str, Any] = {
        "project": project.settings.project.name,
        "node": None if running is None else {"pid": running.pid, "url": running.url, "control": running.control_url},
    }
    try:
        return document | _known(project)
    except Unavailable as error:
        return document | _served(project, error)


def _known(project: Project) -> dict[str, Any]:
    from flyball.project.refresh import refreshes

    database = project.database
    record = database.deployments.applied()
    return {
        "degraded": None,
        "applied": None if record is None else {"code": record.code, "at": record.at},
        "models": [
            _model(project, name) for name in (record.definitions.split(",") if record and record.definitions else [])
        ],
        "refresh": [asdict(found) for found in refreshes(project)],
        "alerts": database.monitors.alerts()[-5:],
    }


def _served(project: Project, error: Unavailable) -> dict[str, Any]:
    """Return what the routing table in force says."""
    from flyball.adapters.local.tables import newest_table, read_table

    version = newest_table(project.layout)
    if not version:
        raise error
    try:
        table = read_table(project.layout, version)
    except FlyballError:
        raise error from None
    champions = {name: route.champion.version for name, route in sorted(table.models.items())}
    unknown = {"rollout": None, "drift": None, "frozen": None}
    return {
        "degraded": str(error),
        "applied": None,
        "models": [
            {"model": name, "champion": champion, "held_back": held_back(project, name), "storm": ""} | unknown
            for name, champion in champions.items()
        ],
        "refresh": [],
        "alerts": [],
    }


def _model(project: Project, name: str) -> dict[str, Any]:
    database = project.database
    champion = database.versions.champion(name)
    active = database.rollouts.list(name, active=True)
    drift = database.monitors.drift(name, limit=1)
    return {
        "model": name,
        "champion": None if champion is None else champion.version,
        "rollout": None if not active else f"{active[0][1].candidate} {active[0][1].phase} {active[0][1].share:.0%}",
        "drift": None if not drift else drift[0].level,
        "frozen": database.loop.frozen(name),
        "held_back": held_back(project, name),
        "storm": stormy(project, name),
    }
