"""The online store on one machine: LMDB, where readers never block and there is one writer.

The surprise: an environment may be opened only once in a process, so stores of the same folder share one here, and a
store that wants to write after a reader opened it reopens it for both. Read transactions live as long as one call,
because a pinned one keeps every page it could see. A commit syncs data but not the meta page: after a power loss the
last commits may be gone, never torn, and ingest replays them from its log.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from flyball.adapters.lmdb_compact import is_due, opening, request
from flyball.errors import Unavailable
from flyball.features.cells import merge_windows
from flyball.features.packing import merge_rows

__all__ = ["LMDBStore"]

_NO_ROOM = ("File too large", "No space", "quota", "Input/output error")  # the last is what a short write is
_PAGE = 10_000  # keys of one read
T = TypeVar("T")
Item = tuple[bytes, bytes]


class _Environment:
    """The one environment of a folder in this process, and how many stores use it."""

    def __init__(self, path: Path, map_size: int, *, readonly: bool) -> None:
        self.path = path
        self.map_size = map_size
        self.users = 0
        self.lock = threading.RLock()  # held by a write transaction
        self.reading = threading.RLock()  # held while a read transaction or a change of the map is under way
        self.readonly = readonly
        self.env = self._open()

    def _open(self) -> Any:
        if not self.readonly:
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with opening(self.path):
                return lmdb.open(
                    str(self.path), map_size=0 if self.readonly else self._size(), readonly=self.readonly,
                    metasync=False, max_readers=512, max_dbs=0, max_spare_txns=8, create=not self.readonly,
                )  # fmt: skip
        except lmdb.Error as error:
            raise Unavailable(f"the online store {self.path} cannot be opened: {error}; run flyball apply") from error

    def _size(self) -> int:
        data = self.path / "data.mdb"
        return max(self.map_size, data.stat().st_size if data.exists() else 0)

    def make_writable(self) -> None:
        with self.lock, self.reading:
            if self.readonly:
                self.readonly = False
                self.env.close()
                self.env = self._open()

    def compact(self) -> bool:
        """Open it again, compacted when no other process has it open; return whether that was done."""
        request(self.path)
        with self.lock, self.reading:
            if not self.readonly:
                self.env.sync(True)
            self.env.close()
            self.env = self._open()
        return not is_due(self.path)

    def resize(self, size: int) -> None:
        """Change the map's size: 0 takes what another process set. No transaction of this process may be open."""
        with self.reading:
            self.env.set_mapsize(size)


_open_here: dict[tuple[int, str], _Environment] = {}
_registry = threading.Lock()


class LMDBStore:
    """Keep packed values in an LMDB environment.

    Args:
        path: Folder of the environment.
        map_size: Bytes of the map to begin with; it doubles when full.
        readonly: Only read; the environment must exist.

    Raises:
        Unavailable: it cannot be opened.
    """

    remote = False

    def __init__(self, path: Path, map_size: int = 64_000_000, *, readonly: bool = False) -> None:
        self._key = (os.getpid(), str(Path(path).resolve()))
        self._readonly = readonly
        with _registry:
            shared = _open_here.get(self._key)
            if shared is None:
                shared = _open_here[self._key] = _Environment(Path(path), map_size, readonly=readonly)
            elif not readonly:
                shared.make_writable()
            shared.users += 1
        self._shared = shared

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, as of one moment."""
        shared = self._shared
        try:
            with shared.reading:
                txn = shared.env.begin()
                get = txn.get
                found = [get(key) for key in keys]
                txn.abort()
                return found
        except lmdb.MapResizedError:
            shared.resize(0)
            return self.get_many(keys)

    def write(
        self,
        *,
        newer: Sequence[Item] = (),
        cells: Sequence[Item] = (),
        puts: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> int:
        """Apply row values, window values and plain puts (None deletes) in one transaction.

        Returns:
            How many row values changed something.
        """

        def apply(txn: Any) -> int:
            won = _put_newer(txn, newer) if newer else 0
            if cells:
                _merge(txn, cells)
            _put(txn, puts)
            return won

        return self._write(apply)

    def pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the keys with this prefix, ascending, some thousands at a time, each page as of its own moment."""
        last = prefix
        while found := self._page(last, prefix, _PAGE, after=last != prefix):
            yield found
            last = found[-1]

    def drop(self, prefix: bytes) -> int:
        """Remove every key with this prefix, in transactions of bounded size; return how many."""
        dropped = 0
        while True:
            some = self.keys(prefix, limit=10_000)
            if not some:
                return dropped
            self.write(puts=[(key, None) for key in some])
            dropped += len(some)

    def keys(self, prefix: bytes, *, limit: int | None = None) -> list[bytes]:
        """Return the keys with this prefix, ascending, at most `limit`."""
        return self._page(prefix, prefix, limit, after=False)

    def _page(self, first: bytes, prefix: bytes, limit: int | None, *, after: bool) -> list[bytes]:
        found: list[bytes] = []
        with self._shared.reading, self._shared.env.begin() as txn, txn.cursor() as cursor:
            more = cursor.set_range(first)
            if after and more and cursor.key() == first:
                more = cursor.next()
            while more and (limit is None or len(found) < limit):
                key = cursor.key()
                if not key.startswith(prefix):
                    break
                found.append(bytes(key))
                more = cursor.next()
        return found

    def compact(self) -> bool:
        """Write the file anew, so that nothing deleted is left in its pages.

        Returns:
            Whether it was done. Not while another process has the store open; then the first one that opens it alone
            does it.
        """
        return self._shared.compact()

    @property
    def map_size(self) -> int:
        """How large the map is now, in bytes."""
        with self._shared.reading:
            return int(self._shared.env.info()["map_size"])

    def close(self) -> None:
        """Let go of the environment; the last store of a folder closes it."""
        with _registry:
            if self._shared.users == 0 or _open_here.get(self._key) is not self._shared:
                return
            self._shared.users -= 1
            if self._shared.users == 0:
                del _open_here[self._key]
                if not self._shared.readonly:
                    self._shared.env.sync(True)
                self._shared.env.close()

    def _write(self, apply: Callable[[Any], T]) -> T:
        if self._readonly:
            raise Unavailable(f"the online store {self._shared.path} is open for reading only; ingest is its writer")
        with self._shared.lock:
            while True:
                try:
                    with self._shared.env.begin(write=True) as txn:
                        return apply(txn)
                except lmdb.MapFullError:
                    self._shared.resize(2 * self.map_size)
                except lmdb.MapResizedError:
                    self._shared.resize(0)
                except lmdb.DiskError as error:
                    raise _full(self._shared.path, error) from error
                except lmdb.Error as error:
                    if any(sign in str(error) for sign in _NO_ROOM):
                        raise _full(self._shared.path, error) from error
                    raise


def _full(path: Path, error: Exception) -> Unavailable:
    return Unavailable(
        f"the online store {path} took no write ({error}); is the disk full? What was written before stays; make room"
    )


def _put(txn: Any, puts: Sequence[tuple[bytes, bytes | None]]) -> None:
    """Write plain values in order; None deletes."""
    if all(value is not None for _, value in puts):
        with txn.cursor() as cursor:
            cursor.putmulti(puts)
        return
    for key, value in puts:
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)


def _put_newer(txn: Any, items: Sequence[Item]) -> int:
    """Write row values that change something; return how many did."""
    get, changed, won = txn.get, dict[bytes, bytes](), 0
    for key, value in items:
        merged = merge_rows(changed.get(key) or get(key), value)
        if merged is not None:
            changed[key] = merged
            won += 1
    with txn.cursor() as cursor:
        cursor.putmulti(changed.items())
    return won


def _merge(txn: Any, items: Sequence[Item]) -> None:
    """Merge window values; the same key twice merges twice."""
    once: dict[bytes, bytes] = {}
    again: list[Item] = []
    for key, value in items:
        if key in once:
            again.append((key, value))
        else:
            once[key] = value
    merged = merge_windows([(txn.get(k), v) for k, v in once.items()])
    with txn.cursor() as cursor:
        cursor.putmulti(zip(once, merged, strict=True))
    if again:
        _merge(txn, again)
