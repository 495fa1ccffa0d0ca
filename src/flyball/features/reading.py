"""Turn raw rows of a source into accepted rows: typed, in UTC, derived, filtered.

The surprise: the DuckDB engine says the same in SQL for files, and a property test holds the two equal; pushed rows
always go through here, at ingest and when history is read, so a row means one thing everywhere.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flyball.errors import DefinitionError, ExpressionError, InputError, SourceError, UnknownName
from flyball.features import expressions
from flyball.features.kernel.partials import Ints
from flyball.features.spec import ColumnType, SourceSpec
from flyball.features.zones import zone
from flyball.units import to_micros

__all__ = ["ARROW", "accept", "check_rows", "file_schema", "file_types", "needed", "output_types", "source_files"]

ARROW: dict[str, pa.DataType] = {
    "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?)?\s*(Z|[+-]\d\d(:?\d\d)?)?")
_MOST_BLANK = 4
_PYTHON: dict[str, tuple[type, ...]] = {
    "int64": (int,), "float64": (int, float), "bool": (bool,), "string": (str,), "timestamp": (str, int, datetime),
}  # fmt: skip


def source_files(root: Path, spec: SourceSpec) -> list[Path]:
    """Return a source's files in order of their names; the list may be empty."""
    return sorted(Path(p) for p in glob.glob(str(root / spec.path), recursive=True))


def file_schema(root: Path, spec: SourceSpec) -> pa.Schema | None:
    """Return the schema of a source's first file, or None when there is no file.

    Raises:
        SourceError: the file is no readable Parquet.
    """
    files = source_files(root, spec)
    if not files:
        return None
    try:
        return pq.read_schema(files[0])
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            f"source {spec.name!r}: {files[0].name} is no readable Parquet file ({_first(error)})"
        ) from error


def file_types(root: Path, spec: SourceSpec) -> dict[str, ColumnType] | None:
    """Return the raw column types that a source's files declare, or None when there is no file yet.

    Columns of types that flyball does not read are left out.
    """
    schema = file_schema(root, spec)
    if schema is None:
        return None
    return {field.name: kind for field in schema if (kind := _readable(field)) is not None}


def needed(spec: SourceSpec) -> set[str]:
    """Return the raw columns that reading a source needs: event and created time, and what derive and where read."""
    found = {spec.event_time, *([spec.created_time] if spec.created_time else [])}
    derived: set[str] = set()
    for name, text in spec.derive:
        found |= expressions.columns(expressions.parse(text)) - derived
        derived.add(name)
    if spec.where:
        found |= expressions.columns(expressions.parse(spec.where)) - derived
    return found


def output_types(spec: SourceSpec, types: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """Return the types of raw and derived columns, after checking that every expression fits.

    Raises:
        SourceError: a column is missing or has a wrong type.
    """
    _check_times(spec, types)
    known = dict(types)
    for name, text in spec.derive:
        assert isinstance(text, str)
        kind = _typed_expression(spec, f"derive {name!r}", text, known)
        if kind == "duration":
            raise SourceError(
                f"source {spec.name!r}: derive {name!r} gives a duration; divide it, such as ({text}) / 1m"
            )
        known[name] = kind
    if spec.where and (kind := _typed_expression(spec, "where", spec.where, known)) != "bool":
        raise SourceError(f"source {spec.name!r}: where gives a {kind}; it must be a condition")
    return known


def check_rows(spec: SourceSpec, rows: Sequence[Mapping[str, object]], types: Mapping[str, ColumnType] | None) -> None:
    """Check pushed rows before they are logged.

    Args:
        spec: The source.
        rows: Raw rows as sent: JSON values, timestamps as ISO texts (local to the source when they name no offset),
            int microseconds or datetimes.
        types: Raw column types, None when no file tells them.

    Raises:
        InputError: a needed column is missing, or a value has a wrong type; names row, column and value.
    """
    times = {spec.event_time, *([spec.created_time] if spec.created_time else [])}
    kinds: dict[str, str] = {**(types or {}), **dict.fromkeys(times, "timestamp")}
    must = needed(spec) - ({spec.created_time} if spec.created_time else set())
    pushed = f"pushed to {spec.name!r}"
    for k, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"row {k} {pushed} is {row!r:.60}; a row must be an object of columns")
        if not must <= row.keys():
            missing = ", ".join(sorted(must - row.keys()))
            raise InputError(f"row {k} {pushed} has no column {missing}; it has {', '.join(sorted(row))}")
        if row[spec.event_time] is None:
            raise InputError(f"row {k} {pushed} has no {spec.event_time}; every row needs its event time")
        for name, value in row.items():
            kind = kinds.get(name)
            if value is not None and kind is not None and not _fits(value, kind):
                raise InputError(
                    f"row {k} {pushed} has {name} = {value!r:.60}, which is no {kind}"
                    + ("; write ISO text, such as 2020-03-01T12:30:00" if kind == "timestamp" else "")
                )


def accept(spec: SourceSpec, raw: pa.Table, types: Mapping[str, ColumnType] | None = None) -> tuple[pa.Table, int]:
    """Type, derive and filter raw rows.

    Args:
        spec: The source.
        raw: Raw columns, as in a file or as pushed; may carry `__sequence` and `__arrival` (int64 µs).
        types: Raw column types when known; columns they name and `raw` lacks are null, others are dropped. Without
            them types are taken from `raw`, and texts that are all ISO times become timestamps.

    Returns:
        (accepted rows, number of rejected ones). Columns: raw ones, derived ones, those of `__sequence` and `__arrival`
        that came along, then `__event`, `__created`, `__known` (int64 µs UTC). Created is the event time where the
        source has none. Known is max(event, created, arrival); without created and arrival it is event + delay. Rows
        that `where` does not find true, or without an event time, are rejected. A value that does not fit its type
        counts as null.

    Raises:
        SourceError: a column is missing or has a wrong type.
    """
    table = _typed_table(spec, raw, types)
    if types is None:
        table = _with_null_types(spec, raw, table)
    output_types(spec, _schema_types(table))
    for name, text in spec.derive:
        assert isinstance(text, str)
        value = expressions.evaluate(expressions.parse(text), table)
        table = _with(table, name, value)
    keep = np.asarray(pc.is_valid(table.column(spec.event_time)).to_numpy(), dtype=bool)
    if spec.where:
        true = pc.fill_null(expressions.evaluate(expressions.parse(spec.where), table), False)
        keep &= np.asarray(true.to_numpy(zero_copy_only=False), dtype=bool)
    for extra in ("__sequence", "__arrival"):
        if extra in raw.column_names:
            table = table.append_column(extra, raw.column(extra).cast(pa.int64()))
    rejected = int(len(keep) - keep.sum())
    return _with_times(spec, table.filter(pa.array(keep)) if rejected else table), rejected


def _schema_types(table: pa.Table) -> dict[str, ColumnType]:
    return {f.name: kind for f in table.schema if (kind := _readable(f)) is not None}


def _with_null_types(spec: SourceSpec, raw: pa.Table, table: pa.Table) -> pa.Table:
    """Give columns that hold nothing but nulls, and so say no type, types under which the expressions fit."""
    blank = [n for n in raw.column_names if n in needed(spec) and pa.types.is_null(raw.column(n).type)]
    blank = [n for n in blank if n not in {spec.event_time, spec.created_time}]
    if not blank or len(blank) > _MOST_BLANK:
        return table
    for kinds in product(("float64", "string", "timestamp", "bool"), repeat=len(blank)):
        tried = table
        for name, kind in zip(blank, kinds, strict=True):
            tried = _with(tried, name, pa.nulls(table.num_rows, ARROW[kind]))
        try:
            output_types(spec, _schema_types(tried))
        except SourceError:
            continue
        return tried
    return table


def _with_times(spec: SourceSpec, table: pa.Table) -> pa.Table:
    event = _micros(table.column(spec.event_time))
    known = event.copy()
    created = event
    plain = np.ones(len(event), dtype=bool)
    if spec.created_time:
        column = table.column(spec.created_time)
        plain = ~np.asarray(pc.is_valid(column).to_numpy(), dtype=bool)
        created = np.where(plain, event, _micros(column))
        known = np.maximum(known, created)
    if "__arrival" in table.column_names:
        known = np.maximum(known, table.column("__arrival").to_numpy())
    else:
        known = np.where(plain, event + spec.delay, known)
    for name, values in (("__event", event), ("__created", created), ("__known", known)):
        table = table.append_column(name, pa.array(values, pa.int64()))
    return table


def _micros(column: pa.ChunkedArray) -> Ints:
    values: Ints = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return values


def _with(table: pa.Table, name: str, value: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, value) if place < 0 else table.set_column(place, name, value)


# ------------------------------------------------------------------------------------------------ types


def _readable(field: pa.Field) -> ColumnType | None:
    try:
        kind = expressions.arrow_type(field)
    except ExpressionError:
        return None
    return None if kind == "duration" else kind


def _check_times(spec: SourceSpec, types: Mapping[str, ColumnType]) -> None:
    for role, name in (("event_time", spec.event_time), ("created_time", spec.created_time)):
        if name is None:
            continue
        if name not in types:
            raise SourceError(f"source {spec.name!r}: {role}: {UnknownName.of('column', name, types)}")
        if types[name] != "timestamp":
            raise SourceError(
                f"source {spec.name!r}: {role} column {name!r} is {types[name]}; it must hold timestamps, "
                "so store it as a timestamp"
            )


def _typed_expression(spec: SourceSpec, what: str, text: str, types: expressions.Types) -> expressions.ExprType:
    try:
        return expressions.type_of(expressions.parse(text), types)
    except DefinitionError as error:
        raise SourceError(f"source {spec.name!r}: {what} ({text}): {error}") from error


def _fits(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    if not isinstance(value, _PYTHON[kind]):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not (kind == "timestamp" and isinstance(value, str)) or _moment(value, "UTC") is not None


# ------------------------------------------------------------------------------------------------ values


def _typed_table(spec: SourceSpec, raw: pa.Table, types: Mapping[str, ColumnType] | None) -> pa.Table:
    names = [n for n in raw.column_names if not n.startswith("__")] if types is None else list(types)
    times = {spec.event_time, spec.created_time}
    fields = {}
    for name in names:
        if name not in raw.column_names:
            fields[name] = pa.nulls(raw.num_rows, ARROW[types[name]]) if types else None
            continue
        column = raw.column(name)
        kind = types[name] if types is not None else _guess(column, is_time=name in times)
        if kind is not None:
            fields[name] = _typed(column, kind, spec.timezone)
    if spec.created_time and types is None:  # pushed rows may leave created time out
        fields.setdefault(spec.created_time, pa.nulls(raw.num_rows, ARROW["timestamp"]))
    return pa.table(fields) if fields else raw.select([])


def _guess(column: pa.ChunkedArray, *, is_time: bool) -> ColumnType | None:
    kind = _readable(pa.field("c", column.type))
    if is_time and (kind in {"int64", "string"} or pa.types.is_null(column.type)):
        return "timestamp"
    if kind == "string" and column.null_count < len(column):
        texts = column.drop_null().to_pylist()
        return "timestamp" if all(_ISO.fullmatch(t) for t in texts) else kind
    return kind


def _typed(column: pa.ChunkedArray, kind: ColumnType, timezone: str) -> pa.ChunkedArray | pa.Array:
    """Cast a column; values that do not fit become null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "timestamp":
        return _timestamps(column, timezone)
    if column.type == ARROW[kind]:
        return column
    same = {"int64": pa.types.is_integer, "float64": _is_number, "bool": pa.types.is_boolean, "string": _is_text}[kind]
    if same(column.type) or pa.types.is_null(column.type):
        try:
            return column.cast(ARROW[kind], safe=kind == "int64")
        except pa.ArrowInvalid:
            pass  # an unsigned value beyond 64 bits: one by one
    values = [v if v is not None and _fits(v, kind) else None for v in column.to_pylist()]
    return pa.array(values, ARROW[kind])


def _timestamps(column: pa.ChunkedArray, timezone: str) -> pa.Array:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return _utc_array(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), _nulls(column))
    if _is_text(kind):
        column = _read_iso(column, timezone)
        kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us"))
        kind = column.type
    if not pa.types.is_timestamp(kind):
        return _utc_array(np.zeros(len(column), dtype=np.int64), np.ones(len(column), dtype=bool))
    values = _micros(column.cast(pa.timestamp("us", kind.tz), safe=False))
    return _utc_array(values if kind.tz else zone(timezone).to_utc(values).utc, _nulls(column))


def _read_iso(column: pa.ChunkedArray, timezone: str) -> pa.ChunkedArray:
    """Parse ISO texts: all local, all with an offset, or one by one."""
    for target in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return column.cast(target)
        except pa.ArrowInvalid:
            continue
    values = [None if t is None else _moment(t, timezone) for t in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))])


def _moment(text: str, timezone: str) -> int | None:
    """Return UTC microseconds of one ISO text, or None when it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if found.tzinfo is not None:
        return to_micros(found)
    local = np.array([to_micros(found.replace(tzinfo=UTC))], dtype=np.int64)
    return int(zone(timezone).to_utc(local).utc[0])


def _utc_array(values: Ints, nulls: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, pa.int64(), mask=nulls if nulls.any() else None).cast(ARROW["timestamp"])


def _nulls(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_null(column).to_numpy(), dtype=bool)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
