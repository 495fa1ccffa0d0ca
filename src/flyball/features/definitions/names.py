"""What every definition checks of its names, types, defaults, time zones and expressions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flyball.errors import DefinitionError, ExpressionError, UnknownName
from flyball.features.spec import ColumnType, Scalar

__all__ = ["check_default", "check_expression", "check_zone", "checked_name", "checked_type"]

_TYPES: dict[Any, ColumnType] = {
    int: "int64", float: "float64", bool: "bool", str: "string", datetime: "timestamp",
    "int64": "int64", "float64": "float64", "bool": "bool", "string": "string", "timestamp": "timestamp",
}  # fmt: skip


def checked_name(kind: str, name: str) -> str:
    """Return a name that can be used, such as in a URL; raises DefinitionError otherwise."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        raise DefinitionError(f"{kind} name {name!r} is not usable; use letters, digits and underscores")
    return name


def checked_type(what: str, dtype: Any) -> ColumnType:
    """Return the type a Python type or a type's name stands for; raises DefinitionError for others."""
    if isinstance(dtype, type | str) and dtype in _TYPES:
        return _TYPES[dtype]
    shown = dtype.__name__ if isinstance(dtype, type) else repr(dtype)
    raise DefinitionError(f"{what} has type {shown}; use int, float, bool, str or datetime")


def check_default(name: str, kind: ColumnType, default: Scalar) -> None:
    """Raise DefinitionError unless a feature of this type may have this default."""
    fits: dict[str, tuple[type, ...]] = {"int64": (int,), "float64": (int, float), "bool": (bool,), "string": (str,)}
    if kind not in fits:
        raise DefinitionError(f"feature {name!r} is a {kind}; a feature must be int, float, bool or str")
    if default is None or (isinstance(default, fits[kind]) and isinstance(default, bool) == (kind == "bool")):
        return
    raise DefinitionError(f"feature {name!r} is {kind}, but its default is {default!r}; give a {kind} or None")


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
