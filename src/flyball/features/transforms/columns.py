"""Transformations over Arrow tables: what `derive` means in a scan, at ingest and in history.

The surprise: null and NaN stay apart here; only a model's matrix makes them one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import UnknownName
from flyball.features import types
from flyball.features.spec import TransformSpec
from flyball.features.transforms.column import Column
from flyball.features.transforms.registry import evaluate

__all__ = ["derive", "from_arrow", "to_arrow"]

_ROWS = 262_144  # in one call of a function; bounds what objects of a column take


def derive(transform: TransformSpec, table: pa.Table) -> pa.ChunkedArray:
    """Evaluate over a table's columns.

    Args:
        transform: Its arguments name columns of the table.
        table: Rows; any number of them, none included.

    Returns:
        The transform's type in Arrow, of the table's length.

    Raises:
        UnknownName: the table has no such column.
        InputError: a column does not fit, or the user's function failed.
    """
    for name in transform.args:
        if name not in table.column_names:
            raise UnknownName.of(f"argument of {transform.function}", name, table.column_names)
    kind = types.to_arrow(transform.type)
    parts = []
    for begin in range(0, table.num_rows, _ROWS):
        given = [from_arrow(table.column(name).slice(begin, _ROWS)) for name in transform.args]
        found = evaluate(transform, [c.values for c in given], [c.valid for c in given])
        parts.append(to_arrow(Column(*found), kind))
    return pa.chunked_array(parts, kind)


def from_arrow(column: pa.ChunkedArray) -> Column:
    """Return a column as numpy; decimals and float32 become float64, a dictionary its values."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = array.type
    valid = np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=bool)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        flat = array.values.slice(array.offset * size, len(array) * size).cast(pa.float32())
        return Column(_numbers(flat, np.nan).reshape(len(array), size), valid)
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_date(kind):
        days = array.cast(pa.date32()).cast(pa.int32())
        return Column(_numbers(days, 0).astype(np.int64).astype("M8[D]"), valid)
    elif pa.types.is_decimal(kind):  # by its text: Arrow's own cast is not always the nearest float
        return Column(_numbers(array.cast(pa.string()).cast(pa.float64()), np.nan), valid)
    elif pa.types.is_floating(kind) or pa.types.is_null(kind):
        return Column(_numbers(array.cast(pa.float64()), np.nan), valid)
    elif pa.types.is_boolean(kind):
        return Column(_numbers(array, False).astype(bool), valid)
    elif not pa.types.is_integer(kind):
        return Column(array.to_numpy(zero_copy_only=False).astype(object), valid)
    return Column(_numbers(array.cast(pa.int64()), 0), valid)


def to_arrow(column: Column, kind: pa.DataType) -> pa.Array:
    """Return an answer as Arrow of this type."""
    mask = None if column.valid.all() else ~column.valid
    if pa.types.is_fixed_size_list(kind):
        values = np.ascontiguousarray(column.values, dtype=np.float32).reshape(-1)
        gone = None if mask is None else pa.array(mask)
        return pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind, mask=gone)
    values = column.values
    if values.dtype.kind == "O":
        return pa.array(values, kind, mask=mask, from_pandas=False)
    return pa.array(values, mask=mask, from_pandas=False).cast(kind)


def _numbers(array: pa.Array, filler: Any) -> np.ndarray:
    filled = pc.fill_null(array, pa.scalar(filler, array.type)) if array.null_count else array
    values: np.ndarray = filled.to_numpy(zero_copy_only=False)
    return values
