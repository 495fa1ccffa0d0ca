"""In-memory rollout ports: the same promises as the control database and the node, and nothing to start."""

from __future__ import annotations

import builtins
from dataclasses import replace

from flyball.errors import ConflictError, FenceLost, RevisionConflict, UnknownName
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.rollout.types import TERMINAL, RolloutEvent, RolloutSpec, RolloutStatus

__all__ = ["MemoryRollouts", "MemoryRoutes"]


class MemoryRollouts:
    """Keep rollouts in a dictionary (rollout.ports.RolloutStore)."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[RolloutSpec, RolloutStatus]] = {}
        self._events: dict[str, list[RolloutEvent]] = {}
        self._fence = 0
        self.saves = 0

    def create(self, spec: RolloutSpec, status: RolloutStatus) -> None:
        """Record a new rollout."""
        for _, other in self.list(status.model, active=True):
            raise ConflictError(f"model {status.model} has rollout {other.id} in phase {other.phase}; abort it first")
        self._rows[status.id] = (spec, status)
        self._events[status.id] = []

    def get(self, rollout: str) -> tuple[RolloutSpec, RolloutStatus]:
        """Return spec and status."""
        if rollout not in self._rows:
            raise UnknownName.of("rollout", rollout, self._rows)
        return self._rows[rollout]

    def list(
        self, model: str | None = None, *, active: bool = False
    ) -> builtins.list[tuple[RolloutSpec, RolloutStatus]]:
        """Return rollouts, oldest first."""
        rows = [row for row in self._rows.values() if model is None or row[1].model == model]
        return [row for row in rows if not active or row[1].phase not in TERMINAL]

    def save(
        self,
        status: RolloutStatus,
        *,
        expected: int,
        fence: int | None,
        events: builtins.list[RolloutEvent] | None = None,
    ) -> RolloutStatus:
        """Compare and set on revision and fence."""
        spec, stored = self.get(status.id)
        if fence is not None and fence < self._fence:
            raise FenceLost(f"fence {fence} is older than {self._fence}; another controller acts now")
        if stored.revision != expected:
            raise RevisionConflict(
                f"rollout {status.id} is at revision {stored.revision}, not {expected}; read it again"
            )
        self._fence = max(self._fence, fence or 0)
        saved = replace(status, revision=expected + 1)
        self._rows[status.id] = (spec, saved)
        self._events[status.id] += events or []
        self.saves += 1
        return saved

    def events(self, rollout: str) -> builtins.list[RolloutEvent]:
        """Return a rollout's events in order."""
        return [*self._events[rollout]]


class MemoryRoutes:
    """Keep every routing table in a list (rollout.ports.Routes)."""

    def __init__(self, model: str, champion: str, *, salt: str = "salt") -> None:
        ref = VersionRef(champion, f"artifacts/{model}/{champion}", "0" * 64, trusted=True)
        self.tables = [RoutingTable(1, 0, 0, {model: ModelRoute(model, salt, ref)})]

    def current(self) -> RoutingTable:
        """Return the newest table."""
        return self.tables[-1]

    def commit(self, table: RoutingTable, *, expected: int, fence: int) -> None:
        """Compare and set on version and fence."""
        if fence < self.current().fence:
            raise FenceLost(f"fence {fence} is older than {self.current().fence}; another controller acts now")
        if self.current().version != expected or table.version != expected + 1:
            raise RevisionConflict(f"table {self.current().version} is in force, not {expected}; read it again")
        self.tables.append(table)
