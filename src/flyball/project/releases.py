"""`project.rollout("eta", "v2")`: start, watch, order, explain; and who may change routes."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import ConflictError, Refused, UnknownName
from flyball.project.held import held_back
from flyball.project.routing import refuse_during_experiment
from flyball.project.views import restore
from flyball.rollout.types import TERMINAL, RolloutEvent, RolloutSpec, RolloutStatus

if TYPE_CHECKING:
    from flyball.project.root import Project
    from flyball.registry.types import Version
    from flyball.rollout.ports import Routes

__all__ = ["RolloutHandle", "exclusive", "history", "record", "routes_of", "start_rollout", "stormy"]

_PATIENCE = 20.0  # seconds to wait for the controller to let go of its lease


class RolloutHandle:
    """One version's release."""

    def __init__(self, project: Project, model: str, version: str) -> None:
        self._project = project
        self.model = model
        self.version = version
        project.models[model].version(version)

    @property
    def current(self) -> tuple[RolloutSpec, RolloutStatus] | None:
        """The newest rollout of this version, if there is one."""
        found = [r for r in self._project.database.rollouts.list(self.model) if r[1].candidate == self.version]
        return found[-1] if found else None

    @property
    def status(self) -> RolloutStatus:
        """The newest status; raises UnknownName when it was never started."""
        found = self.current
        if found is None:
            known = [s.candidate for _, s in self._project.database.rollouts.list(self.model)]
            raise UnknownName.of(f"rollout of {self.model}", self.version, known)
        return found[1]

    def start(
        self, *, skip_shadow: bool = False, cause: str = "manual", actor: str = "cli", force: bool = False
    ) -> RolloutStatus:
        """Order the release; the controller carries it out.

        Args:
            skip_shadow: Begin with the first step.
            cause: Why.
            actor: Who.
            force: Also while rollbacks of the model come too fast; recorded.

        Raises:
            Refused: no champion to compare with, the gate did not pass.
            ConflictError: another rollout of the model is under way, or too many were rolled back lately.
        """
        return start_rollout(
            self._project, self.model, self.version, skip_shadow=skip_shadow, cause=cause, actor=actor, force=force
        )

    def pause(self, reason: str = "", *, actor: str = "cli") -> RolloutStatus:
        """Hold the rollout where it is."""
        return self._order("pause", reason, actor)

    def resume(self, reason: str = "", *, actor: str = "cli") -> RolloutStatus:
        """Let a paused rollout go on."""
        return self._order("run", reason, actor)

    def approve(self, reason: str = "", *, actor: str = "cli") -> RolloutStatus:
        """Let the rollout take the step, or the promotion, that waits for a person."""
        return self._order("approve", reason, actor)

    def promote(self, reason: str = "", *, actor: str = "cli", force: bool = False) -> RolloutStatus:
        """Promote at once, whatever the evidence; what it said at that moment is recorded with the override.

        Args:
            reason: Why; may be left out only when every guardrail is shown to be safe.
            actor: Who.
            force: Also while the calendar freezes; recorded.

        Raises:
            Refused: it would override the evidence and no reason is given, or the rollout is over.
        """
        from flyball.rollout.explain import newest_evidence, unsafe

        status = self.status
        evidence = newest_evidence(status, self.events()) or {}
        missing = unsafe(evidence) if evidence.get("guardrails") else ["nothing was seen yet"]
        if missing and not reason.strip() and status.phase not in TERMINAL:
            raise Refused(
                f"promoting {self.version} now overrides the evidence ({', '.join(missing)}); "
                'say why, for the record: --reason "..."'
            )
        facts = {"override": bool(missing), "evidence": evidence} if missing else {}
        return self._order("promote", reason, actor, force=force, facts=facts)

    def abort(self, reason: str = "", *, actor: str = "cli") -> RolloutStatus:
        """Return all traffic to the champion."""
        return self._order("abort", reason, actor)

    def events(self) -> list[RolloutEvent]:
        """Return what happened, in order."""
        return self._project.database.rollouts.events(self.status.id)

    def explain(self) -> dict[str, Any]:
        """Return limit, e-value, interval and samples of every guardrail, and one sentence each."""
        from flyball.rollout.explain import explain

        found = self.current
        if found is None:
            raise UnknownName.of(f"rollout of {self.model}", self.version, [])
        project = self._project
        told = explain(found[0], found[1], self.events(), now=project.clock.now())
        return told | {"held_back": held_back(project, self.model), "storm": stormy(project, self.model)}

    def expected(self, *, per_day: float | None = None, skip_shadow: bool = False) -> dict[str, Any]:
        """Return the expected days to detect harm and to promote.

        Args:
            per_day: Requests a day; counted over the newest day of the prediction log when left out.
            skip_shadow: Leave the shadow phase out.
        """
        from flyball.rollout.explain import forecast

        model = self._project.applied.model(self.model)
        rate = per_day if per_day is not None else _requests_per_day(self._project, self.model)
        if rate <= 0:
            raise Refused(f"{self.model} has answered nothing yet, so nothing can be forecast; give --per-day")
        return forecast(model.rollout, per_day=rate, matures=model.label.matures, skip_shadow=skip_shadow)

    def replay(self) -> dict[str, Any]:
        """Fold the prediction log and decide again: `same`, and per verdict what was recorded and what comes now."""
        from flyball.rollout.replay import replay

        found = self.current
        if found is None:
            raise UnknownName.of(f"rollout of {self.model}", self.version, [])
        layout = self._project.layout
        return replay(found[0], layout.log, layout.evidence, found[1].id)

    def watch(self, *, timeout: float = 3600.0, poll: float = 0.5) -> Iterator[RolloutStatus]:
        """Yield the status each time it changes until the rollout ends or `timeout` seconds passed."""
        until, seen = time.monotonic() + timeout, -1
        while time.monotonic() < until:
            status = self.status
            if status.revision != seen:
                seen = status.revision
                yield status
            if status.phase in TERMINAL:
                return
            time.sleep(poll)

    def _order(
        self, wanted: str, reason: str, actor: str, *, force: bool = False, facts: Mapping[str, Any] | None = None
    ) -> RolloutStatus:
        from flyball.rollout.reconcile import order

        project, name = self._project, self.status.id
        now = project.clock.now()
        status = order(project.database.rollouts, name, wanted, reason=reason, actor=actor, now=now, force=force)
        details = {"reason": reason, **({"force": True} if force else {}), **(facts or {})}
        project.database.audit.record(now, actor, f"rollout {wanted}", status.id, details)
        return status


def stormy(project: Project, model: str) -> str:
    """Return one sentence while rollbacks of a model come so fast that new rollouts of it wait, "" in calm."""
    from flyball.rollout.judging.storms import storm

    statuses = (status for _, status in project.database.rollouts.list(model))
    found = storm(statuses, model, project.clock.now())
    return "" if found is None else str(found)


def history(project: Project, model: str | None = None) -> list[dict[str, Any]]:
    """Return rollouts, oldest first: their status, and what each guardrail's metric was when they ended (or is now)."""
    from flyball.rollout.explain import newest_evidence

    rows = []
    for _, status in project.database.rollouts.list(model):
        evidence = newest_evidence(status, project.database.rollouts.events(status.id)) or {}
        row: dict[str, Any] = msgspec.to_builtins(status)
        rows.append(row | {"metrics": {rail["name"]: _figures(rail) for rail in evidence.get("guardrails", [])}})
    return rows


def record(project: Project, rollout: str) -> dict[str, Any]:
    """Return all that is kept of one rollout: spec, status, story, events with their evidence.

    Args:
        project: The project.
        rollout: Its id, or a version, of which the newest rollout is meant.

    Raises:
        UnknownName: there is none.
    """
    from flyball.rollout.explain import explain

    store = project.database.rollouts
    named = [status.id for _, status in store.list() if rollout in {status.id, status.candidate}]
    spec, status = store.get(named[-1] if named else rollout)
    events = store.events(status.id)
    told = explain(spec, status, events, now=project.clock.now())
    return {"spec": spec, "status": status, **told, "events": events}


def _figures(rail: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("breached", "safe", "e_value", "limit", "harm", "lower", "upper", "margin", "samples", "power")
    return {name: rail.get(name) for name in kept}


def start_rollout(
    project: Project,
    model: str,
    version: str,
    *,
    skip_shadow: bool,
    cause: str,
    actor: str,
    now: datetime | None = None,
    force: bool = False,
) -> RolloutStatus:
    """Record a new rollout of a version that passed its gate, begun at `now` (the project's own by default).

    Raises:
        UnknownName: no such model or version.
        Refused: there is no champion to compare with, or the gate did not pass.
        ConflictError: another rollout of the model is under way, or too many were rolled back lately (a person may
            override that with `force`).
    """
    from flyball.rollout.reconcile import start

    found = project.models[model].version(version)
    champion = project.models[model].champion
    if champion is None:
        raise Refused(
            f"{model} has no champion to compare {version} with; "
            f"make one with: flyball model promote {version} --model {model}"
        )
    require_passing(found)
    restore(project, found)
    _refuse_during_split(project, model)
    now = now or project.clock.now()
    status = start(
        project.database.rollouts,
        project.definitions_of(found.code).model(model).rollout,
        model=model,
        candidate=version,
        champion=champion.version,
        now=now,
        cause=cause,
        actor=actor,
        skip_shadow=skip_shadow,
        force=force,
    )
    details = {"skip_shadow": skip_shadow, "cause": cause, "champion": champion.version, "force": force}
    project.database.audit.record(now, actor, "rollout started", status.id, details)
    return status


def require_passing(version: Version) -> None:
    """Raise Refused unless a version's gate lets it be exposed to traffic."""
    if version.gate != "passing":
        said = version.gate or "nothing yet"
        raise Refused(f"{version.model} {version.version} may not be exposed: its gate says {said}")


def _refuse_during_split(project: Project, model: str) -> None:
    route = project.database.routing.current().models.get(model)
    refuse_during_experiment(route)
    if route is not None and route.variants:
        names = ", ".join(variant.name for variant in route.variants)
        raise Refused(
            f"a split of {model} with {names} is in force and has its units; "
            f"end it first with: flyball model split --stop --model {model}"
        )


def routes_of(project: Project) -> Routes:
    """Return the routes of the running node; without one, a commit only writes table and database."""
    from flyball.adapters.local.routes import NodeRoutes

    return NodeRoutes(project.layout, project.database.routing)


@contextlib.contextmanager
def exclusive(project: Project) -> Iterator[tuple[Routes, int]]:
    """Hold the controller's lease for one change of routes made by hand.

    Raises:
        ConflictError: another actor holds the lease and does not let go.
    """
    leases = project.database.leases
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"  # two threads are two actors
    until = time.monotonic() + _PATIENCE
    while (lease := leases.acquire("routes", owner, timedelta(seconds=30))) is None:
        if time.monotonic() > until:
            raise ConflictError("another process is changing the routes; try again in a moment")
        time.sleep(0.05)
    try:
        yield routes_of(project), lease.fence
    finally:
        leases.release(lease)


def _requests_per_day(project: Project, model: str) -> float:
    """Return how many of a model's rows were answered in the last day of domain time."""
    from flyball.records.log import follow
    from flyball.records.types import Prediction
    from flyball.units import to_micros

    since = to_micros(project.clock.now() - timedelta(days=1))
    records = (r for batch in follow(project.layout.log, {}) for r in batch.records)
    return float(sum(isinstance(r, Prediction) and r.model == model and r.at >= since for r in records))
