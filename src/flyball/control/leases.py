"""Leases with fencing: at most one actor at a time, and a late one cannot write.

The surprise: fences come from one counter for all leases, so a fence alone says which lease it belongs to; a write that
carries it need not name the lease. An owner that acquires its own lease again (after a crash) gets a new fence at once,
which shuts out what is left of its former self.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection, insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import counters, leases
from flyball.control.types import Lease
from flyball.errors import FenceLost, InputError

__all__ = ["Leases", "check_fence"]


class Leases:
    """Hand out leases; `wall` tells epoch seconds shared by all nodes."""

    def __init__(self, gate: Gate, *, wall: Callable[[], float] = time.time) -> None:
        self._gate = gate
        self._wall = wall

    def acquire(self, name: str, owner: str, ttl: timedelta) -> Lease | None:
        """Return the lease if it is free, expired or the owner's own; None while somebody else holds it.

        One that would last for more than twice its time to live was made before the clock jumped back; it is taken
        over, or nobody could act for as long as the jump. Its owner, should it live, is told by its fence.
        """
        if ttl <= timedelta(0) or not owner:
            raise InputError(f"lease {name!r} needs an owner and a time to live above zero, not {owner!r} and {ttl}")
        with self._gate.write() as db:
            now = self._wall()
            row = db.execute(select(leases).where(leases.c.name == name)).first()
            if row is not None and row.owner != owner and now < row.expires <= now + 2 * row.ttl:
                return None
            lease = Lease(name, owner, _next(db), now + ttl.total_seconds())
            values = {"owner": owner, "fence": lease.fence, "expires": lease.expires, "ttl": ttl.total_seconds()}
            if row is None:
                db.execute(insert(leases).values(name=name, **values))
            else:
                db.execute(update(leases).where(leases.c.name == name).values(**values))
        return lease

    def renew(self, lease: Lease) -> Lease:
        """Return the lease with its time to live begun anew; raises FenceLost when another owner has it."""
        with self._gate.write() as db:
            row = db.execute(select(leases).where(leases.c.name == lease.name)).first()
            if row is None or row.fence != lease.fence or not row.owner:
                raise _lost(lease, row.owner if row is not None else "")
            expires = self._wall() + row.ttl
            db.execute(update(leases).where(leases.c.name == lease.name).values(expires=expires))
        return Lease(lease.name, lease.owner, lease.fence, expires)

    def release(self, lease: Lease) -> None:
        """Give the lease back; nothing happens when it is lost already."""
        held = (leases.c.name == lease.name, leases.c.fence == lease.fence)
        with self._gate.write() as db:
            db.execute(update(leases).where(*held).values(owner="", expires=0.0))

    def check(self, lease: Lease) -> None:
        """Raise FenceLost unless the lease is held and has not expired."""
        with self._gate.read() as db:
            row = db.execute(select(leases).where(leases.c.name == lease.name)).first()
        if row is None or row.fence != lease.fence or row.expires <= self._wall():
            raise _lost(lease, row.owner if row is not None and row.fence != lease.fence else "")

    def holder(self, name: str) -> Lease | None:
        """Return who holds a lease now."""
        with self._gate.read() as db:
            row = db.execute(select(leases).where(leases.c.name == name)).first()
        if row is None or row.expires <= self._wall():
            return None
        return Lease(row.name, row.owner, row.fence, row.expires)


def check_fence(db: Connection, fence: int, *, written: int) -> None:
    """Raise FenceLost when a write under `fence` comes too late; `written` is the fence that wrote last.

    A fence that was handed out is good while its lease carries it. One that never was (a caller that needs no lease)
    must not be below the last one written.
    """
    newest = db.scalar(select(counters.c.value).where(counters.c.name == "fence")) or 0
    if 0 < fence <= newest:
        stale = db.scalar(select(leases.c.name).where(leases.c.fence == fence)) is None
    else:
        stale = fence < written
    if stale:
        raise FenceLost(f"fence {fence} is out of date: another actor took the lease; stop acting and acquire it again")


def _next(db: Connection) -> int:
    value = db.scalar(select(counters.c.value).where(counters.c.name == "fence"))
    if value is None:
        db.execute(insert(counters).values(name="fence", value=1))
        return 1
    db.execute(update(counters).where(counters.c.name == "fence").values(value=value + 1))
    return int(value) + 1


def _lost(lease: Lease, owner: str) -> FenceLost:
    now = f"{owner} holds it now" if owner else "it expired or was released"
    return FenceLost(f"{lease.owner} lost lease {lease.name!r} (fence {lease.fence}): {now}; acquire it again")
