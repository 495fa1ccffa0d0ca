"""Point-in-time history: for each request, what online serving would have answered at its T.

The surprise: requests are never sorted, filtered or joined. Each feature is looked up by row, so count, order, index
and duplicates of the requests cannot change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import DuplicateName, InputError, UnknownName
from flyball.features import reading
from flyball.features.kernel.asof import newest_rows
from flyball.features.kernel.partials import Floats, Ints
from flyball.features.kernel.timeline import Timeline, codes_of
from flyball.features.kernel.windows import evaluate
from flyball.features.ports import OfflineEngine
from flyball.features.request import request_column
from flyball.features.spec import (
    ColumnType,
    EntitySpec,
    FeatureService,
    FeatureSpec,
    Join,
    Status,
    ViewSpec,
    columns_of,
)
from flyball.features.table import Table

__all__ = ["history", "request_times", "service_history"]


@dataclass(frozen=True, slots=True)
class _Values:
    values: pa.Array
    status: npt.NDArray[np.uint8]


def history(
    engine: OfflineEngine,
    requests: pa.Table,
    views: Sequence[ViewSpec],
    names: Sequence[str] | None,
    *,
    at: str,
    join: Join = "as_known",
) -> Table:
    """Answer features for requests as of each one's time.

    Args:
        engine: Moves the rows.
        requests: Entity keys and the time column; other columns are kept.
        views: The views that are known.
        names: "view" or "view:feature", in the order wanted; None for every feature of every view.
        at: The requests' time column; times without an offset count as UTC.
        join: "as_known" (what had arrived by T) or "as_corrected" (also what was corrected later).

    Raises:
        UnknownName: no such view, feature or column.
        DuplicateName: two features, or a feature and a request column, share a name.
        InputError: a key or time column has a wrong type, a time is null, or `join` is neither.
    """
    picked = _picked(views, names)
    _check_clashes(picked, requests.column_names)
    times = request_times(requests, at)
    features: dict[str, pa.Array] = {}
    statuses: dict[str, npt.NDArray[np.uint8]] = {}
    found: dict[tuple[str, str], _Values] = {}
    wanted = {v.name: (v, [f for w, f in picked if w.name == v.name]) for v, _ in picked}
    for (view, mine), answers in zip(
        wanted.values(), _all(engine, wanted.values(), requests, times, join), strict=True
    ):
        found |= {(view.name, f.name): a for f, a in zip(mine, answers, strict=True)}
    for view, feature in picked:
        features[feature.name] = found[view.name, feature.name].values
        statuses[feature.name] = found[view.name, feature.name].status
    return Table(requests, features, statuses)


def service_history(
    engine: OfflineEngine,
    requests: pa.Table,
    service: FeatureService,
    at: npt.NDArray[np.int64],
    *,
    join: Join = "as_known",
) -> pa.Table:
    """Answer every column of a feature service for requests.

    Args:
        engine: Moves the rows.
        requests: A column for each of the service's inputs.
        service: What the model reads.
        at: T of each request, int64 µs.
        join: As for `history`.

    Returns:
        The service's columns in order, one row per request, in the requests' order; null where there is no value.

    Raises:
        UnknownName: an input has no column.
        InputError: an input's column has a wrong type.
    """
    times = np.ascontiguousarray(at, dtype=np.int64)
    answers: dict[tuple[str, str], pa.Array] = {}
    wanted = [(view, list(view.features)) for view in service.views]
    for (view, _), found in zip(wanted, _all(engine, wanted, requests, times, join), strict=True):
        answers |= {(view.name, f.name): a.values for f, a in zip(view.features, found, strict=True)}
    inputs = {spec.name: _input(requests, spec.name, spec.type) for spec in service.inputs}
    columns: list[Any] = []
    for column in service.columns:
        match column.kind:
            case "view":
                columns.append(answers[column.view or "", column.name])
            case "field":
                columns.append(inputs[column.name])
            case "request":
                arguments = {name: _floats_or_times(inputs[name]) for name in column.args}
                values = request_column(column, arguments, times)
                columns.append(pa.array(values, mask=np.isnan(values)))
    return pa.table(columns, names=list(service.names))


def request_times(requests: pa.Table, at: str) -> Ints:
    """Return the requests' times as int64 µs UTC; times without an offset count as UTC.

    Raises:
        UnknownName: there is no such column.
        InputError: it holds no timestamps, or a null.
    """
    if at not in requests.column_names:
        raise UnknownName.of("request column", at, requests.column_names)
    column = requests.column(at)
    if pa.types.is_string(column.type):
        column = pc.cast(column, pa.timestamp("us", "UTC"))
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        raise InputError(f"request column {at!r} is {column.type}; the time of a request must be a timestamp")
    if column.null_count:
        raise InputError(f"request column {at!r} has {column.null_count} nulls; every request needs its time")
    times: Ints = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64()).to_numpy()
    return times


# ------------------------------------------------------------------------------------------------ one view


def _all(
    engine: OfflineEngine,
    wanted: Collection[tuple[ViewSpec, list[FeatureSpec]]],
    requests: pa.Table,
    at: Ints,
    join: Join,
) -> list[list[_Values]]:
    """Answer views, two side by side: scans and sorts leave the interpreter free."""
    if len(wanted) < 2:
        return [_answer(engine, view, mine, requests, at, join) for view, mine in wanted]
    with ThreadPoolExecutor(2, thread_name_prefix="history") as pool:
        return list(pool.map(lambda one: _answer(engine, one[0], one[1], requests, at, join), wanted))


def _answer(
    engine: OfflineEngine,
    view: ViewSpec,
    features: Sequence[FeatureSpec],
    requests: pa.Table,
    at: Ints,
    join: Join,
) -> list[_Values]:
    if join not in {"as_known", "as_corrected"}:
        raise InputError(f"join {join!r} is neither as_known nor as_corrected")
    keys = _request_keys(requests, view.entity)
    rows = engine.scan(view.source, columns=columns_of(view.entity, features))
    row_codes, codes = codes_of(_row_keys(rows, view), keys)
    event = rows.column("__event").to_numpy()
    known = rows.column("__known").to_numpy() if join == "as_known" else event
    timeline = Timeline(row_codes, event, known)
    if view.is_window:
        return _window_answers(timeline, rows, view, features, codes, at)
    return _row_answers(timeline, rows, view, features, codes, at)


def _window_answers(
    timeline: Timeline, rows: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], codes: Ints, at: Ints
) -> list[_Values]:
    values = {f.of: _numbers(rows.column(f.of), f.of, view) for f in features if f.of is not None}
    answers = evaluate(timeline, values, features, codes, at)
    return [_with_default(f, _nullable(v, f.type), s) for f, (v, s) in zip(features, answers, strict=True)]


def _row_answers(
    timeline: Timeline, rows: pa.Table, view: ViewSpec, features: Sequence[FeatureSpec], codes: Ints, at: Ints
) -> list[_Values]:
    place, status = newest_rows(timeline, rows.column("__event").to_numpy(), codes, at, ttl=view.ttl)
    picked = pa.array(place, mask=place < 0)
    answers = []
    for feature in features:
        assert feature.of is not None
        values = _one(_typed(rows.column(feature.of), feature, view).take(picked))
        mine = status.copy()
        mine[_nulls(values) & (status == Status.PRESENT)] = Status.NULL
        answers.append(_with_default(feature, values, mine))
    return answers


def _typed(column: pa.ChunkedArray, feature: FeatureSpec, view: ViewSpec) -> pa.ChunkedArray:
    """Cast a source column to the feature's declared type where nothing is lost."""
    want = reading.ARROW[feature.type]
    if column.type == want:
        return column
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), want)])
    if pa.types.is_integer(column.type) and feature.type == "float64":
        return column.cast(want, safe=False)
    raise InputError(
        f"feature {feature.name!r} of view {view.name!r} is declared {feature.type}, but column {feature.of!r} of "
        f"source {view.source.name!r} is {column.type}; declare that type or derive a column"
    )


def _numbers(column: pa.ChunkedArray, name: str, view: ViewSpec) -> Floats:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise InputError(
            f"view {view.name!r} aggregates column {name!r}, which is {kind}; only numbers and booleans fold"
        )
    floats = column.cast(pa.float64(), safe=False)
    values: Floats = (pc.fill_null(floats, np.nan) if floats.null_count else floats).to_numpy()
    return values


def _nullable(values: Floats, kind: ColumnType) -> pa.Array:
    missing = np.isnan(values)
    if kind == "int64":
        return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    return pa.array(values, mask=missing)


def _with_default(feature: FeatureSpec, values: pa.Array, status: npt.NDArray[np.uint8]) -> _Values:
    if feature.default is not None and (status != Status.PRESENT).any():
        values = pc.if_else(pa.array(status != Status.PRESENT), pa.scalar(feature.default, values.type), values)
    return _Values(values, status)


# ------------------------------------------------------------------------------------------------ requests


def _request_keys(requests: pa.Table, entity: EntitySpec) -> list[pa.ChunkedArray]:
    keys = []
    for key in entity.keys:
        if key.name not in requests.column_names:
            raise UnknownName.of(f"request column for entity {entity.name!r}", key.name, requests.column_names)
        keys.append(_key(requests.column(key.name), key.type, f"request column {key.name!r}"))
    return keys


def _row_keys(rows: pa.Table, view: ViewSpec) -> list[pa.ChunkedArray]:
    what = f"of source {view.source.name!r}"
    return [_key(rows.column(k.name), k.type, f"key column {k.name!r} {what}") for k in view.entity.keys]


def _key(column: pa.ChunkedArray, kind: ColumnType, what: str) -> pa.ChunkedArray:
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    fits = pa.types.is_integer(found) if kind == "int64" else _is_text(found)
    if not fits and column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), reading.ARROW[kind])])
    if not fits:
        hint = " (a frame with nulls needs Int64)" if pa.types.is_floating(found) else ""
        raise InputError(f'{what} is {found}, but the key is {kind}; 1 and "1" differ, so convert it first{hint}')
    return column.cast(reading.ARROW[kind])


def _input(requests: pa.Table, name: str, kind: ColumnType) -> pa.ChunkedArray:
    if name not in requests.column_names:
        raise UnknownName.of("request column", name, requests.column_names)
    column = requests.column(name)
    found = column.type
    tests = {
        "int64": pa.types.is_integer(found), "bool": pa.types.is_boolean(found), "string": _is_text(found),
        "float64": pa.types.is_integer(found) or pa.types.is_floating(found),
        "timestamp": pa.types.is_timestamp(found),
    }  # fmt: skip
    if not tests[kind] and not pa.types.is_null(found):
        raise InputError(f"request column {name!r} is {found}, but the model's input is {kind}; convert it first")
    if kind == "timestamp" and not pa.types.is_null(found):
        column = column.cast(pa.timestamp("us", found.tz), safe=False)
    return column.cast(reading.ARROW[kind], safe=kind == "int64")


def _floats_or_times(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return numpy values of an argument; timestamps as int64 µs (float64 with NaN where there are nulls)."""
    if pa.types.is_timestamp(column.type) or pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    values: npt.NDArray[Any] = column.to_numpy()
    return values


def _picked(views: Sequence[ViewSpec], names: Sequence[str] | None) -> list[tuple[ViewSpec, FeatureSpec]]:
    known = {v.name: v for v in views}
    picked: list[tuple[ViewSpec, FeatureSpec]] = []
    for name in known if names is None else names:
        view_name, _, feature_name = name.partition(":")
        if view_name not in known:
            raise UnknownName.of("feature view", view_name, known)
        view = known[view_name]
        mine = {f.name: f for f in view.features}
        if feature_name and feature_name not in mine:
            raise UnknownName.of(f"feature of view {view_name!r}", feature_name, mine)
        picked += [(view, f) for f in ([mine[feature_name]] if feature_name else view.features)]
    return list({(v.name, f.name): (v, f) for v, f in picked}.values())


def _check_clashes(picked: Iterable[tuple[ViewSpec, FeatureSpec]], columns: Sequence[str]) -> None:
    seen: Mapping[str, str] = dict.fromkeys(columns, "a request column")
    owners = dict(seen)
    for view, feature in picked:
        if feature.name in owners:
            raise DuplicateName(
                f"feature {feature.name!r} of view {view.name!r} has the name of {owners[feature.name]}; "
                "rename one, or ask for fewer features"
            )
        owners[feature.name] = f"a feature of view {view.name!r}"


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _nulls(values: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_null(values).to_numpy(zero_copy_only=False), dtype=bool)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
