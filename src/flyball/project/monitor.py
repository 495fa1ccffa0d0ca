"""`project.monitor("eta")`: drift and performance by window."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flyball.monitoring.types import DriftWindow, PerformanceWindow
    from flyball.project.root import Project

__all__ = ["MonitorHandle"]


class MonitorHandle:
    """Read what the monitors recorded."""

    def __init__(self, project: Project, model: str) -> None:
        project.applied.model(model)
        self._project = project
        self.model = model

    def drift(self, *, version: str | None = None, limit: int = 100) -> list[DriftWindow]:
        """Return the newest drift windows, oldest first."""
        return self._project.database.monitors.drift(self.model, version=version, limit=limit)

    def performance(self, *, limit: int = 1000) -> list[PerformanceWindow]:
        """Return the newest performance windows, oldest first."""
        return self._project.database.monitors.performance(self.model, limit=limit)
