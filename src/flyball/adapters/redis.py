"""The online store on Redis: the same bytes as in LMDB, written by one script that runs alone in the server.

The script decides the usual case (a lone row record against a lone row record) by itself; plain values need none.
What it cannot decide, row chains and window cells, the client reads and merges with the one kernel; the script then
applies the whole batch, its checkpoint included, only if each such key still holds what was read. Otherwise it writes
nothing and says what is there now. The surprise: the script never compares texts by `<`, because Lua would do that by
the server's locale, and no number above 32 bits, because Lua's numbers are floats.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flyball.errors import ConfigError, ConflictError, MissingExtra, Unavailable
from flyball.features.batch import Batch

try:
    import redis
    import redis.asyncio
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError
    from redis.retry import Retry
except ImportError as error:
    raise MissingExtra.of("the online store on Redis", "redis") from error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RedisStore"]

T = TypeVar("T")
Item = tuple[bytes, bytes]
log = logging.getLogger("flyball.features")
_PAGE = 2_000  # keys of one SCAN step or one UNLINK
_TRIES = 64  # each lost try means that another writer got through

_SCRIPT = b"""
local counts = {}
for text in string.gmatch(ARGV[1], '%d+') do counts[#counts + 1] = tonumber(text) end
local rows, folds, puts, gone = counts[1], counts[2], counts[3], counts[4]
local STEP = 1000

local function stored(first, count)
  local found = {}
  for at = first, first + count - 1, STEP do
    local some = redis.call('MGET', unpack(KEYS, at, math.min(at + STEP, first + count) - 1))
    for i = 1, #some do found[#found + 1] = some[i] end
  end
  return found
end

local function compared(new, old)
  for at = 1, 21, 4 do
    local a, b = struct.unpack('>I4', new, at), struct.unpack('>I4', old, at)
    if a ~= b then return a > b and 1 or -1 end
  end
  return 0
end

-- orderable: 64-bit little-endian signed numbers as (high, low)
local function above(high1, low1, high2, low2)
  if high1 ~= high2 then return high1 > high2 end
  return low1 > low2
end

-- what is to be stored; nil: as it is; false: the client must say
local function judge(new, old)
  if not old then return new end
  if struct.unpack('<I4', old, 41) ~= #old then return false end
  local kl, kh, fl, fh = struct.unpack('<I4i4I4i4', new, 25)
  local ol, oh = struct.unpack('<I4i4', old, 25)
  local order = compared(new, old)
  if order > 0 then
    if not above(kh, kl, fh, fl) or not above(kh, kl, oh, ol) then return new end
    return new .. old
  end
  if order == 0 or not above(oh, ol, kh, kl) or not above(oh, ol, fh, fl) then return nil end
  return old .. new
end

local write, asked, won = {}, {}, 0
local held = stored(1, rows)
for i = 1, rows do
  local new, old = ARGV[1 + i], held[i]
  local value = judge(new, old)
  if value then
    won = won + 1
    write[#write + 1] = KEYS[i]
    write[#write + 1] = value
  elseif value == false then
    asked[#asked + 1] = i
    asked[#asked + 1] = old
  end
end

held = stored(rows + 1, folds)
local arg = 1 + rows
for i = 1, folds do
  local old = held[i]
  local is = ''
  if old then is = redis.sha1hex(old) end
  if is ~= ARGV[arg + 1] then
    asked[#asked + 1] = rows + i
    asked[#asked + 1] = old
  else
    write[#write + 1] = KEYS[rows + i]
    write[#write + 1] = ARGV[arg + 2]
  end
  arg = arg + 2
end

if #asked > 0 then return {-1, asked} end

for i = 1, puts do
  write[#write + 1] = KEYS[rows + folds + i]
  write[#write + 1] = ARGV[arg + i]
end
for at = 1, #write, 2 * STEP do
  redis.call('MSET', unpack(write, at, math.min(at + 2 * STEP - 1, #write)))
end
local first = rows + folds + puts
for at = 1, gone, STEP do
  redis.call('DEL', unpack(KEYS, first + at, first + math.min(at + STEP - 1, gone)))
end
return {won, {}}
"""
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()


class RedisStore:
    """Keep packed values in Redis (6 or newer), below a prefix of this project.

    Reads and writes have connections of their own, bounded and safe over threads and forks; `aget_many` has its own in
    each event loop.

    Args:
        url: `redis://`, `rediss://` or `unix://` address.
        namespace: What this project's keys begin with, so that several projects share a server.
        readonly: Refuse to write.
        timeout: Seconds that one read may wait for the server.
        write_timeout: Seconds that one write may.
        connections: Most connections of a kind at once.

    Raises:
        ConfigError: the address is none.
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
        connections: int = 32,
    ) -> None:
        self._url = url
        self._prefix = b"flyball:%b:" % namespace.encode()
        self._readonly = readonly
        self._timeout = timeout
        self._connections = connections
        self._reads = self._client(timeout)
        self._writes = self._reads if readonly else self._client(write_timeout)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        if not readonly:
            self._warn_of_eviction()

    # -- reading ----------------------------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, in one round trip.

        Raises:
            Unavailable: the server does not answer, or refuses.
        """
        if not keys:
            return []
        prefix = self._prefix
        found: list[bytes | None] = self._do(lambda: self._reads.mget([prefix + key for key in keys]))
        return found

    async def aget_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what `get_many` returns, without blocking the event loop."""
        if not keys:
            return []
        prefix = self._prefix
        try:
            found: list[bytes | None] = await self._async_client().mget([prefix + key for key in keys])
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        return found

    def keys(self, prefix: bytes, *, limit: int | None = None) -> list[bytes]:
        """Return the keys with this prefix, ascending; with a `limit` any that many, because Redis has no order."""
        found: set[bytes] = set()  # SCAN may name a key twice
        for some in self._scan(prefix):
            found.update(some)
            if limit is not None and len(found) >= limit:
                return heapq.nsmallest(limit, found)
        return sorted(found)

    def pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the keys with this prefix, some thousands at a time and in no order; a key may come twice."""
        return self._scan(prefix)

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(
        self,
        *,
        newer: Sequence[Item] = (),
        cells: Sequence[Item] = (),
        puts: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> int:
        """Apply row values, window values and plain puts (None deletes) in one atomic step.

        Returns:
            How many row values changed something.

        Raises:
            Unavailable: the server does not answer; the batch is applied as a whole or not at all.
            ConflictError: other writers were faster again and again.
        """
        if self._readonly:
            raise Unavailable("the online store on Redis is open for reading only; ingest is its writer")
        if puts and not newer and not cells and all(value is not None for _, value in puts):
            self._put(puts)
            return 0
        batch = Batch.of(newer, cells, puts)
        held: dict[bytes, bytes | None] = {}
        unread = list(batch.folds)
        if unread:
            held = dict(zip(unread, self._read_to_merge(unread), strict=True))
        for _ in range(_TRIES):
            folded = batch.fold(held)
            won, changed = self._apply(batch, folded.values, held)
            if not changed:
                return won + folded.won
            held |= changed
            batch.hand_over([key for key in changed if key in batch.rows])
        raise ConflictError(f"other writers changed the same keys {_TRIES} times in a row; let one process write")

    def drop(self, prefix: bytes) -> int:
        """Remove every key with this prefix, some thousands at a time; return how many."""
        if self._readonly:
            raise Unavailable("the online store on Redis is open for reading only; ingest is its writer")
        dropped = 0
        for some in self._scan(prefix):
            if some:
                whole = [self._prefix + key for key in some]
                dropped += int(self._do(lambda whole=whole: self._writes.unlink(*whole)))  # type: ignore[misc]
        return dropped

    def ping(self) -> None:
        """Ask the server for a sign of life; raises Unavailable."""
        self._do(self._reads.ping)

    def close(self) -> None:
        """Close every connection that no event loop owns; those of a loop close with it or by `aclose`."""
        self._reads.close()
        self._writes.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._loops.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _read_to_merge(self, keys: Sequence[bytes]) -> list[bytes | None]:
        whole = [self._prefix + key for key in keys]
        found: list[bytes | None] = self._do(lambda: self._writes.mget(whole))
        return found

    def _apply(
        self, batch: Batch, merged: Mapping[bytes, bytes | None], held: Mapping[bytes, bytes | None]
    ) -> tuple[int, dict[bytes, bytes | None]]:
        """Run the script; return (rows won, what keys that it did not accept hold now)."""
        rows = list(batch.rows)
        folds = [key for key in merged if merged[key] is not None]
        # a fold that ends in a removal is a put after a row of the same key: the last word is unconditional
        puts = [key for key, value in batch.puts.items() if value is not None]
        gone = [key for key, value in batch.puts.items() if value is None]
        gone += [key for key, value in merged.items() if value is None]
        names = [self._prefix + key for key in (*rows, *folds, *puts, *gone)]
        arguments: list[Any] = [b"%d %d %d %d" % (len(rows), len(folds), len(puts), len(gone))]
        arguments += batch.rows.values()
        for key in folds:
            before = held[key]
            arguments += (b"" if before is None else _sha1(before), merged[key])
        arguments += [batch.puts[key] for key in puts]
        won, changed = self._run(names, arguments)
        if won >= 0:
            return int(won), {}
        sent = (*rows, *folds)
        return 0, {sent[place - 1]: now for place, now in zip(changed[::2], changed[1::2], strict=True)}

    def _put(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Write plain values by one command, which the server does as a whole."""
        prefix = self._prefix
        size = len(prefix)
        parts = [b"*%d\r\n$4\r\nMSET\r\n" % (1 + 2 * len(items))]
        parts += [
            b"$%d\r\n%b%b\r\n$%d\r\n%b\r\n" % (size + len(key), prefix, key, len(value or b""), value or b"")
            for key, value in items
        ]
        self._do(lambda: self._send(b"".join(parts)))

    def _run(self, names: list[bytes], arguments: list[Any]) -> Any:
        rest = [b"%d" % len(names), *names, *arguments]
        try:
            return self._do(lambda: self._send(_command([b"EVALSHA", _SHA.encode(), *rest])))
        except NoScriptError:  # a new server, or its scripts were flushed
            return self._do(lambda: self._send(_command([b"EVAL", _SCRIPT, *rest])))

    def _send(self, command: bytes) -> Any:
        """Send a command that is packed already, which for thousands of arguments is most of the work."""
        pool = self._writes.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([command], check_health=False)
            return connection.read_response()  # an error of the line hangs up
        finally:
            pool.release(connection)

    def _scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        whole, cut = self._prefix + prefix, len(self._prefix)
        pattern = b"".join(b"\\" + c if c in b"*?[]\\" else c for c in (whole[i : i + 1] for i in range(len(whole))))
        cursor = 0
        while True:
            cursor, some = self._do(lambda at=cursor: self._reads.scan(at, match=pattern + b"*", count=_PAGE))  # type: ignore[misc]
            yield [key[cut:] for key in some]
            if cursor == 0:
                return

    def _client(self, timeout: float) -> Any:
        try:
            pool = redis.BlockingConnectionPool.from_url(
                self._url, max_connections=self._connections, timeout=timeout, socket_timeout=timeout,
                socket_connect_timeout=min(timeout, 5.0), protocol=2, retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"online.url is no address of Redis ({error}); write redis://HOST:PORT/0") from None
        return redis.Redis(connection_pool=pool)

    def _async_client(self) -> Any:
        loop = asyncio.get_running_loop()
        client = self._loops.get(loop)
        if client is None:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                self._url, max_connections=self._connections, timeout=self._timeout, socket_timeout=self._timeout,
                socket_connect_timeout=min(self._timeout, 5.0), protocol=2,
                retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
            )  # fmt: skip
            client = redis.asyncio.Redis(connection_pool=pool)
            with self._lock:
                self._loops[loop] = client
        return client

    def _do(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except NoScriptError:
            raise
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error

    def _warn_of_eviction(self) -> None:
        """Say so once when the server may throw rows away: a thrown-away row would answer "never seen"."""
        try:
            memory = self._writes.info("memory")
        except (RedisError, OSError):
            return
        policy = memory.get("maxmemory_policy", "noeviction")
        if int(memory.get("maxmemory", 0)) and policy != "noeviction":
            log.warning(
                "Redis may evict feature rows; set its maxmemory-policy to noeviction", extra={"policy": policy}
            )


def _command(arguments: Sequence[bytes]) -> bytes:
    """Return a command as it goes over the line."""
    parts = [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"*%d\r\n%b" % (len(arguments), b"".join(parts))


def _sha1(value: bytes) -> bytes:
    return hashlib.sha1(value, usedforsecurity=False).hexdigest().encode()


def _unavailable(error: Exception) -> Unavailable:
    """Return one sentence without the address, which may hold a password."""
    if isinstance(error, AuthenticationError | NoPermissionError):
        return Unavailable(f"Redis refuses the online store's user ({type(error).__name__}); check online.url")
    if isinstance(error, TimeoutError | redis.exceptions.TimeoutError):
        return Unavailable("Redis, the online store, gave no answer in time; is it overloaded or its network slow?")
    if isinstance(error, redis.exceptions.ConnectionError | OSError):
        return Unavailable(f"Redis, the online store, cannot be reached ({type(error).__name__}); is it "
                           "running, and is online.url its address?")  # fmt: skip
    return Unavailable(f"Redis, the online store, failed: {error}")
