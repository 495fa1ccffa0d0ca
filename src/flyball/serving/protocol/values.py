"""One column's values: of the type that the model reads, finite, in range; null only where nothing is required.

The surprise: NaN stands for null in float columns from here on, so a NaN that was sent is refused, never taken as null.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from flyball.errors import BadRequest, InputError, shown
from flyball.features.spec import InputSpec
from flyball.features.types import is_vector
from flyball.features.values import exact
from flyball.serving.protocol.types import PREFERRED, PYTHON, Range
from flyball.units import to_micros

__all__ = ["checked", "time_of", "within"]

_EARLIEST, _LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999  # µs of the years 1 and 9999
_NULL = type(None)
_NUMBERS = (int, float)


def checked(spec: InputSpec, data: list[Any]) -> list[Any]:
    """Return a column's values as they are kept; raises BadRequest with the first wrong one and its row."""
    types = set(map(type, data))
    nulls = _NULL in types
    if nulls and spec.required:
        raise BadRequest(f"input {spec.name!r} is null in row {data.index(None)}; it is required")
    allowed = PYTHON[spec.type]
    if not types - {_NULL} <= allowed:
        row = next(i for i, v in enumerate(data) if v is not None and type(v) not in allowed)
        raise BadRequest(
            f"input {spec.name!r} is {shown(data[row])} in row {row}; it needs {PREFERRED[spec.type]} values"
        )
    match spec.type:
        case "float64":
            return _floats(spec, data, exact=types == {float})
        case "int64":
            return _integers(spec, data)
        case "timestamp":
            return [None if v is None else time_of(spec.name, v) for v in data]
        case "bool" | "string":
            return data
        case "float32":
            return _exact(spec, _floats(spec, data, exact=False))
        case _:
            return _exact(spec, data)


def within(name: str, datatype: str, limits: Range, data: list[Any]) -> None:
    """Raise BadRequest unless all numbers fit the datatype that the caller named; what is no number is left alone."""
    low, high = limits
    for row, value in enumerate(data):
        kind = type(value)
        if kind is list:
            within(name, datatype, limits, value)
        elif kind in _NUMBERS and (not low <= value <= high or (kind is float and datatype[0] != "F")):
            raise BadRequest(f"input {name!r} is {shown(value)} in row {row}, which does not fit {datatype}")


def time_of(name: str, value: str | int) -> int:
    """Return µs since 1970; raises BadRequest when it is no time of the calendar."""
    try:
        time = value if isinstance(value, int) else to_micros(datetime.fromisoformat(value))
    except ValueError as error:
        raise _no_time(name, value) from error
    if not _EARLIEST <= time <= _LATEST:
        raise _no_time(name, value)
    return time


def _no_time(name: str, value: str | int) -> BadRequest:
    return BadRequest(f"{name} is {shown(value, 60)}; send ISO 8601 such as 2020-03-11T08:00:00Z, or µs since 1970")


def _exact(spec: InputSpec, data: list[Any]) -> list[Any]:
    """Return what JSON values stand for: dates, bytes, decimals, lists; a vector stays a list, which can be logged."""
    try:
        values = [exact(spec.type, value, f"input {spec.name!r} in row {row}") for row, value in enumerate(data)]
    except (InputError, RecursionError) as error:
        raise BadRequest(str(error)) from error
    return [None if v is None else v.tolist() for v in values] if is_vector(spec.type) else values


def _floats(spec: InputSpec, data: list[Any], *, exact: bool) -> list[Any]:
    try:
        values = data if exact else [math.nan if v is None else float(v) for v in data]
    except OverflowError as error:
        raise BadRequest(f"input {spec.name!r} holds a number too large for FP64") from error
    for row, value in enumerate(values):
        if not math.isfinite(value) and data[row] is not None:
            raise BadRequest(f"input {spec.name!r} is {value} in row {row}; send a finite number")
    return values


def _integers(spec: InputSpec, data: list[Any]) -> list[Any]:
    for row, value in enumerate(data):
        if value is not None and not -(1 << 63) <= value < 1 << 63:
            raise BadRequest(f"input {spec.name!r} is {shown(value)} in row {row}; it does not fit INT64")
    return data
