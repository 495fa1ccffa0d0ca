"""Pure parts of the DuckDB engine: how files are grouped, derive steps cut, and tables brought into form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flyball.adapters.duckdb_sql import FIRST_SEQUENCE, Part
from flyball.features import reading, types
from flyball.features.manifest import read_manifest
from flyball.features.ports import IngestLog
from flyball.features.reading.files import Reference, Shape, SourceFile
from flyball.features.reading.schema import columns_of_step, quarantine_columns
from flyball.features.spec import ColumnType, SourceSpec, TransformSpec
from flyball.units import to_micros

__all__ = [
    "Published",
    "TIMES",
    "between",
    "carried",
    "cast",
    "csv_times",
    "erased",
    "first_times",
    "group",
    "is_plain",
    "is_sorted",
    "known_from",
    "may_hold",
    "nothing",
    "overlapping",
    "published_at",
    "revision",
    "schema",
    "split",
    "typed_like",
]

TIMES = ("__event", "__created", "__known", "__sequence")
Published = Mapping[str, int]


def nothing(source: SourceSpec) -> str:
    """Say what a source without any rows lacks."""
    if source.kind == "frame":
        return (
            f"source {source.name!r} is a data frame whose rows are not in the state folder; run flyball apply where "
            "it is defined"
        )
    if source.kind in {"push", "stream"}:
        return f"source {source.name!r} has no declared columns and nothing was pushed to it; give it a schema="
    return (
        f"source {source.name!r} has no file at {source.path!r} and nothing was pushed to it; "
        "check the path (it is relative to the project's folder)"
    )


def revision(log: IngestLog, source: str) -> object:
    """Return the log's revision of a source, None where it keeps none."""
    revision = getattr(log, "revision", None)
    return None if revision is None else revision(source)


def erased(state: Path) -> int:
    """Return when rows were last erased from the log, by any process."""
    try:
        return (state / "ingest" / "erased").stat().st_mtime_ns
    except OSError:
        return 0


def csv_times(source: SourceSpec, ref: Reference) -> Reference:
    """Read a date in a CSV file's time column as midnight."""
    times = {source.event_time, source.created_time}
    kinds = {n: "timestamp" if n in times and k == "date" else k for n, k in ref.types.items()}
    return Reference(kinds, ref.required, ref.said)


def is_plain(shape: Shape, ref: Reference, raw: set[str]) -> bool:
    """Whether SQL reads these columns of a file as what they are."""
    for name in raw & shape.fields.keys() & ref.types.keys():
        found, want = shape.fields[name], ref.types[name]
        kind = types.from_arrow(found)
        if pa.types.is_null(found) or kind == want or (kind == "float32" and want == "float64"):
            continue
        return False
    return True


def split(steps: Sequence[tuple[str, Any]]) -> tuple[list[tuple[str, str]], list[tuple[str, Any]]]:
    """Cut derive steps before the first that is a transformation."""
    first = next((i for i, (_, step) in enumerate(steps) if isinstance(step, TransformSpec)), len(steps))
    return [(n, s) for n, s in steps[:first] if isinstance(s, str)], list(steps[first:])


def carried(source: SourceSpec, columns: Sequence[str], rest: Sequence[tuple[str, Any]], where: bool) -> list[str]:
    """Return what SQL must hand over when the rest of the steps comes after it."""
    wanted = {*columns, *quarantine_columns(source), source.event_time}
    wanted |= {source.created_time} if source.created_time else set()
    wanted |= columns_of_step(source.where) if where and source.where else set()
    for name, step in reversed(rest):
        wanted = (wanted - {name}) | columns_of_step(step)
    return sorted(n for n in wanted if n is not None)


def group(files: Sequence[SourceFile], shapes: Mapping[str, Shape], raw: set[str], published: Published) -> list[Part]:
    """Group files that hold these columns in the same Arrow types."""
    groups: dict[tuple[Any, ...], list[SourceFile]] = {}
    for file in files:
        fields = shapes[file.name].fields
        groups.setdefault(tuple((n, str(fields[n])) for n in sorted(raw) if n in fields), []).append(file)
    return [
        Part(
            tuple(f.place for f in group), tuple(f.index for f in group), shapes[group[0].name].fields,
            tuple(published.get(f.name) for f in group),
        )
        for group in groups.values()
    ]  # fmt: skip


def schema(columns: Sequence[str], outputs: Mapping[str, ColumnType]) -> pa.Schema:
    """Return the schema of a scan."""
    fields = [pa.field(n, types.to_arrow(outputs[n])) for n in columns]
    return pa.schema(fields + [pa.field(n, pa.int64()) for n in TIMES])


def typed_like(table: pa.Table, kinds: Mapping[str, ColumnType]) -> pa.Table:
    """Give what DuckDB returned the types that checks and transformations know."""
    for i, name in enumerate(table.column_names):
        if not name.startswith("__") and table.column(name).type != types.to_arrow(kinds[name]):
            table = table.set_column(i, name, reading.typed(table.column(name), kinds[name]))
    return table


def cast(
    source: SourceSpec, table: pa.Table, schema: pa.Schema, columns: Sequence[str], outputs: Mapping[str, ColumnType]
) -> pa.Table:
    """Bring a piece into the form of a scan."""
    table = table.select(schema.names)
    return table if table.schema.equals(schema) else typed_like(table, outputs).cast(schema)


def between(table: pa.Table, start: datetime | None, end: datetime | None) -> pa.Table:
    """Keep the rows with start <= event < end."""
    if start is None and end is None:
        return table
    event = table.column("__event").to_numpy()
    keep = np.ones(len(event), dtype=bool)
    keep &= event >= to_micros(start) if start is not None else True
    keep &= event < to_micros(end) if end is not None else True
    return table.filter(pa.array(keep))


def known_from(table: pa.Table, published: int | None) -> pa.Table:
    """Let rows be known no earlier than their file was published."""
    if published is None:
        return table
    known = np.maximum(table.column("__known").to_numpy(), published)
    return table.set_column(table.schema.get_field_index("__known"), "__known", pa.array(known))


def published_at(table: pa.Table, part: Part) -> pa.Table:
    """Apply publication times to rows whose file is known by their sequence."""
    if not any(p is not None for p in part.published):
        return table
    place = (table.column("__sequence").to_numpy() - FIRST_SEQUENCE) >> 32
    by_index = np.zeros(max(part.indexes) + 1, dtype=np.int64)
    by_index[list(part.indexes)] = [p or 0 for p in part.published]
    known = np.maximum(table.column("__known").to_numpy(), by_index[place])
    return table.set_column(table.schema.get_field_index("__known"), "__known", pa.array(known))


def may_hold(path: Path, start: int | None, end: int | None) -> bool:
    """Whether a file of ours may have events of this time; what no manifest knows may."""
    entry = read_manifest(path.parent).entry(path)
    if entry is None or entry.min_event is None or entry.max_event is None:
        return True
    return (start is None or entry.max_event >= start) and (end is None or entry.min_event < end)


def first_times(name: str, place: str) -> str:
    """Return the SQL for the first values of a file's time column."""
    column, file = name.replace('"', '""'), place.replace("'", "''")
    return f"SELECT \"{column}\" FROM read_parquet('{file}') LIMIT 1000"


def overlapping(
    source: SourceSpec, files: Sequence[SourceFile], start: datetime | None, end: datetime | None
) -> list[SourceFile]:
    """Leave out the files that flyball wrote and that hold no event of the asked time."""
    if source.kind != "frame" or (start is None and end is None):
        return list(files)
    first = None if start is None else to_micros(start)
    last = None if end is None else to_micros(end)
    return [f for f in files if may_hold(Path(f.place), first, last)]


def is_sorted(source: SourceSpec, state: Path) -> bool:
    """Whether a manifest says that the only file's rows lie in the order of a scan."""
    if source.kind != "frame" or source.created_time is not None:
        return False
    path = state / "frames" / f"{source.path}.parquet"
    entry = read_manifest(path.parent).entry(path)
    derived_times = {name for name, _ in source.derive} & {source.event_time}
    return entry is not None and entry.sorted == (source.event_time,) and not derived_times
