"""Trees become DuckDB SQL.

The surprise: times and durations are BIGINT microseconds in all of it, so that no session setting has a say.
"""

from __future__ import annotations

from flyball.features.expressions.tree import COMPARE, Binary, Constant, Expr, ExprType, Name, Types, Unary
from flyball.features.expressions.types import NUMBERS, type_of

__all__ = ["to_sql"]


def to_sql(expr: Expr, types: Types) -> str:
    """Compile to DuckDB SQL.

    Columns must be BIGINT (int64, and timestamp and duration as microseconds), DOUBLE, BOOLEAN or VARCHAR.
    """
    kind = type_of(expr, types)
    match expr:
        case Name(name):
            return '"' + name.replace('"', '""') + '"'
        case Constant(value, _):
            return _literal_sql(value)
        case Unary("is null", of):
            return f"({to_sql(of, types)} IS NULL)"
        case Unary("not", of):
            return f"(NOT {to_sql(of, types)})"
        case Unary(_, of):
            inner = to_sql(of, types)
            return f"(-{inner})" if kind == "float64" else f"TRY(-{inner})"
        case Binary(op, left, right):
            return _binary_sql(op, kind, (left, right), types)


def _binary_sql(op: str, kind: ExprType, sides: tuple[Expr, Expr], types: Types) -> str:
    left, right = (to_sql(side, types) for side in sides)
    mixed = {type_of(side, types) for side in sides} == set(NUMBERS)
    if kind == "float64" or (op in COMPARE and mixed):
        left, right = f"CAST({left} AS DOUBLE)", f"CAST({right} AS DOUBLE)"
    if op in {"/", "%"}:
        right = f"NULLIF({right}, 0)"
    if kind in {"int64", "timestamp", "duration"}:
        return f"TRY({left} {op} {right})"
    return f"({left} {op.upper()} {right})"


def _literal_sql(value: float | str | bool) -> str:
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case int():
            return f"CAST({value} AS BIGINT)"
        case float():
            return f"CAST('{value!r}' AS DOUBLE)"
