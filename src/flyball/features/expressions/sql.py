"""Trees become SQL, of DuckDB or of Spark.

The surprise: times and durations are BIGINT microseconds in all of it, so that no session setting has a say. Spark is
given only functions that mean the same with and without its ANSI mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

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
)
from flyball.features.expressions.types import NUMBERS, type_of

__all__ = ["Dialect", "to_sql"]

Dialect: TypeAlias = Literal["duckdb", "spark"]
_WHOLE = frozenset({"int64", "timestamp", "duration"})
_LEAST = f"CAST('{INT_MIN}' AS BIGINT)"
_DAY = 86_400_000_000


def to_sql(expr: Expr, types: Types, dialect: Dialect = "duckdb") -> str:
    """Compile to SQL.

    Args:
        expr: The expression.
        types: Column types by name. Columns must be BIGINT (int64; timestamp and duration as microseconds), DOUBLE,
            BOOLEAN or VARCHAR; float32 may be FLOAT, a decimal DECIMAL, a date DATE.
        dialect: Whose SQL.
    """
    return _Writer(types, dialect).write(expr)


class _Writer:
    def __init__(self, types: Types, dialect: Dialect) -> None:
        self._types = types
        self._dialect = dialect
        self._duckdb = dialect == "duckdb"

    def write(self, expr: Expr) -> str:
        kind = type_of(expr, self._types)
        match expr:
            case Name(name):
                return self._name(name)
            case Constant(value, _):
                return self._literal(value)
            case Unary("is null", Name(name)):
                return f"({self._quoted(name)} IS NULL)"
            case Unary("is null", of):
                return f"({self.write(of)} IS NULL)"
            case Unary("not", of):
                return f"(NOT {self.write(of)})"
            case Unary(_, of):
                return self._minus(self.write(of), kind)
            case Binary(op, left, right):
                return self._binary(op, kind, (left, right))
            case Call(name, args):
                return self._call(name, args, kind)

    def _quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"' if self._duckdb else "`" + name.replace("`", "``") + "`"

    def _name(self, name: str) -> str:
        column, kind = self._quoted(name), self._types[name]
        if kind == "float32" or column_types.decimal_of(kind) is not None:
            return f"CAST({column} AS DOUBLE)"
        if kind == "date":
            days = f"({column} - DATE '1970-01-01')" if self._duckdb else f"unix_date({column})"
            return f"(CAST({days} AS BIGINT) * {_DAY})"
        return column

    def _literal(self, value: float | str | bool) -> str:
        match value:
            case bool():
                return "TRUE" if value else "FALSE"
            case str() if self._duckdb:
                return "'" + value.replace("'", "''") + "'"
            case str():
                return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
            case int():
                return f"CAST('{value}' AS BIGINT)"
            case float():
                return f"CAST('{value!r}' AS DOUBLE)"

    def _minus(self, inner: str, kind: ExprType) -> str:
        if kind == "float64":
            return f"(-{inner})"
        return f"TRY(-{inner})" if self._duckdb else f"try_subtract(CAST(0 AS BIGINT), {inner})"

    def _binary(self, op: str, kind: ExprType, sides: tuple[Expr, Expr]) -> str:
        left, right = (self.write(side) for side in sides)
        mixed = {type_of(side, self._types) for side in sides} == set(NUMBERS)
        if kind == "float64" or (op in COMPARE and mixed):
            left, right = f"CAST({left} AS DOUBLE)", f"CAST({right} AS DOUBLE)"
        if op in {"/", "//", "%"}:
            right = f"NULLIF({right}, {'CAST(0 AS BIGINT)' if kind in _WHOLE else 'CAST(0 AS DOUBLE)'})"
        if kind not in _WHOLE:
            return f"({left} {op.upper()} {right})"
        if self._duckdb:
            return f"TRY({left} {op} {right})"
        if op in {"//", "%"}:
            found = f"({left} {'div' if op == '//' else '%'} {right})"
            return f"(CASE WHEN {left} = {_LEAST} AND {right} = -1 THEN NULL ELSE {found} END)"
        return f"{ {'+': 'try_add', '-': 'try_subtract', '*': 'try_multiply'}[op] }({left}, {right})"

    def _call(self, name: str, args: Sequence[Expr], kind: ExprType) -> str:
        given = [self.write(arg) for arg in args]
        match name:
            case "abs" if kind == "float64":
                return f"abs({given[0]})"
            case "abs":
                return f"(CASE WHEN {given[0]} = {_LEAST} THEN NULL ELSE abs({given[0]}) END)"
            case "concat":
                return f"({' || '.join(given)})"
            case "coalesce":
                return f"coalesce({', '.join(self._as(kind, args, given))})"
            case "if":
                yes, no = self._as(kind, args[1:], given[1:])
                return f"(CASE WHEN {given[0]} THEN {yes} ELSE {no} END)"
            case "floor" | "ceil" | "round" if kind == "int64":
                return given[0]
        return FUNCTIONS[name].sql(given, self._dialect)

    def _as(self, kind: ExprType, args: Sequence[Expr], given: Sequence[str]) -> list[str]:
        """Bring whole numbers among floats to floats."""
        mixed = kind == "float64"
        return [
            f"CAST({text} AS DOUBLE)" if mixed and type_of(arg, self._types) == "int64" else text
            for arg, text in zip(args, given, strict=True)
        ]
