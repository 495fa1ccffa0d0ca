"""Triggers, freezes and the loop's story."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import freezes, loop_events, triggers
from flyball.control.values import pack, unpack
from flyball.errors import UnknownName
from flyball.loop.types import LoopEvent, Trigger
from flyball.units import to_micros

__all__ = ["Loop"]


class Loop:
    """loop.ports.LoopStore on the control database."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def put(self, trigger: Trigger) -> bool:
        """Record a trigger once by id; return whether it is new."""
        with self._gate.write() as db:
            if db.scalar(select(triggers.c.seq).where(triggers.c.id == trigger.id)) is not None:
                return False
            row = {"id": trigger.id, "model": trigger.model, "state": trigger.state}
            db.execute(insert(triggers).values(**row, body=pack(trigger)))
        return True

    def update(self, trigger: Trigger) -> None:
        """Replace a trigger's state, reason, run and rollout."""
        change = update(triggers).where(triggers.c.id == trigger.id)
        with self._gate.write() as db:
            if db.execute(change.values(state=trigger.state, body=pack(trigger))).rowcount == 0:
                raise UnknownName.of("trigger", trigger.id, db.scalars(select(triggers.c.id)).all())

    def triggers(self, model: str) -> list[Trigger]:
        """Return a model's triggers, oldest first."""
        query = select(triggers.c.body).where(triggers.c.model == model).order_by(triggers.c.seq)
        with self._gate.read() as db:
            return [unpack(body, Trigger) for body in db.scalars(query)]

    def record(self, event: LoopEvent) -> None:
        """Append to the story."""
        with self._gate.write() as db:
            db.execute(insert(loop_events).values(model=event.model, body=pack(event)))

    def story(self, model: str) -> list[LoopEvent]:
        """Return a model's story, oldest first."""
        query = select(loop_events.c.body).where(loop_events.c.model == model).order_by(loop_events.c.seq)
        with self._gate.read() as db:
            return [unpack(body, LoopEvent) for body in db.scalars(query)]

    def freeze(self, model: str | None, *, reason: str, now: datetime) -> None:
        """Stop the loop for one model, or for all (None)."""
        with self._gate.write() as db:
            db.execute(delete(freezes).where(freezes.c.model == (model or "")))
            db.execute(insert(freezes).values(model=model or "", reason=reason, at=to_micros(now)))

    def thaw(self, model: str | None) -> None:
        """Let it turn again."""
        with self._gate.write() as db:
            db.execute(delete(freezes).where(freezes.c.model == (model or "")))

    def frozen(self, model: str) -> str | None:
        """Return the reason when the model (or everything) is frozen, else None."""
        query = select(freezes.c.reason).where(freezes.c.model.in_([model, ""])).order_by(freezes.c.model.desc())
        with self._gate.read() as db:
            return db.scalars(query).first()
