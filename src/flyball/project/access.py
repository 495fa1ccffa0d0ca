"""`project.keys`: make, list and revoke callers' keys, and tell all processes who may do what."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from flyball import units
from flyball.control.keys import KeyScope
from flyball.disk import write_atomically
from flyball.errors import InputError, Refused, shown
from flyball.serving.http.access import FORMAT, Access, KeyGrant, hash_of
from flyball.serving.http.limits import SEATS, SERVER_KEY
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.control.keys import Key
    from flyball.project.root import Project

__all__ = ["KeyHandle", "rate_of", "write_access"]

FIRST_SEAT = SERVER_KEY + 1
_LEAST = 1e-6  # requests a second
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class KeyHandle:
    """Keys of callers; the key itself is shown once, when it is made."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def create(
        self,
        role: str,
        *,
        name: str | None = None,
        models: Sequence[str] = (),
        rate: str | float = 0.0,
        burst: float = 0.0,
        expires: str | timedelta | None = None,
        actor: str = "cli",
    ) -> tuple[str, str]:
        """Make a key and return (name, key).

        Args:
            role: "admin" may do everything; others what views and sources name them for.
            name: What to call it; made up by default.
            models: The models it may ask; none named: all.
            rate: Requests a second over all workers, as a number or "100/s", "600/m"; 0 for `server.rate`.
            burst: Requests that may come at once; 0 for as many as a second brings.
            expires: After how long it opens nothing any more ("90d"), by the machine's clock; None for never.
            actor: Who asks, for the audit trail.

        Raises:
            InputError: the role is no plain word, the name cannot be printed, a number is below zero, or a burst has
                no rate.
            UnknownName: a model is not defined.
            DuplicateName: the name is taken.
            Refused: there are as many live keys as there may be.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", role):
            raise InputError(f"role {role!r} is no plain word; write letters, digits, _ . and - such as analyst")
        if name and not (name.isprintable() and name == name.strip() and len(name) <= 100):
            raise InputError(f"a key cannot be named {shown(name)}; write up to 100 characters that can be printed")
        project, now = self._project, self._project.clock.now()
        for model in models:
            project.applied.model(model)
        scope = KeyScope(tuple(models), rate_of(rate), burst, None if expires is None else _end(expires))
        if not 0 <= burst < 1e9 or (burst and not scope.rate):
            raise InputError(f"burst is {burst:g}; it is a number of requests above 0, beside a rate")
        if sum(k.revoked is None for k in self.list()) >= SEATS - FIRST_SEAT:
            raise Refused(f"there are {SEATS - FIRST_SEAT} live keys, as many as there may be; revoke some first")
        key = "fb_" + secrets.token_urlsafe(32)
        label = name or f"{role}-{secrets.token_hex(3)}"
        project.database.keys.add(label, role, hash_of(key), now, scope)
        project.database.audit.record(now, actor, "key created", label, {"role": role} | _facts(scope))
        write_access(project)
        return label, key

    def list(self) -> list[Key]:
        """Return all keys, revoked ones too, oldest first."""
        return self._project.database.keys.list()

    def revoke(self, name: str, *, actor: str = "cli") -> None:
        """Have a key open nothing any more, everywhere within a second. Raises UnknownName."""
        now = self._project.clock.now()
        self._project.database.keys.revoke(name, now)
        self._project.database.audit.record(now, actor, "key revoked", name)
        write_access(self._project)


def write_access(project: Project) -> None:
    """Write who may do what beside the routing tables, readable by this user only."""
    path = project.layout.access
    definitions = project.applied
    views = definitions.view_specs
    writers = {
        name: (source.about.writers, *(v.about.writers for v in views if v.source.name == name))
        for name, source in definitions.sources.items()
    }
    keys = project.database.keys.list()
    known = _known(project)
    access = Access(
        version=known.version + 1,
        keys=_grants([key for key in keys if key.revoked is None], known),
        readers={view.name: view.about.readers for view in views if view.about.readers},
        writers={name: lists for name, lists in writers.items() if any(lists)},
        closed=bool(keys),
        format=FORMAT,
    )
    before = os.umask(0o077)
    try:
        with suppress(FileNotFoundError):
            path.chmod(0o600)  # a replaced file keeps its mode, and a copy from elsewhere may have been open to all
        write_atomically(path, msgspec.json.encode(access, order="deterministic"), durable=True)
    finally:
        os.umask(before)


def rate_of(text: str | float) -> float:
    """Return requests a second of a number or of "100/s", "600/m", "5000/h".

    Raises:
        InputError: it is neither, below zero, or less than one in eleven days.
    """
    number, _, unit = str(text).partition("/")
    try:
        rate = float(number) / _SECONDS[unit.strip() or "s"]
    except (ValueError, KeyError):
        rate = -1.0
    if not (rate == 0 or _LEAST <= rate < 1e9):
        raise InputError(f"rate {text!r} is no number of requests; write 100, 100/s, 600/m or 5000/h")
    return rate


def _end(expires: str | timedelta) -> datetime:
    span = units.duration(expires)
    if span <= timedelta(0):
        raise InputError(f"a key cannot expire after {expires}; write a time such as 90d")
    try:
        return datetime.now(UTC) + span
    except OverflowError as error:
        raise InputError(
            f"{expires} from now is after the year 9999; leave it out for a key that never expires"
        ) from error


def _facts(scope: KeyScope) -> dict[str, Any]:
    found = {"models": list(scope.models), "rate": scope.rate, "burst": scope.burst,
             "expires": scope.expires.isoformat() if scope.expires else ""}  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _grants(keys: Sequence[Key], known: Access) -> dict[str, KeyGrant]:
    """Return what each key may do; a key keeps the seat of its bucket as long as it lives."""
    seats = {h: g.seat for h, g in known.keys.items() if isinstance(g, KeyGrant)}
    taken = {seats[key.hash] for key in keys if key.hash in seats}
    free = (seat for seat in range(FIRST_SEAT, SEATS) if seat not in taken)
    return {
        key.hash: KeyGrant(
            key.name, key.role, key.scope.models, key.scope.rate, key.scope.burst,
            0 if key.scope.expires is None else to_micros(key.scope.expires),
            seats[key.hash] if key.hash in seats else next(free),
        )
        for key in keys
    }  # fmt: skip


def _known(project: Project) -> Access:
    """Return what the file says now, nothing where there is none."""
    try:
        return msgspec.json.decode(project.layout.access.read_bytes(), type=Access)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Access()
