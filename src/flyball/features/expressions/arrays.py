"""Trees evaluated over Arrow tables by numpy: the same answers as the SQL, which a property test holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import ExpressionError
from flyball.features import types as column_types
from flyball.features.expressions.functions import FUNCTIONS
from flyball.features.expressions.tree import (
    COMPARE,
    INT_MIN,
    Binary,
    Call,
    Constant,
    Expr,
    ExprType,
    Name,
    Types,
    Unary,
    columns,
)
from flyball.features.expressions.types import read_as, type_of

__all__ = ["arrow_type", "evaluate"]


@dataclass(frozen=True, slots=True)
class _Column:
    """Values and where they are valid; strings stay Arrow, everything else is numpy."""

    values: Any
    valid: npt.NDArray[np.bool_]


def evaluate(expr: Expr, table: pa.Table) -> pa.Array:
    """Evaluate over a table; gives the same as the SQL.

    Args:
        expr: The expression.
        table: Columns of any integer, float, bool, string, timestamp or duration type.

    Returns:
        int64, float64, bool, string, timestamp[us, UTC] or duration[us], of the table's length.
    """
    types = {field.name: arrow_type(field) for field in table.schema if field.name in columns(expr)}
    kind = type_of(expr, types if columns(expr) <= set(types) else dict.fromkeys(table.column_names, "string"))
    return _to_arrow(_eval(expr, table, types), kind)


def arrow_type(field: pa.Field) -> ExprType:
    """Return the type's name of an Arrow field; a column of nothing but nulls counts as float64.

    Raises:
        ExpressionError: the Arrow type has no counterpart.
    """
    if pa.types.is_duration(field.type):
        return "duration"
    if pa.types.is_null(field.type):
        return "float64"
    found = column_types.from_arrow(field)
    if found is None:
        raise ExpressionError(
            f"column {field.name!r} is of type {field.type}, which expressions cannot read; "
            "use integers, floats, booleans, texts or timestamps"
        )
    return found


def _eval(expr: Expr, table: pa.Table, types: Types) -> _Column:
    n = table.num_rows
    match expr:
        case Name(name):
            return _from_arrow(table.column(name), types[name])
        case Call():
            return _call(expr, table, types)
        case Constant(value, "string"):
            return _Column(pa.array([value] * n, pa.string()), np.ones(n, dtype=bool))
        case Constant(value, _):
            return _Column(np.full(n, value), np.ones(n, dtype=bool))
        case Unary("is null", of):
            return _Column(~_eval(of, table, types).valid, np.ones(n, dtype=bool))
        case Unary("not", of):
            inner = _eval(of, table, types)
            return _Column(~inner.values, inner.valid)
        case Unary(_, of):
            inner = _eval(of, table, types)
            return _Column(-inner.values, inner.valid & ~_lowest(inner.values))
        case Binary(op, left, right):
            return _eval_binary(op, _eval(left, table, types), _eval(right, table, types), type_of(expr, types))


def _eval_binary(op: str, left: _Column, right: _Column, kind: ExprType) -> _Column:
    valid = left.valid & right.valid
    if op == "and":
        no = (left.valid & ~left.values) | (right.valid & ~right.values)
        return _Column(left.values & right.values & ~no, valid | no)
    if op == "or":
        yes = (left.valid & left.values) | (right.valid & right.values)
        return _Column(yes, valid | yes)
    if op in COMPARE:
        return _Column(_compare(op, left.values, right.values), valid)
    a, b = left.values, right.values
    if kind == "float64":
        a, b = a.astype(np.float64), b.astype(np.float64)
    if op in {"/", "//", "%"}:
        valid &= b != 0
        b = np.where(b != 0, b, 1)
    with np.errstate(all="ignore"):
        return _float(op, a, b, valid) if kind == "float64" else _integer(op, a, b, valid)


def _call(expr: Call, table: pa.Table, types: Types) -> _Column:
    kind = type_of(expr, types)
    match expr.function:
        case "if":
            test, yes, no = (_eval(arg, table, types) for arg in expr.args)
            return _choose(test.valid & test.values, yes, no, kind)
        case "coalesce":
            found = _eval(expr.args[0], table, types)
            for arg in expr.args[1:]:
                found = _choose(found.valid, found, _eval(arg, table, types), kind)
            return found
        case "concat":
            parts = [_eval(arg, table, types).values for arg in expr.args]
            joined = pc.binary_join_element_wise(*parts, "", null_handling="emit_null")
            return _Column(joined, _valid(joined))
        case "abs":
            inner = _eval(expr.args[0], table, types)
            return _Column(np.abs(inner.values), inner.valid & ~_lowest(inner.values))
    return _function(expr, table, types, kind)


def _function(expr: Call, table: pa.Table, types: Types, kind: ExprType) -> _Column:
    function, first = FUNCTIONS[expr.function], _eval(expr.args[0], table, types)
    if expr.function in {"floor", "ceil", "round"}:
        if kind == "int64":
            return first
        with np.errstate(all="ignore"):
            return _Column(function.run(first.values), first.valid)
    found = function.run(first.values, *(arg.value for arg in expr.args[1:] if isinstance(arg, Constant)))
    if kind == "string":
        return _Column(found, first.valid)
    filled = pc.fill_null(found, pa.scalar(False if kind == "bool" else 0, found.type))
    return _Column(filled.to_numpy(zero_copy_only=False).astype(bool if kind == "bool" else np.int64), first.valid)


def _choose(test: npt.NDArray[np.bool_], yes: _Column, no: _Column, kind: ExprType) -> _Column:
    valid = np.where(test, yes.valid, no.valid)
    if kind == "string":
        return _Column(pc.if_else(pa.array(test), yes.values, no.values), valid)
    if kind == "float64":
        return _Column(np.where(test, yes.values.astype(np.float64), no.values.astype(np.float64)), valid)
    return _Column(np.where(test, yes.values, no.values), valid)


def _valid(array: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=bool)


def _float(op: str, a: Any, b: Any, valid: npt.NDArray[np.bool_]) -> _Column:
    operations: dict[str, Any] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod}
    return _Column(operations[op](a, b), valid)


def _integer(op: str, a: Any, b: Any, valid: npt.NDArray[np.bool_]) -> _Column:
    """Compute in 64 bits; what does not fit is null."""
    match op:
        case "+":
            value = a + b
            over = ((a ^ value) & (b ^ value)) < 0
        case "-":
            value = a - b
            over = ((a ^ b) & (a ^ value)) < 0
        case "*":
            value = a * b
            over = ((b == -1) & _lowest(a)) | ((b != 0) & (value // np.where(b == 0, 1, b) != a))
        case "//":  # towards zero, so that a = (a // b) * b + a % b
            over = (b == -1) & _lowest(a)
            safe = np.where(over, 1, b)
            value = (a - np.fmod(a, safe)) // safe
        case _:
            over = (b == -1) & _lowest(a)
            value = np.fmod(a, np.where(over, 1, b))
    return _Column(value, valid & ~over)


def _lowest(values: Any) -> Any:
    return values == INT_MIN if values.dtype.kind == "i" else np.zeros(len(values), dtype=bool)


def _compare(op: str, a: Any, b: Any) -> npt.NDArray[np.bool_]:
    if isinstance(a, pa.Array | pa.ChunkedArray):
        return _compare_text(op, a, b)
    if "f" in a.dtype.kind + b.dtype.kind:
        a, b = a.astype(np.float64), b.astype(np.float64)
        a_nan, b_nan = np.isnan(a), np.isnan(b)
        equal, less = (a == b) | (a_nan & b_nan), (a < b) | (b_nan & ~a_nan)
    else:
        equal, less = a == b, a < b
    found = {"=": equal, "<>": ~equal, "<": less, "<=": less | equal, ">": ~(less | equal), ">=": ~less}
    answer: npt.NDArray[np.bool_] = found[op]
    return answer


def _compare_text(op: str, a: Any, b: Any) -> npt.NDArray[np.bool_]:
    name = {"=": "equal", "<>": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
    found = pc.fill_null(pc.call_function(name[op], [a, b]), False)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)


def _from_arrow(column: pa.ChunkedArray, kind: ExprType) -> _Column:
    array = column.combine_chunks()
    array = array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
    valid = _valid(array)
    if pa.types.is_decimal(array.type):  # by its text: Arrow's own cast is not the nearest float, DuckDB's is
        array = array.cast(pa.string()).cast(pa.float64())
    match read_as(kind):
        case "string":
            return _Column(array.cast(pa.string()), valid)
        case "timestamp":
            array = array.cast(
                pa.timestamp("us", array.type.tz if pa.types.is_timestamp(array.type) else None), safe=False
            )
            array = array.cast(pa.int64())
        case "duration":
            array = array.cast(pa.duration("us"), safe=False).cast(pa.int64())
        case "bool":
            array = array.cast(pa.bool_())
        case "int64":
            array = array.cast(pa.int64())
        case "float64":
            array = array.cast(pa.float64())
        case _:  # bytes, lists, vectors: only whether it is null can be asked
            return _Column(np.zeros(len(valid)), valid)
    filler: Any = False if kind == "bool" else 0
    return _Column(pc.fill_null(array, pa.scalar(filler, array.type)).to_numpy(zero_copy_only=False), valid)


def _to_arrow(column: _Column, kind: ExprType) -> pa.Array:
    if kind == "string":
        return column.values
    wanted = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}.get(kind, pa.int64())
    mask = None if column.valid.all() else ~column.valid
    array = pa.array(column.values, wanted, mask=mask, from_pandas=False)
    match kind:
        case "timestamp":
            return array.cast(pa.timestamp("us", "UTC"))
        case "duration":
            return array.cast(pa.duration("us"))
        case _:
            return array
