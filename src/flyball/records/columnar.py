"""Records as Arrow tables and back, without loss: what the log looks like as Parquet.

One table per kind (predictions, shadows, outcomes, exposures), one column per field, and three that say where a record
lay: `segment`, `frame` (offset of its frame) and `place` (its position in the frame). The surprise: request inputs are
kept as JSON, which people can read and query; where JSON would lose something (bytes, dates, NaN, large integers), the
exact msgpack stands beside it in `inputs_exact`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from flyball.records.types import Exposure, Outcome, Prediction, Record, Shadow

__all__ = ["KINDS", "Placed", "inputs_of", "kind_of", "records_of", "schema_of", "tables_of"]

KINDS: dict[str, type[Prediction] | type[Shadow] | type[Outcome] | type[Exposure]] = {
    "predictions": Prediction, "shadows": Shadow, "outcomes": Outcome, "exposures": Exposure,
}  # fmt: skip
_TIME = pa.timestamp("us", tz="UTC")
_VALUES = pa.list_(pa.float64())
_NAME = pa.dictionary(pa.int32(), pa.string())  # few distinct values
_TYPES: dict[str, pa.DataType] = {
    "id": pa.string(), "model": _NAME, "version": _NAME, "arm": _NAME, "table": pa.int64(), "unit": pa.string(),
    "at": _TIME, "event": _TIME, "received": _TIME, "inputs": pa.string(), "features": _VALUES,
    "statuses": pa.binary(), "error": pa.string(), "fallback": pa.bool_(), "stages": pa.list_(pa.int64()),
    "total": pa.int64(), "control": pa.bool_(), "why": _NAME, "read": _NAME, "source": _NAME, "revision": pa.int64(),
    "cached": pa.bool_(), "agreed": pa.bool_(), "shift": pa.float64(), "trace": pa.string(), "protected": pa.string(),
    "experiment": _NAME,
}  # fmt: skip
_PLACE = (pa.field("segment", _NAME), pa.field("frame", pa.int64()), pa.field("place", pa.int32()))
_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
_json, _unjson = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and where it lies: segment (below the log's folder), offset of its frame, position in the frame."""

    segment: str
    frame: int
    place: int
    record: Record


def kind_of(record: Record) -> str | None:
    """Return the table a record belongs to, None for records that are only of use to the log itself."""
    return next((name for name, kind in KINDS.items() if isinstance(record, kind)), None)


def schema_of(kind: str) -> pa.Schema:
    """Return the columns of a kind's table, in order."""
    fields = [*_PLACE]
    for name in _fields(kind):
        fields += _columns(name, kind)
    return pa.schema(fields)


def tables_of(placed: Iterable[Placed]) -> dict[str, pa.Table]:
    """Return one table per kind that occurs, rows in the order given."""
    by_kind: dict[str, list[Placed]] = {}
    for each in placed:
        kind = kind_of(each.record)
        if kind is not None:
            by_kind.setdefault(kind, []).append(each)
    return {kind: _table(kind, rows) for kind, rows in by_kind.items()}


def records_of(kind: str, table: pa.Table) -> Iterator[Placed]:
    """Yield the records of a table that `tables_of` made; columns of a newer flyball are left alone."""
    make: Callable[..., Record] = KINDS[kind]
    names = [name for name in _fields(kind) if name in table.schema.names or name == "value"]
    columns = {name: _read(table, name) for name in names}
    places = zip(*(table.column(f.name).to_pylist() for f in _PLACE), strict=True)
    for row, (segment, frame, place) in enumerate(places):
        yield Placed(segment, frame, place, make(**{name: column[row] for name, column in columns.items()}))


def inputs_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the request inputs of each row of a table of predictions, as they were logged."""
    return _read(table, "inputs")


def _fields(kind: str) -> tuple[str, ...]:
    return KINDS[kind].__struct_fields__


def _columns(name: str, kind: str) -> list[pa.Field]:
    if name == "inputs":
        return [pa.field("inputs", pa.string()), pa.field("inputs_exact", pa.binary())]
    if name == "value":
        both = [pa.field("value", pa.float64())]
        return both if kind == "outcomes" else [*both, pa.field("values", _VALUES)]
    return [pa.field(name, _TYPES[name])]


def _table(kind: str, rows: Sequence[Placed]) -> pa.Table:
    schema = schema_of(kind)
    columns: dict[str, list[Any]] = {
        "segment": [r.segment for r in rows],
        "frame": [r.frame for r in rows],
        "place": [r.place for r in rows],
    }
    for name in _fields(kind):
        columns.update(_written(name, kind, [getattr(r.record, name) for r in rows]))
    return pa.table([pa.array(columns[f.name], type=f.type) for f in schema], schema=schema)


def _written(name: str, kind: str, values: list[Any]) -> dict[str, list[Any]]:
    if name == "inputs":
        both = [_as_json(v) for v in values]
        return {"inputs": [text for text, _ in both], "inputs_exact": [exact for _, exact in both]}
    if name == "value" and kind != "outcomes":
        several = [isinstance(v, list) for v in values]
        return {
            "value": [None if s else v for v, s in zip(values, several, strict=True)],
            "values": [v if s else None for v, s in zip(values, several, strict=True)],
        }
    return {name: values}


def _as_json(inputs: dict[str, Any]) -> tuple[str, bytes | None]:
    """Return (JSON, None), or (JSON, msgpack) where JSON alone would not give the same values back."""
    text = _json(inputs)
    exact = _pack(inputs)
    return text.decode(), None if _pack(_unjson(text)) == exact else exact


def _read(table: pa.Table, name: str) -> list[Any]:
    if name == "inputs":
        texts, exact = table.column("inputs").to_pylist(), table.column("inputs_exact").to_pylist()
        return [_unjson(t) if e is None else _unpack(e) for t, e in zip(texts, exact, strict=True)]
    if name == "value" and "values" in table.schema.names:
        one, many = table.column("value").to_pylist(), table.column("values").to_pylist()
        return [m if m is not None else o for o, m in zip(one, many, strict=True)]
    column = table.column(name)
    values: list[Any] = (column.cast(pa.int64()) if column.type == _TIME else column).to_pylist()
    return [tuple(v) for v in values] if name == "stages" else values
