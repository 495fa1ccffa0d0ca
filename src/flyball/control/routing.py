"""Every routing table ever in force; the newest is the truth, the shared map and the files only carry it."""

from __future__ import annotations

from sqlalchemy import func, insert, select

from flyball.control.engine import Gate
from flyball.control.leases import check_fence
from flyball.control.tables import routing
from flyball.errors import InputError, RevisionConflict
from flyball.rollout.routing import RoutingTable

__all__ = ["RoutingStore"]


class RoutingStore:
    """Keep routing tables; a write is a compare-and-set on version and fence."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def current(self) -> RoutingTable:
        """Return the newest table; version 0 and empty when there is none."""
        with self._gate.read() as db:
            body = db.scalars(select(routing.c.body).order_by(routing.c.version.desc()).limit(1)).first()
        return RoutingTable.from_json(body.encode()) if body is not None else RoutingTable(0, 0, 0)

    def version(self) -> int:
        """Return the version of the newest table, 0 when there is none."""
        with self._gate.read() as db:
            return db.scalar(select(func.max(routing.c.version))) or 0

    def write(self, table: RoutingTable, *, expected: int, fence: int) -> None:
        """Make `table` (version == expected + 1) the newest.

        Raises:
            RevisionConflict: the newest version is not `expected`.
            FenceLost: a newer owner holds the writer's lease.
            InputError: the table's version is not expected + 1.
        """
        if table.version != expected + 1:
            raise InputError(f"a table written over version {expected} must be {expected + 1}, not {table.version}")
        newest = select(routing.c.version, routing.c.fence).order_by(routing.c.version.desc()).limit(1)
        with self._gate.write() as db:
            row = db.execute(newest).first()
            version, written = (row.version, row.fence) if row is not None else (0, 0)
            check_fence(db, fence, written=written)
            if version != expected:
                raise RevisionConflict(
                    f"routing table {version} is in force, not {expected}: somebody changed it; read it again"
                )
            db.execute(insert(routing).values(version=table.version, fence=fence, body=table.to_json().decode()))

    def at(self, version: int) -> RoutingTable | None:
        """Return the table of a version, None when it was never in force."""
        with self._gate.read() as db:
            body = db.scalar(select(routing.c.body).where(routing.c.version == version))
        return None if body is None else RoutingTable.from_json(body.encode())

    def history(self, *, limit: int = 1000) -> list[RoutingTable]:
        """Return the newest tables, oldest first."""
        query = select(routing.c.body).order_by(routing.c.version.desc()).limit(limit)
        with self._gate.read() as db:
            return [RoutingTable.from_json(body.encode()) for body in reversed(db.scalars(query).all())]
