"""`project.monitor("eta")`: drift and performance by window, and a report."""

from __future__ import annotations

from pathlib import Path
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

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page on drift, performance and alerts; return where."""
        from flyball.monitoring.report import render_monitor

        alerts = self._project.database.monitors.alerts()
        target = Path(path)
        target.write_text(render_monitor(self.model, self.drift(), self.performance(), alerts), encoding="utf-8")
        return target
