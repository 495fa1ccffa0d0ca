"""`project.audit`: who did what, and who read what was predicted.

The surprise: reading the prediction log is a fact too. It says what was asked of which person's request, so whoever
reads it through flyball is written down before they see anything.
"""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flyball.control.types import AuditEntry
    from flyball.project.root import Project

__all__ = ["AuditHandle"]


class AuditHandle:
    """The audit trail; nothing in it is ever changed."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def list(self, *, subject: str | None = None, since: datetime | None = None, limit: int = 1000) -> list[AuditEntry]:
        """Return the newest entries, oldest first.

        Args:
            subject: Only about this: a key's name, a rollout, a prediction.
            since: Only from here on, in domain time.
            limit: How many at most.
        """
        return self._project.database.audit.list(subject=subject, since=since, limit=limit)

    def log_read(self, what: str, subject: str, *, actor: str | None = None, **details: object) -> None:
        """Note that somebody is about to read the prediction log; `actor` is the user of this process by default.

        Raises:
            Unavailable: it cannot be noted, so it must not be read.
        """
        now = self._project.clock.now()
        self._project.database.audit.record(now, actor or _user(), f"log read: {what}", subject, details)


def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (OSError, KeyError):  # a process without a user's name
        return "user unknown"
