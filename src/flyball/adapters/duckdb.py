"""Read sources with DuckDB: scan files, tables and queries, derive, filter, add what was pushed; answer requests.

The surprise: only Parquet of plain types is read by SQL as a whole (`duckdb_sql`). What SQL cannot say exactly (CSV
times, transformations, declared types that differ from a file's) leaves DuckDB raw (`duckdb_raw`) and goes the way of
pushed rows. Both mean the same; a property test holds them equal.

Order of rows: by (event, created, sequence). A file row's sequence is -(2**62) + (place of its file among all files of
the source by name << 32) + its row number, negative, so a file whose name comes last changes nobody else's; a table's
rows are numbered in order of their content; a pushed row's is its number in the ingest log, 1 and up.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flyball.adapters import duckdb_parts as parts
from flyball.adapters import duckdb_raw as raw_rows
from flyball.adapters.duckdb_parts import Published
from flyball.adapters.duckdb_run import Runner
from flyball.adapters.duckdb_sql import FIRST_SEQUENCE, Query, is_local
from flyball.errors import SourceError, UnknownName
from flyball.features import reading, types
from flyball.features.answers import answer_rows, row_columns
from flyball.features.chunks import answer_in_buckets, buckets_for
from flyball.features.frames import freeze
from flyball.features.kernel.timeline import row_order
from flyball.features.ports import FileInfo, IngestLog
from flyball.features.reading import files as listing
from flyball.features.reading.files import Reference, Shape, SourceFile
from flyball.features.reading.rows import derived, finish, not_quarantined
from flyball.features.reading.schema import columns_of_step, needed, needed_steps, output_types, quarantine_columns
from flyball.features.spec import ColumnType, FeatureSpec, Join, SourceSpec, ViewSpec
from flyball.features.zones import zone

__all__ = ["DuckDBEngine", "SourceReport"]

_GUESSED_ROWS = 1_000_000  # of a CSV file, table or query, when somebody must guess


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What reading a source met: rows seen, rows left out, event times in a missing or a doubled local hour.

    Left out are rows that `where` dropped, that have no event time, or that are quarantined.
    """

    rows: int
    rejected: int
    missing_hour: int
    doubled_hour: int


@dataclass(frozen=True, slots=True)
class _Pushed:
    """Pushed rows up to sequence `last`, accepted under these column types and this revision of the log."""

    types: Mapping[str, ColumnType] | None
    revision: object
    last: int
    table: pa.Table
    rejected: int


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source as it lies: its raw types (None: only pushes tell them), outputs, files, pushed rows."""

    reference: Reference | None
    outputs: Mapping[str, ColumnType]
    files: tuple[SourceFile, ...]
    shapes: Mapping[str, Shape]
    pushed: _Pushed | None


class DuckDBEngine:
    """Move rows on one machine.

    Args:
        root: The project's root; sources' paths are relative to it.
        log: Where pushed rows are kept; None when nothing is pushed.
        threads: DuckDB's threads per query.
        state: Where frames and pinned types lie; `.flyball` in the root by default.
        published: When the files of a view's source became readable online (path -> µs), for `answer`.
    """

    def __init__(
        self,
        root: Path,
        log: IngestLog | None = None,
        *,
        threads: int = 1,
        state: Path | None = None,
        published: Callable[[ViewSpec], Published] | None = None,
    ) -> None:
        self._root = Path(root)
        self._log = log
        self._threads = threads
        self._runner = Runner(self._root, threads)
        self._state = self._root / ".flyball" if state is None else Path(state)
        self._published = published
        self._lock = threading.Lock()  # two threads may scan; a log is read by one
        self._accepted: dict[SourceSpec, _Pushed] = {}

    # -------------------------------------------------------------------------------------------- what there is

    def types(self, source: SourceSpec, *, fresh: bool = False) -> dict[str, ColumnType]:
        """Return the types of a source's raw and derived columns; `fresh` forgets what was pinned of the raw ones."""
        return dict(self._open(source, fresh=fresh).outputs)

    def pin(self, source: SourceSpec) -> dict[str, ColumnType]:
        """Pin a source's raw types as they are now: from here on a file with others is an error. Done at apply."""
        opened = self._open(source, fresh=True)
        ref = opened.reference
        if ref is not None and source.kind not in {"push", "stream"} and (opened.shapes or source.kind != "parquet"):
            optional = [n for n in ref.types if any(n not in s.fields for s in opened.shapes.values())]
            listing.write_pin(self._root, source, ref.types, optional, state=self._state)
        return dict(opened.outputs)

    def files(self, source: SourceSpec) -> list[FileInfo]:
        """Return a source's files in order of their names; see `OfflineEngine.files`.

        Raises:
            SourceError: a file cannot be read.
        """
        found = []
        for file in self._files(source):
            rows = self._shape(source, file).rows
            rows = self._csv_count(source, file) if rows < 0 else rows
            found.append(FileInfo(file.name, file.index, *listing.stamp(file), rows))
        return found

    def rejected(self, source: SourceSpec) -> int:
        """Return how many rows were left out (rows without an event time and quarantined ones included)."""
        return self.report(source).rejected

    def report(self, source: SourceSpec) -> SourceReport:
        """Count what reading the whole source meets."""
        opened = self._open(source)
        rows = rejected = missing = doubled = 0
        if opened.pushed is not None:
            rows += opened.pushed.table.num_rows + opened.pushed.rejected
            rejected += opened.pushed.rejected
        for seen, kept in self._counts(source, opened):
            rows, rejected = rows + seen, rejected + seen - kept
        if source.kind in {"parquet", "frame"}:
            found = zone(source.timezone).to_utc(self._local_events(source, opened))
            missing, doubled = found.missing, found.doubled
        return SourceReport(rows, rejected, missing, doubled)

    def forget(self, source: str) -> None:
        """Forget the rows pushed to a source that are held in memory; the next look reads the log again."""
        with self._lock:
            for spec in [s for s in self._accepted if s.name == source]:
                del self._accepted[spec]

    # -------------------------------------------------------------------------------------------- rows

    def scan(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        files: Sequence[str] | None = None,
        pushed: bool = True,
        published: Published | None = None,
    ) -> pa.Table:
        """Return accepted rows as Arrow, sorted by (event, created, sequence); see `OfflineEngine.scan`.

        Raises:
            SourceError: there is no file and nothing was pushed, a file cannot be read, a column is missing or has
                another type than it had.
        """
        found = list(self._pieces(source, columns, start, end, files, pushed, published, whole=True))
        table = pa.concat_tables(found) if len(found) > 1 else found[0]
        if len(found) == 1 and parts.is_sorted(source, self._state):
            return table
        order = row_order(*(table.column(n).to_numpy() for n in ("__event", "__created", "__sequence")))
        return table if order is None else table.take(pa.array(order))

    def batches(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
        files: Sequence[str] | None = None,
        pushed: bool = True,
        published: Published | None = None,
    ) -> Iterator[pa.Table]:
        """Return the rows of `scan` in pieces of bounded size, in no order."""
        return self._pieces(source, columns, start, end, files, pushed, published, whole=False)

    def answer(self, requests: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], *, join: Join) -> pa.Table:
        """Answer one view's features; see `OfflineEngine.answer`. What is too much for memory goes through buckets."""
        if buckets_for(self.count(view.source), requests.num_rows) == 1:
            rows = self.scan(view.source, columns=row_columns(view, features), published=self._published_of(view))
            return answer_rows(rows, requests, view, features, join=join)
        pieces = (requests.slice(i, raw_rows.ROWS) for i in range(0, max(requests.num_rows, 1), raw_rows.ROWS))
        return pa.concat_tables(self.answers(pieces, view, features, join=join, expected=requests.num_rows))

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
        """Answer requests of any number in bounded memory; see `OfflineEngine.answers`."""
        buckets = buckets_for(self.count(view.source), expected)
        if buckets == 1:
            whole = pa.concat_tables(requests)
            yield self.answer(whole, view, features, join=join)
            if done is not None:
                done(whole.num_rows)
            return
        spill = self._state / "spill"
        spill.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=spill))
        columns = row_columns(view, features)
        rows = self.batches(view.source, columns=columns, published=self._published_of(view))
        try:
            yield from answer_in_buckets(
                rows, requests, view, features, join=join, buckets=buckets, folder=folder, done=done
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def count(self, source: SourceSpec) -> int:
        """Return about how many rows a source has, without reading them."""
        pushed = self._logged(source)
        rows = [self._shape(source, f).rows for f in self._files(source)]
        if source.kind in {"table", "query"}:
            rows = [_GUESSED_ROWS]
        guessed = sum(listing.stamp(f)[0] // 30 for f, n in zip(self._files(source), rows, strict=False) if n < 0)
        return sum(n for n in rows if n > 0) + guessed + pushed

    def _published_of(self, view: ViewSpec) -> Published | None:
        return None if self._published is None else self._published(view)

    # -------------------------------------------------------------------------------------------- opening

    def _open(self, source: SourceSpec, *, fresh: bool = False, hold: bool = True) -> _Opened:
        """Look at a source; without `hold` its pushed rows are left in the log, if their types are known without."""
        files = self._files(source)
        shapes = {f.name: self._shape(source, f) for f in files}
        if source.kind in {"table", "query"}:
            shapes = {source.name: raw_rows.relation_shape(source, self._root, self._threads)}
        pin = None if fresh else listing.read_pin(self._root, source, self._state)
        ref = listing.reference(source, shapes, pin)
        if source.kind == "csv":
            ref = parts.csv_times(source, ref)
        if pin is None and not fresh and shapes and source.kind in {"csv", "table", "query"}:
            listing.write_pin(self._root, source, ref.types, state=self._state)
        held = hold or not ref.types
        pushed = self._pushed(source, ref.types or None) if held else None
        some = pushed is not None if held else self._logged(source) > 0
        if ref.types and (shapes or some or source.kind in {"push", "stream"}):
            outputs = output_types(source, ref.types)
            if not some and files and not any(s.rows for s in shapes.values()):
                raise SourceError(f"source {source.name!r} is empty: the files at {source.path!r} hold no rows")
            return _Opened(ref, outputs, tuple(files), shapes, pushed)
        if pushed is None:
            raise SourceError(parts.nothing(source))
        fields = (f for f in pushed.table.schema if not f.name.startswith("__"))
        return _Opened(None, {f.name: types.from_arrow(f) or "float64" for f in fields}, (), {}, pushed)

    def _files(self, source: SourceSpec) -> list[SourceFile]:
        if source.kind == "frame":
            freeze(source, self._state)
        return listing.source_files(self._root, source, self._state)

    def _shape(self, source: SourceSpec, file: SourceFile) -> Shape:
        if source.kind == "csv":
            return raw_rows.csv_shape(source, self._root, file)
        return listing.parquet_shape(source, file)

    def _csv_count(self, source: SourceSpec, file: SourceFile) -> int:
        reference = self._open(source).reference
        assert reference is not None  # a CSV file has columns
        kinds = dict(list(reference.types.items())[:1])
        return sum(t.num_rows for t in raw_rows.csv_rows(source, self._root, file, kinds, self._threads))

    def _pushed(self, source: SourceSpec, kinds: Mapping[str, ColumnType] | None) -> _Pushed | None:
        """Accept what was pushed since the last call; all of it when the types or the log's past changed."""
        if self._log is None:
            return None
        with self._lock:
            revision = (parts.revision(self._log, source.name), parts.erased(self._state))
            before = self._accepted.get(source)
            if before is None or kinds is None or before.types != kinds or before.revision != revision:
                before = _Pushed(kinds, revision, 0, pa.table({}), 0)
            raw = self._log.read(source.name, after=before.last)
            sequence = raw.column("__sequence").to_numpy() if raw.num_rows else np.empty(0, dtype=np.int64)
            raw = raw.filter(pa.array(sequence > before.last)) if raw.num_rows else raw
            if raw.num_rows:
                table, rejected = reading.accept(source, raw, kinds)
                whole = pa.concat_tables([before.table, table]) if before.last else table
                before = _Pushed(kinds, revision, int(sequence.max()), whole, before.rejected + rejected)
                self._accepted[source] = before
            return before if before.last else None

    # -------------------------------------------------------------------------------------------- pieces

    def _pieces(
        self,
        source: SourceSpec,
        columns: Sequence[str],
        start: datetime | None,
        end: datetime | None,
        files: Sequence[str] | None,
        pushed: bool,
        published: Published | None,
        *,
        whole: bool,
    ) -> Iterator[pa.Table]:
        columns = list(dict.fromkeys(columns))
        opened = self._open(source, hold=whole)
        for name in columns:
            if name not in opened.outputs:
                raise SourceError(f"source {source.name!r}: {UnknownName.of('column', name, opened.outputs)}")
        schema = parts.schema(columns, opened.outputs)
        found = False
        for table in self._file_pieces(source, opened, columns, start, end, files, published or {}, whole=whole):
            found = True
            yield parts.cast(source, table, schema, columns, opened.outputs)
        if opened.pushed is not None and pushed:
            found = True
            yield parts.between(opened.pushed.table.select(schema.names).cast(schema), start, end)
        elif pushed and not whole and opened.reference is not None:
            for table in self._pushed_pieces(source, opened.reference.types):
                found = True
                yield parts.between(table.select(schema.names).cast(schema), start, end)
        if not found:
            yield schema.empty_table()

    def _pushed_pieces(self, source: SourceSpec, kinds: Mapping[str, ColumnType]) -> Iterator[pa.Table]:
        """Accept what was pushed piece by piece; nothing of it stays in memory."""
        last = 0
        while True:
            with self._lock:
                raw = None if self._log is None else next(self._log.read_batches(source.name, after=last), None)
            if raw is None:
                return
            last = int(raw.column("__sequence").to_numpy().max())
            yield reading.accept(source, raw, kinds)[0]

    def _logged(self, source: SourceSpec) -> int:
        """Return how many rows of a source the log has."""
        with self._lock:
            return 0 if self._log is None else self._log.rows(source.name)

    def _file_pieces(
        self,
        source: SourceSpec,
        opened: _Opened,
        columns: Sequence[str],
        start: datetime | None,
        end: datetime | None,
        files: Sequence[str] | None,
        published: Published,
        *,
        whole: bool,
    ) -> Iterator[pa.Table]:
        ref = opened.reference
        if ref is None or not opened.shapes:
            return
        wanted = [f for f in opened.files if files is None or f.name in files]
        wanted = parts.overlapping(source, wanted, start, end)
        steps, raw = needed_steps(source, {*columns, *quarantine_columns(source)})
        for name, shape in opened.shapes.items():
            listing.check_file(source, name, shape, ref, raw | {c.name for c in source.schema})
        if source.kind not in {"parquet", "frame"} or not all(
            parts.is_plain(opened.shapes[f.name], ref, raw) for f in wanted
        ):
            yield from self._accepted_rows(source, opened, columns, wanted, start, end, published)
            return
        sql_steps, rest = parts.split(steps)
        late = {name for name, _ in rest}
        where = None if source.where and columns_of_step(source.where) & late else source.where
        for part in parts.group(wanted, opened.shapes, raw, published):
            self._runner.refuse_naive(source, part, ref, raw)
            query = Query(source, ref.types, sql_steps, raw, part, where)
            if not rest:
                asked = list(dict.fromkeys([*columns, *sorted(quarantine_columns(source))]))
                for table in self._runner.run(source, query.rows(asked, start, end), part, whole=whole):
                    yield not_quarantined(source, parts.typed_like(table, query.types))
                continue
            carried = parts.carried(source, columns, rest, where is None)
            for table in self._runner.run(source, query.unfinished(carried), part, whole=whole):
                made = derived(parts.typed_like(table, query.types), rest)
                kept, _ = finish(source, made, where=source.where if where is None else None)
                yield parts.between(parts.published_at(kept, part), start, end)

    def _accepted_rows(
        self,
        source: SourceSpec,
        opened: _Opened,
        columns: Sequence[str],
        files: Sequence[SourceFile],
        start: datetime | None,
        end: datetime | None,
        published: Published,
    ) -> Iterator[pa.Table]:
        """Read raw rows and accept them as pushed ones are."""
        assert opened.reference is not None
        raw = needed(source) | ({*columns} & opened.reference.types.keys())
        kinds = {n: k for n, k in opened.reference.types.items() if n in raw}
        for file, tables in self._raw_tables(source, files, kinds):
            row = FIRST_SEQUENCE + ((0 if file is None else file.index) << 32)
            for table in tables:
                numbered = table.append_column("__sequence", pa.array(np.arange(row, row + table.num_rows)))
                row += table.num_rows
                kept, _ = reading.accept(source, numbered, kinds)
                at = None if file is None else published.get(file.name)
                yield parts.between(parts.known_from(kept, at), start, end)

    def _raw_tables(
        self, source: SourceSpec, files: Sequence[SourceFile], kinds: Mapping[str, ColumnType]
    ) -> Iterator[tuple[SourceFile | None, Iterator[pa.Table]]]:
        if source.kind in {"table", "query"}:
            yield None, raw_rows.relation_rows(source, self._root, kinds, self._threads)
        for file in files:
            if source.kind == "csv":
                yield file, raw_rows.csv_rows(source, self._root, file, kinds, self._threads)
            else:
                yield file, raw_rows.parquet_rows(source, file, kinds)

    def _counts(self, source: SourceSpec, opened: _Opened) -> Iterator[tuple[int, int]]:
        """Return (rows, accepted rows) of the files, part by part."""
        ref = opened.reference
        if ref is None or not opened.shapes:
            return
        steps, raw = needed_steps(source, ())
        plain = source.kind in {"parquet", "frame"} and all(parts.is_plain(s, ref, raw) for s in opened.shapes.values())
        if not plain or parts.split(steps)[1] or quarantine_columns(source):
            whole = {n: k for n, k in ref.types.items() if n in needed(source)}
            seen = sum(
                table.num_rows
                for _, tables in self._raw_tables(source, opened.files, dict(list(whole.items())[:1]))
                for table in tables
            )
            pieces = self._file_pieces(source, opened, (), None, None, None, {}, whole=False)
            yield seen, sum(t.num_rows for t in pieces)
            return
        for name, shape in opened.shapes.items():
            listing.check_file(source, name, shape, ref, raw)
        for part in parts.group(opened.files, opened.shapes, raw, {}):
            query = Query(source, ref.types, parts.split(steps)[0], raw, part, source.where)
            counted = next(self._runner.run(source, query.counts(), part, whole=True)).to_pylist()[0]
            yield counted["n"], counted["kept"]

    def _local_events(self, source: SourceSpec, opened: _Opened) -> Any:
        ref, found = opened.reference, [np.empty(0, dtype=np.int64)]
        if ref is not None:
            for part in parts.group(opened.files, opened.shapes, {source.event_time}, {}):
                kind = part.fields.get(source.event_time)
                if kind is not None and pa.types.is_timestamp(kind) and is_local(kind):
                    sql = Query(source, ref.types, (), {source.event_time}, part, None).local_events()
                    found.append(next(self._runner.run(source, sql, part, whole=True)).column("e").to_numpy())
        return np.concatenate(found)
