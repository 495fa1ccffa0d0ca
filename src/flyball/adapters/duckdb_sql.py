"""The SQL that reads Parquet files of one layout: raw columns as plain types, local times to UTC, derive, where.

The surprise: times are BIGINT microseconds in all of it. Local times become UTC by a decision tree over the zone's
changes, written into the query, so that no extension and no session setting has a say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from flyball.features import expressions
from flyball.features.reading.files import FIRST_SEQUENCE
from flyball.features.reading.schema import step_type
from flyball.features.spec import ColumnType, SourceSpec
from flyball.features.zones import Zone, zone
from flyball.units import to_micros

__all__ = ["FIRST_SEQUENCE", "Part", "Query", "is_local", "quoted"]


@dataclass(frozen=True, slots=True)
class Part:
    """Files that hold the needed columns in the same Arrow types: where they lie, and their places among all files."""

    places: tuple[str, ...]
    indexes: tuple[int, ...]
    fields: Mapping[str, pa.DataType]
    published: tuple[int | None, ...]


class Query:
    """The SQL of one part of a source.

    Args:
        source: The source.
        raw: Types of its raw columns.
        steps: The derive steps that SQL evaluates.
        columns: Raw columns that the steps, the times and whoever asks need.
        part: The files.
        where: The filter, None when it is left to Arrow.
    """

    def __init__(
        self,
        source: SourceSpec,
        raw: Mapping[str, ColumnType],
        steps: Sequence[tuple[str, str]],
        columns: set[str],
        part: Part,
        where: str | None,
    ) -> None:
        self._source = source
        self._raw = raw
        self._columns = sorted(columns)
        self._part = part
        self._filter = where
        self.types: dict[str, Any] = dict(raw)
        self._sql = self._derived(steps)

    def rows(self, columns: Sequence[str], start: datetime | None, end: datetime | None) -> str:
        """Return accepted rows with their times."""
        event = quoted(self._source.event_time)
        keep = self._keep()
        keep += [f"{event} >= {to_micros(start)}"] if start is not None else []
        keep += [f"{event} < {to_micros(end)}"] if end is not None else []
        picked = [self._output(name) for name in columns] + self._times() + [f"{self._sequence()} AS __sequence"]
        return f"SELECT {', '.join(picked)} FROM ({self._sql}) WHERE {' AND '.join(keep)}"

    def unfinished(self, columns: Sequence[str]) -> str:
        """Return columns and sequences of all rows (of those for which `where` holds, if it is ours)."""
        picked = [self._output(name) for name in columns] + [f"{self._sequence()} AS __sequence"]
        keep = f" WHERE {' AND '.join(self._keep())}" if self._filter else ""
        return f"SELECT {', '.join(picked)} FROM ({self._sql}){keep}"

    def counts(self) -> str:
        """Return how many rows there are and how many are kept."""
        keep = " AND ".join(self._keep())
        return f"SELECT count(*) AS n, count(*) FILTER (WHERE {keep}) AS kept FROM ({self._sql})"

    def local_events(self) -> str:
        """Return local event times in microseconds."""
        column = quoted(self._source.event_time)
        return f"SELECT epoch_us(CAST({column} AS TIMESTAMP)) AS e FROM {_scan(self._part)} WHERE {column} IS NOT NULL"

    def _keep(self) -> list[str]:
        keep = [f"{quoted(self._source.event_time)} IS NOT NULL"]
        if self._filter:
            keep.append(f"({expressions.to_sql(expressions.parse(self._filter), self.types)})")
        return keep

    def _output(self, name: str) -> str:
        column = quoted(name)
        return f"make_timestamp({column}) AS {column}" if self.types[name] == "timestamp" else column

    def _times(self) -> list[str]:
        s = self._source
        event = quoted(s.event_time)
        created = f"COALESCE({quoted(s.created_time)}, {event})" if s.created_time else event
        known = f"{event} + {s.delay}"
        if s.created_time:
            mine = quoted(s.created_time)
            known = f"CASE WHEN {mine} IS NULL THEN {known} ELSE GREATEST({event}, {mine}) END"
        if any(p is not None for p in self._part.published):
            known = f"GREATEST({known}, {self._of_file([p or 0 for p in self._part.published])})"
        return [f"{event} AS __event", f"{created} AS __created", f"{known} AS __known"]

    def _sequence(self) -> str:
        first = self._part.indexes[0]
        in_a_row = self._part.indexes == tuple(range(first, first + len(self._part.indexes)))
        place = f"({first} + CAST(__file AS BIGINT))" if in_a_row else self._of_file(self._part.indexes)
        return f"CAST({FIRST_SEQUENCE} AS BIGINT) + ({place} << 32) + __row"

    def _of_file(self, values: Sequence[int]) -> str:
        listed = ", ".join(f"CAST({v} AS BIGINT)" for v in values)
        return f"([{listed}])[CAST(__file AS BIGINT) + 1]"

    def _derived(self, steps: Sequence[tuple[str, str]]) -> str:
        """Nest one SELECT per derived column; each sees the ones before."""
        sql = self._base()
        have = set(self._columns)
        for name, text in steps:
            value = expressions.to_sql(expressions.parse(text), self.types)
            others = [quoted(c) for c in sorted(have - {name})]
            sql = f"SELECT {', '.join([*others, f'{value} AS {quoted(name)}', '__file', '__row'])} FROM ({sql})"
            self.types[name] = step_type(self._source, name, text, self.types)
            have.add(name)
        return sql

    def _base(self) -> str:
        """Select raw columns as plain types, times in UTC."""
        plain = [f"{self._plain(name)} AS {quoted(name)}" for name in self._columns]
        inner = (
            f"SELECT {', '.join([*plain, 'file_index AS __file', 'file_row_number AS __row'])} FROM {_scan(self._part)}"
        )
        fields = self._part.fields
        local = [n for n in self._columns if self._raw[n] == "timestamp" and n in fields and is_local(fields[n])]
        if not local or self._source.timezone == "UTC":
            return inner
        rules = zone(self._source.timezone)
        outer = [f"{_to_utc(quoted(n), rules)} AS {quoted(n)}" if n in local else quoted(n) for n in self._columns]
        return f"SELECT {', '.join([*outer, '__file', '__row'])} FROM ({inner})"

    def _plain(self, name: str) -> str:
        column, kind = quoted(name), self._raw[name]
        found = self._part.fields.get(name)
        if found is None or pa.types.is_null(found):
            return f"CAST(NULL AS {_SQL.get(kind, 'VARCHAR')})"
        match kind:
            case "timestamp" if is_local(found):
                return f"epoch_us(CAST({column} AS TIMESTAMP))"
            case "timestamp":
                return f"epoch_us(CAST({column} AS TIMESTAMPTZ))"  # nanoseconds have no epoch_us of their own
            case "int64":
                return f"TRY_CAST({column} AS BIGINT)"
            case "float64" | "float32" | "bool" | "string" | "date":
                return f"CAST({column} AS {_SQL[kind]})"
            case _:
                return column


_SQL = {
    "timestamp": "BIGINT", "int64": "BIGINT", "float64": "DOUBLE", "float32": "FLOAT", "bool": "BOOLEAN",
    "string": "VARCHAR", "date": "DATE", "bytes": "BLOB",
}  # fmt: skip


def is_local(kind: pa.DataType) -> bool:
    """Whether times of this Arrow type name no offset."""
    return not (pa.types.is_timestamp(kind) and kind.tz)


def quoted(name: str) -> str:
    """Return a column's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _scan(part: Part) -> str:
    listed = ", ".join("'" + f.replace("'", "''") + "'" for f in part.places)
    return f"read_parquet([{listed}], file_row_number=true, union_by_name=true, hive_partitioning=false)"


def _to_utc(column: str, rules: Zone) -> str:
    """Write the zone's changes as a balanced tree of CASE."""

    def tree(low: int, high: int) -> str:
        if low == high:
            return str(int(rules.offsets[low]))
        middle = (low + high) // 2
        limit = int(rules.local_changes[middle])
        return f"CASE WHEN {column} < {limit} THEN {tree(low, middle)} ELSE {tree(middle + 1, high)} END"

    return f"({column} - {tree(0, len(rules.offsets) - 1)})"
