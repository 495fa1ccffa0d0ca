"""Keep views as fresh as they were declared: whoever holds the control lease runs what is due, through ingest.

The surprise: a refresh has no state of its own. It is due by the view's watermark, a killed one goes on where the
materialization stopped, and an alert is one per stretch without success, so that it ends by itself with the next one.
Each runs under a lease of its own view: of two control processes one refreshes, and one that lost its lease records
nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flyball.errors import ConflictError, FenceLost
from flyball.features.refresh import due, late, missed, next_due, retry_at
from flyball.monitoring.types import Alert

if TYPE_CHECKING:
    from flyball.control.types import AuditEntry, Lease
    from flyball.features.materialize import MaterializeResult
    from flyball.features.spec import ViewSpec
    from flyball.project.root import Project

__all__ = ["Refresh", "Refresher", "refreshes"]

_TTL = timedelta(seconds=30)  # of a lease; whoever dies is followed after that
_OUTCOMES = {"refreshed", "refresh failed"}


@dataclass(frozen=True, slots=True)
class Refresh:
    """How one view's refresh stands: it is fresh until `last`; `late` is for how many seconds the next has been due."""

    view: str
    digest: str
    every: str
    last: datetime | None
    next: datetime
    late: float
    error: str = ""


def refreshes(project: Project) -> list[Refresh]:
    """Return the refreshes of the applied views, by name; reads the control database only."""
    record = project.database.deployments.applied()
    now = project.clock.now()
    return [_stands(project, view, now) for view in (record.views if record else ()) if view.about.refresh]


def _stands(project: Project, view: ViewSpec, now: datetime) -> Refresh:
    every = view.about.refresh or ""
    last = project.database.deployments.watermark(view.digest)
    entries = _outcomes(project, view)
    failed = entries and entries[-1].action == "refresh failed"
    error = str(entries[-1].details.get("error", "")) if failed else ""
    behind = late(every, last, now).total_seconds()
    return Refresh(view.name, view.digest, every, last, next_due(every, last, now), behind, error)


def _outcomes(project: Project, view: ViewSpec) -> list[AuditEntry]:
    """Return how the last refreshes of a view ended, oldest first."""
    entries = project.database.audit.list(subject=view.name, limit=100)
    return [e for e in entries if e.actor == "refresh" and e.action in _OUTCOMES]


@dataclass(slots=True)
class _Trouble:
    """A stretch without success: how often it was tried, and when it is tried again."""

    tries: int
    again: datetime


@dataclass(slots=True)
class _Running:
    """A refresh under way, and its lease, renewed until it ends."""

    view: ViewSpec
    began: datetime
    lease: Lease
    renewed: float
    future: Future[MaterializeResult]


class Refresher:
    """Run due refreshes, one at a time.

    Args:
        project: The project.
        waits: Whether a step returns only when what was due is done (simulated time); else it runs beside the passes.
        owner: Who holds the leases; another one for each process.
    """

    def __init__(self, project: Project, *, waits: bool, owner: str | None = None) -> None:
        self._owner = owner or f"{socket.gethostname()}:{os.getpid()}"
        self._project = project
        self._waits = waits
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="refresh")
        self._running: dict[str, _Running] = {}  # by digest
        self._trouble: dict[str, _Trouble] = {}  # by digest
        self._missed: set[str] = set()  # digests whose refresh was found late

    def step(self, views: tuple[ViewSpec, ...], now: datetime) -> list[str]:
        """Collect what ended, start what is due; return what was done, in words."""
        for running in self._running.values():
            self._renew(running)
        did = self._settle(now)
        for view in views:
            if view.about.refresh and view.digest not in self._running:
                did += self._start(view, view.about.refresh, now)
        if self._waits:
            did += self._settle(now)
        return did

    def close(self) -> None:
        """Start nothing more; what runs ends in ingest, or resumes."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, view: ViewSpec, every: str, now: datetime) -> list[str]:
        last = self._project.database.deployments.watermark(view.digest)
        trouble = self._trouble.get(view.digest)
        if due(every, last, now) is None or (trouble is not None and now < trouble.again):
            return []
        lease = self._project.database.leases.acquire(f"refresh/{view.digest}", self._owner, _TTL)
        if lease is None:  # another process refreshes it
            return []
        did = []
        behind = missed(every, last, now)
        if behind is not None and not self._waits and trouble is None:
            self._missed.add(view.digest)
            did += self._alert(view, last, now, f"the refresh of view {view.name} (every {every}) is {behind} late")
        facts = {"every": every, "fence": lease.fence, "fresh until": None if last is None else last.isoformat()}
        self._project.database.audit.record(now, "refresh", "refresh started", view.name, facts)
        running = _Running(view, now, lease, time.monotonic(), Future())
        self._running[view.digest] = running
        if self._waits:
            self._run(running, view, now)
        else:
            self._pool.submit(self._run, running, view, now)
        return did

    def _run(self, running: _Running, view: ViewSpec, until: datetime) -> None:
        def detail(_: object) -> None:
            self._renew(running)

        try:
            running.future.set_result(self._project.features.fill(view, until=until, detail=detail))
        except Exception as error:
            running.future.set_exception(error)

    def _renew(self, running: _Running) -> None:
        """Keep the lease; one that is lost shows when the refresh ends."""
        if time.monotonic() - running.renewed < _TTL.total_seconds() / 4:
            return
        running.renewed = time.monotonic()
        with contextlib.suppress(FenceLost):
            running.lease = self._project.database.leases.renew(running.lease)

    def _settle(self, now: datetime) -> list[str]:
        did = []
        for digest, running in list(self._running.items()):
            if not running.future.done():
                continue
            del self._running[digest]
            leases = self._project.database.leases
            try:
                leases.renew(running.lease)
            except FenceLost:  # whoever took it records how it went
                continue
            error = running.future.exception()
            if error is None:
                did += self._succeeded(running.view, running.future.result(), now)
            elif not isinstance(error, ConflictError):  # someone else is at it
                did += self._failed(running.view, running.began, error, now)
            leases.release(running.lease)
        return did

    def _succeeded(self, view: ViewSpec, result: MaterializeResult, now: datetime) -> list[str]:
        had = self._trouble.pop(view.digest, None) is not None or view.digest in self._missed or self._was_failing(view)
        self._missed.discard(view.digest)
        if result.rows or had or result.warnings:
            facts = {"rows": result.rows, "keys": result.keys, "mode": result.mode, "files": len(result.files)}
            self._project.database.audit.record(now, "refresh", "refreshed", view.name, facts)
        if had:
            self._resolve(view, now)
        return [f"Refreshed {view.name}: {result.rows} rows"] if result.rows else []

    def _failed(self, view: ViewSpec, began: datetime, error: BaseException, now: datetime) -> list[str]:
        said = str(error) or type(error).__name__
        tries = self._trouble[view.digest].tries + 1 if view.digest in self._trouble else 1
        self._trouble[view.digest] = _Trouble(tries, retry_at(view.about.refresh or "", now, tries))
        facts = {"error": said, "tries": tries, "began": began.isoformat()}
        self._project.database.audit.record(now, "refresh", "refresh failed", view.name, facts)
        last = self._project.database.deployments.watermark(view.digest)
        self._alert(view, last, now, f"the refresh of view {view.name} failed: {said}")
        return [f"RefreshFailed {view.name}: {said}"]

    def _was_failing(self, view: ViewSpec) -> bool:
        """Whether the last thing recorded is a failure, of a former process perhaps."""
        mine = _outcomes(self._project, view)
        return bool(mine) and mine[-1].action == "refresh failed"

    def _alert(self, view: ViewSpec, last: datetime | None, now: datetime, text: str) -> list[str]:
        """Alert once per stretch without success."""
        stretch = "first" if last is None else last.isoformat()
        alert = Alert(f"refresh/{view.name}/{stretch}", now, "page", f"view:{view.name}", text, {"view": view.name})
        return [f"Alert {text}"] if self._project.database.monitors.alert_once(alert) else []

    def _resolve(self, view: ViewSpec, now: datetime) -> None:
        text = f"view {view.name} is refreshed again"
        alert = Alert(f"refresh/{view.name}/resolved/{now.isoformat()}", now, "warn", f"view:{view.name}", text,
                      {"view": view.name, "resolved": 1})  # fmt: skip
        self._project.database.monitors.alert_once(alert)
