"""Expressions as immutable trees, and what can be asked of one without data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

__all__ = [
    "COMPARE",
    "INT_MAX",
    "INT_MIN",
    "Binary",
    "Call",
    "Constant",
    "Expr",
    "ExprType",
    "Name",
    "Types",
    "Unary",
    "columns",
]

ExprType: TypeAlias = str
"""A column type by its name, or "duration"."""
Types = Mapping[str, ExprType]
"""Column name -> its type."""
COMPARE = frozenset({"=", "<>", "<", "<=", ">", ">="})
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


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


@dataclass(frozen=True, slots=True)
class Call:
    """A function by name."""

    function: str
    args: tuple[Expr, ...]


Expr = Name | Constant | Unary | Binary | Call


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
        case Call(_, args):
            return frozenset[str]().union(*map(columns, args))
