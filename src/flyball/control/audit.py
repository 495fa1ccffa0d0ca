"""The audit trail: who did what to what, when. Nothing is ever changed or taken away."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from flyball.control.engine import Gate
from flyball.control.tables import audit
from flyball.control.types import AuditEntry
from flyball.control.values import pack, unpack
from flyball.units import from_micros, to_micros

__all__ = ["Audit"]


class Audit:
    """Append and read."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def record(
        self, at: datetime, actor: str, action: str, subject: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Append one fact."""
        row = {"at": to_micros(at), "actor": actor, "action": action, "subject": subject}
        with self._gate.write() as db:
            db.execute(insert(audit).values(**row, details=pack(dict(details or {}))))

    def list(
        self, *, subject: str | None = None, since: datetime | None = None, limit: int = 1000
    ) -> builtins.list[AuditEntry]:
        """Return the newest entries, oldest first."""
        query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
        if subject is not None:
            query = query.where(audit.c.subject == subject)
        if since is not None:
            query = query.where(audit.c.at >= to_micros(since))
        with self._gate.read() as db:
            rows = db.execute(query).all()
        return [
            AuditEntry(r.seq, from_micros(r.at), r.actor, r.action, r.subject, unpack(r.details, dict[str, Any]))
            for r in reversed(rows)
        ]
