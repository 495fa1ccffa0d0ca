"""Answer one view for requests from rows at hand: what every engine runs on each of its partitions.

The surprise: there is nothing about engines here. DuckDB's path calls `answer_rows` with all rows or with a bucket of
entities, Spark calls it inside `applyInArrow`; an entity's answers depend on its own rows only, so both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import InputError, UnknownName, first_line
from flyball.features import types, values
from flyball.features.kernel import slots
from flyball.features.kernel.asof import newest_rows
from flyball.features.kernel.partials import Ints
from flyball.features.kernel.timeline import Timeline, codes_of, row_order
from flyball.features.kernel.windows import evaluate
from flyball.features.ports import OfflineEngine
from flyball.features.spec import ColumnType, EntitySpec, FeatureSpec, Join, Status, ViewSpec, columns_of

__all__ = [
    "STATUS", "answer_by_scan", "answer_rows", "keys_and_times", "request_keys", "row_columns", "with_arguments",
]  # fmt: skip

STATUS = "__status_"
"""What the name of a status column begins with; a feature's name cannot."""
Statuses = npt.NDArray[np.uint8]


def answer_rows(
    rows: pa.Table,
    requests: pa.Table,
    view: ViewSpec,
    features: Sequence[FeatureSpec],
    *,
    at: str = "__at",
    join: Join = "as_known",
) -> pa.Table:
    """Answer requests from the rows of their entities.

    Args:
        rows: Accepted rows: `row_columns(view, features)`, `__event`, `__created`, `__known`, `__sequence` (int64), in
            any order; all rows of every entity that is asked for, others do no harm.
        requests: The entity's key columns and T in `at` (int64 µs or timestamps), in any order.
        view: The view.
        features: Which of its features, computed ones too.
        at: The requests' column that holds T.
        join: "as_known" or "as_corrected".

    Returns:
        In the requests' order: a column per feature of its type, then a `__status_NAME` (uint8) per feature.

    Raises:
        InputError: a key or a feature's column has a wrong type, or `join` is neither.
    """
    if join not in {"as_known", "as_corrected"}:
        raise InputError(f"join {join!r} is neither as_known nor as_corrected")
    times = requests.column(at).cast(pa.int64()).to_numpy()
    stored = [f for f in with_arguments(view, features) if f.transform is None]
    rows = _ordered(rows)
    row_codes, codes = codes_of(_row_keys(rows, view), request_keys(requests, view.entity))
    event = rows.column("__event").to_numpy()
    known = rows.column("__known").to_numpy() if join == "as_known" else event
    timeline = Timeline(row_codes, event, known)
    answers = (_window_answers if view.is_window else _row_answers)(timeline, rows, view, stored, codes, times)
    found = {f.name: a for f, a in zip(stored, answers, strict=True)}
    if any(f.transform is not None for f in features):
        found = _computed(view, with_arguments(view, features), found)
    names = [f.name for f in features]
    filled = [_with_default(f, *found[f.name]) for f in features]
    columns: dict[str, Any] = dict(zip(names, (one for one, _ in filled), strict=True))
    columns |= {STATUS + n: pa.array(status, pa.uint8()) for n, (_, status) in zip(names, filled, strict=True)}
    return pa.table(columns)


def with_arguments(view: ViewSpec, features: Sequence[FeatureSpec]) -> list[FeatureSpec]:
    """Return features and, in the view's order, all that computed ones among them are made of."""
    mine = {f.name: f for f in view.features}
    wanted: set[str] = set()
    left = [f.name for f in features]
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            transform = mine[name].transform
            left += [a for a in transform.args if a in mine] if transform is not None else []
    return [f for f in view.features if f.name in wanted]


def row_columns(view: ViewSpec, features: Sequence[FeatureSpec]) -> list[str]:
    """Return the source columns that answering these features takes, keys first."""
    return columns_of(view.entity, with_arguments(view, features))


def request_keys(requests: pa.Table, entity: EntitySpec) -> list[pa.ChunkedArray]:
    """Return the requests' key columns, of the keys' types.

    Raises:
        UnknownName: a key has no column.
        InputError: a column has another type than the key.
    """
    keys = []
    for key in entity.keys:
        if key.name not in requests.column_names:
            raise UnknownName.of(f"request column for entity {entity.name!r}", key.name, requests.column_names)
        keys.append(_key(requests.column(key.name), key.type, f"request column {key.name!r}"))
    return keys


def keys_and_times(requests: pa.Table, entity: EntitySpec, at: Ints) -> pa.Table:
    """Return requests as an engine takes them: key columns of the keys' types, and `__at` (int64 µs)."""
    keys = request_keys(requests, entity)
    return pa.table({k.name: c for k, c in zip(entity.keys, keys, strict=True)} | {"__at": pa.array(at, pa.int64())})


def answer_by_scan(
    engine: OfflineEngine, requests: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], *, join: Join
) -> pa.Table:
    """Answer with all rows of the source at once: `OfflineEngine.answer` for what fits into memory."""
    rows = engine.scan(view.source, columns=row_columns(view, features))
    return answer_rows(rows, requests, view, features, join=join)


def _ordered(rows: pa.Table) -> pa.Table:
    order = row_order(*(rows.column(n).to_numpy() for n in ("__event", "__created", "__sequence")))
    return rows if order is None else rows.take(pa.array(order))


# ------------------------------------------------------------------------------------------------ features


def _window_answers(
    timeline: Timeline, rows: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], codes: Ints, at: Ints
) -> list[tuple[pa.Array, Statuses]]:
    wanted = [slot for _, slot in slots.planned(features) if slot is not None]
    for slot in wanted:
        if slot.of is not None and not slots.folds(slot, kind := rows.column(slot.of).type):
            raise InputError(
                f"view {view.name!r} aggregates column {slot.of!r}, which is {kind}; only numbers and booleans fold "
                "(vectors by mean, times by first and last, anything by count and distinct)"
            )
    answers = evaluate(timeline, slots.columns(wanted, rows), features, codes, at)
    return [(slots.to_arrow(f, v, s), s) for f, (v, s) in zip(features, answers, strict=True)]


def _row_answers(
    timeline: Timeline, rows: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], codes: Ints, at: Ints
) -> list[tuple[pa.Array, Statuses]]:
    place, status = newest_rows(timeline, rows.column("__event").to_numpy(), codes, at, ttl=view.ttl)
    picked = pa.array(place, mask=place < 0)
    answers = []
    for feature in features:
        assert feature.of is not None
        found = _one(_typed(rows.column(feature.of), feature, view).take(picked))
        mine = status.copy()
        mine[_nulls(found) & (status == Status.PRESENT)] = Status.NULL
        answers.append((found, mine))
    return answers


def _computed(
    view: ViewSpec, wanted: Sequence[FeatureSpec], found: Mapping[str, tuple[pa.Array, Statuses]]
) -> dict[str, tuple[pa.Array, Statuses]]:
    """Add computed features by the kernel's one function for them."""
    from flyball.features.kernel.computed import with_computed

    smaller = replace(view, features=tuple(wanted))
    arrays = {name: _to_numpy(one, _type_of(view, name)) for name, (one, _) in found.items()}
    results, statuses = with_computed(smaller, arrays, {name: status for name, (_, status) in found.items()})
    answers = dict(found)
    for f in wanted:
        if f.transform is not None:
            status = statuses[f.name]
            answers[f.name] = (_from_numpy(results[f.name], status, f.type), status)
    return answers


def _type_of(view: ViewSpec, name: str) -> ColumnType:
    return next(f.type for f in view.features if f.name == name)


def _typed(column: pa.ChunkedArray, feature: FeatureSpec, view: ViewSpec) -> pa.ChunkedArray:
    """Cast a source column to the feature's declared type where nothing is lost."""
    want = types.to_arrow(feature.type)
    if column.type == want:
        return column
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), want)])
    if _widens(column.type, want):
        try:
            return column.cast(want, safe=not pa.types.is_floating(want))
        except pa.ArrowInvalid as error:
            raise InputError(
                f"feature {feature.name!r} of view {view.name!r} is declared {feature.type}, but a value of column "
                f"{feature.of!r} of source {view.source.name!r} does not fit: {first_line(error)}"
            ) from error
    raise InputError(
        f"feature {feature.name!r} of view {view.name!r} is declared {feature.type}, but column {feature.of!r} of "
        f"source {view.source.name!r} is {column.type}; declare that type or derive a column"
    )


def _widens(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether a column may be read as a type without a change of what its values mean."""
    if pa.types.is_float64(want):
        return bool(pa.types.is_integer(have) or pa.types.is_floating(have))
    if pa.types.is_decimal(want):
        return bool(pa.types.is_decimal(have) or pa.types.is_integer(have))
    lists = pa.types.is_list(have) or pa.types.is_large_list(have) or pa.types.is_fixed_size_list(have)
    if pa.types.is_fixed_size_list(want):  # a vector: of floats; every value must have its length
        return bool(lists and pa.types.is_floating(have.value_type))
    return bool(pa.types.is_list(want) and lists and _same_or_widens(have.value_type, want.value_type))


def _same_or_widens(have: pa.DataType, want: pa.DataType) -> bool:
    return bool(have == want or _widens(have, want))


def _with_default(feature: FeatureSpec, found: pa.Array, status: Statuses) -> tuple[pa.Array, Statuses]:
    """Put the default in where there is no value; the status keeps saying so."""
    absent = status != Status.PRESENT
    if feature.default is None or not absent.any():
        return found, status
    default = pa.array([values.from_plain(feature.type, feature.default)], found.type)
    kept = np.where(absent, len(found), np.arange(len(found)))
    return pa.concat_arrays([found, default]).take(pa.array(kept)), status


# ------------------------------------------------------------------------------------------------ arrays


def _to_numpy(values: pa.Array, kind: ColumnType) -> npt.NDArray[Any]:
    """Return values as transforms take them: times int64 µs, dates datetime64[D], vectors (n, k), texts objects.

    What is null holds anything; its status says so.
    """
    if types.is_vector(kind):
        width = types.vector_size(kind)
        filled = np.zeros((len(values), width), dtype=np.float32)
        valid = ~_nulls(values)
        filled[valid] = values.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        return filled
    match kind:
        case "int64" | "float64" | "float32" | "bool":
            filler: Any = False if kind == "bool" else 0
            return np.asarray(pc.fill_null(values, pa.scalar(filler, values.type)).to_numpy(zero_copy_only=False))
        case "timestamp":
            return np.asarray(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))
        case "date":
            days = pc.fill_null(values.cast(pa.int32()), 0).to_numpy(zero_copy_only=False)
            return np.asarray(days.astype("datetime64[D]"))
    found = np.empty(len(values), dtype=object)
    found[:] = values.to_pylist()
    return found


def _from_numpy(values: npt.NDArray[Any], status: Statuses, kind: ColumnType) -> pa.Array:
    """Return a computed feature's values of its declared type; null where it has none."""
    want = types.to_arrow(kind)
    missing = np.isin(status, (Status.NULL, Status.MISSING)) if status is not None else np.zeros(len(values), bool)
    if types.is_vector(kind):
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
        mask = pa.array(missing) if missing.any() else None
        return pa.FixedSizeListArray.from_arrays(flat, types.vector_size(kind), mask=mask)
    if values.dtype.kind == "O":
        return pa.array([None if m else v for v, m in zip(values.tolist(), missing.tolist(), strict=True)], want)
    if kind == "timestamp":
        return pa.array(values.astype(np.int64), pa.int64(), mask=missing).cast(want)
    if kind in {"int64", "bool"} and values.dtype.kind == "f":
        values = np.where(missing, 0, values)
    plain = {"int64": np.int64, "bool": np.bool_, "float64": np.float64, "float32": np.float32}.get(kind)
    return pa.array(values if plain is None else values.astype(plain), want, mask=missing)


def _row_keys(rows: pa.Table, view: ViewSpec) -> list[pa.ChunkedArray]:
    what = f"of source {view.source.name!r}"
    return [_key(rows.column(k.name), k.type, f"key column {k.name!r} {what}") for k in view.entity.keys]


def _key(column: pa.ChunkedArray, kind: ColumnType, what: str) -> pa.ChunkedArray:
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    want = types.to_arrow(kind)
    fits = _KEY_TESTS.get(kind, lambda t: t == want)(found)
    if not fits and column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), want)])
    if not fits:
        hint = " (a frame with nulls needs Int64)" if pa.types.is_floating(found) else ""
        raise InputError(f'{what} is {found}, but the key is {kind}; 1 and "1" differ, so convert it first{hint}')
    if pa.types.is_dictionary(column.type):
        column = column.cast(found)
    return column.cast(want, safe=kind != "timestamp")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


_KEY_TESTS: dict[str, Any] = {
    "int64": pa.types.is_integer, "string": _is_text, "bytes": _is_bytes, "bool": pa.types.is_boolean,
    "timestamp": pa.types.is_timestamp, "date": pa.types.is_date,
}  # fmt: skip


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _nulls(values: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_null(values).to_numpy(zero_copy_only=False), dtype=bool)
