"""Parts of local time, and time on a circle.

Times are int64 µs UTC and are read in the transform's `timezone`; a date is the day that it names, in any zone. The
surprise: a request has one row, and for it plain integers are ten times faster than arrays; so each part exists twice,
and a test holds the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.errors import InputError
from flyball.features.kernel.partials import Floats, Ints
from flyball.features.spec import TransformSpec
from flyball.features.transforms.column import Column, numbers, params
from flyball.features.zones import zone

__all__ = ["PARTS", "PERIODS", "cyclic", "one_part", "part"]

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_THURSDAY = 3  # 1 January 1970, Monday is 0
_EPOCH = date(1970, 1, 1).toordinal()
_FIRST_DAY, _LAST_DAY = date.min.toordinal() - _EPOCH, date.max.toordinal() - _EPOCH
PERIODS = ("hour", "day", "week", "month", "year")
"""The spans of local time that `cyclic` knows by name."""


def _days(day: Ints, unit: str) -> npt.NDArray[Any]:
    return day.astype("M8[D]").astype(f"M8[{unit}]")


def _day_of_year(day: Ints) -> Ints:
    return day - _days(day, "Y").astype("M8[D]").astype(np.int64) + 1


def _day_of_month(day: Ints) -> Ints:
    return day - _days(day, "M").astype("M8[D]").astype(np.int64) + 1


def _week(day: Ints) -> Ints:
    """ISO 8601: the week of the year in which its Thursday lies."""
    return (_day_of_year(day - (day + _THURSDAY) % 7 + _THURSDAY) - 1) // 7 + 1


PARTS: dict[str, Callable[[Ints], npt.NDArray[Any]]] = {
    "hour_of_day": lambda local: local % _DAY // _HOUR,
    "day_of_week": lambda local: (local // _DAY + _THURSDAY) % 7,
    "day_of_month": lambda local: _day_of_month(local // _DAY),
    "day_of_year": lambda local: _day_of_year(local // _DAY),
    "month": lambda local: _days(local // _DAY, "M").astype(np.int64) % 12 + 1,
    "week": lambda local: _week(local // _DAY),
    "is_weekend": lambda local: (local // _DAY + _THURSDAY) % 7 >= 5,
}
_ONE_DAY: dict[str, Callable[[date], int]] = {
    "day_of_month": lambda day: day.day,
    "day_of_year": lambda day: day.toordinal() - date(day.year, 1, 1).toordinal() + 1,
    "month": lambda day: day.month,
    "week": lambda day: day.isocalendar().week,
}


def part(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return a part of local time: int64, `is_weekend` bool; null where the time is."""
    local = _local(transform, arguments[0])
    return Column(PARTS[transform.function](local), arguments[0].valid)


def one_part(transform: TransformSpec) -> Callable[[list[float]], float]:
    """Return the same for one time, as float."""
    name, rules = transform.function, zone(str(params(transform).get("timezone", "UTC")))

    def whole(local: int) -> float:
        return float(PARTS[name](np.array([local], dtype=np.int64))[0])

    def one(values: list[float]) -> float:
        if values[0] != values[0]:
            return math.nan
        local = rules.one_to_local(int(values[0]))
        if name == "hour_of_day":
            return float(local % _DAY // _HOUR)
        day = local // _DAY
        if name == "day_of_week":
            return float((day + _THURSDAY) % 7)
        if name == "is_weekend":
            return float((day + _THURSDAY) % 7 >= 5)
        if not _FIRST_DAY + 7 <= day <= _LAST_DAY - 7:
            return whole(local)
        return float(_ONE_DAY[name](date.fromordinal(day + _EPOCH)))

    return one


def cyclic(transform: TransformSpec, arguments: list[Column]) -> Column:
    """Return (sin, cos) of where a time or number stands in its period, float32 (n, 2); null where it is null.

    `period` is one of PERIODS for times (a year has its own number of days), or a number for numbers.
    """
    period = params(transform)["period"]
    if isinstance(period, str):
        valid = arguments[0].valid
        share = _share(_local(transform, arguments[0]), period)
    else:
        assert isinstance(period, int | float)
        values = numbers(arguments[0], "cyclic")
        with np.errstate(all="ignore"):
            share = np.mod(values, period) / period
        valid = arguments[0].valid & np.isfinite(values)
    angle = 2 * np.pi * np.where(valid, share, 0.0)
    return Column(np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32), valid)


def _share(local: Ints, period: str) -> Floats:
    day, rest = local // _DAY, local % _DAY
    match period:
        case "hour":
            return local % _HOUR / _HOUR
        case "day":
            return rest / _DAY
        case "week":
            return ((day + _THURSDAY) % 7 * _DAY + rest) / (7 * _DAY)
        case _:
            unit = period[0].upper()
            first = _days(day, unit)
            begin = first.astype("M8[D]").astype(np.int64)
            length = (first + 1).astype("M8[D]").astype(np.int64) - begin
            found: Floats = ((day - begin) * _DAY + rest) / (length * _DAY)
            return found


def _local(transform: TransformSpec, column: Column) -> Ints:
    """Return local µs; 0 where null."""
    values = column.values
    match values.dtype.kind:
        case "M":
            days: Ints = np.where(column.valid, values.astype("M8[us]").astype(np.int64), 0)
            return days
        case "i":
            times = np.where(column.valid, values, 0)
        case "f":
            times = np.where(column.valid & ~np.isnan(values), values, 0).astype(np.int64)
        case _:
            raise InputError(f"{transform.function} needs times, but was given {values.dtype}")
    return zone(str(params(transform).get("timezone", "UTC"))).to_local(times.astype(np.int64, copy=False))
