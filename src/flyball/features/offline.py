"""Point-in-time history: for each request, what online serving would have answered at its T.

The surprise: requests are never sorted, filtered or joined. Each feature is looked up by row, so count, order, index
and duplicates of the requests cannot change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import DuplicateName, InputError, UnknownName
from flyball.features import types
from flyball.features.answers import STATUS, keys_and_times
from flyball.features.kernel.partials import Ints
from flyball.features.ports import OfflineEngine
from flyball.features.request import RequestPart
from flyball.features.spec import ColumnType, FeatureService, FeatureSpec, Join, ViewSpec
from flyball.features.table import Table
from flyball.features.transforms.columns import from_arrow

__all__ = ["Progress", "check_clashes", "history", "picked_features", "request_times", "service_history"]


Progress = Callable[[int, int], None]
"""Told (done, total) while answers are made: requests times views."""


def history(
    engine: OfflineEngine,
    requests: pa.Table,
    views: Sequence[ViewSpec],
    names: Sequence[str] | None,
    *,
    at: str,
    join: Join = "as_known",
    progress: Progress | None = None,
) -> Table:
    """Answer features for requests as of each one's time.

    Args:
        engine: Moves the rows.
        requests: Entity keys and the time column; other columns are kept.
        views: The views that are known.
        names: "view" or "view:feature", in the order wanted; None for every feature of every view.
        at: The requests' time column; times without an offset count as UTC.
        join: "as_known" (what had arrived by T) or "as_corrected" (also what was corrected later).
        progress: Told (done, total) in requests times views.

    Raises:
        UnknownName: no such view, feature or column.
        DuplicateName: two features, or a feature and a request column, share a name.
        InputError: a key or time column has a wrong type, a time is null, or `join` is neither.
    """
    picked = picked_features(views, names)
    check_clashes(picked, requests.column_names)
    times = request_times(requests, at)
    wanted = {v.name: (v, [f for w, f in picked if w.name == v.name]) for v, _ in picked}
    found = dict(zip(wanted, _all(engine, wanted.values(), requests, times, join, progress), strict=True))
    features = {f.name: _one(found[v.name].column(f.name)) for v, f in picked}
    statuses = {f.name: found[v.name].column(STATUS + f.name).to_numpy() for v, f in picked}
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
    read = {(column.view, column.name) for column in service.columns if column.kind == "view"}
    wanted = [(view, [f for f in view.features if (view.name, f.name) in read]) for view in service.views]
    for (view, mine), found in zip(wanted, _all(engine, wanted, requests, times, join), strict=True):
        answers |= {(view.name, f.name): _one(found.column(f.name)) for f in mine}
    inputs = {spec.name: _input(requests, spec.name, spec.type) for spec in service.inputs}
    computed = RequestPart(service).history(inputs, {f"{v}:{f}": a for (v, f), a in answers.items()}, times)
    columns: list[Any] = []
    for column in service.columns:
        match column.kind:
            case "view":
                columns += _parts(answers[column.view or "", column.name], column.width)
            case "field":
                columns += _parts(_one(inputs[column.name]), column.width)
            case "request":
                columns += _parts(computed[column.name], column.width)
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
    progress: Progress | None = None,
) -> list[pa.Table]:
    """Answer views, two side by side: scans and sorts leave the interpreter free."""
    if join not in {"as_known", "as_corrected"}:
        raise InputError(f"join {join!r} is neither as_known nor as_corrected")
    done, total, lock = 0, requests.num_rows * len(wanted), threading.Lock()

    def one(view_and_features: tuple[ViewSpec, list[FeatureSpec]]) -> pa.Table:
        nonlocal done
        view, mine = view_and_features
        found = engine.answer(keys_and_times(requests, view.entity, at), view, mine, join=join)
        with lock:
            done += requests.num_rows
            if progress is not None:
                progress(done, total)
        return found

    if len(wanted) < 2:
        return [one(each) for each in wanted]
    with ThreadPoolExecutor(2, thread_name_prefix="history") as pool:
        return list(pool.map(one, wanted))


# ------------------------------------------------------------------------------------------------ requests


def _input(requests: pa.Table, name: str, kind: ColumnType) -> pa.ChunkedArray:
    if name not in requests.column_names:
        raise UnknownName.of("request column", name, requests.column_names)
    column = requests.column(name)
    found = column.type
    fits = {
        "int64": pa.types.is_integer(found), "bool": pa.types.is_boolean(found), "string": _is_text(found),
        "float64": pa.types.is_integer(found) or pa.types.is_floating(found),
        "timestamp": pa.types.is_timestamp(found),
    }.get(kind, types.from_arrow(found) == kind)  # fmt: skip
    if not fits and not pa.types.is_null(found):
        raise InputError(f"request column {name!r} is {found}, but the model's input is {kind}; convert it first")
    if kind == "timestamp" and not pa.types.is_null(found):
        column = column.cast(pa.timestamp("us", found.tz), safe=False)
    return column.cast(types.to_arrow(kind), safe=kind == "int64")


def _parts(column: pa.Array, width: int) -> list[pa.Array]:
    """Return a vector's parts, each a float32 column; anything else is its only part."""
    if width == 1 and not pa.types.is_fixed_size_list(column.type):
        return [column]
    found = from_arrow(column)
    gone = None if found.valid.all() else ~found.valid
    return [pa.array(np.ascontiguousarray(found.values[:, i]), pa.float32(), mask=gone) for i in range(width)]


def picked_features(views: Sequence[ViewSpec], names: Sequence[str] | None) -> list[tuple[ViewSpec, FeatureSpec]]:
    """Return the features that "view" and "view:feature" name, once each; raises UnknownName."""
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


def check_clashes(picked: Iterable[tuple[ViewSpec, FeatureSpec]], columns: Sequence[str]) -> None:
    """Raise DuplicateName when two features, or a feature and a request column, share a name."""
    seen: Mapping[str, str] = dict.fromkeys(columns, "a request column")
    owners = dict(seen)
    for view, feature in picked:
        if feature.name in owners:
            raise DuplicateName(
                f"feature {feature.name!r} of view {view.name!r} has the name of {owners[feature.name]}; "
                "rename one, or ask for fewer features"
            )
        owners[feature.name] = f"a feature of view {view.name!r}"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
