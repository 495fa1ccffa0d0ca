"""The outbox: what must reach the outside (a tracker, a chat) at least once, written with the fact it tells."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import outbox
from flyball.control.types import Message
from flyball.control.values import pack, unpack
from flyball.units import from_micros, to_micros

__all__ = ["Outbox"]


class Outbox:
    """Put, list what is open, acknowledge."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def put(self, topic: str, key: str, body: Mapping[str, Any], *, at: datetime) -> bool:
        """Add a message once by (topic, key); return whether it is new."""
        with self._gate.write() as db:
            if db.scalar(select(outbox.c.seq).where(outbox.c.topic == topic, outbox.c.key == key)) is not None:
                return False
            db.execute(insert(outbox).values(topic=topic, key=key, at=to_micros(at), body=pack(dict(body))))
        return True

    def list(self, topic: str | None = None, *, limit: int = 100) -> builtins.list[Message]:
        """Return messages that nobody acknowledged, oldest first."""
        query = select(outbox).where(outbox.c.done.is_(None)).order_by(outbox.c.seq).limit(limit)
        if topic is not None:
            query = query.where(outbox.c.topic == topic)
        with self._gate.read() as db:
            rows = db.execute(query).all()
        return [Message(r.seq, r.topic, r.key, from_micros(r.at), unpack(r.body, dict[str, Any])) for r in rows]

    def topics(self) -> builtins.list[str]:
        """Return the topics of messages that nobody acknowledged."""
        with self._gate.read() as db:
            return sorted(db.scalars(select(outbox.c.topic).where(outbox.c.done.is_(None)).distinct()).all())

    def drop(self, topic: str, *, at: datetime) -> int:
        """Acknowledge all open messages of a topic that nobody listens to any more; return how many there were."""
        with self._gate.write() as db:
            open_ones = update(outbox).where(outbox.c.topic == topic, outbox.c.done.is_(None))
            return int(db.execute(open_ones.values(done=to_micros(at))).rowcount)

    def ack(self, message: int, *, at: datetime) -> None:
        """Say that a message was delivered."""
        with self._gate.write() as db:
            db.execute(update(outbox).where(outbox.c.seq == message).values(done=to_micros(at)))
