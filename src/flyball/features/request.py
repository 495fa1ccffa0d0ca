"""Request-time columns: transformations of what a request brings, of T, and of features beside them in the matrix.

The surprise: the gateway calls this once per request, so one row of plain numbers takes a path of its own, without
array arithmetic; a test holds the two equal. A feature is seen as the model sees it: a number, with its default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from flyball.errors import BadRequest, InputError
from flyball.features import transforms, types
from flyball.features.kernel.partials import Ints
from flyball.features.spec import ColumnType, FeatureService, Status, TransformSpec
from flyball.features.transforms import Column
from flyball.features.transforms.columns import from_arrow, to_arrow
from flyball.units import to_micros

__all__ = ["AT", "RequestPart"]

AT = "__at"
"""The argument that is T."""
_NAN = float("nan")
_NULL = int(Status.NULL)
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_PLAIN: dict[ColumnType, tuple[type, ...]] = {
    "int64": (int,), "bool": (bool, int), "float64": (float, int), "float32": (float, int), "timestamp": (int,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Request:
    """One request-time column, and where it stands in the matrix."""

    name: str
    transform: TransformSpec
    start: int
    width: int
    one: Any  # a function of one row's numbers, or None


class RequestPart:
    """Compute a service's request-time columns.

    Args:
        service: What the model reads.
    """

    def __init__(self, service: FeatureService) -> None:
        self._kinds = {i.name: i.type for i in service.inputs}
        self._required = {i.name: i.required for i in service.inputs}
        self._features: dict[str, int] = {}  # "view:feature" -> its place in the matrix
        self._columns: list[_Request] = []
        start = 0
        for column in service.columns:
            if column.kind == "view":
                self._features[f"{column.view}:{column.name}"] = start
            elif column.transform is not None:
                one = transforms.single(column.transform)
                self._columns.append(_Request(column.name, column.transform, start, column.width, one))
            start += column.width

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._columns)

    def fill(self, matrix: np.ndarray, statuses: np.ndarray, inputs: Mapping[str, Any], n: int, at: int) -> None:
        """Compute into the matrix, where views and fields stand already.

        Args:
            matrix: float64, shape (n, width of the service).
            statuses: uint8 `Status`, same shape.
            inputs: Input name -> n values (list or array); None is null.
            n: Number of rows.
            at: T in µs.

        Raises:
            BadRequest: an input is missing, of wrong length or wrong type.
        """
        read: dict[str, Column] = {}
        for column in self._columns:
            if n == 1 and column.one is not None:
                numbers = self._numbers(column.transform, matrix, inputs, at)
                if numbers is not None:
                    found = column.one(numbers)
                    matrix[0, column.start] = found
                    statuses[0, column.start] = _NULL if math.isnan(found) else 0
                    continue
            for name in column.transform.args:
                if name not in read:
                    read[name] = self._argument(name, matrix, inputs, n, at)
            given = [read[name] for name in column.transform.args]
            self._place(column, matrix, statuses, given)

    def history(
        self, inputs: Mapping[str, pa.ChunkedArray], features: Mapping[str, pa.Array], at: Ints
    ) -> dict[str, pa.Array]:
        """Compute the same over requests of the past.

        Args:
            inputs: Input name -> typed column.
            features: "view:feature" -> its answers, with defaults.
            at: T of each request, int64 µs.

        Returns:
            Column name -> answers of the transformation's type; null where there is no value.
        """
        times = Column.of(at)
        answers = {}
        for column in self._columns:
            given = [
                times if name == AT else from_arrow(inputs[name]) if name in inputs else _number(features[name])
                for name in column.transform.args
            ]
            found = transforms.evaluate(column.transform, [c.values for c in given], [c.valid for c in given])
            answers[column.name] = to_arrow(Column(*found), types.to_arrow(column.transform.type))
        return answers

    def _numbers(
        self, transform: TransformSpec, matrix: np.ndarray, inputs: Mapping[str, Any], at: int
    ) -> list[float] | None:
        """Return one row's arguments as numbers, or None where one is no plain number."""
        found: list[float] = []
        for name in transform.args:
            if name == AT:
                found.append(at)
            elif name in self._features:
                found.append(float(matrix[0, self._features[name]]))
            else:
                values = inputs.get(name)
                if type(values) is not list or len(values) != 1:
                    return None
                value, kind = values[0], self._kinds[name]
                if value is None:
                    found.append(_NAN)
                elif type(value) in _PLAIN.get(kind, ()):
                    found.append(value)
                else:
                    return None
        return found

    def _argument(self, name: str, matrix: np.ndarray, inputs: Mapping[str, Any], n: int, at: int) -> Column:
        if name == AT:
            return Column(np.full(n, at, np.int64), np.ones(n, dtype=bool))
        if name in self._features:
            return Column.of(matrix[:, self._features[name]])
        values = inputs.get(name)
        if values is None:
            if self._required.get(name, True):
                raise BadRequest(f"the request misses {name!r}, a required input; send one value a row")
            values = [None] * n
        if len(values) != n:
            raise BadRequest(f"{name} has {len(values)} values and the request {n} rows; send one value a row")
        return typed_input(name, self._kinds[name], values)

    def _place(self, column: _Request, matrix: np.ndarray, statuses: np.ndarray, given: list[Column]) -> None:
        try:
            values, valid = transforms.evaluate(column.transform, [c.values for c in given], [c.valid for c in given])
        except InputError as error:
            raise BadRequest(str(error)) from error
        here = slice(column.start, column.start + column.width)
        wide = values.reshape(len(values), column.width).astype(np.float64)
        wide[~valid] = np.nan
        matrix[:, here] = wide
        statuses[:, here] = np.where(np.isnan(wide), _NULL, 0)


def typed_input(name: str, kind: ColumnType, values: Sequence[Any] | np.ndarray) -> Column:
    """Return the values of a request's input as a column of its declared type; None and NaN of numbers are null.

    Args:
        name: The input, for messages.
        kind: Its type.
        values: JSON values (times as ISO text or µs), Python values or an array.

    Raises:
        BadRequest: a value is of another type.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and kind not in {"string", "bytes", "date"}:
        return _array_input(name, kind, values)
    listed = [None if v is None or _is_nan(v) else _exact(name, kind, v) for v in values]
    valid = np.array([v is not None for v in listed], dtype=bool)
    filler, dtype = _FORMS.get(kind, (None, object)) if types.decimal_of(kind) is None else (0.0, np.float64)
    if types.is_vector(kind):
        filler, dtype = [_NAN] * types.vector_size(kind), np.float32
    if dtype is object:
        out = np.empty(len(listed), dtype=object)
        out[:] = listed
        return Column(out, valid)
    return Column(np.array([filler if v is None else v for v in listed], dtype=dtype), valid)


_FORMS: dict[ColumnType, tuple[Any, Any]] = {
    "int64": (0, np.int64), "float64": (0.0, np.float64), "float32": (0.0, np.float64), "bool": (False, np.bool_),
    "timestamp": (0, np.int64), "date": (np.datetime64(0, "D"), "M8[D]"),
}  # fmt: skip


def _array_input(name: str, kind: ColumnType, values: np.ndarray) -> Column:
    valid = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)
    filled = np.where(valid, values, 0)
    if kind in {"int64", "timestamp"}:
        whole = filled.astype(np.int64)
        if (whole != filled).any():
            raise BadRequest(f"{name} holds fractions, but it is declared {kind}; send whole numbers")
        return Column(whole, valid)
    return Column(filled.astype(np.bool_ if kind == "bool" else np.float64), valid)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and math.isnan(value)


def _exact(name: str, kind: ColumnType, value: Any) -> Any:
    """Return one value in the form of its array: times as µs, the others as they are."""
    from flyball.features.values import exact

    value = value.item() if isinstance(value, np.generic) else value
    if kind == "float64" and isinstance(value, int | float):
        return float(value)
    if kind == "int64" and isinstance(value, float) and value.is_integer() and _INT_MIN <= value <= _INT_MAX:
        return int(value)
    if kind == "bool" and value in (0, 1):
        return bool(value)
    try:
        found = exact(kind, value, f"input {name!r}")
    except InputError as error:
        raise BadRequest(str(error)) from error
    return to_micros(found) if isinstance(found, datetime) else found


def _number(column: pa.Array) -> Column:
    """Return a feature's answers as the matrix holds them."""
    found = from_arrow(column)
    return Column.of(found.plain().astype(np.float64))
