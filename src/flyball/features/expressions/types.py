"""What type an expression has over columns of given types, and which operations have no meaning."""

from __future__ import annotations

from flyball.errors import ExpressionError, UnknownName
from flyball.features import types as column_types
from flyball.features.expressions.functions import NUMBERS, call_type
from flyball.features.expressions.tree import COMPARE, Binary, Call, Constant, Expr, ExprType, Name, Types, Unary

__all__ = ["NUMBERS", "read_as", "type_of"]

_ORDERED = frozenset({"int64", "float64", "string", "bool", "timestamp", "duration"})
_ARITHMETIC: dict[tuple[str, str, str], ExprType] = {
    ("timestamp", "-", "timestamp"): "duration",
    ("timestamp", "-", "duration"): "timestamp",
    ("timestamp", "+", "duration"): "timestamp",
    ("duration", "+", "timestamp"): "timestamp",
    ("duration", "+", "duration"): "duration",
    ("duration", "-", "duration"): "duration",
    ("duration", "%", "duration"): "duration",
    ("duration", "/", "duration"): "float64",
    ("duration", "//", "duration"): "int64",
    ("duration", "*", "int64"): "duration",
    ("int64", "*", "duration"): "duration",
}


def read_as(kind: ExprType) -> ExprType:
    """Return what a column of a type is within expressions: float32 and decimals float64, a date its UTC midnight."""
    if kind == "float32" or column_types.decimal_of(kind) is not None:
        return "float64"
    return "timestamp" if kind == "date" else kind


def type_of(expr: Expr, types: Types) -> ExprType:
    """Return the type of an expression over columns of these types.

    Raises:
        UnknownName: it reads a column that is not there; names near ones.
        ExpressionError: an operation does not fit its operands.
    """
    match expr:
        case Name(name):
            if name not in types:
                raise UnknownName.of("column", name, types)
            return read_as(types[name])
        case Constant(_, type_):
            return type_
        case Unary("is null", of):
            type_of(of, types)
            return "bool"
        case Unary("not", of):
            return _must("not", type_of(of, types), "bool")
        case Unary(op, of):
            return _must(op, type_of(of, types), "int64", "float64", "duration")
        case Binary(op, left, right):
            return _binary_type(op, type_of(left, types), type_of(right, types))
        case Call(name, args):
            return call_type(name, args, [type_of(arg, types) for arg in args])


def _must(op: str, found: ExprType, *wanted: ExprType) -> ExprType:
    if found not in wanted:
        raise ExpressionError(f"{op!r} does not apply to a {found}; it needs {' or '.join(wanted)}")
    return found


def _binary_type(op: str, left: ExprType, right: ExprType) -> ExprType:
    numbers = left in NUMBERS and right in NUMBERS
    if op in {"and", "or"}:
        _must(op, left, "bool")
        return _must(op, right, "bool")
    if op in COMPARE:
        if numbers or (left == right and left in _ORDERED):
            return "bool"
        if left == right:
            raise ExpressionError(f"a {left} cannot be compared ({op}); compare numbers, texts, booleans or times")
        raise ExpressionError(f"a {left} cannot be compared ({op}) with a {right}; both sides need one type")
    if op == "//" and numbers and "float64" in {left, right}:
        raise ExpressionError(f"{left} // {right}: // divides whole numbers; write floor(a / b)")
    if numbers:
        return "float64" if op == "/" or "float64" in {left, right} else "int64"
    if (left, op, right) in _ARITHMETIC:
        return _ARITHMETIC[left, op, right]
    raise ExpressionError(
        f"{left} {op} {right} has no meaning; times allow time - time, time + or - duration, duration / duration "
        "(such as (end_at - start_at) / 1m) and duration * int"
    )
