"""Which event ids were taken already: an index beside the ingest log, and never ahead of it.

The surprise: it need not be durable to be right. It says up to which sequence of each source it covers the log, and
whoever opens it brings it on from there. New ids gather in memory and go to disk some ten thousand at a time, on a
thread of their own. There are two generations; when the younger one spans the horizon, the older one is deleted, so an
id is known for at least the horizon and at most twice as long. A redelivery later than that counts as a new row.
"""

from __future__ import annotations

import shutil
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb

from flyball.errors import Unavailable

__all__ = ["EventIdIndex"]

_GATHER = 20_000  # ids in memory before they are written
_COVERED = b"covered:"
_BEGAN = b"began"
_SEQUENCE = struct.Struct("<q")
_UNREADABLE = (lmdb.Error, OSError, struct.error, UnicodeDecodeError)


class EventIdIndex:
    """Remember 16-byte digests of event ids with the sequence of their row.

    Args:
        folder: Where; made when missing. A folder that cannot be read is made anew: the log has all that matters.
        horizon: µs of arrival time that an id is remembered at least.
    """

    def __init__(self, folder: Path, *, horizon: int) -> None:
        self._folder = folder
        self._horizon = horizon
        self._fresh: dict[bytes, int] = {}
        self._flushing: dict[bytes, int] = {}
        self._covered: dict[str, int] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-ids")
        self._flush: Future[None] | None = None
        self._guard = threading.Lock()
        self.failed = 0  # flushes that the disk did not take
        self._envs: list[Any] = []  # the older one first
        self._began: int | None = None
        try:
            self._load()
        except _UNREADABLE:  # one generation without the other would not cover what it says
            self._empty()

    def clear(self) -> None:
        """Forget everything; whoever opened it brings it on from the whole log."""
        self._wait()
        with self._guard:
            self._empty()

    def ahead(self, last: int) -> bool:
        """Whether it covers more than a log that ends at `last`: then the log was put back from an older copy."""
        return max(self._covered.values(), default=0) > last

    def _load(self) -> None:
        for name in self._names():
            self._envs.append(self._open(name))
        self._began = self._get(self._envs[-1], _BEGAN)
        for env in self._envs:
            with env.begin() as txn, txn.cursor() as cursor:
                more = cursor.set_range(_COVERED)
                while more and cursor.key().startswith(_COVERED):
                    source = cursor.key()[len(_COVERED) :].decode()
                    self._covered[source] = max(self._covered.get(source, 0), _SEQUENCE.unpack(cursor.value())[0])
                    more = cursor.next()

    def _empty(self) -> None:
        """Begin with nothing, in a new folder.

        Raises:
            Unavailable: the disk does not let it.
        """
        for env in self._envs:
            env.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._fresh, self._flushing, self._covered, self._envs, self._began = {}, {}, {}, [], None
        try:
            self._envs = [self._open(name) for name in self._names()]
        except (lmdb.Error, OSError) as error:
            raise Unavailable(f"the index of event ids cannot be made: {error}; make room") from error

    def covered(self, source: str) -> int:
        """Return the highest sequence of a source whose id is in."""
        return self._covered.get(source, 0)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Return the sequence under which each id was taken, 0 for a new one."""
        with self._guard:
            fresh, flushing, envs = self._fresh, self._flushing, list(self._envs)
            found = [fresh.get(key) or flushing.get(key) or 0 for key in keys]
            left = sorted((key, i) for i, key in enumerate(keys) if not found[i])
            for env in reversed(envs):
                with env.begin() as txn:
                    get = txn.get
                    rest = []
                    for key, i in left:
                        value = get(key)
                        if value is None:
                            rest.append((key, i))
                        else:
                            found[i] = _SEQUENCE.unpack(value)[0]
                    left = rest
        return found

    def add(
        self, source: str, keys: Sequence[bytes], sequences: Sequence[int], arrival: int, *, last: int | None = None
    ) -> None:
        """Remember ids of logged rows, in the order of their sequences; the log is covered up to `last` then."""
        with self._guard:
            for key, sequence in zip(keys, sequences, strict=True):
                self._fresh.setdefault(key, sequence)
            end = last if last is not None else sequences[-1] if keys else 0
            self._covered[source] = max(self._covered.get(source, 0), end)
            full = len(self._fresh) >= _GATHER
        if full:
            self._begin_flush(arrival)

    def remove(self, keys: Sequence[bytes]) -> int:
        """Forget ids for good; return how many were known. Whoever sends such an event again sends a new one.

        Raises:
            Unavailable: the index cannot be written.
        """
        self._wait()
        with self._guard:
            gone = {key for key in keys if self._fresh.pop(key, None) is not None}
            for env in self._envs:
                try:
                    with env.begin(write=True) as txn:
                        gone |= {key for key in keys if txn.delete(key)}
                except lmdb.Error as error:
                    raise Unavailable(f"the index of event ids cannot be written: {error}; make room") from error
                env.sync(True)
        return len(gone)

    def __len__(self) -> int:
        """Return how many ids are known."""
        return len(self._fresh) + len(self._flushing) + sum(int(env.stat()["entries"]) for env in self._envs)

    def close(self) -> None:
        """Write what is in memory and let go."""
        self._wait()
        try:
            if self._fresh:
                self._begin_flush(self._began or 0)
                self._wait()
        finally:
            self._thread.shutdown()
            for env in self._envs:
                env.close()

    def _wait(self) -> None:
        """Wait for a flush; one that failed (a full disk) is made again with the next, the ids stay in memory."""
        if self._flush is None:
            return
        flush, self._flush = self._flush, None
        try:
            flush.result()
        except Unavailable:
            self.failed += 1
            with self._guard:
                self._fresh = self._flushing | self._fresh
                self._flushing = {}

    def _begin_flush(self, arrival: int) -> None:
        """Hand what gathered to the thread; waits for the flush before, which is the back pressure."""
        self._wait()
        if self._began is not None and self._began and arrival - self._began > self._horizon:
            self._turn()
        with self._guard:
            self._flushing, self._fresh = self._fresh, {}
            covered = dict(self._covered)
        began = self._began = self._began or arrival
        self._flush = self._thread.submit(self._write, self._envs[-1], covered, began)

    def _write(self, env: Any, covered: dict[str, int], began: int) -> None:
        items = [(key, _SEQUENCE.pack(sequence)) for key, sequence in sorted(self._flushing.items())]
        marks = [(_COVERED + s.encode(), _SEQUENCE.pack(at)) for s, at in covered.items()]
        while True:
            try:
                with env.begin(write=True) as txn:
                    with txn.cursor() as cursor:
                        cursor.putmulti(items, overwrite=False)
                    for key, value in [*marks, (_BEGAN, _SEQUENCE.pack(began))]:
                        txn.put(key, value)
                break
            except lmdb.MapFullError:
                with self._guard:  # no reader of this process may be open
                    env.set_mapsize(2 * env.info()["map_size"])
            except lmdb.Error as error:
                raise Unavailable(f"the index of event ids cannot be written: {error}; make room") from error
        with self._guard:
            self._flushing = {}

    def _turn(self) -> None:
        """Begin a new generation; the oldest goes when there were two."""
        number = int(Path(self._envs[-1].path()).name) + 1
        with self._guard:
            self._envs.append(self._open(str(number)))
            old = self._envs[:-2]
            self._envs = self._envs[-2:]
            for env in old:
                path = env.path()
                env.close()
                shutil.rmtree(path, ignore_errors=True)
        self._began = None

    def _names(self) -> list[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        names = sorted((p.name for p in self._folder.iterdir() if p.name.isdigit()), key=int)
        for name in names[:-2]:
            shutil.rmtree(self._folder / name)
        return names[-2:] or ["1"]

    def _open(self, name: str) -> Any:
        path = self._folder / name
        data = path / "data.mdb"
        there = data.stat().st_size if data.exists() else 0
        env = lmdb.open(str(path), map_size=max(16 << 20, there), metasync=False, max_spare_txns=2, meminit=False)
        if there and there < (env.info()["last_pgno"] + 1) * env.stat()["psize"]:
            env.close()
            raise lmdb.CorruptedError("cut short")  # reading a page that is not there would end the process
        return env

    def _get(self, env: Any, key: bytes) -> int | None:
        with env.begin() as txn:
            value = txn.get(key)
        return None if value is None else int(_SEQUENCE.unpack(value)[0])
