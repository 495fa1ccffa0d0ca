"""Read a source with DuckDB: scan its Parquet files, derive, filter, and add what was pushed.

The surprise: times are BIGINT microseconds in all SQL here. Local times become UTC by a decision tree over the zone's
changes, written into the query, so that no extension and no session setting has a say.

Order of rows: by (event, created, sequence). A file row's sequence is -(2**62) + (index of its file << 32) + its row
number, negative, in file order; a pushed row's is its number in the ingest log, 1 and up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from flyball.errors import SourceError, UnknownName
from flyball.features import expressions, reading
from flyball.features.answers import answer_by_scan
from flyball.features.kernel.timeline import row_order
from flyball.features.ports import IngestLog
from flyball.features.spec import ColumnType, FeatureSpec, Join, SourceSpec, ViewSpec
from flyball.features.zones import Zone, zone
from flyball.units import to_micros

__all__ = ["DuckDBEngine", "SourceReport"]

_TIMES = ("__event", "__created", "__known", "__sequence")
_FIRST_SEQUENCE = -(2**62)


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What reading a source met: rows seen, rows `where` dropped, event times in a missing or a doubled local hour."""

    rows: int
    rejected: int
    missing_hour: int
    doubled_hour: int


@dataclass(frozen=True, slots=True)
class _Pushed:
    """Pushed rows up to sequence `last`, accepted under these column types."""

    types: Mapping[str, ColumnType] | None
    last: int
    table: pa.Table
    rejected: int


class DuckDBEngine:
    """Move rows on one machine.

    Args:
        root: The project's root; sources' paths are relative to it.
        log: Where pushed rows are kept; None when nothing is pushed.
        threads: DuckDB's threads per query.
    """

    def __init__(self, root: Path, log: IngestLog | None = None, *, threads: int = 1) -> None:
        self._root = Path(root)
        self._log = log
        self._threads = threads
        self._lock = threading.Lock()  # two threads may scan; a log is read by one
        self._accepted: dict[SourceSpec, _Pushed] = {}  # the log only grows, so what was accepted stays so

    def scan(
        self,
        source: SourceSpec,
        *,
        columns: Sequence[str],
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pa.Table:
        """Return accepted rows as Arrow, sorted by (event, created, sequence); see `OfflineEngine.scan`.

        Raises:
            SourceError: there is no file and nothing was pushed, a column is missing or has a wrong type.
        """
        columns = list(dict.fromkeys(columns))
        types, outputs, pushed = self._open(source)
        for name in columns:
            if name not in outputs:
                raise SourceError(f"source {source.name!r}: {UnknownName.of('column', name, outputs)}")
        parts = []
        if types is not None:
            parts.append(self._scan_files(source, types, outputs, columns, start, end))
        if pushed is not None:
            parts.append(_pick(pushed.table, columns, outputs, start, end))
        table = pa.concat_tables(parts) if len(parts) > 1 else parts[0]
        order = row_order(*(table.column(n).to_numpy() for n in ("__event", "__created", "__sequence")))
        return table if order is None else table.take(pa.array(order))

    def types(self, source: SourceSpec) -> dict[str, ColumnType]:
        """Return the types of a source's raw and derived columns."""
        return self._open(source)[1]

    def answer(self, requests: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], *, join: Join) -> pa.Table:
        """Answer one view's features; see `OfflineEngine.answer`."""
        return answer_by_scan(self, requests, view, features, join=join)  # type: ignore[arg-type]

    def rejected(self, source: SourceSpec) -> int:
        """Return how many rows `where` dropped (rows without an event time included)."""
        return self.report(source).rejected

    def report(self, source: SourceSpec) -> SourceReport:
        """Count what reading the whole source meets."""
        types, outputs, pushed = self._open(source)
        rows = rejected = missing = doubled = 0
        if pushed is not None:
            rows += pushed.table.num_rows + pushed.rejected
            rejected += pushed.rejected
        if types is not None:
            sql = _Query(source, types, outputs, self._sources(source)).counts()
            counted, kept = self._run(source, sql).to_pylist()[0].values()
            rows, rejected = rows + counted, rejected + counted - kept
            schema = reading.file_schema(self._root, source)
            if schema is not None and _is_local(schema.field(source.event_time).type):
                found = zone(source.timezone).to_utc(self._local_events(source))
                missing, doubled = found.missing, found.doubled
        return SourceReport(rows, rejected, missing, doubled)

    def _open(self, source: SourceSpec) -> tuple[dict[str, ColumnType] | None, dict[str, ColumnType], _Pushed | None]:
        """Return the files' column types, the types after derive, and accepted pushed rows."""
        types = reading.file_types(self._root, source)
        pushed = self._pushed(source, types)
        if types is None and pushed is None:
            raise SourceError(
                f"source {source.name!r} has no file at {source.path!r} and nothing was pushed to it; "
                "check the path (it is relative to the project's folder)"
            )
        if types is not None:
            outputs = reading.output_types(source, types)
            if pushed is None and not self._file_rows(source):
                raise SourceError(f"source {source.name!r} is empty: the files at {source.path!r} hold no rows")
            return types, outputs, pushed
        assert pushed is not None
        fields = (f for f in pushed.table.schema if not f.name.startswith("__"))
        return None, {f.name: expressions.arrow_type(f) for f in fields}, pushed

    def _pushed(self, source: SourceSpec, types: Mapping[str, ColumnType] | None) -> _Pushed | None:
        """Accept what was pushed since the last call; without declared types all of it."""
        if self._log is None:
            return None
        with self._lock:
            before = self._accepted.get(source)
            if before is None or types is None or before.types != types:
                before = _Pushed(types, 0, pa.table({}), 0)
            raw = self._log.read(source.name, after=before.last)
            sequence = raw.column("__sequence").to_numpy() if raw.num_rows else np.empty(0, dtype=np.int64)
            raw = raw.filter(pa.array(sequence > before.last)) if raw.num_rows else raw
            if raw.num_rows:
                table, rejected = reading.accept(source, raw, types)
                whole = pa.concat_tables([before.table, table]) if before.last else table
                before = _Pushed(types, int(sequence.max()), whole, before.rejected + rejected)
                self._accepted[source] = before
            return before if before.last else None

    def _file_rows(self, source: SourceSpec) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in reading.source_files(self._root, source))

    def _sources(self, source: SourceSpec) -> tuple[list[str], pa.Schema]:
        schema = reading.file_schema(self._root, source)
        assert schema is not None
        return [str(path) for path in reading.source_files(self._root, source)], schema

    def _scan_files(
        self,
        source: SourceSpec,
        types: Mapping[str, ColumnType],
        outputs: Mapping[str, ColumnType],
        columns: Sequence[str],
        start: datetime | None,
        end: datetime | None,
    ) -> pa.Table:
        sql = _Query(source, types, outputs, self._sources(source)).rows(columns, start, end)
        table = self._run(source, sql)
        fields = [pa.field(n, reading.ARROW[outputs[n]]) for n in columns] + [pa.field(n, pa.int64()) for n in _TIMES]
        return table.cast(pa.schema(fields))

    def _local_events(self, source: SourceSpec) -> Any:
        files, _ = self._sources(source)
        column = _quoted(source.event_time)
        sql = f"SELECT epoch_us(CAST({column} AS TIMESTAMP)) AS e FROM {_scan(files)} WHERE {column} IS NOT NULL"
        return self._run(source, sql).column("e").to_numpy()

    def _run(self, source: SourceSpec, sql: str) -> pa.Table:
        """Run on a connection of its own: DuckDB wants one per thread."""
        try:
            with duckdb.connect(config={"threads": self._threads}) as connection:
                return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise SourceError(
                f"source {source.name!r} cannot be read from {source.path!r}: {str(error).splitlines()[0]}"
            ) from error


class _Query:
    """The SQL of one source: raw columns as plain types, local times to UTC, derived columns, filter."""

    def __init__(
        self,
        source: SourceSpec,
        types: Mapping[str, ColumnType],
        outputs: Mapping[str, ColumnType],
        files: tuple[list[str], pa.Schema],
    ) -> None:
        self._source = source
        self._types = types
        self._outputs = outputs
        self._files, self._schema = files

    def rows(self, columns: Sequence[str], start: datetime | None, end: datetime | None) -> str:
        s = self._source
        keep = [f"{_quoted(s.event_time)} IS NOT NULL", *([f"({self._where()})"] if s.where else [])]
        keep += [f"{_quoted(s.event_time)} >= {to_micros(start)}"] if start is not None else []
        keep += [f"{_quoted(s.event_time)} < {to_micros(end)}"] if end is not None else []
        picked = [self._output(name) for name in columns] + self._times()
        return f"SELECT {', '.join(picked)} FROM ({self._derived(columns)}) WHERE {' AND '.join(keep)}"

    def counts(self) -> str:
        event = f"{_quoted(self._source.event_time)} IS NOT NULL"
        keep = f"{event} AND ({self._where()})" if self._source.where else event
        return f"SELECT count(*) AS n, count(*) FILTER (WHERE {keep}) AS kept FROM ({self._derived(())})"

    def _where(self) -> str:
        return expressions.to_sql(expressions.parse(self._source.where or "true"), self._outputs)

    def _output(self, name: str) -> str:
        column = _quoted(name)
        return f"make_timestamp({column}) AS {column}" if self._outputs[name] == "timestamp" else column

    def _times(self) -> list[str]:
        s = self._source
        event = _quoted(s.event_time)
        created = f"COALESCE({_quoted(s.created_time)}, {event})" if s.created_time else event
        known = f"{event} + {s.delay}"
        if s.created_time:
            known = f"COALESCE(GREATEST({event}, {_quoted(s.created_time)}), {known})"
            known = f"CASE WHEN {_quoted(s.created_time)} IS NULL THEN {event} + {s.delay} ELSE {known} END"
        sequence = f"CAST({_FIRST_SEQUENCE} AS BIGINT) + (CAST(__file AS BIGINT) << 32) + __row"
        return [f"{event} AS __event", f"{created} AS __created", f"{known} AS __known", f"{sequence} AS __sequence"]

    def _derived(self, columns: Iterable[str]) -> str:
        """Nest one SELECT per derived column that is needed; each sees the ones before."""
        steps, raw = self._needed(columns)
        sql = self._base(sorted(raw))
        types: dict[str, Any] = dict(self._types)
        have = set(raw)
        for name, text in steps:
            value = expressions.to_sql(expressions.parse(text), types)
            others = [_quoted(c) for c in sorted(have - {name})]
            sql = f"SELECT {', '.join([*others, f'{value} AS {_quoted(name)}', '__file', '__row'])} FROM ({sql})"
            types[name] = expressions.type_of(expressions.parse(text), types)
            have.add(name)
        return sql

    def _needed(self, columns: Iterable[str]) -> tuple[list[tuple[str, str]], set[str]]:
        """Return the derive steps and raw columns that these columns, times and `where` rest on."""
        s = self._source
        wanted = {*columns, s.event_time, *([s.created_time] if s.created_time else [])}
        wanted |= expressions.columns(expressions.parse(s.where)) if s.where else set()
        steps = []
        for name, text in reversed(s.derive):
            assert isinstance(text, str)
            if name in wanted:
                steps.append((name, text))
                wanted = (wanted - {name}) | expressions.columns(expressions.parse(text))
        return steps[::-1], wanted

    def _base(self, raw: Sequence[str]) -> str:
        """Select raw columns as BIGINT, DOUBLE, BOOLEAN or VARCHAR, times in UTC."""
        plain = [f"{self._plain(name)} AS {_quoted(name)}" for name in raw]
        place = ["file_index AS __file", "file_row_number AS __row"]
        inner = f"SELECT {', '.join([*plain, *place])} FROM {_scan(self._files)}"
        local = [n for n in raw if self._types[n] == "timestamp" and _is_local(self._schema.field(n).type)]
        if not local or self._source.timezone == "UTC":
            return inner
        rules = zone(self._source.timezone)
        outer = [f"{_to_utc(_quoted(n), rules)} AS {_quoted(n)}" if n in local else _quoted(n) for n in raw]
        return f"SELECT {', '.join([*outer, '__file', '__row'])} FROM ({inner})"

    def _plain(self, name: str) -> str:
        column = _quoted(name)
        match self._types[name]:
            case "timestamp" if _is_local(self._schema.field(name).type):
                return f"epoch_us(CAST({column} AS TIMESTAMP))"
            case "timestamp":
                return f"epoch_us({column})"
            case "int64":
                return f"TRY_CAST({column} AS BIGINT)"
            case "float64":
                return f"CAST({column} AS DOUBLE)"
            case "bool":
                return f"CAST({column} AS BOOLEAN)"
            case _:
                return f"CAST({column} AS VARCHAR)"


def _scan(files: Sequence[str]) -> str:
    listed = ", ".join("'" + f.replace("'", "''") + "'" for f in files)
    return f"read_parquet([{listed}], file_row_number=true, union_by_name=true)"


def _to_utc(column: str, rules: Zone) -> str:
    """Write the zone's changes as a balanced tree of CASE."""

    def tree(low: int, high: int) -> str:
        if low == high:
            return str(int(rules.offsets[low]))
        middle = (low + high) // 2
        limit = int(rules.local_changes[middle])
        return f"CASE WHEN {column} < {limit} THEN {tree(low, middle)} ELSE {tree(middle + 1, high)} END"

    return f"({column} - {tree(0, len(rules.offsets) - 1)})"


def _pick(
    pushed: pa.Table,
    columns: Sequence[str],
    outputs: Mapping[str, ColumnType],
    start: datetime | None,
    end: datetime | None,
) -> pa.Table:
    """Bring accepted pushed rows into the form of the files' rows."""
    fields = [pa.field(n, reading.ARROW[outputs[n]]) for n in columns] + [pa.field(n, pa.int64()) for n in _TIMES]
    table = pushed.select([f.name for f in fields]).cast(pa.schema(fields))
    if start is None and end is None:
        return table
    event = table.column("__event").to_numpy()
    keep = np.ones(len(event), dtype=bool)
    keep &= event >= to_micros(start) if start is not None else True
    keep &= event < to_micros(end) if end is not None else True
    return table.filter(pa.array(keep))


def _is_local(kind: pa.DataType) -> bool:
    return not (pa.types.is_timestamp(kind) and kind.tz)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
