"""Features computed from the request itself: hour of the day, day of the week, ratio.

The surprise: the gateway calls this once per request, so one row takes a path of its own, without array arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flyball.errors import UnknownName
from flyball.features.kernel.partials import Floats, Ints
from flyball.features.spec import ServiceColumn
from flyball.features.zones import zone

__all__ = ["request_column"]

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_THURSDAY = 3  # 1 January 1970


def request_column(column: ServiceColumn, inputs: Mapping[str, Any], at: Ints) -> Floats:
    """Compute one request-time column.

    Args:
        column: A column of kind "request". An argument that is no input means T.
        inputs: Input name -> values, shape (n,); timestamps as int64 µs UTC.
        at: T of each row, int64 µs, shape (n,).

    Returns:
        float64, shape (n,). hour_of_day: 0 to 23 local; day_of_week: Monday 0 to Sunday 6, local; ratio: a / b, NaN
        where b is zero or either is NaN.
    """
    match column.function:
        case "ratio":
            return _ratio(np.asarray(inputs[column.args[0]]), np.asarray(inputs[column.args[1]]))
        case "hour_of_day" | "day_of_week":
            named = column.args and column.args[0] in inputs
            times = np.asarray(inputs[column.args[0]]) if named else at
            return _local(column.function, times, column.timezone)
        case _:
            raise UnknownName.of("request-time function", str(column.function), ("hour_of_day", "day_of_week", "ratio"))


def _local(function: str, times: Ints, timezone: str) -> Floats:
    if len(times) == 1 and times.dtype.kind == "i":
        local = zone(timezone).one_to_local(int(times[0]))
        one = local % _DAY // _HOUR if function == "hour_of_day" else (local // _DAY + _THURSDAY) % 7
        return np.array([float(one)])
    if times.dtype.kind == "f":  # a timestamp input with nulls
        found = _local(function, np.where(np.isnan(times), 0, times).astype(np.int64), timezone)
        return np.where(np.isnan(times), np.nan, found)
    local_times = zone(timezone).to_local(times.astype(np.int64, copy=False))
    whole = local_times % _DAY // _HOUR if function == "hour_of_day" else (local_times // _DAY + _THURSDAY) % 7
    return whole.astype(np.float64)


def _ratio(a: Any, b: Any) -> Floats:
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        found: Floats = np.where(b == 0, np.nan, a / b)
    return found
