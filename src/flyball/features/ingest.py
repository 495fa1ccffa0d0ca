"""Take pushed rows: check, log, fold into every view of their source; the only writer of the online store.

The surprise: nothing here needs to succeed after the log has the rows. Each view's checkpoint is written in the
transaction that applied rows up to it, and the next start replays the log from there; applying a row again changes
nothing. So a crash at any point loses no acknowledged row and counts none twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flyball.clock import Clock
from flyball.errors import BadRequest, FlyballError, InputError, UnknownName
from flyball.features.cells import WindowLayout
from flyball.features.materialize import MaterializeResult, Progress, materialize
from flyball.features.packing import SPAN, Checkpoint, RowLayout, Rows, checkpoint_key, namespace, read_rows
from flyball.features.ports import IngestLog, OfflineEngine, OnlineStore
from flyball.features.raw import raw_table
from flyball.features.reading import accept, check_rows, file_types
from flyball.features.spec import ColumnType, SourceSpec, ViewSpec
from flyball.units import to_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Ingest", "PushResult"]

Row = dict[str, Any]
Batch = tuple[str, list[Row], int | None]
_ITEMS = 256  # entities in one transaction
_REPLAY = 16_384  # logged rows applied together


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a push: rows taken, rows that the source's `where` dropped, log sequence of the first row."""

    accepted: int
    rejected: int
    sequence: int


@dataclass(slots=True)
class _Checked:
    """A push that may be logged: its arrival and its accepted rows, with positions where sequences come later."""

    place: int
    source: str
    rows: list[Row]
    arrival: int
    table: pa.Table
    rejected: int
    views: dict[str, Rows]


class Ingest:
    """Apply pushes to the online store. One at a time per project; the log's lock sees to it.

    Args:
        store: The online store, writable.
        log: The ingest log.
        views: What to apply rows to; more with `attach`.
        clock: Stamps arrivals that come without one.
        root: The project's root, so that pushed rows take the column types of the source's files.

    Raises:
        ConflictError: another process writes to the log.
    """

    def __init__(
        self,
        store: OnlineStore,
        log: IngestLog,
        views: Iterable[ViewSpec],
        *,
        clock: Clock,
        root: Path | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._root = root
        self._lock = threading.RLock()
        self._views: dict[str, ViewSpec] = {}  # by digest
        self._layouts: dict[str, WindowLayout | RowLayout] = {}
        self._types: dict[str, Mapping[str, ColumnType] | None] = {}
        log.acquire()
        for view in views:
            self.attach(view)

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The views that rows are applied to."""
        return tuple(self._views.values())

    def attach(self, view: ViewSpec) -> int:
        """Apply a view's source to it from its checkpoint on; returns how many logged rows were replayed.

        A view of the same name and another digest stays, until `detach`.
        """
        with self._lock:
            self._views[view.digest] = view
            self._layouts[view.digest] = WindowLayout(view) if view.is_window else RowLayout(view)
            self._types.pop(view.source.name, None)
            return self._catch_up(view)

    def detach(self, digest: str, *, drop: bool = False) -> None:
        """Stop applying rows to a view; with `drop`, also remove what is stored for it."""
        with self._lock:
            self._views.pop(digest, None)
            self._layouts.pop(digest, None)
            if drop:
                self._store.write(puts=[(checkpoint_key(digest), None)])
                self._store.drop(namespace(digest))

    def push(self, source: str, rows: list[Row], arrival: int | None = None) -> PushResult:
        """Take rows of a source; when this returns they are durable and readable.

        Args:
            source: The source's name.
            rows: One mapping per row, raw columns; times as ISO text (local to the source without an offset), int µs
                or datetime.
            arrival: When they arrived, µs; None is now.

        Raises:
            InputError: a row misses a column or has a wrong type; nothing was taken.
            UnknownName: no view reads such a source.
        """
        result = self.push_many([(source, rows, arrival)])[0]
        if isinstance(result, FlyballError):
            raise result
        return result

    def push_many(self, batches: Sequence[Batch]) -> list[PushResult | FlyballError]:
        """Take many pushes at the price of one sync; a bad one gets its error and leaves the others alone."""
        results: list[PushResult | FlyballError] = [InputError("not looked at")] * len(batches)
        with self._lock:
            good: list[_Checked] = []
            for place, (source, rows, arrival) in enumerate(batches):
                try:
                    now = to_micros(self._clock.now()) if arrival is None else arrival
                    good.append(self._check(place, source, rows, now))
                except FlyballError as error:
                    results[place] = error
            logged = [push for push in good if push.rows]
            firsts = iter(self._log.append_many([(p.source, p.rows, p.arrival) for p in logged]) if logged else ())
            end = 0
            for push in good:
                first = next(firsts) if push.rows else self._log.last() + 1
                results[push.place] = PushResult(push.table.num_rows, push.rejected, first)
                for digest, some in push.views.items():
                    push.views[digest] = replace(some, sequence=some.sequence + first)
                end = max(end, first + len(push.rows) - 1)
            self._apply(logged, end)
        return results

    def materialize(
        self,
        engine: OfflineEngine,
        view: ViewSpec,
        *,
        until: datetime | None = None,
        full: bool = False,
        progress: Progress | None = None,
    ) -> MaterializeResult:
        """Materialize a view while pushes go on (call it from another thread than they come from), then catch up.

        `until` None means now.
        """
        result = materialize(
            engine, self._store, view, until=until or self._clock.now(), full=full, progress=progress, lock=self._lock
        )
        with self._lock:
            if view.digest in self._views:
                self._catch_up(view)
        return result

    def checkpoint(self, view: ViewSpec) -> Checkpoint:
        """Return how far a view's namespace is."""
        return Checkpoint.from_bytes(self._store.get_many([checkpoint_key(view.digest)])[0])

    def close(self) -> None:
        """Let another writer in; the store and the log belong to who made them, the log's lock is given back."""
        with self._lock:
            close = getattr(self._log, "close", None)
            if close is not None:
                close()

    def compact(self) -> int:
        """Turn closed log segments into Parquet, where the log has any; return how many."""
        compact = getattr(self._log, "compact", None)
        with self._lock:
            return int(compact()) if compact is not None else 0

    def _check(self, place: int, source: str, rows: list[Row], arrival: int) -> _Checked:
        """Read rows as history will, so that what is logged can be applied."""
        mine = [view for view in self._views.values() if view.source.name == source]
        if not mine:
            raise UnknownName.of("source", source, {v.source.name for v in self._views.values()})
        if not isinstance(rows, list):
            raise BadRequest(f"rows pushed to {source!r} are {type(rows).__name__}; send a list of objects")
        spec = mine[-1].source
        check_rows(spec, rows, self._types_of(spec))
        reserved = next((name for row in rows for name in row if not isinstance(name, str) or name[:2] == "__"), None)
        if reserved is not None:
            raise BadRequest(f"a row pushed to {source!r} has a column {reserved!r}; such names are flyball's own")
        _encodable(source, rows)
        raw = raw_table(rows) if rows else None
        table, rejected, views = self._read(mine, raw, np.arange(len(rows)), np.full(len(rows), arrival))
        return _Checked(place, source, rows, arrival, table, rejected, views)

    def _read(
        self, views: Sequence[ViewSpec], raw: pa.Table | None, sequence: np.ndarray, arrival: np.ndarray
    ) -> tuple[pa.Table, int, dict[str, Rows]]:
        import pyarrow as pa

        if raw is None:
            return pa.table({}), 0, {}
        raw = raw.append_column("__sequence", pa.array(sequence, pa.int64()))
        raw = raw.append_column("__arrival", pa.array(arrival, pa.int64()))
        read: dict[SourceSpec, tuple[pa.Table, int]] = {}
        for view in views:  # two digests of a view may see two definitions of one source
            if view.source not in read:
                read[view.source] = accept(view.source, raw, self._types_of(view.source))
        table, rejected = read[views[-1].source]
        return table, rejected, {view.digest: read_rows(view, read[view.source][0]) for view in views}

    def _types_of(self, spec: SourceSpec) -> Mapping[str, ColumnType] | None:
        if spec.name not in self._types:
            self._types[spec.name] = None if self._root is None else file_types(self._root, spec)
        return self._types[spec.name]

    def _apply(self, pushes: Sequence[_Checked], end: int) -> None:
        """Write the rows of logged pushes to every view that is not being rebuilt."""
        by_view: dict[str, list[_Checked]] = {}
        for push in pushes:
            for digest in push.views:
                by_view.setdefault(digest, []).append(push)
        writer = _Writer(self._store)
        for digest, mine in by_view.items():
            present = self.checkpoint(self._views[digest])
            if present.building:
                continue
            floor = max(push.arrival for push in mine) - SPAN
            rows = _join([push.views[digest] for push in mine])
            writer.add(self._views[digest], self._layouts[digest], rows, floor, replace_sequence(present, end))
        writer.flush()

    def _catch_up(self, view: ViewSpec) -> int:
        """Replay the log from a view's checkpoint; a view that is being rebuilt waits for that to end."""
        present = self.checkpoint(view)
        if present.building:
            return 0
        logged = self._log.read(view.source.name, after=present.sequence)
        for begin in range(0, logged.num_rows, _REPLAY):
            raw = logged.slice(begin, _REPLAY)
            arrival, sequence = (raw.column(n).to_numpy() for n in ("__arrival", "__sequence"))
            _, _, views = self._read([view], raw.drop_columns(["__arrival", "__sequence"]), sequence, arrival)
            present = replace_sequence(present, int(sequence[-1]))
            writer = _Writer(self._store)
            floor = int(arrival.max()) - SPAN
            writer.add(view, self._layouts[view.digest], views[view.digest], floor, present)
            writer.flush()
        return int(logged.num_rows)


class _Writer:
    """Gather writes into transactions of bounded size; a view's checkpoint goes with its last write."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._clear()

    def _clear(self) -> None:
        self._newer: list[tuple[bytes, bytes]] = []
        self._cells: list[tuple[bytes, bytes]] = []
        self._puts: list[tuple[bytes, bytes | None]] = []

    def add(
        self, view: ViewSpec, layout: WindowLayout | RowLayout, rows: Rows, floor: int, checkpoint: Checkpoint
    ) -> None:
        """Add one view's rows."""
        prefix = namespace(view.digest)
        into = self._cells if view.is_window else self._newer
        for key, value in layout.pack(rows, floor):
            if len(self._newer) + len(self._cells) >= _ITEMS:
                self.flush()
                into = self._cells if view.is_window else self._newer
            into.append((prefix + key, value))
        self._puts.append((checkpoint_key(view.digest), checkpoint.to_bytes()))

    def flush(self) -> None:
        """Write what was gathered, in one transaction."""
        if self._newer or self._cells or self._puts:
            self._store.write(newer=self._newer, cells=self._cells, puts=self._puts)
            self._clear()


def replace_sequence(checkpoint: Checkpoint, sequence: int) -> Checkpoint:
    """Return the checkpoint moved to a sequence; never back."""
    return msgspec.structs.replace(checkpoint, sequence=max(checkpoint.sequence, sequence))


def _join(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several reads as one, with the union of their keys."""
    if len(parts) == 1:
        return parts[0]
    keys = list(dict.fromkeys(key for part in parts for key in part.keys))
    place = {key: i for i, key in enumerate(keys)}
    owner = [np.array([place[k] for k in part.keys], np.int64)[part.owner] for part in parts]
    columns = {
        name: (_stack([p.columns[name][0] for p in parts]), np.concatenate([p.columns[name][1] for p in parts]))
        for name in parts[0].columns
    }
    event, created, known, sequence = (
        np.concatenate([getattr(p, n) for p in parts]) for n in ("event", "created", "known", "sequence")
    )
    return Rows(keys, np.concatenate(owner), event, created, known, sequence, columns)


def _stack(values: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate; where one part has no numbers because all of it is null, its type does not matter."""
    kinds = {v.dtype.kind for v in values if len(v)}
    if "O" in kinds and len(kinds) > 1:
        return np.concatenate([v.astype(object) for v in values])
    return np.concatenate(values)


def _encodable(source: str, rows: Sequence[Row]) -> None:
    try:
        msgspec.msgpack.encode(rows)
    except (TypeError, OverflowError, ValueError) as error:
        raise BadRequest(f"rows pushed to {source!r} hold a value that cannot be logged: {error}") from error
