"""The log as DuckDB sees it: shipped Parquet is scanned where it lies, what is not shipped yet is decoded beside it.

The surprise: records that were not shipped are not made into whole Arrow tables. A few fields of a prediction are all
that an experiment needs, and its inputs and features cost ten times as much to convert.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from flyball.adapters.duckdb_sql import quoted
from flyball.records.types import Exposure, Outcome, Prediction, Record, decode

if TYPE_CHECKING:
    import duckdb

    from flyball.project.log import Kind
    from flyball.project.root import Project
    from flyball.records.shipping import Part

__all__ = ["COLUMNS", "LogScan"]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: as it stands in Parquet, and as it is read of a record that was not shipped."""

    sql: str
    read: Callable[[Any], Any]
    type: pa.DataType


_NUMBER, _TEXT, _WHOLE, _TRUTH = pa.float64(), pa.string(), pa.int64(), pa.bool_()
_AT = _Column('epoch_us("at")', lambda r: r.at, _WHOLE)
_UNIT = _Column("unit::VARCHAR", lambda r: r.unit, _TEXT)
_ARM = _Column("arm::VARCHAR", lambda r: r.arm, _TEXT)
COLUMNS: dict[str, dict[str, _Column]] = {
    "predictions": {
        "id": _Column("id::VARCHAR", lambda r: r.id, _TEXT), "unit": _UNIT, "arm": _ARM, "began": _AT,
        "why": _Column("why::VARCHAR", lambda r: r.why, _TEXT),
        "routed": _Column('"table"', lambda r: r.table, _WHOLE),
        "value": _Column("value", lambda r: None if isinstance(r.value, list) else r.value, _NUMBER),
        "total": _Column("total", lambda r: r.total, _WHOLE),
        "failed": _Column("error IS NOT NULL", lambda r: r.error is not None, _TRUTH),
        "fallback": _Column("fallback", lambda r: r.fallback, _TRUTH),
        "inputs": _Column("inputs", lambda r: msgspec.json.encode(r.inputs, enc_hook=str).decode(), _TEXT),
    },
    "outcomes": {
        "id": _Column("id::VARCHAR", lambda r: r.id, _TEXT), "value": _Column("value", lambda r: r.value, _NUMBER),
        "revision": _Column("revision", lambda r: r.revision, _WHOLE),
    },
    "exposures": {"unit": _UNIT, "arm": _ARM, "began": _AT},
}  # fmt: skip
_RECORDS: Mapping[str, type[Record]] = {"predictions": Prediction, "outcomes": Outcome, "exposures": Exposure}
_OWNERS = {"predictions": "model", "exposures": "experiment"}


class LogScan:
    """Scan the log with DuckDB; one pass over what was not shipped serves all kinds.

    Args:
        project: Whose log.
        since: What was written before may be left out.
    """

    def __init__(self, project: Project, since: datetime) -> None:
        from flyball.adapters.local.segments import read_shipped, segments_of

        self._root, self._files, self._since = project.layout.log, project.log.files, since
        shipped = read_shipped(self._root)  # the journal first: what is shipped from here on is read live
        self._parts = [part for parts in shipped.segments.values() for part in parts]
        self._live = [s.name for s in segments_of(self._root) if s.name not in shipped.segments]

    def source(self, db: duckdb.DuckDBPyConnection, kind: Kind, owner: str, names: Sequence[str]) -> str:
        """Return what may stand after FROM: rows of one kind with the columns of `COLUMNS` that are named.

        Args:
            db: Where it is read.
            kind: "predictions", "outcomes" or "exposures".
            owner: The model of predictions, the experiment of exposures; "" for all.
            names: Which columns.

        Raises:
            Unavailable: the shipped part cannot be reached.
        """
        columns = {name: COLUMNS[kind][name] for name in names}
        db.register(f"live {kind}", self._unshipped(kind, owner, columns))
        queries = [f"SELECT * FROM {quoted(f'live {kind}')}"]
        mine = f" WHERE {quoted(_OWNERS[kind])} = {_text(owner)}" if owner else ""
        listed = ", ".join(f"{column.sql} AS {name}" for name, column in columns.items())
        queries += [f"SELECT {listed} FROM {shipped}{mine}" for shipped in self._shipped(db, kind, owner)]
        return f"({' UNION ALL '.join(queries)})"

    def _shipped(self, db: duckdb.DuckDBPyConnection, kind: Kind, owner: str) -> list[str]:
        """Return relations of the shipped files; those of an object store are fetched, by the credentials of fsspec."""
        from flyball.project.log import wanted

        model = owner if kind == "predictions" else None
        parts = [part for part in self._parts if wanted(part, kind, model, self._since)]
        if not parts:
            return []
        if self._files.local:
            places = ", ".join(_text(self._files.address(part.path)) for part in parts)
            return [f"read_parquet([{places}], union_by_name=true, hive_partitioning=false)"]
        return [self._fetched(db, kind, part) for part in parts]

    def _fetched(self, db: duckdb.DuckDBPyConnection, kind: Kind, part: Part) -> str:
        import pyarrow.parquet as pq

        name = f"shipped {part.path}"
        content = io.BytesIO(self._files.content(part.path))
        db.register(name, pq.read_table(content, columns=_FETCHED[kind], partitioning=None))
        return quoted(name)

    def _unshipped(self, kind: Kind, owner: str, columns: Mapping[str, _Column]) -> pa.Table:
        from flyball.records.segment import read_frames

        record, owned = _RECORDS[kind], _OWNERS.get(kind, "")
        schema = pa.schema([(name, column.type) for name, column in columns.items()])
        batches = []
        for segment in self._live:
            rows = [
                each
                for frame in read_frames(self._root / segment)
                for each in decode(frame.payload)
                if type(each) is record and (not owner or getattr(each, owned) == owner)
            ]
            made = [pa.array([column.read(row) for row in rows], column.type) for column in columns.values()]
            batches.append(pa.record_batch(made, schema=schema))
        return pa.Table.from_batches(batches, schema=schema)


_FETCHED: dict[str, list[str]] = {  # columns of files that lie in an object store
    "predictions": [
        "id", "model", "unit", "arm", "at", "why", "table", "value", "total", "error", "fallback", "inputs",
    ],
    "outcomes": ["id", "value", "revision"],
    "exposures": ["unit", "arm", "at", "experiment"],
}  # fmt: skip


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
