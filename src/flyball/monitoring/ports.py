"""What monitoring needs from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

    from flyball.monitoring.types import Alert, DriftWindow, PerformanceWindow

__all__ = ["MonitorStore"]


class MonitorStore(Protocol):
    """Keep windows' results and alerts (control database)."""

    def record_drift(self, window: DriftWindow) -> None:
        """Record a closed window once (model, version, start)."""
        ...

    def drift(self, model: str, *, version: str | None = None, limit: int = 100) -> list[DriftWindow]:
        """Return the newest windows, oldest first."""
        ...

    def record_performance(self, window: PerformanceWindow) -> None:
        """Write a window's value, replacing an earlier provisional one."""
        ...

    def performance(self, model: str, *, limit: int = 1000) -> list[PerformanceWindow]:
        """Return the newest windows, oldest first."""
        ...

    def alert_once(self, alert: Alert) -> bool:
        """Record an alert unless its key exists; return whether it is new."""
        ...

    def alerts(self, *, since: datetime | None = None) -> list[Alert]:
        """Return alerts, oldest first."""
        ...
