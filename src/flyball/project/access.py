"""`project.keys`: make, list and revoke callers' keys, and tell all processes who may do what."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from flyball.disk import write_atomically
from flyball.errors import InputError
from flyball.serving.access import Access, hash_of

if TYPE_CHECKING:
    from flyball.control.keys import Key
    from flyball.project.root import Project

__all__ = ["KeyHandle", "write_access"]


class KeyHandle:
    """Keys of callers; the key itself is shown once, when it is made."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def create(self, role: str, *, name: str | None = None, actor: str = "cli") -> tuple[str, str]:
        """Make a key of a role ("admin" may do everything) and return (name, key).

        Raises:
            InputError: the role is no plain word.
            DuplicateName: the name is taken.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", role):
            raise InputError(f"role {role!r} is no plain word; write letters, digits, _ . and - such as analyst")
        project, now = self._project, self._project.clock.now()
        key = "fb_" + secrets.token_urlsafe(32)
        label = name or f"{role}-{secrets.token_hex(3)}"
        project.database.keys.add(label, role, hash_of(key), now)
        project.database.audit.record(now, actor, "key created", label, {"role": role})
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
    access = Access(
        version=_version(project) + 1,
        keys={key.hash: key.role for key in keys if key.revoked is None},
        readers={view.name: view.about.readers for view in views if view.about.readers},
        writers={name: lists for name, lists in writers.items() if any(lists)},
        closed=bool(keys),
    )
    before = os.umask(0o077)
    try:
        with suppress(FileNotFoundError):
            path.chmod(0o600)  # a replaced file keeps its mode, and a copy from elsewhere may have been open to all
        write_atomically(path, msgspec.json.encode(access, order="deterministic"), durable=True)
    finally:
        os.umask(before)


def _version(project: Project) -> int:
    try:
        return msgspec.json.decode(project.layout.access.read_bytes(), type=Access).version
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
