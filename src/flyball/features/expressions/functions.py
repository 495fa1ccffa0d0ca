"""The functions of expressions: what they take and give, in SQL and over Arrow.

The surprise: several are narrower than their namesakes, so that DuckDB, Spark and Arrow cannot differ: `lower` and
`upper` change only the letters A to Z, `trim` takes spaces, tabs and line ends, positions and patterns are constants,
and `round` goes to whole numbers, halves away from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from flyball.errors import ExpressionError
from flyball.features.expressions.tree import Constant, Expr, ExprType

__all__ = ["FUNCTIONS", "NUMBERS", "OWN", "Function", "call_type", "common_type"]

NUMBERS = ("int64", "float64")
_BLANK = " \t\n\r"
_LOWER, _UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_EXACT = 2**53  # from here on a float64 has no fraction


@dataclass(frozen=True, slots=True)
class Function:
    """One function: `takes` are its argument types ("number", "like" the others), `gives` its type.

    `sql` builds SQL from arguments' SQL and a function that quotes texts; `run` maps Arrow texts or numpy arrays.
    `constants` are the positions that must be constants.
    """

    takes: tuple[str, ...]
    gives: ExprType | None  # None: that of its arguments
    sql: Callable[[Sequence[str], str], str]
    run: Callable[..., Any]
    constants: tuple[int, ...] = ()
    optional: int = 0
    check: Callable[[Sequence[Any]], str | None] | None = None


def _round(values: Any) -> Any:
    whole = np.trunc(values)
    return whole + np.where(np.abs(values - whole) >= 0.5, np.copysign(1.0, values), 0.0)


def _whole_sql(name: str) -> Callable[[Sequence[str], str], str]:
    """Spark's floor, ceil and round give integers, which do not hold every float; large floats are whole anyway."""

    def sql(args: Sequence[str], dialect: str) -> str:
        x = args[0]
        if dialect == "duckdb":
            return f"{name}({x})"
        return f"(CASE WHEN abs({x}) < {_EXACT}D THEN CAST({name}({x}) AS DOUBLE) ELSE {x} END)"

    return sql


def _text(pattern: str) -> Callable[[Sequence[str], str], str]:
    return lambda args, dialect: pattern.format(*args)


def _either(duckdb: str, spark: str) -> Callable[[Sequence[str], str], str]:
    return lambda args, dialect: (duckdb if dialect == "duckdb" else spark).format(*args)


def _substr_sql(args: Sequence[str], dialect: str) -> str:
    return f"substring({', '.join(args)})"


def _substr(texts: Any, start: int, count: int | None = None) -> Any:
    stop = None if count is None else start - 1 + count
    return pc.utf8_slice_codeunits(texts, start - 1, stop)


def _bad_substr(constants: Sequence[Any]) -> str | None:
    start, *count = constants
    if start < 1 or any(n < 0 for n in count):
        return "substr counts from 1, and takes 0 or more characters"
    return None


def _blank_sql(args: Sequence[str], dialect: str) -> str:
    if dialect == "duckdb":
        return f"trim({args[0]}, ' ' || chr(9) || chr(10) || chr(13))"
    return f"trim(BOTH concat(' ', chr(9), chr(10), chr(13)) FROM {args[0]})"


FUNCTIONS: dict[str, Function] = {
    "lower": Function(("string",), "string", _text(f"translate({{0}}, '{_UPPER}', '{_LOWER}')"), pc.ascii_lower),
    "upper": Function(("string",), "string", _text(f"translate({{0}}, '{_LOWER}', '{_UPPER}')"), pc.ascii_upper),
    "length": Function(("string",), "int64", _text("CAST(length({0}) AS BIGINT)"), pc.utf8_length),
    "trim": Function(("string",), "string", _blank_sql, lambda s: pc.utf8_trim(s, characters=_BLANK)),
    "substr": Function(("string", "int64", "int64"), "string", _substr_sql, _substr, (1, 2), 1, _bad_substr),
    "starts_with": Function(
        ("string", "string"), "bool", _either("starts_with({0}, {1})", "startswith({0}, {1})"),
        pc.starts_with, (1,),
    ),
    "ends_with": Function(
        ("string", "string"), "bool", _either("ends_with({0}, {1})", "endswith({0}, {1})"),
        pc.ends_with, (1,),
    ),
    "contains": Function(
        ("string", "string"), "bool", _text("contains({0}, {1})"), pc.match_substring, (1,)
    ),
    "replace": Function(
        ("string", "string", "string"), "string", _text("replace({0}, {1}, {2})"),
        pc.replace_substring, (1, 2), 0,
        lambda given: None if given[0] else "replace needs something to look for",
    ),
    "floor": Function(("float64",), "float64", _whole_sql("floor"), np.floor),
    "ceil": Function(("float64",), "float64", _whole_sql("ceil"), np.ceil),
    "round": Function(("float64",), "float64", _whole_sql("round"), _round),
}  # fmt: skip
"""Functions whose answer is null exactly where an argument is. abs, concat, coalesce and if have rules of their own."""
OWN = ("abs", "coalesce", "concat", "if")


def call_type(name: str, args: Sequence[Expr], kinds: Sequence[ExprType]) -> ExprType:
    """Return the type of a call.

    Raises:
        ExpressionError: there is no such function, or its arguments do not fit.
    """
    match name:
        case "abs":
            _count(name, kinds, 1, 1)
            return _must(name, kinds[0], "int64", "float64", "duration")
        case "concat":
            _count(name, kinds, 2, None)
            for kind in kinds:
                _must(name, kind, "string")
            return "string"
        case "coalesce":
            _count(name, kinds, 2, None)
            return common_type(name, kinds)
        case "if":
            _count(name, kinds, 3, 3)
            _must(name, kinds[0], "bool")
            return common_type(name, kinds[1:])
    function = FUNCTIONS.get(name)
    if function is None:
        raise ExpressionError(f"there is no function {name!r}; use {', '.join(sorted([*FUNCTIONS, *OWN]))}")
    _count(name, kinds, len(function.takes) - function.optional, len(function.takes))
    for place, kind in enumerate(kinds):
        wanted = function.takes[place]
        _must(name, kind, *(NUMBERS if wanted == "float64" else (wanted,)))
        if place in function.constants and not isinstance(args[place], Constant):
            raise ExpressionError(f"argument {place + 1} of {name} must be a constant, such as {_example(wanted)}")
    constants = [args[i] for i in function.constants if i < len(args)]
    values = [a.value for a in constants if isinstance(a, Constant)]
    if function.check is not None and (problem := function.check(values)):
        raise ExpressionError(problem)
    return "int64" if kinds[0] == "int64" and name in {"floor", "ceil", "round"} else function.gives or kinds[0]


def common_type(name: str, kinds: Sequence[ExprType]) -> ExprType:
    """Return the one type of several values; whole numbers and floats together are floats."""
    distinct = set(kinds)
    if distinct == set(NUMBERS):
        return "float64"
    if len(distinct) != 1:
        raise ExpressionError(f"{name} of {' and '.join(sorted(distinct))} has no one type; give values of one type")
    return _must(name, kinds[0], "int64", "float64", "bool", "string", "timestamp", "duration")


def _count(name: str, kinds: Sequence[ExprType], least: int, most: int | None) -> None:
    if len(kinds) < least or (most is not None and len(kinds) > most):
        wanted = f"{least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
        raise ExpressionError(f"{name} takes {wanted} arguments, but has {len(kinds)}")


def _must(name: str, found: ExprType, *wanted: ExprType) -> ExprType:
    if found not in wanted:
        raise ExpressionError(f"{name!r} does not apply to a {found}; it needs {' or '.join(wanted)}")
    return found


def _example(kind: ExprType) -> str:
    return "2" if kind == "int64" else "'a'"
