"""What a model may answer: real, finite numbers, one row for each that it was given.

The surprise: the usual answer to one row is judged as Python floats, which takes less time than one call of numpy.
"""

from __future__ import annotations

import numpy as np

from flyball.errors import FlyballError

__all__ = ["ANY", "SEVERAL", "Matrix", "Values", "check_output", "lone", "numbers"]

Matrix = np.ndarray
Values = list[float | list[float] | None]
ANY, SEVERAL = -1, -2  # columns of an answer: whatever the model says; as many as it likes, but not one number
_FLOAT = np.dtype(np.float64)


def lone(answer: Matrix, columns: int | None) -> Values | None:
    """Return the values of a usual answer to one row, None when it needs the long look of `check_output`."""
    if type(answer) is not np.ndarray or answer.dtype is not _FLOAT or answer.shape[:1] != (1,):
        return None
    values: Values = answer.tolist()
    first = values[0]
    if columns is None:
        return values if type(first) is float and first - first == 0.0 else None  # inf - inf and nan - nan are nan
    if type(first) is not list or len(first) != columns or columns < 2:
        return None
    for part in first:
        if part - part != 0.0:
            return None
    return values


def check_output(values: Matrix, rows: int, columns: int | None) -> Matrix:
    """Return a model's answer as float64 of shape (rows,) or (rows, columns).

    Raises:
        FlyballError: another shape, no numbers, or a value that is not finite.
    """
    out = numbers(values)
    if out.ndim == 2 and out.shape[1] == 1:
        out = out[:, 0]
    if out.ndim not in (1, 2) or out.shape[0] != rows or not _fits(out, columns):
        raise FlyballError(f"the model answered shape {out.shape} to {rows} rows{_wanted(columns)}")
    if not np.isfinite(out).all():
        raise FlyballError("the model answered a value that is not finite")
    return out


def numbers(values: object) -> Matrix:
    """Return a model's answer as float64.

    Raises:
        FlyballError: it holds texts, complex numbers or masked places, which numpy would turn into floats of some kind.
        TypeError: it holds something else that is no number.
        ValueError: it is ragged.
    """
    out = np.asarray(values)
    if out.dtype.kind not in "biufO" or np.ma.is_masked(values):
        kind = "with masked places" if np.ma.is_masked(values) else f"of type {out.dtype}"
        raise FlyballError(f"the model answered values {kind}; it must answer real numbers")
    return out if out.dtype == np.float64 else out.astype(np.float64)


def _fits(out: Matrix, columns: int | None) -> bool:
    match columns:
        case None:
            return out.ndim == 1
        case -1:  # ANY
            return True
        case -2:  # SEVERAL
            return out.ndim == 2
        case _:
            return out.shape[1:] == (columns,)


def _wanted(columns: int | None) -> str:
    return "; one number a row is wanted" if columns is None else ""
