"""Results of closed windows, and alerts that are sent once."""

from __future__ import annotations

import builtins
from datetime import datetime

from sqlalchemy import delete, insert, select

from flyball.control.engine import Gate
from flyball.control.tables import alerts, drift_windows, performance_windows
from flyball.control.values import pack, unpack
from flyball.monitoring.types import Alert, DriftWindow, PerformanceWindow
from flyball.units import to_micros

__all__ = ["Monitors"]


class Monitors:
    """monitoring.ports.MonitorStore on the control database."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def record_drift(self, window: DriftWindow) -> None:
        """Record a closed window once (model, version, start)."""
        key = {"model": window.model, "version": window.version, "starts": to_micros(window.start)}
        with self._gate.write() as db:
            if db.execute(select(drift_windows.c.model).filter_by(**key)).first() is None:
                db.execute(insert(drift_windows).values(**key, body=pack(window)))

    def drift(self, model: str, *, version: str | None = None, limit: int = 100) -> builtins.list[DriftWindow]:
        """Return the newest windows, oldest first."""
        query = select(drift_windows.c.body).where(drift_windows.c.model == model)
        if version is not None:
            query = query.where(drift_windows.c.version == version)
        newest = query.order_by(drift_windows.c.starts.desc(), drift_windows.c.version.desc()).limit(limit)
        with self._gate.read() as db:
            return [unpack(body, DriftWindow) for body in reversed(db.scalars(newest).all())]

    def record_performance(self, window: PerformanceWindow) -> None:
        """Write a window's value, replacing an earlier one unless that was final and this is not."""
        key = {
            "model": window.model,
            "version": window.version,
            "metric": window.metric,
            "starts": to_micros(window.start),
            "ends": to_micros(window.end),
        }
        with self._gate.write() as db:
            state = db.scalar(select(performance_windows.c.state).filter_by(**key))
            if state == "final" and window.state != "final":
                return
            db.execute(delete(performance_windows).filter_by(**key))
            db.execute(insert(performance_windows).values(**key, state=window.state, body=pack(window)))

    def performance(self, model: str, *, limit: int = 1000) -> builtins.list[PerformanceWindow]:
        """Return the newest windows, oldest first."""
        c = performance_windows.c
        newest = select(c.body).where(c.model == model).order_by(c.starts.desc(), c.version.desc(), c.metric.desc())
        with self._gate.read() as db:
            return [unpack(body, PerformanceWindow) for body in reversed(db.scalars(newest.limit(limit)).all())]

    def alert_once(self, alert: Alert) -> bool:
        """Record an alert unless its key exists; return whether it is new."""
        with self._gate.write() as db:
            if db.scalar(select(alerts.c.seq).where(alerts.c.key == alert.key)) is not None:
                return False
            db.execute(insert(alerts).values(key=alert.key, at=to_micros(alert.at), body=pack(alert)))
        return True

    def alerts(self, *, since: datetime | None = None) -> builtins.list[Alert]:
        """Return alerts, oldest first."""
        query = select(alerts.c.body).order_by(alerts.c.at, alerts.c.seq)
        if since is not None:
            query = query.where(alerts.c.at >= to_micros(since))
        with self._gate.read() as db:
            return [unpack(body, Alert) for body in db.scalars(query)]
