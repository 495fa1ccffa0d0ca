"""What `flyball apply` made live, and how far each view is materialized."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import deployments, watermarks
from flyball.control.types import Applied
from flyball.control.values import pack, unpack
from flyball.features.spec import ViewSpec
from flyball.units import from_micros, to_micros

__all__ = ["Deployments"]


class Deployments:
    """Keep applied definitions in order; the newest is in force."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def applied(self) -> Applied | None:
        """Return the definitions in force, None before the first apply."""
        query = select(deployments).order_by(deployments.c.seq.desc()).limit(1)
        with self._gate.read() as db:
            row = db.execute(query).first()
        return dataclasses.replace(unpack(row.body, Applied), revision=row.seq) if row is not None else None

    def record_applied(
        self, code: str, at: datetime, views: Sequence[ViewSpec], *, definitions: str = "", actor: str = ""
    ) -> Applied:
        """Make definitions the ones in force; the same as before changes nothing. Return what is in force."""
        wanted = Applied(0, code, at, definitions, tuple(views), actor)
        newest = select(deployments).order_by(deployments.c.seq.desc()).limit(1)
        with self._gate.write() as db:
            row = db.execute(newest).first()
            before = dataclasses.replace(unpack(row.body, Applied), revision=row.seq) if row is not None else None
            if before is not None and _content(before) == _content(wanted):
                return before
            key = db.execute(insert(deployments).values(body=pack(wanted))).inserted_primary_key
        return dataclasses.replace(wanted, revision=int(key[0]) if key is not None else 0)

    def history(self, *, limit: int = 100) -> list[Applied]:
        """Return the newest deployments, oldest first."""
        query = select(deployments).order_by(deployments.c.seq.desc()).limit(limit)
        with self._gate.read() as db:
            rows = db.execute(query).all()
        return [dataclasses.replace(unpack(row.body, Applied), revision=row.seq) for row in reversed(rows)]

    def watermark(self, view: str) -> datetime | None:
        """Return until when a view (by digest) is materialized, None when it never was."""
        with self._gate.read() as db:
            at = db.scalar(select(watermarks.c.at).where(watermarks.c.view == view))
        return from_micros(at) if at is not None else None

    def set_watermark(self, view: str, at: datetime | None) -> None:
        """Set it; None forgets it, so that the next materialization starts anew."""
        with self._gate.write() as db:
            if at is None:
                db.execute(delete(watermarks).where(watermarks.c.view == view))
            elif db.execute(update(watermarks).where(watermarks.c.view == view).values(at=to_micros(at))).rowcount == 0:
                db.execute(insert(watermarks).values(view=view, at=to_micros(at)))


def _content(applied: Applied) -> tuple[str, str, tuple[ViewSpec, ...]]:
    return applied.code, applied.definitions, applied.views
