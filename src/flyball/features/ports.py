"""What features need from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ColumnType, FeatureSpec, Join, SourceSpec, ViewSpec
    from flyball.records.types import DeadLetter, Published

__all__ = [
    "EventIds",
    "EventStream",
    "FileInfo",
    "IngestLog",
    "Message",
    "OfflineEngine",
    "OnlineStore",
    "Polled",
    "RemoteStore",
]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file of a source: path (relative to the project, or an address), place in name order, size, time, rows.

    A file's rows are numbered by its place among all files of the source, so a new file whose name comes last changes
    no other row's number; one that sorts before others does.
    """

    path: str
    index: int
    size: int
    mtime_ns: int
    rows: int


class OfflineEngine(Protocol):
    """Move rows: scan a source (files and ingest log), derive, filter, project; answer requests with the kernel."""

    def scan(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        files: Sequence[str] | None = None,
        pushed: bool = True,
        published: Mapping[str, int] | None = None,
    ) -> pa.Table:
        """Return accepted rows as Arrow, sorted by (event, created, sequence).

        Columns: `columns` (raw or derived), then `__event`, `__created`, `__known` (int64 µs) and `__sequence` (int64).
        `start` <= event < `end` when given. `files` keeps only rows of these files (paths as in `files()`), `pushed`
        says whether rows pushed to the source are included. Rows of a file in `published` are known no earlier than
        that (µs).
        """
        ...

    def batches(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        files: Sequence[str] | None = None,
        pushed: bool = True,
        published: Mapping[str, int] | None = None,
    ) -> Iterator[pa.Table]:
        """Return the rows of `scan` in pieces of bounded size, in no order."""
        ...

    def files(self, source: SourceSpec) -> list[FileInfo]:
        """Return a source's files in order of their names; nothing for tables, queries, pushes and streams."""
        ...

    def types(self, source: SourceSpec) -> dict[str, ColumnType]:
        """Return the types of a source's raw and derived columns."""
        ...

    def answer(self, requests: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], *, join: Join) -> pa.Table:
        """Answer one view's features: the engine's way to run `answers.answer_rows` over its rows.

        Requests have the entity's key columns, of the keys' types, and `__at` (int64 µs). Returned, in their order: a
        column per feature, and `__status_NAME` (uint8 of `Status`) for each.
        """
        ...

    def answers(
        self,
        requests: Iterator[pa.Table],
        view: ViewSpec,
        features: Sequence[FeatureSpec],
        *,
        join: Join,
        expected: int,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[pa.Table]:
        """Answer about `expected` requests that come in pieces, as `answer` does, in bounded memory.

        Pieces of the answer come in the requests' order, of any sizes; `done` is told of each lot of requests answered.
        """
        ...

    def rejected(self, source: SourceSpec) -> int:
        """Return how many rows `where` dropped."""
        ...


class OnlineStore(Protocol):
    """Keep packed values by bytes key; see `features/packing.py` for what the bytes mean.

    A store with `remote = True` is asked over a network and also has `async aget_many(keys)` (`RemoteStore`).
    """

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, in one round trip."""
        ...

    def write(
        self,
        *,
        newer: Sequence[tuple[bytes, bytes]] = (),
        cells: Sequence[tuple[bytes, bytes]] = (),
        puts: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> int:
        """Do all of it in one transaction: row values, window values, plain puts (None deletes)."""
        ...

    def keys(self, prefix: bytes, *, limit: int | None = None) -> list[bytes]:
        """Return the keys with this prefix, ascending; with a `limit` that many, which ones is the store's choice."""
        ...

    def pages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the keys with this prefix, some thousands at a time and in no order; a key may come twice."""
        ...

    def drop(self, prefix: bytes) -> int:
        """Remove every key with this prefix (an old view digest); return how many."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class RemoteStore(OnlineStore, Protocol):
    """An online store behind a network."""

    remote: bool

    async def aget_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return what `get_many` returns, without blocking the event loop."""
        ...


class EventIds(Protocol):
    """Remember which event ids were taken, as 16-byte digests, at least as long as a declared horizon."""

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Return the sequence under which each id was taken, 0 for a new one."""
        ...

    def add(
        self, source: str, keys: Sequence[bytes], sequences: Sequence[int], arrival: int, *, last: int | None = None
    ) -> None:
        """Remember ids of logged rows; the log is covered up to `last` then."""
        ...

    def covered(self, source: str) -> int:
        """Return the highest sequence of a source whose id is in."""
        ...


class IngestLog(Protocol):
    """Keep every pushed row with its arrival; it is offline history. One counter numbers all rows, from 1."""

    @property
    def event_ids(self) -> EventIds:
        """The index of event ids; it may be behind the log, never ahead."""
        ...

    def acquire(self) -> None:
        """Become the only writer; raises ConflictError when there is one."""
        ...

    def append_many(self, batches: Sequence[tuple[Any, ...]], dead: Sequence[DeadLetter] = ()) -> list[int]:
        """Append (source, rows, arrival, origin) batches durably, at the price of one; return first sequences."""
        ...

    def publish(self, marks: Sequence[Published]) -> None:
        """Record that rows could be read later than their arrival says; reading applies it."""
        ...

    def read(self, source: str, *, after: int = 0) -> pa.Table:
        """Return rows with sequence > `after`: raw columns plus `__sequence`, `__arrival` (int64)."""
        ...

    def read_batches(self, source: str, *, after: int = 0, rows: int = 65_536) -> Iterator[pa.Table]:
        """Yield what `read` returns in pieces, so that a log of any length is followed in bounded memory."""
        ...

    def rows(self, source: str) -> int:
        """Return how many rows of a source the log has, without reading them."""
        ...

    def revision(self, source: str) -> int:
        """Return a number that changes when rows that may have been read before changed: corrected or erased."""
        ...

    def positions(self, stream: str) -> dict[str, str]:
        """Return, by partition, where the consumer of a stream stands."""
        ...

    def dead(self, source: str | None = None) -> pa.Table:
        """Return the messages that were no rows (of one source), oldest first, with the reason."""
        ...

    def last(self) -> int:
        """Return the highest sequence in the log, 0 when it is empty."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream: its payload, and where it lies."""

    partition: str
    position: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought, and where the consumer stands once these are logged (partition -> position)."""

    messages: Sequence[Message] = ()
    positions: Mapping[str, str] = field(default_factory=dict)


class EventStream(Protocol):
    """Read a stream on behalf of the ingest log, which alone knows how far the reading came.

    Calls come from one thread. Positions are opaque texts; a batch's positions are logged with its rows.
    """

    def start(self, positions: Mapping[str, str]) -> None:
        """Connect and go on after these logged positions, whatever the broker believes; may be called again."""
        ...

    def poll(self, most: int, timeout: float) -> Polled:
        """Return at most `most` messages; nothing after `timeout` seconds. Raises Unavailable."""
        ...

    def commit(self, positions: Mapping[str, str]) -> None:
        """Tell the broker that these are logged. Raises Unavailable."""
        ...

    def lag(self) -> int | None:
        """Return how many messages the broker has beyond what was polled, None when it cannot be told."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...
