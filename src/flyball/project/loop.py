"""One pass of the controller, and `project.loop`.

The surprise: a simulated project's pass waits for the runs it starts, because a step of domain time returns only when
everything due is done. On the machine's clock a pass never waits.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.errors import ConfigError, ConflictError, UnknownName
from flyball.project.experiments import bring_all
from flyball.project.mirror import tell_champion
from flyball.records.log import Batch, Cursor, follow, read_range

if TYPE_CHECKING:
    from flyball.adapters.local.children import StageChild
    from flyball.definitions import Definitions
    from flyball.loop.governor import Governor
    from flyball.monitoring.collector import Collector, ModelMonitors
    from flyball.profiles.reference import Reference
    from flyball.project.refresh import Refresher
    from flyball.project.root import Project
    from flyball.registry.types import Version
    from flyball.rollout.reconcile import Reconciler
    from flyball.rollout.routing import VersionRef

__all__ = ["ControlPass", "LoopHandle"]

_LEAST_OFTEN = 300.0  # seconds between two tries to deliver what the outbox holds


class LoopHandle:
    """Turn the loop once, ask why, stop it."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def once(self) -> list[str]:
        """Do everything that is due now and return what was done, in words.

        Raises:
            ConflictError: a controller runs already (`flyball up`), which does this by itself.
        """
        project = self._project
        owner = f"{socket.gethostname()}:{os.getpid()}:once"
        lease = project.database.leases.acquire("control", owner, timedelta(minutes=5))
        if lease is None:
            raise ConflictError("a controller holds the lease and turns the loop itself; see: flyball status")
        try:
            return project.control_step(project.clock.now(), lease.fence)
        finally:
            project.database.leases.release(lease)

    def why(self, model: str) -> list[dict[str, Any]]:
        """Tell the story of a model: window that fired, run, gate, rollout, verdict."""
        from flyball.loop.story import why

        self._project.applied.model(model)
        database = self._project.database
        return why(model, store=database.loop, runs=database.runs, rollouts=database.rollouts)

    def freeze(self, model: str | None = None, *, reason: str = "frozen by hand") -> None:
        """Stop the loop for one model, or for all."""
        self._switch("freeze", model, reason)

    def thaw(self, model: str | None = None) -> None:
        """Let the loop turn again."""
        self._switch("thaw", model, "")

    def _switch(self, action: str, model: str | None, reason: str) -> None:
        project, now = self._project, self._project.clock.now()
        if model is not None:
            project.applied.model(model)
        if action == "freeze":
            project.database.loop.freeze(model, reason=reason, now=now)
        else:
            project.database.loop.thaw(model)
        project.database.audit.record(now, "cli", action, model or "all models", {"reason": reason})


class ControlPass:
    """Evidence, reconcile, monitors, loop: everything due, in this order, once."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._cursor: Cursor = {}
        self._children: dict[str, StageChild] = {}
        self._collector: Collector | None = None
        self._watching: tuple[ModelMonitors, ...] = ()
        self._fence = 0
        self._govern_at = datetime.min.replace(tzinfo=UTC)
        self._needed_at = datetime.min.replace(tzinfo=UTC)
        self._delivery: StageChild | None = None
        self._deliver_at, self._patience = 0.0, 0.0  # seconds of monotonic time
        self._begun_telling = False
        self._refresher: Refresher | None = None
        self._experiments_said: dict[str, str] = {}

    def step(self, now: datetime, fence: int) -> list[str]:
        """Do what is due and return what was done, one line each."""
        if fence != self._fence:
            self._fence = fence
            self._adopt_runs()
        did = self._pass(now, fence)
        while self._waits and self._children:
            self._wait()
            did += self._pass(now, fence)
        return did

    @property
    def _waits(self) -> bool:
        return self._project.settings.clock.domain == "simulated"

    def _pass(self, now: datetime, fence: int) -> list[str]:
        reaped = self._reap()
        definitions = self._project.applied
        collector = self._collector_of(_watched(definitions))
        batches = follow(self._project.layout.log, self._cursor)
        collector.fold(batches)  # first: these batches are given once, and the reconciler reads again what it missed
        did = [f"{e.kind} {e.rollout}: {e.reason}" for e in self._reconciler.step(batches, now, fence)]
        self._say_needed(now)
        for window in collector.close(now):
            if window.level != "none":
                did.append(f"DriftFound {window.model} {window.start:%Y-%m-%d}: {window.level}, {window.text}")
        did += self._refresh(definitions, now)
        did += bring_all(self._project, now, self._experiments_said)
        if did or reaped or now >= self._govern_at:
            did += [f"{e.kind} {e.model}: {e.text}" for e in self._governor(definitions).step(now, fence)]
            self._govern_at = now if did else _next_turn(definitions, now)
        self._tell(now)
        self._deliver()
        return did

    def _tell(self, now: datetime) -> None:
        """Have the outbox hold what happened, for webhooks."""
        begun, self._begun_telling = self._begun_telling, True
        if not self._project.settings.webhooks.url:
            if not begun:
                self._project.database.telling.end()
            return
        from flyball.adapters.local.process import failed
        from flyball.project.webhooks import gather

        try:
            if not begun:
                self._project.database.telling.begin()
            gather(self._project, now)
        except ConfigError as error:  # an address that is none must not stop the loop
            if not begun:
                failed("webhooks are not told", error)

    def _say_needed(self, now: datetime) -> None:
        """Tell the shipper, once a minute, which segments readers still need."""
        from flyball.adapters.local.segments import Needed, write_needed
        from flyball.project.log import needed_since

        if now >= self._needed_at:
            self._needed_at = now + timedelta(minutes=1)
            write_needed(self._project.layout.log, Needed(needed_since(self._project, now)))

    def _refresh(self, definitions: Definitions, now: datetime) -> list[str]:
        """Bring views up to date that say how often they want to be."""
        from flyball.project.refresh import Refresher
        from flyball.project.views import in_use

        specs = definitions.view_specs
        if not any(view.about.refresh for view in specs):
            return []
        if self._refresher is None:
            self._refresher = Refresher(self._project, waits=self._waits or self._project.is_temporary)
        return self._refresher.step(tuple(in_use(self._project, specs)), now)

    def _collector_of(self, watched: tuple[ModelMonitors, ...]) -> Collector:
        """Return the collector; when other monitors were applied, a new one that has read what this one had."""
        from flyball.monitoring.collector import Collector

        if self._collector is None or self._watching != watched:
            database = self._project.database
            self._collector = Collector(store=database.monitors, models=watched, references=self._reference)
            self._watching = watched
            self._collector.fold(again(self._project.layout.log, self._cursor))
        return self._collector

    # -- what the rooms are given ---------------------------------------------------------------------------------

    @cached_property
    def _reconciler(self) -> Reconciler:
        from flyball.project.outside import Outsiders
        from flyball.project.releases import routes_of
        from flyball.rollout.reconcile import Reconciler

        project = self._project
        return Reconciler(
            store=project.database.rollouts,
            routes=routes_of(project),
            log_root=project.layout.log,
            evidence_root=project.layout.evidence,
            refs=self._ref,
            promoted=self._promoted,
            rolled_back=self._rolled_back,
            outside=Outsiders(project),
        )

    def _governor(self, definitions: Definitions) -> Governor:
        """Return a governor for these definitions; it keeps no state of its own."""
        from flyball.loop.governor import Governor

        project = self._project
        return Governor(
            store=project.database.loop,
            monitors=project.database.monitors,
            runs=project.database.runs,
            rollouts=project.database.rollouts,
            launch=self._launch,
            start_rollout=self._start_rollout,
            specs={n: m.retrain for n, m in definitions.models.items() if m.retrain is not None},
            champion=self._champion,
        )

    def _champion(self, model: str) -> str | None:
        found = self._project.database.versions.champion(model)
        return None if found is None else found.version

    def _ref(self, model: str, version: str) -> VersionRef:
        from flyball.project.models import ref_of

        return ref_of(self._project, self._project.database.versions.get(model, version), trusted=False)

    def _promoted(self, model: str, version: str, now: datetime) -> None:
        from flyball.registry.types import Lifecycle

        self._project.database.versions.set_lifecycle(model, version, Lifecycle.CHAMPION, now=now)
        tell_champion(self._project, model, version, now)

    def _rolled_back(self, model: str, version: str, now: datetime) -> None:
        from flyball.registry.types import Lifecycle

        self._project.database.versions.set_lifecycle(model, version, Lifecycle.RETIRED, now=now)

    def _reference(self, model: str, version: str) -> Reference | None:
        from flyball.profiles.reference import Reference

        try:
            found: Version = self._project.database.versions.get(model, version)
        except UnknownName:  # a database restored from a backup: the log is ahead of it, and must not stop the loop
            return None
        path = self._project.root / found.path / "reference.bin"
        return Reference.from_bytes(path.read_bytes()) if path.exists() else None

    # -- runs -----------------------------------------------------------------------------------------------------

    def _launch(self, model: str, cause: str, trigger: str, now: datetime) -> str:
        from flyball.project.runs import new_run, run_stages_here, spawn_run

        project = self._project
        run = new_run(project, model, {}, cause=cause, trigger=trigger, now=now)
        if project.is_temporary:
            run_stages_here(project, run.id, None)
        else:
            self._children[run.id] = spawn_run(project, run.id)
        return run.id

    def _start_rollout(self, model: str, version: str, cause: str, now: datetime) -> str:
        from flyball.project.releases import start_rollout

        done = start_rollout(self._project, model, version, skip_shadow=False, cause=cause, actor="loop", now=now)
        return done.id

    def _adopt_runs(self) -> None:
        """Go on with the loop's runs that a former controller left behind; their stages resume."""
        from flyball.project.runs import spawn_run
        from flyball.training.types import RunState

        if self._project.is_temporary:
            return
        for run in self._project.database.runs.list():
            if (
                run.trigger is not None
                and run.state in {RunState.PENDING, RunState.RUNNING}
                and run.id not in self._children
            ):
                self._children[run.id] = spawn_run(self._project, run.id)

    def _reap(self) -> bool:
        """Record the failure of children that ended without recording it themselves; return whether any ended."""
        from flyball.training.types import RunState

        before = len(self._children)
        for run, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            del self._children[run]
            record = self._project.database.runs.get(run)
            if code not in {0, 1} and record.state in {RunState.PENDING, RunState.RUNNING}:
                now = self._project.clock.now()
                self._project.database.runs.set_state(run, RunState.FAILED, now=now, error=child.error())
        return len(self._children) < before

    def _deliver(self) -> None:
        """Have the outbox delivered by a process of its own, one at a time.

        What failed is tried again, less and less often: each `_LEAST_OFTEN` seconds in the end.
        """
        from flyball.adapters.local.children import spawn_delivery
        from flyball.project.mirror import deliver

        project = self._project
        if self._delivery is not None:
            code = self._delivery.poll()
            if code is None:
                return
            self._patience = min(_LEAST_OFTEN, max(1.0, 2 * self._patience)) if code else 0.0
            self._deliver_at = time.monotonic() + self._patience
            self._delivery = None
        if time.monotonic() < self._deliver_at or not project.database.outbox.list(limit=1):
            return
        if project.is_temporary:
            deliver(project)
        else:
            log = project.layout.state / "logs" / "deliver.log"
            self._delivery = spawn_delivery(project.root, log, environment=project.config.environment)

    def _wait(self) -> None:
        for child in list(self._children.values()):
            child.wait()


def _watched(definitions: Definitions) -> tuple[ModelMonitors, ...]:
    """Return what to watch; windows are days of the source's own place."""
    from flyball.monitoring.collector import ModelMonitors

    return tuple(
        ModelMonitors(name, model.monitors, model.timezone, model.label.matures)
        for name, model in sorted(definitions.models.items())
    )


def _next_turn(definitions: Definitions, now: datetime) -> datetime:
    """Return when the governor must look again although nothing happened: the next schedule, an hour at most."""
    from flyball.loop.policy import next_tick

    triggers = [t for model in definitions.models.values() if model.retrain is not None for t in model.retrain.on]
    return min(now + timedelta(hours=1), next_tick(triggers, now) or datetime.max.replace(tzinfo=UTC))


def again(root: Path, cursor: Cursor) -> list[Batch]:
    """Return everything of the log up to a cursor once more; of segments that were shipped and deleted, nothing."""
    there = [(name, end) for name, end in sorted(cursor.items()) if (root / name).exists()]
    return [batch for name, end in there for batch in read_range(root, name, 0, end)]
