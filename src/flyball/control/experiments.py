"""Experiments: frozen designs with their digest, statuses compared and set by revision, events in the same transaction.

The surprise: that one model has one experiment at a time is an index, not a check. Of two processes that start one at
once, the database lets one in.
"""

from __future__ import annotations

import builtins
import dataclasses
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError as Doubled

from flyball.control.engine import Gate
from flyball.control.tables import experiment_events, experiments
from flyball.control.values import pack, unpack
from flyball.errors import ConflictError, IntegrityError, RevisionConflict, UnknownName
from flyball.experiments.design.types import Experiment
from flyball.experiments.lifecycle import ExperimentEvent, ExperimentStatus, owned

__all__ = ["Experiments"]


class Experiments:
    """Keep experiments; a design is written once and never again."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def create(self, experiment: Experiment, status: ExperimentStatus, event: ExperimentEvent) -> None:
        """Store a design before its first exposure.

        Raises:
            ConflictError: there is one of that name, or another one has the model or flag now.
        """
        holds = owned(experiment)
        row = {"name": status.name, "holds": holds, "active": status.active, "digest": status.digest}
        try:
            with self._gate.write() as db:
                self._refuse_taken(db, experiment, holds)
                spec = pack(experiment.to_dict())
                db.execute(insert(experiments).values(**row, revision=status.revision, spec=spec, body=pack(status)))
                db.execute(insert(experiment_events).values(experiment=event.experiment, body=pack(event)))
        except Doubled:
            with self._gate.read() as db:
                self._refuse_taken(db, experiment, holds)
            raise

    def get(self, name: str) -> tuple[Experiment, ExperimentStatus]:
        """Return design and status; raises UnknownName."""
        with self._gate.read() as db:
            return _pair(_row(db, name))

    def find(self, name: str) -> tuple[Experiment, ExperimentStatus] | None:
        """Return design and status, None for a name that was never stored."""
        with self._gate.read() as db:
            row = db.execute(select(experiments).where(experiments.c.name == name)).first()
        return None if row is None else _pair(row)

    def list(self, *, active: bool = False) -> builtins.list[tuple[Experiment, ExperimentStatus]]:
        """Return experiments, oldest first; only those that hold units or are about to, when asked."""
        query = select(experiments).order_by(experiments.c.seq)
        if active:
            query = query.where(experiments.c.active)
        with self._gate.read() as db:
            return [_pair(row) for row in db.execute(query)]

    def save(
        self, status: ExperimentStatus, *, expected: int, events: builtins.list[ExperimentEvent] | None = None
    ) -> ExperimentStatus:
        """Write status and events in one transaction if the stored revision is `expected`; return it with its new one.

        Raises:
            UnknownName: there is no such experiment.
            RevisionConflict: somebody else wrote it.
        """
        saved = dataclasses.replace(status, revision=expected + 1)
        with self._gate.write() as db:
            row = _row(db, status.name)
            if row.revision != expected:
                raise RevisionConflict(
                    f"experiment {status.name} is at revision {row.revision}, not {expected}: somebody changed it; "
                    "look at it again"
                )
            values = {"revision": saved.revision, "active": saved.active, "body": pack(saved)}
            db.execute(update(experiments).where(experiments.c.name == status.name).values(**values))
            for event in events or ():
                db.execute(insert(experiment_events).values(experiment=event.experiment, body=pack(event)))
        return saved

    def events(self, name: str) -> builtins.list[ExperimentEvent]:
        """Return an experiment's events in order."""
        query = select(experiment_events.c.body).where(experiment_events.c.experiment == name)
        with self._gate.read() as db:
            _row(db, name)
            return [unpack(body, ExperimentEvent) for body in db.scalars(query.order_by(experiment_events.c.seq))]

    @staticmethod
    def _refuse_taken(db: Connection, experiment: Experiment, holds: str) -> None:
        c = experiments.c
        if db.scalar(select(c.seq).where(c.name == experiment.name)) is not None:
            raise ConflictError(f"there is an experiment {experiment.name} already; give the new one another name")
        other = db.scalar(select(c.name).where(c.holds == holds, c.active)) if holds else None
        if other is not None:
            what = holds.replace(":", " ")
            raise ConflictError(
                f"experiment {other} has the units of {what}; wait for it, or end it with: flyball exp stop {other}"
            )


def _row(db: Connection, name: str) -> Row[Any]:
    row = db.execute(select(experiments).where(experiments.c.name == name)).first()
    if row is None:
        raise UnknownName.of("experiment", name, db.scalars(select(experiments.c.name)).all())
    return row


def _pair(row: Row[Any]) -> tuple[Experiment, ExperimentStatus]:
    experiment = Experiment.from_dict(unpack(row.spec, dict[str, Any]))
    if experiment.digest != row.digest:
        raise IntegrityError(
            f"the stored design of experiment {row.name} is not the one its digest {row.digest[:12]} names; "
            "restore the control database from a backup"
        )
    return experiment, unpack(row.body, ExperimentStatus)
