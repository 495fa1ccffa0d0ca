"""Who may read which view and write which source: roles of keys, as a file of hashes that every process follows.

Workers never ask the control database; whoever makes or revokes a key, or applies definitions, writes the file anew,
and a change is in force within a second. The surprise: where no key was ever made, everybody may; the first one closes
the door for good. Revoking the last key leaves it closed, and so does a file that is gone; `flyball up` writes it anew.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flyball.errors import BadRequest

__all__ = ["ADMIN", "Access", "AccessFile", "hash_of"]

ADMIN = "admin"
_LOOK_EVERY = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Access:
    """Roles by a key's SHA-256 (hex); which roles may read a view (none named: all); who may write a source.

    `closed` says that a key was made once, so that a caller needs one even where all are revoked.
    A push to a source changes every view over it, so `writers` of a source are several lists, and a role must be in
    each that names any.
    """

    version: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    readers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    writers: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    closed: bool = False

    def role(self, given: bytes, admin: bytes | None) -> str | None:
        """Return the role of what a caller sent, None when every caller may do everything.

        Raises:
            BadRequest: 401, the key is missing, unknown or revoked.
        """
        if admin is None and not self.keys and not self.closed:
            return None
        if admin is not None and hmac.compare_digest(given, admin):
            return ADMIN
        role = self.keys.get(hash_of(given))  # what is compared is a hash: its timing says nothing about the key
        if role is None:
            raise BadRequest("the key is missing or wrong; send it as Authorization: Bearer KEY or X-API-Key: KEY", 401)
        return role

    def require_read(self, role: str | None, views: Iterable[str]) -> None:
        """Raise BadRequest (403) unless a role may read all these views."""
        for view in views:
            allowed = self.readers.get(view, ())
            if allowed and role not in {None, ADMIN, *allowed}:
                raise BadRequest(f"role {role!r} may not read view {view!r}; its readers are {', '.join(allowed)}", 403)

    def require_write(self, role: str | None, source: str) -> None:
        """Raise BadRequest (403) unless a role may push to a source."""
        for allowed in self.writers.get(source, ()):
            if allowed and role not in {None, ADMIN, *allowed}:
                raise BadRequest(
                    f"role {role!r} may not write source {source!r}; its writers are {', '.join(allowed)}", 403
                )


_NOBODY = Access(closed=True)


class AccessFile:
    """Follow the file; looking costs one `stat` every quarter of a second.

    Where there is none, or none that can be read, what was in force stays; at the start that is nobody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0
        self._stamp: tuple[int, int] = (0, 0)
        self._known = _NOBODY

    @property
    def current(self) -> Access:
        """What is in force."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LOOK_EVERY
            with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found = self._path.stat()
                stamp = found.st_mtime_ns, found.st_ino
                if stamp != self._stamp:
                    self._known = msgspec.json.decode(self._path.read_bytes(), type=Access)
                    self._stamp = stamp
        return self._known


def hash_of(key: bytes | str) -> str:
    """Return the SHA-256 of a key; a key is 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()
