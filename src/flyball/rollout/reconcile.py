"""Bring every active rollout one safe act further: observe, decide, act, persist, in this order.

The surprise: acts come before the status is written, so a crash between them leaves a routing table that is ahead of
the status. The next pass recognises that table and adopts it (`judging.adopt`) instead of acting twice or going back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from flyball.errors import FenceLost, Refused, RevisionConflict
from flyball.records.log import Batch
from flyball.rollout.evidence.journal import EvidenceGone
from flyball.rollout.evidence.live import Live
from flyball.rollout.evidence.unit_store import UnitsLost
from flyball.rollout.facts import acted, answered, told
from flyball.rollout.judging.adopt import choose
from flyball.rollout.judging.decide import apply
from flyball.rollout.orders import order, start
from flyball.rollout.ports import RolloutStore, Routes
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.rollout.tables import route_for, table_for
from flyball.rollout.types import (
    TERMINAL,
    Decision,
    Evidence,
    Outside,
    Phase,
    RolloutEvent,
    RolloutSpec,
    RolloutStatus,
)
from flyball.units import to_micros

__all__ = ["Reconciler", "order", "start"]

_CAUSES: dict[str, Literal["promote", "rollout", "rollback"]] = {
    "promote": "promote", "roll_back": "rollback", "finish_rollback": "rollback",
}  # fmt: skip
_ACTS_PER_PASS = 4  # begin, roll back, finish and one more; what is left waits for the next pass
_TRY_AGAIN = timedelta(seconds=10)  # until a rollout is looked at again whose evidence could not be written
Done = Callable[[str, str, datetime], None]
Look = Callable[[RolloutSpec, RolloutStatus, datetime], Outside]


class Reconciler:
    """Act on all rollouts that are not finished.

    Args:
        store: Specs, statuses, events.
        routes: The routing table in force.
        log_root: The prediction log, for gaps and takeovers.
        evidence_root: Folder of all rollouts' evidence.
        refs: Returns where a version lies: (model, version) -> VersionRef.
        promoted: Called once or more after the table made (model, version) the champion, at a domain time.
        rolled_back: Called once or more after traffic left (model, version).
        outside: Returns what a look takes from outside the log: drift, resources, custom measurements by guardrail,
            and a veto that is worth a rollback (the log shows lasting vetoes anyway).
    """

    def __init__(
        self,
        *,
        store: RolloutStore,
        routes: Routes,
        log_root: Path,
        evidence_root: Path,
        refs: Callable[[str, str], VersionRef],
        promoted: Done,
        rolled_back: Done,
        outside: Look | None = None,
    ) -> None:
        self._store, self._routes = store, routes
        self._log_root, self._evidence_root = log_root, evidence_root
        self._refs, self._promoted, self._rolled_back = refs, promoted, rolled_back
        self._outside = outside
        self._live: dict[str, Live] = {}
        self._failed: dict[str, datetime] = {}  # when a rollout's evidence could not be written

    def step(self, batches: list[Batch], now: datetime, fence: int) -> list[RolloutEvent]:
        """Take new log batches into account and do everything that is due at `now`.

        Args:
            batches: What the log gained since the last call; batches seen before do no harm.
            now: Domain time.
            fence: The lease's fence; another one than before means a takeover, and the state is rebuilt.

        Returns:
            The events that were recorded.

        Raises:
            FenceLost: a newer controller acts; stop.
        """
        active = self._store.list(active=True)
        self._forget({status.id for _, status in active})
        events: list[RolloutEvent] = []
        for spec, status in active:
            if abs(now - self._failed.get(status.id, datetime.min.replace(tzinfo=UTC))) < _TRY_AGAIN:
                continue
            try:
                self._reconcile(spec, status, batches, now, fence, events)
            except FenceLost:
                self.close()
                raise
            except Refused as error:
                events += self._hold(status, str(error), now, fence)
            except UnitsLost:  # the next pass folds the evidence log again
                self._drop(status.id)
            except (OSError, EvidenceGone) as error:  # what is in memory may be ahead of the disk
                self._drop(status.id)
                self._failed[status.id] = now
                self._say(status, f"the evidence cannot be kept ({error}); hold until it can", fence)
            except RevisionConflict:  # an order came in between, or the table moved; the next pass sees it
                continue
        return events

    def evidence(self, rollout: str, now: datetime) -> Evidence | None:
        """Return the evidence of a rollout that this controller follows."""
        live = self._live.get(rollout)
        return None if live is None else live.evidence(self._store.get(rollout)[1], now)

    def close(self) -> None:
        """Forget everything in memory; the next step rebuilds it from the evidence log."""
        self._forget(set())

    def _reconcile(
        self, spec: RolloutSpec, status: RolloutStatus, batches: list[Batch], now: datetime, fence: int,
        events: list[RolloutEvent],
    ) -> None:  # fmt: skip
        live = self._open(spec, status, fence)
        if live.lost:
            status = self._tell_lost(live, status, now, fence, events)
        table = self._routes.current()
        route = table.models.get(status.model)
        if route is None:
            return
        live.ensure_split(route, table.version, status.id)
        live.fold(batches, now)
        for _ in range(_ACTS_PER_PASS):
            outside = self._outside(spec, status, now) if self._outside is not None else Outside()
            evidence = live.evidence(status, now, outside=outside)
            decision = choose(spec, status, evidence, route, now)
            if decision.action == "wait":
                break
            live.decided(status, decision, now, outside)
            target = apply(status, decision, now)
            table, route = self._act(spec, status, target, decision, table, route, now, fence)
            happened = [*answered(status, evidence, now), *acted(status, decision, evidence, now)]
            status = self._persist(target, live, evidence, fence, happened)
            events += happened
            live.ensure_split(route, table.version, status.id)
        else:
            return
        table, route = self._settle(spec, status, table, route, now, fence)
        live.ensure_split(route, table.version, status.id)
        seen = (status.bins, status.cursor, status.state.get("waiting"))
        if status.phase not in TERMINAL and seen != (live.ledger.bins, live.cursor, decision.reason):
            verdicts = answered(status, evidence, now)
            self._persist(status, live, evidence, fence, verdicts, waiting=decision.reason)
            events += verdicts

    def _hold(self, status: RolloutStatus, cause: str, now: datetime, fence: int) -> list[RolloutEvent]:
        """Pause a rollout whose next table the workers cannot serve; a person looks and resumes."""
        _, status = self._store.get(status.id)
        live = self._live.get(status.id)
        if live is None or status.phase in TERMINAL or status.phase is Phase.PAUSED:
            return []
        decision = Decision("pause", cause, step=status.step, share=status.share, guardrail="table")
        live.decided(status, decision, now, Outside())
        event = RolloutEvent(status.id, now, "Paused", cause, {"from": str(status.phase), "guardrail": "table"})
        held = replace(apply(status, decision, now), wanted="pause")
        self._store.save(held, expected=status.revision, fence=fence, events=[event])
        return [event]

    def _tell_lost(
        self, live: Live, status: RolloutStatus, now: datetime, fence: int, events: list[RolloutEvent]
    ) -> RolloutStatus:
        """Record that evidence is gone; what is missing is judged anew, so nothing rises on it."""
        event = RolloutEvent(status.id, now, "EvidenceLost", live.lost, {"bins": status.bins})
        status = self._store.save(status, expected=status.revision, fence=fence, events=[event])
        live.lost = ""
        events.append(event)
        return status

    def _say(self, status: RolloutStatus, waiting: str, fence: int) -> None:
        """Have the status say why nothing happens; that it cannot be saved either must not stop the others."""
        with contextlib.suppress(RevisionConflict):
            _, status = self._store.get(status.id)
            if status.phase not in TERMINAL and status.state.get("waiting") != waiting:
                waits = replace(status, state={**status.state, "waiting": waiting})
                self._store.save(waits, expected=status.revision, fence=fence)

    def _drop(self, rollout: str) -> None:
        live = self._live.pop(rollout, None)
        with contextlib.suppress(OSError):
            if live is not None:
                live.close()

    def _open(self, spec: RolloutSpec, status: RolloutStatus, fence: int) -> Live:
        live = self._live.get(status.id)
        if live is None or live.fence != fence:
            if live is not None:
                live.close()
            folder = self._evidence_root / status.id
            live = Live.open(spec, status, log_root=self._log_root, folder=folder, fence=fence)
            self._live[status.id] = live
        return live

    def _forget(self, active: set[str]) -> None:
        for gone in self._live.keys() - active:
            self._drop(gone)

    def _act(
        self, spec: RolloutSpec, status: RolloutStatus, target: RolloutStatus, decision: Decision, table: RoutingTable,
        route: ModelRoute, now: datetime, fence: int,
    ) -> tuple[RoutingTable, ModelRoute]:  # fmt: skip
        cause = _CAUSES.get(decision.action, "rollout")
        table, route = self._settle(spec, target, table, route, now, fence, cause=cause)
        if decision.action == "promote":
            self._promoted(status.model, status.candidate, now)
        if decision.action == "finish_rollback":
            self._rolled_back(status.model, status.candidate, now)
        return table, route

    def _settle(
        self, spec: RolloutSpec, status: RolloutStatus, table: RoutingTable, route: ModelRoute, now: datetime,
        fence: int, cause: Literal["promote", "rollout", "rollback"] = "rollout",
    ) -> tuple[RoutingTable, ModelRoute]:  # fmt: skip
        """Make the table say what the status says; nothing happens when it does already."""
        phase = (status.resume or Phase.PENDING) if status.phase is Phase.PAUSED else status.phase
        candidate = self._ref(status, route, phase)
        timed = any(rail.kind == "latency" for rail in spec.guardrails)
        within = spec.steps[status.step].where if 0 <= status.step < len(spec.steps) else ()
        wanted = route_for(
            route, rollout=status.id, candidate=candidate, phase=phase, share=status.share, timed=timed, within=within
        )
        if wanted == route:
            return table, route
        following = table_for(table, wanted, now=to_micros(now), fence=fence, cause=cause)
        self._routes.commit(following, expected=table.version, fence=fence)
        return following, wanted

    def _ref(self, status: RolloutStatus, route: ModelRoute, phase: Phase) -> VersionRef:
        for known in (route.candidate, route.champion):
            if known is not None and known.version == status.candidate:
                return known
        if phase in {Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.PENDING}:
            return route.champion  # not looked at: these phases have no candidate
        return self._refs(status.model, status.candidate)

    def _persist(
        self,
        status: RolloutStatus,
        live: Live,
        evidence: Evidence,
        fence: int,
        events: list[RolloutEvent],
        *,
        waiting: str = "",
    ) -> RolloutStatus:
        state = {"evidence": told(evidence), "waiting": waiting}
        known = replace(status, cursor=dict(live.cursor), bins=live.ledger.bins, state=state)
        return self._store.save(known, expected=status.revision, fence=fence, events=events)
