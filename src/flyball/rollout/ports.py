"""What rollouts need from outside."""

from __future__ import annotations

import builtins
from typing import Protocol

from flyball.rollout.routing import RoutingTable
from flyball.rollout.types import RolloutEvent, RolloutSpec, RolloutStatus

__all__ = ["RolloutStore", "Routes"]


class RolloutStore(Protocol):
    """Keep specs, statuses and events (control database)."""

    def create(self, spec: RolloutSpec, status: RolloutStatus) -> None:
        """Record a new rollout; raises ConflictError when the model has one that is not finished."""
        ...

    def get(self, rollout: str) -> tuple[RolloutSpec, RolloutStatus]:
        """Return spec and status; raises UnknownName."""
        ...

    def list(
        self, model: str | None = None, *, active: bool = False
    ) -> builtins.list[tuple[RolloutSpec, RolloutStatus]]:
        """Return rollouts, oldest first."""
        ...

    def save(
        self,
        status: RolloutStatus,
        *,
        expected: int,
        fence: int | None,
        events: builtins.list[RolloutEvent] | None = None,
    ) -> RolloutStatus:
        """Write status and events in one transaction if the stored revision is `expected` (and `fence` is current).

        Returns the status with its new revision. Raises RevisionConflict or FenceLost.
        """
        ...

    def events(self, rollout: str) -> builtins.list[RolloutEvent]:
        """Return a rollout's events in order."""
        ...


class Routes(Protocol):
    """Read and change the routing table in force."""

    def current(self) -> RoutingTable:
        """Return the newest committed table."""
        ...

    def commit(self, table: RoutingTable, *, expected: int, fence: int) -> None:
        """Make `table` (version == expected + 1) the one in force and return when every live worker acknowledged.

        Raises RevisionConflict when the version in force is not `expected`, FenceLost when a newer fence wrote.
        """
        ...
