"""What features need from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import ColumnType, FeatureSpec, Join, SourceSpec, ViewSpec

__all__ = ["FileInfo", "IngestLog", "OfflineEngine", "OnlineStore"]


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

    def rejected(self, source: SourceSpec) -> int:
        """Return how many rows `where` dropped."""
        ...


class OnlineStore(Protocol):
    """Keep packed values by bytes key; see `features/packing.py` for what the bytes mean."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None where there is none, in one round trip."""
        ...

    def put_newer(self, items: Sequence[tuple[bytes, bytes]], *, checkpoint: tuple[bytes, bytes] | None = None) -> int:
        """Write each row value whose header is larger than the stored one; return how many changed something."""
        ...

    def merge_cells(
        self, items: Sequence[tuple[bytes, bytes]], *, checkpoint: tuple[bytes, bytes] | None = None
    ) -> None:
        """Merge window-cell values into stored ones and write the checkpoint, all in one transaction."""
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
        """Return the keys with this prefix, ascending."""
        ...

    def drop(self, prefix: bytes) -> int:
        """Remove every key with this prefix (an old view digest); return how many."""
        ...


class IngestLog(Protocol):
    """Keep every pushed row with its arrival; it is offline history. One counter numbers all rows, from 1."""

    def acquire(self) -> None:
        """Become the only writer; raises ConflictError when there is one."""
        ...

    def append(self, source: str, rows: list[dict[str, object]], *, arrival: int) -> int:
        """Append durably and return the first row's sequence number."""
        ...

    def append_many(self, batches: Sequence[tuple[str, list[dict[str, object]], int]]) -> list[int]:
        """Append (source, rows, arrival) batches durably, at the price of one."""
        ...

    def read(self, source: str, *, after: int = 0) -> pa.Table:
        """Return rows with sequence > `after`: raw columns plus `__sequence`, `__arrival` (int64)."""
        ...

    def last(self) -> int:
        """Return the highest sequence in the log, 0 when it is empty."""
        ...
