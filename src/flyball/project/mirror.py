"""Tell the tracker what became of versions, at least once and never in the way.

The truth about lifecycle is the control database; MLflow's aliases mirror it. Importing MLflow costs a second or more
and a tracker may be away, so a fact goes to the outbox with the act, and a short-lived process delivers it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flyball.project.root import Project

__all__ = ["deliver", "tell_champion"]

_TOPIC = "tracker"


def tell_champion(project: Project, model: str, version: str, now: datetime) -> None:
    """Put a promotion into the outbox; again with the same facts changes nothing."""
    if project.settings.tracking.enabled:
        body = {"model": model, "alias": "champion", "version": version}
        project.database.outbox.put(_TOPIC, f"champion/{model}/{version}/{now.isoformat()}", body, at=now)


def deliver(project: Project) -> int:
    """Deliver what the outbox holds for the tracker, in order; return how many messages went out.

    Raises:
        Exception: whatever the tracker raises; what was not delivered stays in the outbox.
    """
    messages = project.database.outbox.list(_TOPIC)
    for message in messages:
        if project.tracker is not None:
            project.tracker.set_alias(**message.body)
        project.database.outbox.ack(message.id, at=project.clock.now())
    return len(messages)
