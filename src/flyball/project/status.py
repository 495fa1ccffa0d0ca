"""How everything is, in one document; read quickly and without user code."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["status"]


def status(project: Project) -> dict[str, Any]:
    """Return node, models with champion, rollout, drift and freeze, and the newest alerts."""
    from flyball.adapters.local.running import read_running
    from flyball.project.refresh import refreshes

    running = read_running(project.layout)
    database = project.database
    record = database.deployments.applied()
    return {
        "project": project.settings.project.name,
        "node": None if running is None else {"pid": running.pid, "url": running.url, "control": running.control_url},
        "applied": None if record is None else {"code": record.code, "at": record.at},
        "models": [
            _model(project, name) for name in (record.definitions.split(",") if record and record.definitions else [])
        ],
        "refresh": [asdict(found) for found in refreshes(project)],
        "alerts": database.monitors.alerts()[-5:],
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
    }
