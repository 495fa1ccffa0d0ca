"""One column of raw values to one type: what does not fit counts as null.

The surprise: columns that Arrow can cast are cast; only what it cannot (texts of bytes, decimals out of JSON numbers,
ragged lists) is gone through value by value, with the same rules as the request inputs of `features/values.py`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import InputError, SourceError
from flyball.features import types
from flyball.features.kernel.partials import Ints
from flyball.features.raw import MARK
from flyball.features.spec import ColumnType
from flyball.features.values import exact
from flyball.features.zones import zone
from flyball.units import to_micros

__all__ = ["fits", "guess", "micros", "moment", "nulls", "refuse_naive", "typed", "vectors"]

_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d+)?)?)?\s*(Z|[+-]\d\d(:?\d\d)?)?")
_OFFSET = r"\d\d:\d\d\S*\s*(Z|[+-]\d\d(:?\d\d)?)$"
_PYTHON: dict[str, tuple[type, ...]] = {
    "int64": (int,), "float64": (int, float), "bool": (bool,), "string": (str,), "timestamp": (str, int, datetime),
}  # fmt: skip


def fits(value: object, kind: ColumnType) -> bool:
    """Whether a pushed value, not None, is of a type."""
    if kind not in _PYTHON:
        return one(value, kind) is not None
    if isinstance(value, bool):
        return kind == "bool"
    if not isinstance(value, _PYTHON[kind]):
        return False
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not (kind == "timestamp" and isinstance(value, str)) or moment(value, "UTC") is not None


def one(value: Any, kind: ColumnType) -> Any:
    """Return one pushed value exactly, None when it does not fit; a JSON number is the decimal it was written as."""
    if isinstance(value, float) and types.decimal_of(kind) is not None:
        value = Decimal(repr(value))
    try:
        return exact(kind, value, "")
    except InputError:
        return None


def guess(column: pa.ChunkedArray, *, is_time: bool) -> ColumnType | None:
    """Return the type of a pushed column that nobody declared; texts that are all ISO times are timestamps."""
    kind = "float64" if pa.types.is_null(column.type) else types.from_arrow(column.type)
    if is_time and (kind in {"int64", "string"} or pa.types.is_null(column.type)):
        return "timestamp"
    if kind == "string" and column.null_count < len(column):
        texts = column.drop_null().to_pylist()
        return "timestamp" if all(_ISO.fullmatch(t) for t in texts) else kind
    return kind


def typed(column: pa.ChunkedArray, kind: ColumnType, timezone: str = "UTC") -> pa.ChunkedArray | pa.Array:
    """Return a column as a type; values that do not fit become null, times without an offset are local."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    want = types.to_arrow(kind)
    if _is_mixed(column):
        return _of_mixed(column, kind, timezone)
    if kind == "timestamp":
        return _timestamps(column, timezone)
    if column.type == want:
        return column
    if types.is_vector(kind):
        return vectors(column, types.vector_size(kind))[0]
    if pa.types.is_decimal(column.type) and kind in {"float64", "float32"}:
        column = column.cast(pa.string())  # Arrow's own cast is not to the nearest float
        return column.cast(want)
    if _casts(column.type, kind, want):
        try:
            return column.cast(want, safe=kind not in {"float64", "float32"})
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass  # an unsigned value beyond 64 bits, a decimal with more places: one by one
    if kind in _PYTHON:
        values = [v if v is not None and fits(v, kind) else None for v in column.to_pylist()]
    else:
        values = [None if v is None else one(v, kind) for v in column.to_pylist()]
    return pa.array(values, want)


def _is_mixed(column: pa.ChunkedArray) -> bool:
    """Whether pushed values of several types lie in a column as text; see `features/raw.py`."""
    return _is_text(column.type) and pc.any(pc.starts_with(column, MARK)).as_py() is True


def _of_mixed(column: pa.ChunkedArray, kind: ColumnType, timezone: str) -> pa.Array:
    size = len(MARK)
    if kind == "string":
        return pa.array(
            [t[size:] if t is not None and t.startswith(MARK) else t for t in column.to_pylist()], pa.string()
        )
    values = [json.loads(t[size:]) if t is not None and t.startswith(MARK) else t for t in column.to_pylist()]
    if kind == "timestamp":
        values = [moment(v, timezone) if isinstance(v, str) else v for v in values]
        fit = [v if v is not None and fits(v, "int64") else None for v in values]
        return pa.array(fit, pa.int64()).cast(types.to_arrow(kind))
    if kind in _PYTHON:
        values = [v if v is not None and fits(v, kind) else None for v in values]
    else:
        values = [None if v is None else one(v, kind) for v in values]
    if kind in {"float64", "float32"}:
        values = [None if v is None else float(v) for v in values]
    return pa.array(values, types.to_arrow(kind))


def vectors(column: pa.ChunkedArray | pa.Array, size: int) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Return lists of numbers as vectors, and where a value is none of this size (it is null then).

    A null element counts as NaN.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = pa.list_(pa.float32(), size)
    empty = np.asarray(pc.is_null(array).to_numpy(zero_copy_only=False), dtype=bool)
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if not (is_list or pa.types.is_fixed_size_list(array.type)) or not _is_number(array.type.value_type):
        return pa.nulls(len(array), kind), ~empty
    lengths = pc.fill_null(pc.list_value_length(array), -1).to_numpy(zero_copy_only=False)
    good = (lengths == size) & ~empty
    flat = array.filter(pa.array(good)).flatten().cast(pa.float32(), safe=False)
    values = np.zeros((len(array), size), dtype=np.float32)
    values[good] = pc.fill_null(flat, np.nan).to_numpy(zero_copy_only=False).reshape(-1, size)
    mask = None if good.all() else pa.array(~good)
    made = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind, mask=mask)
    return made, ~good & ~empty


def micros(column: pa.ChunkedArray) -> Ints:
    """Return a column of times or integers as int64, null as 0."""
    values: Ints = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return values


def nulls(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
    """Return where a column is null."""
    found = pc.is_null(column)
    return np.asarray(
        found.to_numpy() if isinstance(found, pa.ChunkedArray) else found.to_numpy(zero_copy_only=False), dtype=bool
    )


def refuse_naive(source: str, name: str, column: pa.ChunkedArray, *, first_row: int = 0, where: str = "") -> None:
    """Raise SourceError when a time of this column has no offset; names the first such row."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if (pa.types.is_timestamp(kind) and kind.tz is None) or pa.types.is_date(kind):
        naive = ~nulls(column)
    elif _is_text(kind):
        found = pc.fill_null(pc.match_substring_regex(column, _OFFSET), True)
        found = pc.or_(found, pc.fill_null(pc.starts_with(column, MARK), True))  # an int says UTC
        naive = ~np.asarray(found.to_numpy(), dtype=bool)
    else:
        return
    if naive.any():
        row = int(np.flatnonzero(naive)[0])
        raise SourceError(
            f"source {source!r} is strict, but {where}row {first_row + row} has {name} = {column[row].as_py()} without "
            "an offset; store times with one (UTC), or declare timezone= and leave strict out"
        )


def moment(text: str, timezone: str) -> int | None:
    """Return UTC microseconds of one ISO text, or None when it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if found.tzinfo is not None:
        return to_micros(found)
    local = np.array([to_micros(found.replace(tzinfo=UTC))], dtype=np.int64)
    return int(zone(timezone).to_utc(local).utc[0])


def _casts(have: pa.DataType, kind: ColumnType, want: pa.DataType) -> bool:
    """Whether Arrow may cast without a change of what values mean."""
    if pa.types.is_null(have):
        return True
    if types.decimal_of(kind) is not None:
        return bool(pa.types.is_integer(have) or pa.types.is_decimal(have))
    if (element := types.element_of(kind)) is not None:
        return bool(
            (pa.types.is_list(have) or pa.types.is_large_list(have) or pa.types.is_fixed_size_list(have))
            and (have.value_type == want.value_type or _casts(have.value_type, element, want.value_type))
        )
    tests: dict[str, Any] = {
        "int64": pa.types.is_integer, "float64": _is_number, "float32": _is_number, "bool": pa.types.is_boolean,
        "string": _is_text, "bytes": _is_bytes, "date": pa.types.is_date,
    }  # fmt: skip
    return bool(tests[kind](have)) if kind in tests else False


def _timestamps(column: pa.ChunkedArray, timezone: str) -> pa.Array:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return _utc_array(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), nulls(column))
    if _is_text(kind):
        column = _read_iso(column, timezone)
        kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us"))
        kind = column.type
    if not pa.types.is_timestamp(kind):
        return _utc_array(np.zeros(len(column), dtype=np.int64), np.ones(len(column), dtype=bool))
    values = micros(column.cast(pa.timestamp("us", kind.tz), safe=False))
    return _utc_array(values if kind.tz else zone(timezone).to_utc(values).utc, nulls(column))


def _read_iso(column: pa.ChunkedArray, timezone: str) -> pa.ChunkedArray:
    """Parse ISO texts: all local, all with an offset, or one by one."""
    for target in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return column.cast(target)
        except pa.ArrowInvalid:
            continue
    values = [None if t is None else moment(t, timezone) for t in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))])


def _utc_array(values: Ints, missing: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, pa.int64(), mask=missing if missing.any() else None).cast(types.to_arrow("timestamp"))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))
