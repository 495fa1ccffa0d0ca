"""Take pushed rows: check, log, fold into every view of their source; the only writer of the online store.

The surprise: nothing here needs to succeed after the log has the rows. Each view's checkpoint is written in the
transaction that applied rows up to it, and a replay goes on from there; applying a row again changes nothing. So a
crash at any point loses no acknowledged row and counts none twice, and a store that is away for a while gets what it
missed before it gets anything newer.

A row counts as known from its publication on (see `publication`). Where that turns out later than planned, the log
gets a correction, which history and replay apply.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from flyball.clock import Clock
from flyball.errors import BadRequest, FlyballError, InputError, Unavailable, UnknownName
from flyball.features.applying import Layout, Part, join_rows, moved, stamped, write_slice
from flyball.features.arrival import arrivals_key
from flyball.features.cells import WindowLayout
from flyball.features.erase import RewritableLog, Stored, erase_stored, subject_of
from flyball.features.materialize import Detail, MaterializeResult, Progress, materialize
from flyball.features.packing import Checkpoint, RowLayout, Rows, checkpoint_key, namespace, read_rows
from flyball.features.ports import IngestLog, OfflineEngine, OnlineStore
from flyball.features.publication import Gate, Lead, LocalGate, is_simulated
from flyball.features.pushcheck import check_pushed
from flyball.features.pushes import Batch, PushResult, id_key, id_keys
from flyball.features.raw import raw_table
from flyball.features.reading import accept, file_types
from flyball.features.spec import ColumnType, SourceSpec, ViewSpec
from flyball.features.upkeep import Upkeep
from flyball.records.types import Published
from flyball.units import to_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Batch", "Ingest", "PushResult"]

Row = dict[str, Any]
_SLICE = 2_048  # rows in one transaction
_REPLAY = 16_384  # logged rows read together
_UNSTAMPED = -(2**62)


@dataclass(slots=True)
class _Checked:
    """A push that may be logged; its rows wait for stamp and sequence."""

    place: int
    batch: Batch
    rows: list[Row]
    keys: list[bytes]
    accepted: int
    rejected: int
    duplicates: int
    seen: int  # sequence of the first duplicate
    views: dict[str, Rows]


class Ingest:
    """Apply pushes to the online store. One at a time per project; the log's lock sees to it.

    Args:
        store: The online store, writable.
        log: The ingest log.
        views: What to apply rows to; more with `attach`.
        clock: Stamps arrivals that come without one; not held back by the gate.
        root: The project's root, so that pushed rows take the column types of the source's files.
        gate: What holds the readers' clock back while rows are published; by default one for this process's threads.
        upkeep: What materializations remember outside of the store; nothing by default.
        state: The project's state folder, where types that were pinned at apply lie; `.flyball` in the root by default.

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
        gate: Gate | None = None,
        upkeep: Upkeep | None = None,
        state: Path | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._clock = clock
        self._root = root
        self.gate: Gate = gate or LocalGate()
        self._upkeep = upkeep
        self._state = state
        self._lead = Lead(0.5 if self.gate.patience else 0.99)
        self._lock = threading.RLock()
        self._views: dict[str, ViewSpec] = {}  # by digest
        self._layouts: dict[str, Layout] = {}
        self._types: dict[str, Mapping[str, ColumnType] | None] = {}
        self._applied: dict[str, int] = {}  # by digest, what this process brought the store to
        self.behind = ""  # why the store lacks logged rows, empty when it does not
        log.acquire()
        views = list(views)
        self._publish_unapplied(views)
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
            self._applied.setdefault(view.digest, 0)
            if view.source.event_id:
                self._follow_ids(view.source)
            return self._catch_up(view)

    def detach(self, digest: str, *, drop: bool = False) -> None:
        """Stop applying rows to a view; with `drop`, also remove what is stored for it."""
        with self._lock:
            self._views.pop(digest, None)
            self._layouts.pop(digest, None)
            self._applied.pop(digest, None)
            if drop:
                self._store.write(puts=[(checkpoint_key(digest), None), (arrivals_key(digest), None)])
                self._store.drop(namespace(digest))

    def push(self, source: str, rows: list[Row], arrival: int | None = None) -> PushResult:
        """Take rows of a source; when this returns they are durable and readable.

        Args:
            source: The source's name.
            rows: One mapping per row, raw columns; times as ISO text (local to the source without an offset), int µs
                or datetime.
            arrival: When they arrived, µs; None is their publication, a little after now.

        Raises:
            InputError: a row misses a column or has a wrong type; nothing was taken.
            UnknownName: no view reads such a source.
            Unavailable: the log or the store cannot take them now.
        """
        result = self.push_many([(source, rows, arrival)])[0]
        if isinstance(result, FlyballError):
            raise result
        if arrival is None and not is_simulated(self._clock):
            while (left := result.published - self._now()) > 0:
                time.sleep(left / 1e6)
        return result

    def push_many(
        self, batches: Sequence[Batch | tuple[str, list[Row], int | None]]
    ) -> list[PushResult | FlyballError]:
        """Take many pushes at the price of one sync; a bad one gets its error and leaves the others alone.

        It does not wait for the rows' publication; whoever acknowledges waits until `published`.
        """
        results: list[PushResult | FlyballError] = [InputError("not looked at")] * len(batches)
        with self._lock:
            self.recover()
            good: list[_Checked] = []
            taken: dict[bytes, int] = {}
            for place, given in enumerate(batches):
                batch = given if isinstance(given, Batch) else Batch(*given)
                try:
                    good.append(self._check(place, batch, taken))
                except FlyballError as error:
                    results[place] = error
            for push, result in zip(good, self._take(good), strict=True):
                results[push.place] = result
        return results

    def recover(self) -> bool:
        """Bring the store up to the log when it is behind; return whether it was.

        Raises:
            Unavailable: it cannot be done yet; nothing is taken while that is so.
        """
        with self._lock:
            if not self.behind:
                return False
            try:
                self._publish_unapplied(list(self._views.values()))
                for source in {v.source.name: v.source for v in self._views.values() if v.source.event_id}.values():
                    self._follow_ids(source)
                for view in list(self._views.values()):
                    self._catch_up(view)
            except FlyballError as error:
                raise Unavailable(
                    f"the online store lacks rows that the log has ({self.behind}) and cannot take them yet: {error}; "
                    "nothing of this push was kept, send it again"
                ) from error
            self.behind = ""
            return True

    def explain(self, source: str, rows: Sequence[Any]) -> dict[int, str]:
        """Return what is wrong with each row that cannot be taken, by its place."""
        with self._lock:
            spec = self._source(source)[-1].source
            wrong: dict[int, str] = {}
            for k, row in enumerate(rows):
                try:
                    self._checked(spec, [row])
                    if spec.event_id:
                        id_keys(spec, [row])
                except InputError as error:
                    wrong[k] = str(error).removeprefix("row 0 ")
            if not wrong:
                for k, row in enumerate(rows):
                    try:
                        self._read(self._source(source), raw_table([row]), np.zeros(1, np.int64), np.zeros(1, np.int64))
                    except FlyballError as error:
                        wrong[k] = str(error)
            return wrong

    def positions(self, stream: str) -> dict[str, str]:
        """Return where the consumer of a stream stands in the log, by partition."""
        return self._log.positions(stream)

    def dead(self, source: str | None = None) -> list[dict[str, Any]]:
        """Return the messages that were no rows of their source, oldest first."""
        return list(self._log.dead(source).to_pylist())

    def materialize(
        self,
        engine: OfflineEngine,
        view: ViewSpec,
        *,
        until: datetime | None = None,
        full: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        progress: Progress | None = None,
        detail: Detail | None = None,
    ) -> MaterializeResult:
        """Materialize a view while pushes go on (call it from another thread than they come from), then catch up.

        `until` None means now; see `features.materialize` for the rest.
        """
        result = materialize(
            engine, self._store, view, until=until or self._clock.now(), full=full, start=start, end=end,
            progress=progress, detail=detail, lock=self._lock, upkeep=self._upkeep, clock=self._clock,
        )  # fmt: skip
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

    def erase(
        self,
        subject: Mapping[str, Any],
        views: Sequence[ViewSpec],
        sources: Sequence[SourceSpec],
        known: Mapping[str, Sequence[bytes]],
    ) -> Stored:
        """Take a subject's rows out of the log and its keys out of the store, for good; see `features/erase.py`."""
        with self._lock:
            log = cast("RewritableLog", self._log)
            return erase_stored(self._store, log, views, sources, subject_of(subject, views), known=known)

    def compact(self) -> int:
        """Turn closed log segments into Parquet, where the log has any; return how many."""
        compact = getattr(self._log, "compact", None)
        with self._lock:
            return int(compact()) if compact is not None else 0

    # ------------------------------------------------------------------------------------------ checking

    def _source(self, source: str) -> list[ViewSpec]:
        mine = [view for view in self._views.values() if view.source.name == source]
        if not mine:
            raise UnknownName.of("source", source, {v.source.name for v in self._views.values()})
        return mine

    def _check(self, place: int, batch: Batch, taken: dict[bytes, int]) -> _Checked:
        """Read rows as history will, so that what is logged can be applied; leave out what was taken before."""
        mine = self._source(batch.source)
        spec = mine[-1].source
        if not isinstance(batch.rows, list):
            raise BadRequest(f"rows pushed to {spec.name!r} are {type(batch.rows).__name__}; send a list of objects")
        self._checked(spec, batch.rows)
        rows, seen, duplicates = batch.rows, 0, 0
        keys: list[bytes] = []
        if spec.event_id:
            rows, keys, seen = self._fresh(spec, rows, taken)
            duplicates = len(batch.rows) - len(rows)
        count = np.arange(len(rows))
        raw = raw_table(rows) if rows else None
        accepted, rejected, views = self._read(mine, raw, count, np.full(len(rows), _UNSTAMPED))
        taken.update(dict.fromkeys(keys, 1))
        return _Checked(place, batch, rows, keys, accepted, rejected, duplicates, seen, views)

    def _checked(self, spec: SourceSpec, rows: list[Row]) -> None:
        check_pushed(spec, rows, self._types_of(spec))
        names = dict.fromkeys(name for keys in {tuple(row) for row in rows} for name in keys)
        reserved = next((name for name in names if not isinstance(name, str) or name[:2] == "__"), None)
        if reserved is not None:
            raise BadRequest(f"a row pushed to {spec.name!r} has a column {reserved!r}; such names are flyball's own")
        try:
            msgspec.msgpack.encode(rows)
        except (TypeError, OverflowError, ValueError) as error:
            raise BadRequest(f"rows pushed to {spec.name!r} hold a value that cannot be logged: {error}") from error

    def _fresh(self, spec: SourceSpec, rows: list[Row], taken: dict[bytes, int]) -> tuple[list[Row], list[bytes], int]:
        """Return the rows whose event id is new, their ids' digests, and where the first other one was taken."""
        keys = id_keys(spec, rows)
        found = self._log.event_ids.find(keys)
        here: set[bytes] = set()
        kept: list[int] = []
        for k, (key, sequence) in enumerate(zip(keys, found, strict=True)):
            if not sequence and key not in taken and key not in here:
                here.add(key)
                kept.append(k)
        seen = next((sequence for sequence in found if sequence), 0)
        if len(kept) == len(rows):
            return rows, keys, seen
        return [rows[k] for k in kept], [keys[k] for k in kept], seen

    def _read(
        self, views: Sequence[ViewSpec], raw: pa.Table | None, sequence: np.ndarray, arrival: np.ndarray
    ) -> tuple[int, int, dict[str, Rows]]:
        import pyarrow as pa

        if raw is None:
            return 0, 0, {}
        raw = raw.append_column("__sequence", pa.array(sequence, pa.int64()))
        raw = raw.append_column("__arrival", pa.array(arrival, pa.int64()))
        read: dict[SourceSpec, tuple[pa.Table, int]] = {}
        for view in views:  # two digests of a view may see two definitions of one source
            if view.source not in read:
                read[view.source] = accept(view.source, raw, self._types_of(view.source))
        table, rejected = read[views[-1].source]
        return table.num_rows, rejected, {view.digest: read_rows(view, read[view.source][0]) for view in views}

    def _types_of(self, spec: SourceSpec) -> Mapping[str, ColumnType] | None:
        if spec.name not in self._types:
            told = self._root is not None or bool(spec.schema)
            self._types[spec.name] = file_types(self._root or Path(), spec, self._state) if told else None
        return self._types[spec.name]

    # ------------------------------------------------------------------------------------------ taking

    def _take(self, pushes: list[_Checked]) -> list[PushResult | FlyballError]:
        """Log pushes, apply them, and say from when they are readable."""
        logged = [p for p in pushes if p.rows or p.batch.origin or p.batch.dead]
        rows = sum(len(p.rows) for p in logged)
        if not logged:
            following = self._log.last() + 1
            return [PushResult(0, 0, p.seen or following, p.duplicates) for p in pushes]
        with self._publishing(rows) as stamp:
            began = time.monotonic_ns()
            arrivals = [stamp if p.batch.arrival is None else p.batch.arrival for p in logged]
            try:
                firsts = self._log.append_many(
                    [(p.batch.source, p.rows, at, p.batch.origin) for p, at in zip(logged, arrivals, strict=True)],
                    dead=[letter for p in logged for letter in p.batch.dead],
                )
            except Unavailable as error:
                self.behind = "the log failed"  # it may have the rows or not: whoever recovers looks
                return [error for _ in pushes]
            except BaseException:
                self.behind = "the log failed"
                raise
            pending = self._apply(logged, arrivals, firsts)
            published = self._correct(logged, firsts, stamp, pending)
            self._lead.saw(rows, (time.monotonic_ns() - began) // 1000)
        at = {id(p): first for p, first in zip(logged, firsts, strict=True)}
        following = self._log.last() + 1
        return [
            PushResult(p.accepted, p.rejected, at[id(p)] if p.rows else p.seen or following, p.duplicates,
                       published if p.batch.arrival is None else p.batch.arrival, pending)
            for p in pushes
        ]  # fmt: skip

    @contextmanager
    def _publishing(self, rows: int) -> Iterator[int]:
        """Plan a publication and hold the gate at it; the gate is held before the plan is made, so none is late."""
        if is_simulated(self._clock):
            yield self._now()
            return
        self.gate.hold(self._now())
        try:
            stamp = self._now() + self._lead.of(rows)
            self.gate.hold(stamp)
            yield stamp
        finally:
            self.gate.release()

    def _apply(self, pushes: Sequence[_Checked], arrivals: Sequence[int], firsts: Sequence[int]) -> bool:
        """Write logged rows to every view that is not being rebuilt; return whether the store did not take them."""
        for push, arrival, first in zip(pushes, arrivals, firsts, strict=True):
            sequences = range(first, first + len(push.rows))
            if push.keys:
                self._log.event_ids.add(push.batch.source, push.keys, sequences, arrival)
        try:
            if self._lags():
                self.behind = "it came back older than it was"
                return not self.recover()
            parts = self._parts_of(pushes, arrivals, firsts)
            end = max(first + len(p.rows) - 1 for p, first in zip(pushes, firsts, strict=True))
            self._write(parts, max(arrivals), min(firsts), end)
        except Unavailable as error:
            self.behind = self.behind or str(error)
            return True
        except BaseException as error:
            self.behind = repr(error)
            raise
        return False

    def _lags(self) -> bool:
        """Whether the store holds less than this process wrote: it was restored, or emptied."""
        digests = list(self._applied)
        stored = self._store.get_many([checkpoint_key(d) for d in digests])
        self._present = {d: Checkpoint.from_bytes(s) for d, s in zip(digests, stored, strict=True)}
        return any(c.sequence < self._applied[d] and not c.building for d, c in self._present.items())

    def _parts_of(
        self, pushes: Sequence[_Checked], arrivals: Sequence[int], firsts: Sequence[int]
    ) -> list[tuple[str, Rows]]:
        by_view: dict[str, list[Rows]] = {}
        for push, arrival, first in zip(pushes, arrivals, firsts, strict=True):
            for digest, rows in push.views.items():
                by_view.setdefault(digest, []).append(stamped(rows, arrival, first))
        return [(d, join_rows(some)) for d, some in by_view.items() if not self._present[d].building]

    def _write(self, rows: Sequence[tuple[str, Rows]], arrival: int, first: int, end: int) -> None:
        """Write joined rows in slices of the log, each in one transaction over all views."""
        for begin in range(first, end + 1, _SLICE):
            last = min(begin + _SLICE - 1, end)
            parts: list[Part] = []
            for digest, some in rows:
                whole = begin == first and last == end
                mine = some if whole else some.take((some.sequence >= begin) & (some.sequence <= last))
                note = moved(self._present[digest], last)
                parts.append((self._views[digest], self._layouts[digest], mine, note))
            write_slice(self._store, parts, arrival)
            for view, _, _, note in parts:
                self._applied[view.digest] = note.sequence

    def _correct(self, pushes: Sequence[_Checked], firsts: Sequence[int], stamp: int, pending: bool) -> int:
        """Record a publication that came later than any reader waited for; return when it was."""
        if is_simulated(self._clock) or pending:
            return stamp
        now = self._now()
        if now <= stamp + self.gate.patience:
            return stamp
        self._log.publish([
            Published(p.batch.source, first, first + len(p.rows) - 1, now)
            for p, first in zip(pushes, firsts, strict=True) if p.rows and p.batch.arrival is None
        ])  # fmt: skip
        return now

    def _now(self) -> int:
        return to_micros(self._clock.now())

    # ------------------------------------------------------------------------------------------ replaying

    def _publish_unapplied(self, views: Sequence[ViewSpec]) -> None:
        """Say of logged rows that no view has yet that they are published now.

        A view without a checkpoint is new: that it is filled later changes nothing about when its rows were known.
        """
        marks = []
        for source in dict.fromkeys(view.source.name for view in views):
            stored = self._store.get_many([checkpoint_key(v.digest) for v in views if v.source.name == source])
            tops = [Checkpoint.from_bytes(s).sequence for s in stored if s is not None]
            last = self._log.last()
            if not tops or max(tops) >= last:
                continue
            rows = sum(t.num_rows for t in self._log.read_batches(source, after=max(tops)))
            if rows:
                at = self._now() + (0 if is_simulated(self._clock) else self._lead.of(rows))
                marks.append(Published(source, max(tops) + 1, last, at))
        if marks:
            if not is_simulated(self._clock):
                self.gate.hold(min(mark.at for mark in marks))
            self._log.publish(marks)

    def _catch_up(self, view: ViewSpec) -> int:
        """Replay the log from a view's checkpoint; a view that is being rebuilt waits for that to end."""
        present = self.checkpoint(view)
        if present.building:
            return 0
        replayed = 0
        for raw in self._log.read_batches(view.source.name, after=present.sequence, rows=_REPLAY):
            stamps, sequence = (raw.column(n).to_numpy() for n in ("__arrival", "__sequence"))
            _, _, rows = self._read([view], raw.drop_columns(["__arrival", "__sequence"]), sequence, stamps)
            present = moved(present, int(sequence[-1]))
            part = (view, self._layouts[view.digest], rows[view.digest], present)
            write_slice(self._store, [part], int(stamps.max()))
            replayed += raw.num_rows
        if not replayed and self._store.get_many([checkpoint_key(view.digest)])[0] is None:
            self._store.write(puts=[(checkpoint_key(view.digest), present.to_bytes())])  # it is no new view any more
        self._applied[view.digest] = present.sequence
        self.gate.release()
        return replayed

    def _follow_ids(self, source: SourceSpec) -> None:
        """Bring the index of event ids up to the log."""
        ids = self._log.event_ids
        for raw in self._log.read_batches(source.name, after=ids.covered(source.name)):
            sequence = raw.column("__sequence").to_pylist()
            keys: list[bytes] = []
            places: list[int] = []
            if source.event_id in raw.column_names:
                for value, place in zip(raw.column(source.event_id).to_pylist(), sequence, strict=True):
                    if value is not None:
                        keys.append(id_key(source.name, value))
                        places.append(place)
            ids.add(source.name, keys, places, int(raw.column("__arrival")[-1].as_py()), last=sequence[-1])
