"""One argument or answer: values, and where they are valid."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from flyball.errors import InputError
from flyball.features.kernel.partials import Floats
from flyball.features.spec import Scalar, TransformSpec

__all__ = ["Bools", "Column", "numbers", "params"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Column:
    """Values, shape (n,) or (n, k), and which of them are no null, bool (n,)."""

    values: npt.NDArray[Any]
    valid: Bools

    @classmethod
    def of(cls, values: npt.NDArray[Any], valid: Bools | None = None) -> Column:
        """Take an array; without `valid`, NaN, NaT, None and masked values are null."""
        if valid is not None:
            return cls(np.asarray(values), np.asarray(valid, dtype=bool))
        return cls(np.asarray(values), _seen_valid(values))

    def plain(self) -> npt.NDArray[Any]:
        """Return one array with null as NaN (whole numbers and booleans with nulls become float64), NaT or None."""
        if self.valid.all():
            return self.values
        gone = ~self.valid
        match self.values.dtype.kind:
            case "O":
                out = self.values.copy()
                out[gone] = None
            case "M":
                out = self.values.copy()
                out[gone] = np.datetime64("NaT")
            case "f":
                out = self.values.copy()
                out[gone] = np.nan
            case _:
                out = np.where(gone, np.nan, self.values.astype(np.float64))
        return out


def numbers(column: Column, function: str) -> Floats:
    """Return a column as float64; a null's number means nothing.

    Raises:
        InputError: it holds no numbers.
    """
    values = column.values
    if values.dtype.kind in "iufb" and values.ndim == 1:
        return values.astype(np.float64, copy=False)
    if values.dtype.kind == "O" and values.ndim == 1:
        kept = values[column.valid].tolist()
        if all(isinstance(v, int | float | bool | Decimal | np.number) for v in kept):
            out: Floats = np.full(len(values), np.nan)
            out[column.valid] = [float(v) for v in kept]
            return out
    raise InputError(f"{function} needs numbers, but was given {values.dtype} of shape {values.shape}")


@lru_cache(maxsize=4096)
def params(transform: TransformSpec) -> dict[str, Scalar | tuple[Scalar, ...]]:
    """Return a transform's parameters by name; do not change the dict."""
    return dict(transform.params)


def _seen_valid(values: npt.NDArray[Any]) -> Bools:
    if isinstance(values, np.ma.MaskedArray):
        masked: Bools = ~np.ma.getmaskarray(values)
        return masked
    match values.dtype.kind:
        case "f":
            gone = np.isnan(values)
            valid: Bools = ~(gone.any(axis=1) if gone.ndim == 2 else gone)
            return valid
        case "M":
            present: Bools = ~np.isnat(values)
            return present
        case "O":
            return np.array([v is not None and v == v for v in values], dtype=bool)  # noqa: PLR0124 NaN
        case _:
            return np.ones(len(values), dtype=bool)
