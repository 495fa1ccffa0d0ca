"""A shared catalog as files: NAME/owner.json, NAME/DIGEST.json, NAME/current.json in a folder or an object store.

The surprise: a name is claimed by creating owner.json where it must not exist yet, which both file systems and object
stores do for exactly one of several callers; nothing else needs a lock, as everything below a name has one writer.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import msgspec

from flyball.disk import write_atomically
from flyball.errors import IntegrityError, Unavailable, first_line
from flyball.features.shared import Entry, entry_from, taken

__all__ = ["FilesCatalog"]

_OWNER, _CURRENT = "owner.json", "current.json"


class _Owner(msgspec.Struct, frozen=True):
    project: str


class _Current(msgspec.Struct, frozen=True):
    digest: str


class FilesCatalog:
    """Share views through a folder, or through an address that fsspec knows.

    The folder is not made here: one that is missing is taken for a disk that is not mounted, where a second catalog
    would come to be beside the first.

    Raises:
        Unavailable: nobody serves such an address here.
    """

    def __init__(self, address: str) -> None:
        self._password = _password(address)
        self._place = self._shown(address)
        with self._named():
            self._fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        self._root = str(root).rstrip("/")
        self._local = "file" in _protocols(self._fs)

    @property
    def place(self) -> str:
        """The address, without a password."""
        return self._place

    def close(self) -> None:
        """Nothing is held."""

    def entries(self, name: str | None = None) -> list[Entry]:
        """Return published views, by name, then oldest first."""
        with self._named():
            if not self._there():
                return []
            names = [name] if name is not None else sorted(_stem(p) for p in self._fs.ls(self._root, detail=False))
            return [entry for one in names for entry in self._of(one)]

    def publish(self, entries: Sequence[Entry]) -> None:
        """Claim the names, then keep each view, then make it the current one of its name."""
        with self._named():
            self._there()
            for entry in entries:
                self._refuse_other(entry, self._owner(entry.name))
            for entry in entries:
                self._claim(entry)
            for entry in entries:
                self._keep(entry)

    def _there(self) -> bool:
        """Whether anything was published; raises Unavailable for a folder that does not exist."""
        found = bool(self._fs.isdir(self._root))
        if self._local and not found:
            raise Unavailable(f"the catalog {self._place} does not exist; is it mounted? If it is new: mkdir")
        return found

    def _of(self, name: str) -> list[Entry]:
        folder = f"{self._root}/{name}"
        if not self._fs.isdir(folder):
            return []
        paths = [str(p) for p in self._fs.ls(folder, detail=False)]
        digests = [_stem(p)[:-5] for p in paths if p.endswith(".json") and _stem(p) not in {_OWNER, _CURRENT}]
        marked = self._read(f"{folder}/{_CURRENT}", _Current)
        current = marked.digest if marked is not None else ""
        found = [self._entry(name, d, current) for d in digests if not d.startswith(".")]
        return sorted((e for e in found if e is not None), key=lambda e: (e.at, e.digest))

    def _entry(self, name: str, digest: str, current: str) -> Entry | None:
        data = self._bytes(f"{self._root}/{name}/{digest}.json")
        if data is None:
            return None
        return replace(entry_from(data, digest, f"{name}/{digest}.json"), current=digest == current)

    def _owner(self, name: str) -> str | None:
        found = self._read(f"{self._root}/{name}/{_OWNER}", _Owner)
        return None if found is None else found.project

    def _refuse_other(self, entry: Entry, owner: str | None) -> None:
        if owner not in {None, entry.project}:
            raise taken(entry.name, str(owner), entry.project)

    def _claim(self, entry: Entry) -> None:
        path = f"{self._root}/{entry.name}/{_OWNER}"
        body = msgspec.json.encode(_Owner(entry.project))
        with contextlib.suppress(FileExistsError):
            self._create(path, body)
        self._refuse_other(entry, self._owner(entry.name))  # somebody else may have been faster

    def _keep(self, entry: Entry) -> None:
        folder = f"{self._root}/{entry.name}"
        before = self._entry(entry.name, entry.digest, "")
        kept = entry if before is None else replace(entry, at=before.at)
        if before is None or before.spec != entry.spec:  # what is for people may change
            self._put(f"{folder}/{entry.digest}.json", msgspec.json.encode(replace(kept, current=False)))
        marked = self._read(f"{folder}/{_CURRENT}", _Current)
        if marked is None or marked.digest != entry.digest:
            self._put(f"{folder}/{_CURRENT}", msgspec.json.encode(_Current(entry.digest)))

    # -- bytes ----------------------------------------------------------------------------------------------------

    def _bytes(self, path: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(path))
        except FileNotFoundError:
            return None

    def _read(self, path: str, kind: type[Any]) -> Any:
        data = self._bytes(path)
        try:
            return None if data is None else msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise IntegrityError(f"{path} of the catalog cannot be read ({error}); restore it") from error

    def _put(self, path: str, data: bytes) -> None:
        """Replace a file at once; a put to an object store does so by itself."""
        if not self._local:
            self._fs.pipe_file(path, data)
            return
        write_atomically(Path(path), data, durable=True)

    def _create(self, path: str, data: bytes) -> None:
        """Create a whole file; raises FileExistsError when it is there."""
        if not self._local:
            self._fs.pipe_file(path, data, mode="create")
            return
        with _draft(path, data) as draft:
            os.link(draft, path)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ImportError, ValueError) as error:
            if isinstance(error, Unavailable | IntegrityError):
                raise
            said = self._shown(first_line(error))
            cause = None if self._password else error  # its text and its calls may show the password
            raise Unavailable(f"the catalog {self._place} cannot be used ({said}); is [catalog] url right?") from cause

    def _shown(self, text: str) -> str:
        for hidden in {self._password, unquote(self._password)} - {""}:
            text = text.replace(hidden, "***")
        return text


def _password(address: str) -> str:
    """Return the password in an address such as ftp://USER:PASSWORD@HOST/FOLDER, "" when there is none."""
    return address.partition("://")[2].rpartition("@")[0].partition(":")[2]


@contextlib.contextmanager
def _draft(path: str, data: bytes) -> Iterator[Path]:
    """Give a durable file of this content beside `path`; gone afterwards."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _stem(path: str) -> str:
    return str(path).rstrip("/").rpartition("/")[2]


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
