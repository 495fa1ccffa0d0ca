"""Rollouts: frozen specs, statuses compared and set by revision and fence, events in the same transaction."""

from __future__ import annotations

import builtins
import dataclasses
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from flyball.control.engine import Gate
from flyball.control.leases import check_fence
from flyball.control.tables import rollout_events, rollouts
from flyball.control.values import pack, unpack
from flyball.errors import ConflictError, RevisionConflict, UnknownName
from flyball.rollout.types import TERMINAL, RolloutEvent, RolloutSpec, RolloutStatus

__all__ = ["Rollouts"]


class Rollouts:
    """rollout.ports.RolloutStore on the control database."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def create(self, spec: RolloutSpec, status: RolloutStatus) -> None:
        """Record a new rollout; raises ConflictError when the model has one that is not finished."""
        with self._gate.write() as db:
            busy = db.scalar(select(rollouts.c.id).where(rollouts.c.model == status.model, rollouts.c.active))
            if busy is not None:
                raise ConflictError(f"{status.model} has rollout {busy} under way; wait for it, or abort it first")
            if db.scalar(select(rollouts.c.seq).where(rollouts.c.id == status.id)) is not None:
                raise ConflictError(f"there is a rollout {status.id} already; give the new one another id")
            row = {"id": status.id, "model": status.model, "active": status.phase not in TERMINAL, "fence": 0}
            db.execute(insert(rollouts).values(**row, revision=status.revision, spec=pack(spec), body=pack(status)))

    def get(self, rollout: str) -> tuple[RolloutSpec, RolloutStatus]:
        """Return spec and status; raises UnknownName."""
        with self._gate.read() as db:
            return _pair(_row(db, rollout))

    def list(
        self, model: str | None = None, *, active: bool = False
    ) -> builtins.list[tuple[RolloutSpec, RolloutStatus]]:
        """Return rollouts, oldest first."""
        query = select(rollouts).order_by(rollouts.c.seq)
        if model is not None:
            query = query.where(rollouts.c.model == model)
        if active:
            query = query.where(rollouts.c.active)
        with self._gate.read() as db:
            return [_pair(row) for row in db.execute(query)]

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
        saved = dataclasses.replace(status, revision=expected + 1)
        with self._gate.write() as db:
            row = _row(db, status.id)
            if fence is not None:
                check_fence(db, fence, written=row.fence)
            if row.revision != expected:
                raise RevisionConflict(
                    f"rollout {status.id} is at revision {row.revision}, not {expected}: somebody changed it; "
                    "read it again and decide anew"
                )
            values = {"revision": saved.revision, "active": saved.phase not in TERMINAL, "body": pack(saved)}
            values["fence"] = fence if fence is not None else row.fence
            db.execute(update(rollouts).where(rollouts.c.id == status.id).values(**values))
            for event in events or ():
                db.execute(insert(rollout_events).values(rollout=event.rollout, body=pack(event)))
        return saved

    def events(self, rollout: str) -> builtins.list[RolloutEvent]:
        """Return a rollout's events in order."""
        query = select(rollout_events.c.body).where(rollout_events.c.rollout == rollout)
        with self._gate.read() as db:
            _row(db, rollout)
            return [unpack(body, RolloutEvent) for body in db.scalars(query.order_by(rollout_events.c.seq))]


def _row(db: Connection, rollout: str) -> Row[Any]:
    row = db.execute(select(rollouts).where(rollouts.c.id == rollout)).first()
    if row is None:
        raise UnknownName.of("rollout", rollout, db.scalars(select(rollouts.c.id)).all())
    return row


def _pair(row: Row[Any]) -> tuple[RolloutSpec, RolloutStatus]:
    return unpack(row.spec, RolloutSpec), unpack(row.body, RolloutStatus)
