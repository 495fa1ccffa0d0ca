"""Who may read which view and write which source: roles of keys, as a file of hashes that every process follows.

Workers never ask the control database; whoever makes or revokes a key, or applies definitions, writes the file anew,
and a change is in force within a second. The surprise: where no key was ever made, everybody may; the first one closes
the door for good. Revoking the last key leaves it closed, and so does a file that is gone; `flyball up` writes it anew.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from flyball.errors import BadRequest
from flyball.serving.http.limits import SERVER_KEY

__all__ = ["ADMIN", "FORMAT", "Access", "AccessFile", "KeyGrant", "hash_of"]

ADMIN = "admin"
FORMAT = 2  # 1 knew only the role of a key
_LOOK_EVERY = 0.25  # seconds
_REMEMBERED = 4096  # keys whose hash is not computed again
_NO_KEY = "the key is missing or wrong; send it as Authorization: Bearer KEY or X-API-Key: KEY"


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a key may do: as which role, with which models (none named: all), how often, until when.

    `rate` is in requests a second, 0 for the server's; `burst` is how many may come at once, 0 for a second's worth.
    `expires` is in µs since 1970 by the machine's clock, 0 for never. `seat` is the place of its bucket.
    """

    name: str
    role: str
    models: tuple[str, ...] = ()
    rate: float = 0.0
    burst: float = 0.0
    expires: int = 0
    seat: int = SERVER_KEY

    def require_model(self, model: str) -> None:
        """Raise BadRequest (403) unless the key may ask this model."""
        if self.models and model not in self.models:
            raise BadRequest(f"key {self.name} may not ask model {model!r}; it is for {', '.join(self.models)}", 403)


_SERVER = KeyGrant("of the server", ADMIN)


@dataclass(frozen=True, slots=True)
class Access:
    """Grants by a key's SHA-256 (hex); which roles may read a view (none named: all); who may write a source.

    A file of format 1 has roles in place of grants.

    `closed` says that a key was made once, so that a caller needs one even where all are revoked.
    A push to a source changes every view over it, so `writers` of a source are several lists, and a role must be in
    each that names any.
    """

    version: int = 0
    keys: Mapping[str, str | KeyGrant] = field(default_factory=dict)
    readers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    writers: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    closed: bool = False
    format: int = 1

    def grant(self, given: bytes, admin: bytes | None) -> KeyGrant | None:
        """Return what the key that a caller sent may do, None when every caller may do everything.

        Raises:
            BadRequest: 401, the key is missing, unknown, revoked or expired.
        """
        if admin is None and not self.keys and not self.closed:
            return None
        if admin is not None and hmac.compare_digest(given, admin):
            return _SERVER
        found = self.keys.get(hash_of(given))  # what is compared is a hash: its timing says nothing about the key
        if found is None:
            raise BadRequest(_NO_KEY, 401)
        found = KeyGrant(found, found) if isinstance(found, str) else found
        require_current(found)
        return found

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
        self._grants: dict[bytes, KeyGrant] = {}  # keys that were right, so that guesses cannot fill it

    def grant(self, given: bytes, admin: bytes | None) -> KeyGrant | None:
        """Return what `Access.grant` does; a key that was right before costs one look-up."""
        access = self.current
        found = self._grants.get(given)
        if found is not None:
            require_current(found)
            return found
        found = access.grant(given, admin)
        if found is not None and len(self._grants) < _REMEMBERED:
            self._grants[given] = found
        return found

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
                    self._grants.clear()
        return self._known


def require_current(grant: KeyGrant) -> None:
    """Raise BadRequest (401) when the key has expired."""
    if grant.expires and time.time() * 1e6 >= grant.expires:
        raise BadRequest(f"key {grant.name} has expired; ask for a new one", 401)


def hash_of(key: bytes | str) -> str:
    """Return the SHA-256 of a key; a key is 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()
