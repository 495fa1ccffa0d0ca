"""The online store on PostgreSQL: one table of the same bytes as in LMDB.

A write is one transaction. Its first statement takes every key of the batch, sorted: a lone settled row record lands
by conditional upsert, and every other key is locked (a new one by an empty place-holder that nobody else sees). What
the server could not decide is read, merged by the one kernel and put back. Two writers that share keys therefore meet
at the smallest shared one and never wait for each other in a circle. The surprise: nothing here goes through a cursor.
Statements are prepared once per connection and arrays are encoded in one piece, which is most of the speed.
"""

from __future__ import annotations

import asyncio
import os
import select
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flyball.adapters.postgres_link import Link, Statement
from flyball.errors import ConflictError, Unavailable
from flyball.features.batch import Batch

__all__ = ["PostgresStore"]

Item = tuple[bytes, bytes]
_TABLE = """
SELECT pg_advisory_xact_lock(7021791101);
CREATE TABLE IF NOT EXISTS flyball_online (key bytea PRIMARY KEY, value bytea NOT NULL) WITH (fillfactor = 80);
ALTER TABLE flyball_online ALTER COLUMN value SET STORAGE EXTERNAL;
"""
_GET = Statement("SELECT key, value FROM flyball_online WHERE key = ANY($1::bytea[])", 1)
_BEGIN, _COMMIT, _ROLLBACK = Statement("BEGIN", 0), Statement("COMMIT", 0), Statement("ROLLBACK", 0)
# 40..43 hold the first record's size, little-endian: equal to the whole length when there is only one
_TAKE = Statement(
    """
    INSERT INTO flyball_online AS held (key, value)
    SELECT * FROM unnest($1::bytea[], $2::bytea[])
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value
    WHERE substring(EXCLUDED.value FOR 24) > substring(held.value FOR 24) AND length(held.value) >= 44
      AND get_byte(held.value, 40) + get_byte(held.value, 41) * 256 + get_byte(held.value, 42) * 65536
          = length(held.value) AND get_byte(held.value, 43) = 0
    RETURNING key
    """,
    2,
)
_PUT = Statement(
    """
    INSERT INTO flyball_online (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value
    """,
    2,
)
_DELETE = Statement("DELETE FROM flyball_online WHERE key = ANY($1::bytea[])", 1)
_KEYS = Statement("SELECT key FROM flyball_online WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3::text::bigint", 3)
_DROP = Statement(
    "DELETE FROM flyball_online WHERE key IN (SELECT key FROM flyball_online WHERE key >= $1 AND key < $2"
    " ORDER BY key LIMIT 5000) RETURNING 1",
    2,
)
_META = struct.Struct("<qq")
_PREPARE = 5.0  # seconds; in a thread, so it holds nobody up
_TRIES = 16
_PAGE = 10_000  # keys of one read


class PostgresStore:
    """Keep packed values in a table of PostgreSQL (13 or newer), below a prefix of this project.

    Args:
        url: `postgresql://` address.
        namespace: What this project's keys begin with, so that several projects share a database.
        readonly: Refuse to write; the table must exist.
        timeout: Seconds that one read may wait for the server.
        write_timeout: Seconds that one statement of a write may.
        connections: Most connections for reading at once, and again in each event loop.

    Raises:
        Unavailable: the server cannot be reached (only when writing is wanted; a reader connects when it reads).
    """

    remote = True

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "flyball",
        readonly: bool = False,
        timeout: float = 1.0,
        write_timeout: float = 30.0,
        connections: int = 16,
    ) -> None:
        self._url = url
        self._prefix = b"%b:" % namespace.encode()
        self._readonly = readonly
        self._timeout = timeout
        self._write_timeout = write_timeout
        self._connections = connections
        self._pid = os.getpid()
        self._idle: list[Link] = []
        self._room = threading.BoundedSemaphore(connections)
        self._writing = threading.Lock()
        self._writer: Link | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        if not readonly:
            with self._write_link() as link:
                link.script(_TABLE)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, in one round trip.

        Raises:
            Unavailable: the server does not answer in time.
        """
        if not keys:
            return []
        prefix = self._prefix
        whole = [prefix + key for key in keys]
        with self._read_link() as link:
            found = dict(link.run(_GET, [array(whole)], timeout=self._timeout))
        return [found.get(key) for key in whole]

    async def aget_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what `get_many` returns, without blocking the event loop."""
        if not keys:
            return []
        prefix = self._prefix
        whole = [prefix + key for key in keys]
        loop = asyncio.get_running_loop()
        mine = self._loops.get(loop)
        if mine is None:
            mine = self._loops[loop] = _Loop(self._url, self._connections)
        found = dict(await mine.run(_GET, [array(whole)], self._timeout))
        return [found.get(key) for key in whole]

    def keys(self, prefix: bytes, *, limit: int | None = None) -> list[bytes]:
        """Return the keys with this prefix, ascending, at most `limit`."""
        return self._page(self._prefix + prefix, prefix, limit)

    def pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the keys with this prefix, ascending, some thousands at a time, each page as of its own moment."""
        first = self._prefix + prefix
        while found := self._page(first, prefix, _PAGE):
            yield found
            first = self._prefix + found[-1] + b"\0"

    def _page(self, first: bytes, prefix: bytes, limit: int | None) -> list[bytes]:
        cut = len(self._prefix)
        most = str((1 << 62) if limit is None else limit).encode()
        with self._read_link() as link:
            rows = link.run(_KEYS, [first, after(self._prefix + prefix), most], timeout=self._write_timeout)
        return [row[0][cut:] for row in rows]

    # -- writing ----------------------------------------------------------------------------------------------------

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

        Raises:
            Unavailable: the server does not answer; the batch is applied as a whole or not at all.
            ConflictError: other writers were in the way again and again.
        """
        if self._readonly:
            raise Unavailable("the online store on PostgreSQL is open for reading only; ingest is its writer")
        for _ in range(_TRIES):
            try:
                with self._write_link() as link, self._transaction(link):
                    return self._apply(link, Batch.of(newer, cells, puts))
            except ConflictError as error:
                last = error
        raise ConflictError(f"other writers were in the way {_TRIES} times in a row ({last}); let one process write")

    def drop(self, prefix: bytes) -> int:
        """Remove every key with this prefix, some thousands at a time; return how many."""
        if self._readonly:
            raise Unavailable("the online store on PostgreSQL is open for reading only; ingest is its writer")
        whole, dropped = self._prefix + prefix, 0
        while True:
            try:
                with self._write_link() as link:
                    some = len(link.run(_DROP, [whole, after(whole)], timeout=self._write_timeout))
            except ConflictError:  # a writer held one of them; it is done now
                continue
            dropped += some
            if some == 0:
                return dropped

    def ping(self) -> None:
        """Ask the server for a sign of life; raises Unavailable."""
        self.get_many([b""])

    def close(self) -> None:
        """Close every connection that no event loop owns."""
        with self._writing:
            links, self._idle = [*self._idle, *([self._writer] if self._writer else [])], []
            self._writer = None
        for link in links:
            link.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            mine.close()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _apply(self, link: Link, batch: Batch) -> int:
        batch.hand_over([key for key, value in batch.rows.items() if not _settled(value)])
        taken = sorted({*batch.rows, *batch.folds})
        won = 0
        if taken:
            new = self._run(link, _TAKE, taken, [batch.rows.get(key, b"") for key in taken])
            landed = {row[0] for row in new}
            cut = len(self._prefix)
            mine = {key[cut:] for key in landed}
            won = sum(key in mine for key in batch.rows)
            batch.hand_over([key for key in batch.rows if key not in mine])
            held: dict[bytes, bytes | None] = {key: None for key in batch.folds if key in mine}
            there = [key for key in batch.folds if key not in mine]
            if there:
                rows = dict(self._run(link, _GET, there))
                held |= {key: rows[self._prefix + key] for key in there}
            folded = batch.fold(held)
            won += folded.won
            changed = {key: value for key, value in folded.values.items() if value is None or value != held[key]}
        else:
            changed = {}
        changed |= batch.puts
        keep = sorted(key for key, value in changed.items() if value is not None)
        if keep:
            self._run(link, _PUT, keep, [changed[key] or b"" for key in keep])
        gone = sorted(key for key, value in changed.items() if value is None)
        if gone:
            self._run(link, _DELETE, gone)
        return won

    def _run(
        self, link: Link, statement: Statement, keys: Sequence[bytes], values: Sequence[bytes] | None = None
    ) -> list[Any]:
        prefix = self._prefix
        arguments = [array([prefix + key for key in keys])]
        if values is not None:
            arguments.append(array(values))
        return link.run(statement, arguments, timeout=self._write_timeout)

    @contextmanager
    def _transaction(self, link: Link) -> Iterator[None]:
        link.run(_BEGIN, [], timeout=self._write_timeout)
        try:
            yield
        except BaseException:
            if not link.broken:
                link.run(_ROLLBACK, [], timeout=self._write_timeout)
            raise
        link.run(_COMMIT, [], timeout=self._write_timeout)

    @contextmanager
    def _write_link(self) -> Iterator[Link]:
        self._forked()
        with self._writing:
            if self._writer is None or self._writer.broken or self._writer.ended():
                self._writer = None
                self._writer = Link.open(self._url)
            yield self._writer

    @contextmanager
    def _read_link(self) -> Iterator[Link]:
        self._forked()
        if not self._room.acquire(timeout=self._timeout):
            raise Unavailable(f"all {self._connections} connections to PostgreSQL, the online store, were busy")
        try:
            link = self._take_idle() or Link.open(self._url)
            try:
                yield link
            finally:
                if not link.broken:
                    self._idle.append(link)
        finally:
            self._room.release()

    def _take_idle(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if not link.ended():
                return link
            link.close()
        return None

    def _forked(self) -> None:
        """Leave the parent's connections alone after a fork; they are not closed here, which would end them there."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            _inherited.append((self._idle, self._writer))
            self._idle, self._writer = [], None
            self._room, self._writing = threading.BoundedSemaphore(self._connections), threading.Lock()
            self._loops = weakref.WeakKeyDictionary()


_inherited: list[object] = []  # connections of a parent process; kept so that nothing closes them


class _Loop:
    """The connections of one event loop."""

    def __init__(self, url: str, most: int) -> None:
        self._url = url
        self._room = asyncio.Semaphore(most)
        self._idle: list[Link] = []

    async def run(self, statement: Statement, arguments: list[bytes], timeout: float) -> list[Any]:
        """Run on an idle connection, or on a new one; one that did not finish is closed."""
        async with self._room:
            link = self._take_idle() or await self._connect()
            try:
                rows = await _arun(link, statement, arguments, timeout)
            finally:
                if not link.broken:
                    self._idle.append(link)
            return rows

    async def _connect(self) -> Link:
        """Connect in a thread; who lost patience meanwhile leaves the connection to the next one."""
        opening = asyncio.ensure_future(asyncio.to_thread(_reader, self._url))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep)
            raise

    def _keep(self, opening: asyncio.Future[Link]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._idle.append(opening.result())

    def _take_idle(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if not link.ended():
                return link
            link.close()
        return None

    def close(self) -> None:
        """Close what is idle."""
        for link in self._idle:
            link.close()
        self._idle = []


def _reader(url: str) -> Link:
    link = Link.open(url)
    link.prepare(_GET, timeout=_PREPARE)
    return link


async def _arun(link: Link, statement: Statement, arguments: list[bytes], timeout: float) -> list[Any]:
    loop = asyncio.get_running_loop()
    until = time.monotonic() + timeout
    done = False
    try:
        link.send(statement, arguments, timeout=timeout)  # prepared when it was opened
        while True:
            wanted = link.advance()
            if wanted == 0:
                break
            left = until - time.monotonic()
            if left <= 0:
                raise link.late(timeout)
            await _ready(loop, link.socket, wanted, left)
        done = True
    finally:
        if not done:
            link.close()  # also when cancelled: its answer would be taken for another question's
    return link.rows()


async def _ready(loop: asyncio.AbstractEventLoop, socket: int, wanted: int, timeout: float) -> None:
    """Wait until the socket can be read (or written, when that is wanted too), or the time is over."""
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    handle = loop.call_later(timeout, wake)
    loop.add_reader(socket, wake)
    if wanted & select.POLLOUT:
        loop.add_writer(socket, wake)
    try:
        await waiter
    finally:
        handle.cancel()
        loop.remove_reader(socket)
        if wanted & select.POLLOUT:
            loop.remove_writer(socket)


def array(values: Sequence[bytes]) -> bytes:
    """Return a bytea[] in PostgreSQL's binary form."""
    parts: list[bytes] = [_ARRAY.pack(1, 0, 17, len(values), 1)]
    add = parts.append
    for value in values:
        add(len(value).to_bytes(4, "big"))
        add(value)
    return b"".join(parts)


_ARRAY = struct.Struct(">iiIii")


def after(prefix: bytes) -> bytes:
    """Return the smallest text above every text with this prefix, which does not consist of 0xff alone."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1])


def _settled(value: bytes) -> bool:
    """Whether a row record is known at every T that may still be asked, so that it replaces an older one."""
    known, floor = _META.unpack_from(value, 24)
    return bool(known <= floor)
