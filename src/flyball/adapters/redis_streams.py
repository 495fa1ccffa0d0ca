"""Redis Streams as an event stream: a consumer of a group.

The surprise: a position is not an id but the ids of the batch that was logged last. In a group, entries of a dead
consumer are claimed long after younger ones were read, so "everything up to X" would skip them. A batch is
acknowledged to Redis before the next one is read; after a crash only the last logged batch can lack its
acknowledgement, and `start` gives it before anything is read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from flyball.errors import MissingExtra, Unavailable
from flyball.features.ports import Message, Polled

__all__ = ["RedisStream"]

_T = TypeVar("_T")
_JSON = msgspec.json.Decoder()
_NUMBERS = ("int64", "float32", "float64", "bool")
_COUNTED = 10_000  # entries counted one by one where the server does not tell its lag


class RedisStream:
    """Read a Redis stream as consumer `consumer` of a group.

    An entry's field `data` is its JSON; an entry without one is a row of its fields, numbers read by their types.

    Args:
        url: redis://host:port/db.
        stream: The stream's key.
        group: Consumer group, made when missing, from the stream's beginning.
        consumer: This consumer's name; one that comes back under its name gets what it had not acknowledged.
        types: Declared column types, for entries that are plain fields.
        idle: Seconds after which what another consumer left unacknowledged is taken over.

    Raises:
        MissingExtra: redis is not installed.
    """

    def __init__(
        self,
        *,
        url: str,
        stream: str,
        group: str,
        consumer: str = "flyball",
        types: Mapping[str, str] | None = None,
        idle: float = 60.0,
    ) -> None:
        try:
            import redis
        except ImportError as error:
            raise MissingExtra.of("a Redis stream", "redis") from error
        self._redis = redis
        self._url, self._stream, self._group, self._consumer = url, stream, group, consumer
        self._types = dict(types or {})
        self._idle = idle
        self._client: Any = None
        self._pending: bytes | None = b"0"  # where our unacknowledged entries are read on, None: all are read
        self._claim = b"0-0"
        self._claimed_at = 0.0

    def start(self, positions: Mapping[str, str]) -> None:
        """Connect, acknowledge what the log has, and begin with what was delivered to us and not logged."""
        self.close()
        self._client = self._redis.Redis.from_url(self._url, socket_connect_timeout=5.0, socket_timeout=30.0)
        self._asked(self._make_group)
        self.commit(positions)
        self._pending, self._claim, self._claimed_at = b"0", b"0-0", 0.0

    def poll(self, most: int, timeout: float) -> Polled:
        """Return up to `most` entries: our own left ones first, then those of dead consumers, then new ones."""
        return self._asked(lambda: self._poll(most, timeout))

    def commit(self, positions: Mapping[str, str]) -> None:
        """Acknowledge the entries of these positions."""
        ids = [i for at in positions.values() for i in _JSON.decode(at)]
        for begin in range(0, len(ids), 1000):
            some = ids[begin : begin + 1000]
            self._asked(lambda some=some: self._client.xack(self._stream, self._group, *some))  # type: ignore[misc]

    def lag(self) -> int | None:
        """Return how many entries were not yet delivered to the group; 10,000 also stands for more."""
        return self._asked(self._lag)

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except self._redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _poll(self, most: int, timeout: float) -> Polled:
        if self._pending is not None:
            found = self._read(self._pending, most, None)
            if found:
                self._pending = found[-1][0]
                return self._polled(found)
            self._pending = None
        now = time.monotonic()
        if self._claim != b"0-0" or now - self._claimed_at >= self._idle / 2:
            self._claimed_at = now
            claimed = self._client.xautoclaim(
                self._stream, self._group, self._consumer, int(self._idle * 1000), start_id=self._claim, count=most
            )
            self._claim = claimed[0]
            if claimed[1]:
                return self._polled(claimed[1])
        return self._polled(self._read(b">", most, max(1, int(timeout * 1000))))

    def _read(self, after: bytes, most: int, block: int | None) -> list[tuple[bytes, dict[bytes, bytes] | None]]:
        answer = self._client.xreadgroup(self._group, self._consumer, {self._stream: after}, count=most, block=block)
        if not answer:
            return []
        entries = answer[0][1] if isinstance(answer, list) else next(iter(answer.values()))
        if entries and isinstance(entries[0], list):  # as redis-py's third protocol nests them
            entries = entries[0]
        return list(entries)

    def _polled(self, entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> Polled:
        """Entries that were deleted since have no fields; they are only acknowledged."""
        whole = [(i, fields) for i, fields in entries if i is not None and fields]
        ids = [i.decode() for i, _ in entries if i is not None]
        messages = [Message("", i.decode(), self._payload(fields)) for i, fields in whole]
        return Polled(messages, {"": msgspec.json.encode(ids).decode()} if ids else {})

    def _payload(self, fields: Mapping[bytes, bytes]) -> bytes:
        if b"data" in fields and "data" not in self._types:
            return fields[b"data"]
        row: dict[str, Any] = {}
        for name, value in fields.items():
            column, text = name.decode("utf-8", "replace"), value.decode("utf-8", "replace")
            row[column] = _number(text) if self._types.get(column) in _NUMBERS else text
        return msgspec.json.encode(row)

    def _lag(self) -> int:
        for info in self._client.xinfo_groups(self._stream):
            if info["name"] == self._group.encode():
                if info.get("lag") is not None:
                    return int(info["lag"])
                after = info["last-delivered-id"].decode()
                return len(self._client.xrange(self._stream, min=f"({after}", count=_COUNTED))
        return 0

    def _asked(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except self._redis.RedisError as error:
            raise Unavailable(f"the Redis stream {self._stream!r} cannot be reached: {error}") from error


def _number(text: str) -> object:
    """Return what a field's text says where a number is declared; other text stays, and is refused with its reason."""
    try:
        return _JSON.decode(text)
    except msgspec.DecodeError:
        return text
