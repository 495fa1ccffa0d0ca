"""What type an expression has over columns of given types, and which operations have no meaning."""

from __future__ import annotations

from flyball.errors import ExpressionError, UnknownName
from flyball.features.expressions.tree import COMPARE, Binary, Constant, Expr, ExprType, Name, Types, Unary

__all__ = ["NUMBERS", "type_of"]

NUMBERS = ("int64", "float64")
_ARITHMETIC: dict[tuple[str, str, str], ExprType] = {
    ("timestamp", "-", "timestamp"): "duration",
    ("timestamp", "-", "duration"): "timestamp",
    ("timestamp", "+", "duration"): "timestamp",
    ("duration", "+", "timestamp"): "timestamp",
    ("duration", "+", "duration"): "duration",
    ("duration", "-", "duration"): "duration",
    ("duration", "%", "duration"): "duration",
    ("duration", "/", "duration"): "float64",
    ("duration", "*", "int64"): "duration",
    ("int64", "*", "duration"): "duration",
}


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
            return types[name]
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
        if left == right or numbers:
            return "bool"
        raise ExpressionError(f"a {left} cannot be compared ({op}) with a {right}; both sides need one type")
    if numbers:
        return "float64" if op == "/" or "float64" in {left, right} else "int64"
    if (left, op, right) in _ARITHMETIC:
        return _ARITHMETIC[left, op, right]
    raise ExpressionError(
        f"{left} {op} {right} has no meaning; times allow time - time, time + or - duration, duration / duration "
        "(such as (end_at - start_at) / 1m) and duration * int"
    )
