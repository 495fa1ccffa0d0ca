"""Tell webhooks what happened to rollouts and experiments: at least once, in order, never in the way.

The surprise: addresses do not wait for each other. Each has its own line in the outbox, and one that is down holds up
only its own; when it is back it gets what it missed, in order.
"""

from __future__ import annotations

import hashlib
import time
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from flyball.control.types import Message
    from flyball.project.root import Project

__all__ = ["addresses", "deliver_webhooks", "gather"]

_TOPIC = "webhook "
_KEEP = timedelta(days=7)  # a receiver that is away for longer than this missed it


def addresses(project: Project) -> dict[str, str]:
    """Return the configured addresses by the topic of their messages.

    Raises:
        ConfigError: one is no web address, or the reference leads nowhere.
    """
    from flyball.adapters.webhooks import check_url

    text = project.settings.webhooks.url
    if text.startswith(("env:", "file:")):
        text = project.config.secret(text)
    found = [check_url(url) for url in text.split()]
    return {_TOPIC + hashlib.sha256(url.encode()).hexdigest()[:12]: url for url in found}


def gather(project: Project, now: datetime) -> int:
    """Put new events into the outbox for every address; return how many messages."""
    kinds = frozenset(project.settings.webhooks.kinds.split())
    wanted = partial(_wanted, kinds)
    return project.database.telling.copy(dict.fromkeys(addresses(project), wanted), at=now)


def _wanted(kinds: frozenset[str], source: str, kind: str) -> bool:
    return not kinds or kind in kinds or source in kinds


def deliver_webhooks(project: Project) -> tuple[int, int]:
    """Send what the outbox holds for each address, oldest first, until one message of it fails.

    Returns:
        (messages that were taken or refused for good, addresses that have to be tried again).
    """
    outbox, now = project.database.outbox, project.clock.now()
    known = addresses(project)
    for topic in outbox.topics():
        if topic.startswith(_TOPIC) and topic not in known:
            outbox.drop(topic, at=now)
    done, waiting = 0, 0
    for topic, url in known.items():
        sent, all_sent = _send(project, topic, url, now)
        done += sent
        waiting += not all_sent
    return done, waiting


def _send(project: Project, topic: str, url: str, now: datetime) -> tuple[int, bool]:
    sent = 0
    while messages := project.database.outbox.list(topic):
        for message in messages:
            if not _tell(project, url, message, now):
                return sent, False
            project.database.outbox.ack(message.id, at=now)
            sent += 1
    return sent, True


def _tell(project: Project, url: str, message: Message, now: datetime) -> bool:
    """Post one message; return whether it is done with."""
    from flyball.adapters.local.process import log
    from flyball.adapters.webhooks import Told, post

    if now - message.at > _KEEP:
        log("webhook message given up: too old", id=message.key, kind=str(message.body.get("kind", "")))
        return True
    settings = project.settings.webhooks
    told = post(
        url,
        msgspec.json.encode(message.body),
        id=message.key,
        kind=str(message.body.get("kind", "")),
        stamp=int(time.time()),
        secret=project.config.secret_if_set(settings.secret) or "",
        timeout=settings.timeout.total_seconds(),
    )
    if told is Told.REFUSED:
        log("webhook message refused for good", id=message.key, kind=str(message.body.get("kind", "")))
    return told is not Told.LATER
