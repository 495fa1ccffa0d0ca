"""Copy recorded events into the outbox, once for each address that wants them.

The surprise: an event is written once, with the status it belongs to, and only then copied. So nothing can be told that
did not happen, a crash between the two loses nothing (the next pass copies), and who writes events knows no addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, func, insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import counters, metadata, outbox
from flyball.control.values import pack
from flyball.units import to_micros

__all__ = ["SOURCES", "Telling"]

SOURCES = {"rollout": "rollout_events", "experiment": "experiment_events"}  # what is told -> the table of its events
_AGAIN = 200  # rows looked at once more: transactions may become visible in another order than they took their numbers
_AT_ONCE = 500
Wanted = Callable[[str, str], bool]  # source, kind of the event


class Telling:
    """Follow the tables of events."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def begin(self) -> None:
        """Begin with what happens from now on, unless telling began before."""
        with self._gate.write() as db:
            for source, table in _tables():
                if _get(db, f"told {source} from", -1) < 0:
                    end = db.scalar(select(func.max(table.c.seq))) or 0
                    _set(db, f"told {source} from", end)
                    _set(db, f"told {source}", end)

    def end(self) -> None:
        """Tell nobody any more: what happens until the next `begin` is never told."""
        with self._gate.write() as db:
            for source in SOURCES:
                db.execute(delete(counters).where(counters.c.name.in_([f"told {source} from", f"told {source}"])))

    def copy(self, topics: Mapping[str, Wanted], *, at: datetime) -> int:
        """Put events that are new into the outbox, under each topic that wants them; return how many messages.

        Args:
            topics: What each topic wants.
            at: Domain time of the messages.
        """
        with self._gate.read() as db:
            behind = [s for s, t in _tables() if (db.scalar(select(func.max(t.c.seq))) or 0) > _get(db, f"told {s}", 0)]
        if not behind or not topics:
            return 0
        with self._gate.write() as db:
            return sum(_copy(db, source, table, topics, at) for source, table in _tables() if source in behind)


def _tables() -> list[tuple[str, Table]]:
    return [(source, metadata.tables[name]) for source, name in SOURCES.items() if name in metadata.tables]


def _copy(db: Connection, source: str, table: Table, topics: Mapping[str, Wanted], at: datetime) -> int:
    floor, told = _get(db, f"told {source} from", 0), _get(db, f"told {source}", 0)
    rows = db.execute(
        select(table.c.seq, table.c.body)
        .where(table.c.seq > max(floor, told - _AGAIN))
        .order_by(table.c.seq)
        .limit(_AT_ONCE)
    ).all()
    added = 0
    for row in rows:
        event: dict[str, Any] = msgspec.json.decode(row.body)
        kind, key = str(event.get("kind", "")), f"{source}-{row.seq}"
        body = pack({**event, "id": key, "source": source})
        for topic, wanted in topics.items():
            if not wanted(source, kind) or _known(db, topic, key):
                continue
            db.execute(insert(outbox).values(topic=topic, key=key, at=to_micros(at), body=body))
            added += 1
    _set(db, f"told {source}", max([told, *(row.seq for row in rows)]))
    return added


def _known(db: Connection, topic: str, key: str) -> bool:
    return db.scalar(select(outbox.c.seq).where(outbox.c.topic == topic, outbox.c.key == key)) is not None


def _get(db: Connection, name: str, default: int) -> int:
    found = db.scalar(select(counters.c.value).where(counters.c.name == name))
    return default if found is None else int(found)


def _set(db: Connection, name: str, value: int) -> None:
    if db.execute(update(counters).where(counters.c.name == name).values(value=value)).rowcount == 0:
        db.execute(insert(counters).values(name=name, value=value))
