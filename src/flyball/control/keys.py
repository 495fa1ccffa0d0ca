"""Keys of callers: a role for each, and of the key itself only its SHA-256.

A plain hash is enough here because a key is 256 random bits that we made: there is nothing to guess, so nothing that a
slow hash would slow down.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import insert, select, update

from flyball.control.engine import Gate
from flyball.control.tables import keys
from flyball.control.values import pack, unpack
from flyball.errors import DuplicateName, UnknownName
from flyball.units import from_micros, to_micros

__all__ = ["Key", "KeyScope", "Keys"]


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What a key is limited to.

    Attributes:
        models: The models it may ask; none named: all.
        rate: Requests a second, 0 for the server's.
        burst: Requests that may come at once, 0 for a second's worth.
        expires: When it ends, by the machine's clock; None for never.
    """

    models: tuple[str, ...] = ()
    rate: float = 0.0
    burst: float = 0.0
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: its name, role, scope and SHA-256 (hex), never the key."""

    name: str
    role: str
    hash: str
    created: datetime
    revoked: datetime | None = None
    scope: KeyScope = field(default_factory=KeyScope)


class Keys:
    """Keep keys; one that was revoked stays listed and opens nothing."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def add(self, name: str, role: str, digest: str, now: datetime, scope: KeyScope | None = None) -> None:
        """Record a key; raises DuplicateName when the name is taken, by a revoked key too."""
        kept = pack(scope or KeyScope())
        with self._gate.write() as db:
            if db.scalar(select(keys.c.seq).where(keys.c.name == name)) is not None:
                raise DuplicateName(f"a key named {name!r} was made before; give the new one another --name")
            db.execute(insert(keys).values(name=name, role=role, hash=digest, created=to_micros(now), scope=kept))

    def revoke(self, name: str, now: datetime) -> None:
        """Have a key open nothing from now on; again changes nothing. Raises UnknownName."""
        with self._gate.write() as db:
            mine = keys.c.name == name
            if db.scalar(select(keys.c.seq).where(mine)) is None:
                raise UnknownName.of("key", name, [str(n) for n in db.scalars(select(keys.c.name))])
            db.execute(update(keys).where(mine, keys.c.revoked.is_(None)).values(revoked=to_micros(now)))

    def list(self) -> builtins.list[Key]:
        """Return all keys, oldest first."""
        with self._gate.read() as db:
            rows = db.execute(select(keys).order_by(keys.c.seq)).all()
        return [
            Key(
                r.name, r.role, r.hash, from_micros(r.created),
                None if r.revoked is None else from_micros(r.revoked),
                KeyScope() if r.scope is None else unpack(r.scope, KeyScope),
            )
            for r in rows
        ]  # fmt: skip
