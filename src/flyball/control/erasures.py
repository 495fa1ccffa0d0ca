"""Erasures and their proofs, by a keyed hash of the subject: who was erased stands nowhere."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import erasures
from flyball.control.values import pack, unpack
from flyball.units import to_micros

__all__ = ["Erasures"]


class Erasures:
    """Keep each erasure's proof; one that was killed is found again and goes on."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def begin(self, subject: str, now: datetime) -> tuple[int, dict[str, Any]]:
        """Return the number of the subject's running erasure and what it noted so far; begin one if none runs."""
        running = select(erasures).where(erasures.c.subject == subject, erasures.c.state == "running")
        with self._gate.write() as db:
            row = db.execute(running).first()
            if row is not None:
                return row.seq, unpack(row.body, dict[str, Any])
            values = {"subject": subject, "state": "running", "at": to_micros(now), "body": pack({})}
            key = db.execute(insert(erasures).values(**values)).inserted_primary_key
        return int(key[0]) if key is not None else 0, {}

    def note(self, number: int, body: dict[str, Any], *, done: bool = False) -> None:
        """Record how far it is; `done` closes it with its proof."""
        state = "done" if done else "running"
        with self._gate.write() as db:
            db.execute(update(erasures).where(erasures.c.seq == number).values(state=state, body=pack(body)))

    def list(self, *, subject: str | None = None) -> builtins.list[dict[str, Any]]:
        """Return proofs, oldest first, of one subject (by its keyed hash) or of all."""
        query = select(erasures).order_by(erasures.c.seq)
        if subject is not None:
            query = query.where(erasures.c.subject == subject)
        with self._gate.read() as db:
            rows = db.execute(query).all()
        return [{"id": r.seq, "state": r.state, **unpack(r.body, dict[str, Any])} for r in rows]
