"""What every definition checks of its names, types, defaults, time zones and expressions.

The surprise: `Vector(384)`, `List(float)` and `Decimal(18, 2)` are texts, the names of types.
"""

from __future__ import annotations

import decimal
import typing
from datetime import date, datetime
from typing import Any, Self

from flyball.errors import DefinitionError, ExpressionError, InputError, UnknownName
from flyball.features.spec import ColumnType, Scalar
from flyball.features.types import PLAIN, canonical
from flyball.features.values import exact, to_plain

__all__ = [
    "Decimal",
    "List",
    "Vector",
    "check_default",
    "check_expression",
    "check_zone",
    "checked_name",
    "checked_type",
]

_TYPES: dict[Any, ColumnType] = {
    int: "int64", float: "float64", bool: "bool", str: "string", bytes: "bytes", datetime: "timestamp", date: "date",
    decimal.Decimal: "decimal(38,9)",
}  # fmt: skip


class Vector(str):
    """Name the type of a float32 vector of fixed size, such as an embedding; a matrix gives it one column a part.

    Example:
        >>> Vector(384)
        'vector<384>'
    """

    __slots__ = ()

    def __new__(cls, size: int) -> Self:
        """Name it; `size` is 1 to 99,999."""
        return super().__new__(cls, checked_type("a vector", f"vector<{size}>"))


class List(str):
    """Name the type of a list of any length, its elements of one type (or null)."""

    __slots__ = ()

    def __new__(cls, dtype: Any) -> Self:
        """Name it by its elements' type."""
        return super().__new__(cls, f"list<{checked_type('a list element', dtype)}>")


class Decimal(str):
    """Name the type of an exact decimal: `precision` digits in all, 1 to 38, `scale` of them after the point."""

    __slots__ = ()

    def __new__(cls, precision: int, scale: int = 0) -> Self:
        """Name it."""
        return super().__new__(cls, checked_type("a decimal", f"decimal({precision},{scale})"))


def checked_name(kind: str, name: str) -> str:
    """Return a name that can be used, such as in a URL; raises DefinitionError otherwise."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        raise DefinitionError(f"{kind} name {name!r} is not usable; use letters, digits and underscores")
    return name


def checked_type(what: str, dtype: Any) -> ColumnType:
    """Return the type that a Python type, a numpy scalar type or a type's name stands for.

    `decimal.Decimal` alone is decimal(38,9), `list[T]` is List(T).

    Raises:
        DefinitionError: it stands for none.
    """
    kind = _type_of(dtype)
    if kind is None:
        shown = dtype.__name__ if isinstance(dtype, type) else repr(dtype)
        raise DefinitionError(
            f"{what} has type {shown}; use int, float, bool, str, bytes, datetime, date, Decimal(P, S), List(T), "
            f"Vector(K), or a name: {', '.join(PLAIN)}"
        )
    return kind


def _type_of(dtype: Any) -> ColumnType | None:
    if isinstance(dtype, str):
        return canonical(dtype)
    if typing.get_origin(dtype) is list:
        element = _type_of(typing.get_args(dtype)[0])
        return None if element is None else f"list<{element}>"
    if not isinstance(dtype, type):
        return None
    if dtype.__module__ == "numpy":
        return {"bool_": "bool", "str_": "string"}.get(dtype.__name__) or canonical(dtype.__name__)
    return _TYPES.get(dtype)


def check_default(name: str, kind: ColumnType, default: Any) -> Scalar | tuple[Scalar, ...]:
    """Return a feature's default as the plain data that its spec keeps; raises DefinitionError unless it fits."""
    if default is None:
        return None
    try:
        value = exact(kind, default, f"default of feature {name!r}")
    except InputError as error:
        raise DefinitionError(
            f"feature {name!r} is {kind}, but its default is {default!r}; give a {kind} or None"
        ) from error
    plain: Any = to_plain(kind, value)
    if isinstance(plain, list) and any(isinstance(v, list) for v in plain):
        raise DefinitionError(
            f"the default of feature {name!r} is a list of lists; give None or a list of plain values"
        )
    found: Scalar | tuple[Scalar, ...] = tuple(plain) if isinstance(plain, list) else plain
    return found


def check_zone(timezone: str) -> None:
    """Raise DefinitionError unless there is such a time zone."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise DefinitionError(f"{timezone!r} is no time zone; use a name such as UTC or America/New_York") from error


def check_expression(what: str, text: str) -> None:
    """Raise ExpressionError unless the text can be parsed."""
    from flyball.features.expressions import parse

    try:
        parse(text)
    except (ExpressionError, UnknownName) as error:
        raise ExpressionError(f"{what}: {error}") from error
