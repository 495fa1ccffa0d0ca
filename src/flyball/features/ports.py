"""What features need from outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.features.spec import SourceSpec

__all__ = ["IngestLog", "OfflineEngine", "OnlineStore"]


class OfflineEngine(Protocol):
    """Move rows: scan a source (files and ingest log), derive, filter, project."""

    def scan(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pa.Table:
        """Return accepted rows as Arrow, sorted by (event, created, sequence).

        Columns: `columns` (raw or derived), then `__event`, `__created`, `__known` (int64 µs) and `__sequence` (int64).
        `start` <= event < `end` when given. Rows pushed to the source are included.
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
