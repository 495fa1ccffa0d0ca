"""Turn feature columns into the matrix that models read: float64, null as NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import InputError, UnknownName

__all__ = ["to_matrix"]


def to_matrix(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return columns as one matrix, shape (rows, len(names)), C order.

    Raises:
        UnknownName: the table has no such column.
        InputError: a column holds no numbers.
    """
    matrix = np.empty((table.num_rows, len(names)), dtype=np.float64)
    for k, name in enumerate(names):
        if name not in table.column_names:
            raise UnknownName.of("column", name, table.column_names)
        matrix[:, k] = _floats(name, table.column(name))
    return matrix


def _floats(name: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    kind = column.type
    if pa.types.is_decimal(kind):  # by way of text: Arrow's direct cast is not the nearest float64
        column, kind = column.cast(pa.string()).cast(pa.float64()), pa.float64()
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    elif not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    ):
        raise InputError(f"column {name!r} is {kind}; a matrix holds numbers, so encode it as a number first")
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    floats = column.cast(pa.float64(), safe=False)
    filled = pc.fill_null(floats, np.nan) if floats.null_count else floats
    found: npt.NDArray[np.float64] = filled.to_numpy()
    return found
