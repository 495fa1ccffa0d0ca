"""Check pushed rows before they are logged, and accept rows: type, derive, filter, leave out what is quarantined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import InputError, SourceError
from flyball.features import expressions, types
from flyball.features.reading.schema import Step, needed, output_types
from flyball.features.reading.values import fits, guess, micros, refuse_naive, typed
from flyball.features.spec import ColumnType, SourceSpec, TransformSpec
from flyball.features.values import wanted

__all__ = ["accept", "check_rows", "derived", "finish"]

_MOST_BLANK = 4
_HAS_OFFSET = re.compile(r"\d\d:\d\d\S*\s*(Z|[+-]\d\d(:?\d\d)?)$")


def check_rows(spec: SourceSpec, rows: Sequence[Mapping[str, object]], kinds: Mapping[str, ColumnType] | None) -> None:
    """Check pushed rows before they are logged.

    Args:
        spec: The source.
        rows: Raw rows as sent: JSON values, timestamps as ISO texts (local to the source when they name no offset,
            refused then by a strict source), int microseconds or datetimes; bytes as base64 text, decimals as text or
            number, dates as ISO text, vectors as arrays.
        kinds: Raw column types, None when no file and no schema tells them.

    Raises:
        InputError: a needed column is missing, or a value has a wrong type; names row, column and value.
    """
    times = {spec.event_time, *([spec.created_time] if spec.created_time else [])}
    of: dict[str, str] = {**(kinds or {}), **dict.fromkeys(times, "timestamp")}
    must = needed(spec) - ({spec.created_time} if spec.created_time else set())
    pushed = f"pushed to {spec.name!r}"
    for k, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"row {k} {pushed} is {row!r:.60}; a row must be an object of columns")
        if not must <= row.keys():
            missing = ", ".join(sorted(must - row.keys()))
            raise InputError(f"row {k} {pushed} has no column {missing}; it has {', '.join(sorted(map(str, row)))}")
        if row[spec.event_time] is None:
            raise InputError(f"row {k} {pushed} has no {spec.event_time}; every row needs its event time")
        for name, value in row.items():
            kind = of.get(name)
            if value is None or kind is None:
                continue
            if not fits(value, kind):
                raise InputError(f"row {k} {pushed} has {name} = {value!r:.60}, which is no {kind}{_hint(kind)}")
            if spec.strict and kind == "timestamp" and _is_naive(value):
                raise InputError(
                    f"row {k} {pushed} has {name} = {value!r:.60} without an offset, and the source is strict; "
                    "send one, such as 2020-03-01T12:30:00Z"
                )


def accept(spec: SourceSpec, raw: pa.Table, kinds: Mapping[str, ColumnType] | None = None) -> tuple[pa.Table, int]:
    """Type, derive and filter raw rows.

    Args:
        spec: The source.
        raw: Raw columns, as in a file or as pushed; may carry `__sequence` and `__arrival` (int64 µs).
        kinds: Raw column types when known; columns they name and `raw` lacks are null, others are dropped. Without
            them types are taken from `raw`, and texts that are all ISO times become timestamps.

    Returns:
        (accepted rows, number of rejected ones). Columns: raw ones, derived ones, those of `__sequence` and `__arrival`
        that came along, then `__event`, `__created`, `__known` (int64 µs UTC). Created is the event time where the
        source has none. Known is max(event, created, arrival); without created and arrival it is event + delay. Rows
        that `where` does not find true, without an event time, or that a check with the policy "quarantine" refuses,
        are rejected. A value that does not fit its type counts as null.

    Raises:
        SourceError: a column is missing or has a wrong type.
    """
    table = _typed_table(spec, raw, kinds)
    if kinds is None:
        table = _with_null_types(spec, raw, table)
    output_types(spec, _schema_types(table))
    for extra in ("__sequence", "__arrival"):
        if extra in raw.column_names:
            table = table.append_column(extra, raw.column(extra).cast(pa.int64()))
    return finish(spec, derived(table, spec.derive), where=spec.where)


def derived(table: pa.Table, steps: Sequence[tuple[str, Step]]) -> pa.Table:
    """Return a table with derived columns, each step seeing the ones before."""
    for name, step in steps:
        table = _with(table, name, _derive(table, step))
    return table


def finish(spec: SourceSpec, table: pa.Table, *, where: str | None) -> tuple[pa.Table, int]:
    """Filter derived rows and add their times; returns them and how many were left out."""
    keep = np.asarray(pc.is_valid(table.column(spec.event_time)).to_numpy(), dtype=bool)
    if where:
        true = pc.fill_null(expressions.evaluate(expressions.parse(where), table), False)
        keep &= np.asarray(true.to_numpy(zero_copy_only=False), dtype=bool)
    kept = table if keep.all() else table.filter(pa.array(keep))
    kept = not_quarantined(spec, kept)
    return _with_times(spec, kept), table.num_rows - kept.num_rows


def not_quarantined(spec: SourceSpec, table: pa.Table) -> pa.Table:
    """Leave out the rows that a check with the policy "quarantine" refuses."""
    checks = [c for c in spec.checks if c.policy == "quarantine"]
    if not checks or not table.num_rows:
        return table
    from flyball.features.checks import row_mask

    mask = row_mask(checks, table)
    return table if mask is None or mask.all() else table.filter(pa.array(mask))


def _hint(kind: ColumnType) -> str:
    if kind == "timestamp":
        return "; write ISO text, such as 2020-03-01T12:30:00"
    return "" if kind in {"int64", "float64", "bool", "string"} else f"; send {wanted(kind)}"


def _is_naive(value: object) -> bool:
    if isinstance(value, datetime):
        return value.tzinfo is None
    return isinstance(value, str) and _HAS_OFFSET.search(value) is None


def _derive(table: pa.Table, step: Step) -> pa.Array | pa.ChunkedArray:
    if isinstance(step, TransformSpec):
        from flyball.features.transforms.columns import derive

        return derive(step, table)
    return expressions.evaluate(expressions.parse(step), table)


def _schema_types(table: pa.Table) -> dict[str, ColumnType]:
    return {f.name: kind for f in table.schema if (kind := types.from_arrow(f)) is not None}


def _with_null_types(spec: SourceSpec, raw: pa.Table, table: pa.Table) -> pa.Table:
    """Give columns that hold nothing but nulls, and so say no type, types under which the expressions fit."""
    blank = [n for n in raw.column_names if n in needed(spec) and pa.types.is_null(raw.column(n).type)]
    blank = [n for n in blank if n not in {spec.event_time, spec.created_time}]
    if not blank or len(blank) > _MOST_BLANK:
        return table
    for kinds in product(("float64", "string", "timestamp", "bool"), repeat=len(blank)):
        tried = table
        for name, kind in zip(blank, kinds, strict=True):
            tried = _with(tried, name, pa.nulls(table.num_rows, types.to_arrow(kind)))
        try:
            output_types(spec, _schema_types(tried))
        except SourceError:
            continue
        return tried
    return table


def _with_times(spec: SourceSpec, table: pa.Table) -> pa.Table:
    event = micros(table.column(spec.event_time))
    known = event.copy()
    created = event
    plain = np.ones(len(event), dtype=bool)
    if spec.created_time:
        column = table.column(spec.created_time)
        plain = ~np.asarray(pc.is_valid(column).to_numpy(), dtype=bool)
        created = np.where(plain, event, micros(column))
        known = np.maximum(known, created)
    if "__arrival" in table.column_names:
        known = np.maximum(known, table.column("__arrival").to_numpy())
    else:
        known = np.where(plain, event + spec.delay, known)
    for name, values in (("__event", event), ("__created", created), ("__known", known)):
        table = table.append_column(name, pa.array(values, pa.int64()))
    return table


def _with(table: pa.Table, name: str, value: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, value) if place < 0 else table.set_column(place, name, value)


def _typed_table(spec: SourceSpec, raw: pa.Table, kinds: Mapping[str, ColumnType] | None) -> pa.Table:
    names = [n for n in raw.column_names if not n.startswith("__")] if kinds is None else list(kinds)
    times = {spec.event_time, spec.created_time}
    fields = {}
    for name in names:
        if name not in raw.column_names:
            fields[name] = pa.nulls(raw.num_rows, types.to_arrow(kinds[name])) if kinds else None
            continue
        column = raw.column(name)
        kind = kinds[name] if kinds is not None else guess(column, is_time=name in times)
        if kind is not None:
            if spec.strict and kind == "timestamp":
                refuse_naive(spec.name, name, column)
            fields[name] = typed(column, kind, spec.timezone)
    if spec.created_time and kinds is None:  # pushed rows may leave created time out
        fields.setdefault(spec.created_time, pa.nulls(raw.num_rows, types.to_arrow("timestamp")))
    return pa.table(fields) if fields else raw.select([])
