"""Views that projects share: what is published by name and digest, and the lock file that pins what is imported.

The surprise: the lock holds the definitions themselves, not only their digests, and is a part of the code snapshot. So
once a view was taken from the catalog nothing asks for the catalog again: not a training child, not a rollback, not a
fresh clone. A digest is always computed anew from the content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from flyball.errors import ConflictError, IntegrityError, UnknownName
from flyball.features.spec import CodeRef, ViewSpec

__all__ = [
    "CatalogStore", "Entry", "Lock", "chosen", "entry_from", "lock_of", "obstacle", "read_lock", "taken",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A published view; `current` tells whether its project applied this definition last. `at` is µs."""

    name: str
    digest: str
    project: str
    at: int
    spec: ViewSpec
    current: bool = False

    @property
    def owner(self) -> str:
        """Who answers for the view."""
        return self.spec.about.owner


class CatalogStore(Protocol):
    """Where views are shared; several projects read and write it at once."""

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        ...

    def entries(self, name: str | None = None) -> list[Entry]:
        """Return published views, by name, then oldest first.

        Raises:
            Unavailable: the catalog cannot be reached.
            IntegrityError: an entry's content is not that of its digest.
        """
        ...

    def publish(self, entries: Sequence[Entry]) -> None:
        """Publish views of one project and make them its current ones; all names are checked before anything is kept.

        Raises:
            ConflictError: a name belongs to another project.
            Unavailable: the catalog cannot be reached.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True, slots=True)
class Lock:
    """flyball.catalog.lock: name -> digest of imports that name none, and every imported definition by its digest."""

    pins: dict[str, str] = field(default_factory=dict)
    views: dict[str, Entry] = field(default_factory=dict)

    def find(self, name: str, digest: str | None) -> Entry | None:
        """Return what an import stands for, None when it was never taken from the catalog."""
        wanted = digest or self.pins.get(name, "")
        found = self.views.get(wanted)
        return found if found is not None and found.name == name else None

    def to_bytes(self) -> bytes:
        """Return indented JSON in a fixed order, so that its changes read well in a review."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=2) + b"\n"


def lock_of(imports: Iterable[tuple[Entry, bool]]) -> Lock:
    """Return the lock of (entry, whether the import named its digest) pairs."""
    pairs = list(imports)
    return Lock({e.name: e.digest for e, named in pairs if not named}, {e.digest: e for e, _ in pairs})


def read_lock(path: Path) -> Lock:
    """Read a lock file; a missing one is empty.

    Raises:
        IntegrityError: it is no lock file, or a definition in it is not that of its digest.
    """
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except FileNotFoundError:
        return Lock()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{path.name} cannot be read ({error}); restore it, or delete it to take the newest definitions again"
        ) from error
    for digest, entry in lock.views.items():
        _check(entry, digest, path.name)
    return lock


def entry_from(data: bytes, digest: str, where: str) -> Entry:
    """Read a published entry as JSON.

    Raises:
        IntegrityError: it cannot be read, or its content is not that of its digest.
    """
    try:
        entry = msgspec.json.decode(data, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{where} is no published view ({error}); have its project apply again") from error
    _check(entry, digest, where)
    return entry


def chosen(entries: Sequence[Entry], name: str, digest: str | None) -> Entry:
    """Return the entry that an import means: of the digest, or its project's current one.

    Args:
        entries: What is published under the name.
        name: The view.
        digest: 16 hex digits, or None.

    Raises:
        UnknownName: nothing is published under this name, or not with this digest.
    """
    if not entries:
        raise UnknownName(
            f"the catalog has no view {name!r}; see: flyball feature list --catalog. A project publishes its views "
            "when it applies them with the same [catalog] url"
        )
    if digest is None:
        return next((e for e in entries if e.current), entries[-1])
    for entry in entries:
        if entry.digest == digest:
            return entry
    known = ", ".join(e.digest for e in entries)
    raise UnknownName(f"view {name!r} of {entries[0].project} has no digest {digest!r}; published are {known}")


def obstacle(spec: ViewSpec) -> str:
    """Say why other projects cannot import a view, "" when they can."""
    from flyball.features.callables import refs_of

    refs: list[CodeRef] = refs_of([spec])
    if refs:
        return f"it runs Python code of its project ({', '.join(r.name for r in refs)}), which is not shared"
    if spec.source.kind == "frame":
        return "its source is a DataFrame that only its project holds"
    return ""


def taken(name: str, owner: str, project: str) -> ConflictError:
    """Return the error for a name that belongs to another project."""
    return ConflictError(
        f"view {name!r} belongs to project {owner!r} in the catalog, so {project!r} cannot publish one of that name; "
        f"rename yours, or read theirs: fb.imported({name!r})"
    )


def published_names(entries: Iterable[Entry]) -> Mapping[str, str]:
    """Return name -> project of published views."""
    return {e.name: e.project for e in entries}


def _check(entry: Entry, digest: str, where: str) -> None:
    names = (entry.spec.name, entry.spec.source.name, entry.spec.entity.name)
    if strange := [name for name in names if not name.isidentifier()]:  # they become names of files
        raise IntegrityError(f"{where}: {strange[0]!r} is no name of a view, source or entity; who wrote this entry?")
    found = entry.spec.digest
    if not found == entry.digest == digest or entry.spec.name != entry.name:
        raise IntegrityError(
            f"{where}: view {entry.name!r} has digest {found}, but {digest} was published; it was changed afterwards, "
            "or written by another version of flyball. Have its project apply again"
        )
