"""Runs and the journal of their stages."""

from __future__ import annotations

import builtins
import dataclasses
from collections import defaultdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import runs, stages
from flyball.control.values import pack, unpack
from flyball.errors import ConflictError, UnknownName
from flyball.training.types import STAGES, Run, RunState, StageRecord
from flyball.units import to_micros

__all__ = ["Runs"]

_FINAL = (RunState.SUCCEEDED, RunState.GATED_OUT, RunState.FAILED)


class Runs:
    """training.ports.RunStore on the control database."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def create(self, run: Run) -> None:
        """Record a new run in state PENDING; raises ConflictError when the id is taken."""
        fresh = dataclasses.replace(run, state=RunState.PENDING, stages=())
        with self._gate.write() as db:
            if db.scalar(select(runs.c.seq).where(runs.c.id == run.id)) is not None:
                raise ConflictError(f"there is a run {run.id} already; give the new one another id")
            row = {"id": run.id, "model": run.model, "state": fresh.state.value}
            db.execute(insert(runs).values(**row, body=pack(fresh), notes="{}"))

    def get(self, run: str) -> Run:
        """Return a run with its stages; raises UnknownName."""
        with self._gate.read() as db:
            row = _row(db, run)
            journal = db.scalars(select(stages.c.body).where(stages.c.run == run)).all()
        return _with_journal(unpack(row.body, Run), [unpack(body, StageRecord) for body in journal])

    def list(self, model: str | None = None) -> builtins.list[Run]:
        """Return runs, oldest first."""
        wanted = [runs.c.model == model] if model is not None else []
        journal: dict[str, builtins.list[StageRecord]] = defaultdict(builtins.list)
        with self._gate.read() as db:
            bodies = db.scalars(select(runs.c.body).where(*wanted).order_by(runs.c.seq)).all()
            join = select(stages.c.run, stages.c.body).join(runs, runs.c.id == stages.c.run).where(*wanted)
            for run, body in db.execute(join):
                journal[run].append(unpack(body, StageRecord))
        found = [unpack(body, Run) for body in bodies]
        return [_with_journal(run, journal[run.id]) for run in found]

    def record_stage(self, run: str, stage: StageRecord) -> None:
        """Write a stage's record, replacing an earlier record of the same stage."""
        with self._gate.write() as db:
            _row(db, run)
            db.execute(delete(stages).where(stages.c.run == run, stages.c.stage == stage.stage))
            row = {"run": run, "stage": stage.stage, "started": to_micros(stage.started)}
            db.execute(insert(stages).values(**row, body=pack(stage)))

    def set_state(
        self, run: str, state: RunState, *, now: datetime, error: str = "", version: str | None = None
    ) -> None:
        """Move a run; a final state stamps `finished`, any other takes it away again (a resumed run)."""
        with self._gate.write() as db:
            before = unpack(_row(db, run).body, Run)
            after = dataclasses.replace(
                before,
                state=state,
                error=error,
                version=version if version is not None else before.version,
                finished=now if state in _FINAL else None,
            )
            db.execute(update(runs).where(runs.c.id == run).values(state=state.value, body=pack(after)))

    def note(self, run: str, **values: Any) -> None:
        """Merge small JSON values into the run's notes (pid of its child, log path)."""
        with self._gate.write() as db:
            notes = {**unpack(_row(db, run).notes, dict[str, Any]), **values}
            db.execute(update(runs).where(runs.c.id == run).values(notes=pack(notes)))

    def notes(self, run: str) -> dict[str, Any]:
        """Return what was noted."""
        with self._gate.read() as db:
            return unpack(_row(db, run).notes, dict[str, Any])


def _with_journal(run: Run, records: list[StageRecord]) -> Run:
    """Return the run with its stages in their own order: under a simulated clock all may start at one instant."""
    order = {stage: place for place, stage in enumerate(STAGES)}
    stages_in_order = sorted(records, key=lambda r: (order.get(r.stage, len(order)), r.started, r.stage))
    return dataclasses.replace(run, stages=tuple(stages_in_order))


def _row(db: Connection, run: str) -> Row[Any]:
    row = db.execute(select(runs).where(runs.c.id == run)).first()
    if row is None:
        raise UnknownName.of("run", run, db.scalars(select(runs.c.id)).all())
    return row
