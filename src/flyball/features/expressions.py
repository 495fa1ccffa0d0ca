"""The small language of `derive` and `where`: parsed once, compiled to DuckDB SQL and to numpy over Arrow.

    minutes between 1 and 60 and (dropoff_at - pickup_at) / 1h < 2

Names, numbers, strings 'x', true, false, durations (1m, 24h), + - * / %, comparisons, [not] between, [not] in (...),
is [not] null, and, or, not, parentheses. Nulls follow SQL's three values. int / int is a float; x / 0, x % 0 and an
integer beyond 64 bits are null. A time less a time is a duration; a duration over a duration is a float.

The surprise: as in SQL's databases, NaN equals itself and is greater than any number. Write `x <= 50` and a NaN
does not pass, `x > 0` and it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flyball import units
from flyball.errors import ExpressionError, UnitError, UnknownName

__all__ = ["Expr", "ExprType", "Types", "arrow_type", "columns", "evaluate", "parse", "to_sql", "type_of"]

ExprType = Literal["int64", "float64", "bool", "string", "timestamp", "duration"]
Types = Mapping[str, Any]
"""Column name -> ExprType."""


@dataclass(frozen=True, slots=True)
class Name:
    """A column."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant; durations are int microseconds."""

    value: int | float | str | bool
    type: ExprType


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x`, `not x`, `x is null`."""

    op: Literal["-", "not", "is null"]
    of: Expr


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, a comparison, `and` or `or`."""

    op: str
    left: Expr
    right: Expr


Expr = Name | Constant | Unary | Binary

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?)(?P<unit>[A-Za-zµ]+)?"
    r"|(?P<string>'(?:[^']|'')*')|(?P<word>[A-Za-z_]\w*)|(?P<op><=|>=|<>|!=|==|[-+*/%()=<>,]))"
)
_KEYWORDS = {"and", "or", "not", "between", "in", "is", "null", "true", "false"}
_COMPARE = {"=", "<>", "<", "<=", ">", ">="}
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


@lru_cache(maxsize=1024)
def parse(text: str) -> Expr:
    """Parse an expression; the same text gives the same (immutable) tree.

    Raises:
        ExpressionError: it does not parse; the message shows where.
    """
    return _Parser(text).parse()


@lru_cache(maxsize=4096)
def columns(expr: Expr) -> frozenset[str]:
    """Return the names of the columns an expression reads."""
    match expr:
        case Name(name):
            return frozenset({name})
        case Constant():
            return frozenset()
        case Unary(_, of):
            return columns(of)
        case Binary(_, left, right):
            return columns(left) | columns(right)


# ---------------------------------------------------------------------------------------------------- parsing


class _Parser:
    """Recursive descent: or, and, not, comparison, sum, product, sign, atom."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        self._next = 0
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(at + len(text[at:]) - len(text[at:].lstrip()))
            self._tokens.append(_token(match))
            at = match.end()

    def parse(self) -> Expr:
        expr = self._or()
        if self._next < len(self._tokens):
            raise self._error(self._tokens[self._next][2])
        return expr

    def _error(self, at: int) -> ExpressionError:
        if at >= len(self._text.rstrip()):
            return ExpressionError(f"expression {self._text!r} ends too early; a value is missing at its end")
        return ExpressionError(
            f"expression {self._text!r} does not parse at {self._text[at:].strip()[:20]!r} (character {at + 1}); "
            "it may use names, numbers, 'texts', durations such as 1h, + - * / %, comparisons, between, in, is null, "
            "and, or, not and parentheses"
        )

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next][:2] if self._next < len(self._tokens) else ("end", "")

    def _here(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)

    def _take(self, *wanted: str) -> str | None:
        kind, value = self._peek()
        if kind in {"op", "keyword"} and value in wanted:
            self._next += 1
            return value
        return None

    def _need(self, wanted: str) -> None:
        if self._take(wanted) is None:
            raise self._error(self._here())

    def _or(self) -> Expr:
        left = self._and()
        while self._take("or"):
            left = Binary("or", left, self._and())
        return left

    def _and(self) -> Expr:
        left = self._not()
        while self._take("and"):
            left = Binary("and", left, self._not())
        return left

    def _not(self) -> Expr:
        return Unary("not", self._not()) if self._take("not") else self._comparison()

    def _comparison(self) -> Expr:
        left = self._sum()
        if op := self._take(*_COMPARE, "==", "!="):
            return Binary({"==": "=", "!=": "<>"}.get(op, op), left, self._sum())
        if self._take("is"):
            negated = self._take("not")
            self._need("null")
            return Unary("not", Unary("is null", left)) if negated else Unary("is null", left)
        negated = self._take("not")
        if self._take("between"):
            low = self._sum()
            self._need("and")
            found: Expr = Binary("and", Binary(">=", left, low), Binary("<=", left, self._sum()))
        elif self._take("in"):
            found = self._members(left)
        elif negated:
            raise self._error(self._here())
        else:
            return left
        return Unary("not", found) if negated else found

    def _members(self, left: Expr) -> Expr:
        self._need("(")
        found: Expr = Binary("=", left, self._sum())
        while self._take(","):
            found = Binary("or", found, Binary("=", left, self._sum()))
        self._need(")")
        return found

    def _sum(self) -> Expr:
        left = self._product()
        while op := self._take("+", "-"):
            left = Binary(op, left, self._product())
        return left

    def _product(self) -> Expr:
        left = self._sign()
        while op := self._take("*", "/", "%"):
            left = Binary(op, left, self._sign())
        return left

    def _sign(self) -> Expr:
        if self._take("-"):
            return Unary("-", self._sign())
        return self._sign() if self._take("+") else self._atom()

    def _atom(self) -> Expr:
        kind, value = self._peek()
        at = self._here()
        if self._take("("):
            inner = self._or()
            self._need(")")
            return inner
        self._next += 1
        match kind:
            case "name":
                return Name(value)
            case "string":
                return Constant(value[1:-1].replace("''", "'"), "string")
            case "keyword" if value in {"true", "false"}:
                return Constant(value == "true", "bool")
            case "number":
                return _number(value)
            case "duration":
                return self._duration(value)
        raise self._error(at)

    def _duration(self, text: str) -> Expr:
        try:
            return Constant(units.micros(units.duration(text)), "duration")
        except UnitError as error:
            raise ExpressionError(f"{error} (in expression {self._text!r})") from error


def _token(match: re.Match[str]) -> tuple[str, str, int]:
    at = match.end() - len(match.group().lstrip())
    if number := match["number"]:
        return ("duration", number + match["unit"], at) if match["unit"] else ("number", number, at)
    if match["string"]:
        return "string", match["string"], at
    if word := match["word"]:
        return ("keyword", word.lower(), at) if word.lower() in _KEYWORDS else ("name", word, at)
    return "op", match["op"], at


def _number(text: str) -> Expr:
    if text.isdigit() and int(text) <= _INT_MAX:
        return Constant(int(text), "int64")
    return Constant(float(text), "float64")


# ---------------------------------------------------------------------------------------------------- types

_NUMBERS = ("int64", "float64")
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
            found: ExprType = types[name]
            return found
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
    numbers = left in _NUMBERS and right in _NUMBERS
    if op in {"and", "or"}:
        _must(op, left, "bool")
        return _must(op, right, "bool")
    if op in _COMPARE:
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


# ---------------------------------------------------------------------------------------------------- SQL


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
    mixed = {type_of(side, types) for side in sides} == set(_NUMBERS)
    if kind == "float64" or (op in _COMPARE and mixed):
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


# ---------------------------------------------------------------------------------------------------- numpy


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
    """Return the type in expressions of an Arrow field.

    Raises:
        ExpressionError: the Arrow type has no counterpart.
    """
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    tests: list[tuple[Callable[[pa.DataType], bool], ExprType]] = [
        (pa.types.is_integer, "int64"), (pa.types.is_floating, "float64"), (pa.types.is_decimal, "float64"),
        (pa.types.is_boolean, "bool"), (pa.types.is_string, "string"), (pa.types.is_large_string, "string"),
        (pa.types.is_timestamp, "timestamp"), (pa.types.is_date, "timestamp"), (pa.types.is_duration, "duration"),
        (pa.types.is_null, "float64"),
    ]  # fmt: skip
    for test, name in tests:
        if test(kind):
            return name
    raise ExpressionError(
        f"column {field.name!r} is of type {field.type}, which expressions cannot read; "
        "use integers, floats, booleans, texts or timestamps"
    )


def _eval(expr: Expr, table: pa.Table, types: Types) -> _Column:
    n = table.num_rows
    match expr:
        case Name(name):
            return _from_arrow(table.column(name), types[name])
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
    if op in _COMPARE:
        return _Column(_compare(op, left.values, right.values), valid)
    a, b = left.values, right.values
    if kind == "float64":
        a, b = a.astype(np.float64), b.astype(np.float64)
    if op in {"/", "%"}:
        valid &= b != 0
        b = np.where(b != 0, b, 1)
    with np.errstate(all="ignore"):
        return _float(op, a, b, valid) if kind == "float64" else _integer(op, a, b, valid)


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
        case _:
            over = (b == -1) & _lowest(a)
            value = np.fmod(a, np.where(over, 1, b))
    return _Column(value, valid & ~over)


def _lowest(values: Any) -> Any:
    return values == _INT_MIN if values.dtype.kind == "i" else np.zeros(len(values), dtype=bool)


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
    valid = np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=bool)
    match kind:
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
        case _:
            array = array.cast(pa.float64() if kind == "float64" else pa.int64())
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
