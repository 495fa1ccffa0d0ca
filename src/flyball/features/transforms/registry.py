"""Which functions there are, what they take and give, and the one way to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flyball.errors import DefinitionError, InputError, UnknownName
from flyball.features import types
from flyball.features.spec import ColumnType, TransformSpec
from flyball.features.transforms import calendar, calls, crosses, numbers, places
from flyball.features.transforms.column import Bools, Column, params

__all__ = ["FUNCTIONS", "Function", "apply", "check", "evaluate", "single"]

Kind = Literal["time", "number", "text", "any"]
One = Callable[[list[float]], float]


@dataclass(frozen=True, slots=True)
class Function:
    """A transformation: how it runs over columns, what its arguments must be (the last kind repeats), one row."""

    run: Callable[[TransformSpec, list[Column]], Column]
    takes: tuple[Kind, ...]
    count: int | None  # None: one or more
    one: Callable[[TransformSpec], One] | None = None


FUNCTIONS: dict[str, Function] = {
    **{name: Function(calendar.part, ("time",), 1, calendar.one_part) for name in calendar.PARTS},
    "cyclic": Function(calendar.cyclic, ("any",), 1),
    "ratio": Function(numbers.ratio, ("number",), 2, numbers.one_ratio),
    "difference": Function(numbers.difference, ("number",), 2, numbers.one_difference),
    "log1p": Function(numbers.log1p, ("number",), 1),
    "clip": Function(numbers.clip, ("number",), 1),
    "bucket": Function(numbers.bucket, ("number",), 1, numbers.one_bucket),
    "cross": Function(crosses.cross, ("any",), None),
    "geohash": Function(places.geohash, ("number",), 2),
    "h3_cell": Function(places.h3_cell, ("number",), 2),
    "embed": Function(calls.embed, ("text",), 1),
    "python": Function(calls.python, ("any",), None),
}
"""The functions by name."""


def evaluate(
    transform: TransformSpec, arguments: Sequence[np.ndarray], valid: Sequence[Bools | None] | None = None
) -> tuple[np.ndarray, Bools]:
    """Run a transformation over n rows.

    Args:
        transform: What to compute.
        arguments: One array per argument, each of n rows; see the package for their types.
        valid: Which rows of each argument are no null, bool (n,). None: NaN, NaT, None and masked values are null.

    Returns:
        (values, valid): float64, int64, bool or object (text) of shape (n,), or float32 (n, k) for a vector; where
        not valid, a value means nothing.

    Raises:
        InputError: an argument does not fit, or the user's function failed.
        MissingExtra: the function needs a package that is not installed.
    """
    function = _function(transform.function)
    given = [Column.of(a, v) for a, v in zip(arguments, valid or [None] * len(arguments), strict=True)]
    if len(given) != len(transform.args) or len({len(c.valid) for c in given}) != 1:
        raise InputError(
            f"{transform.function} of {', '.join(transform.args)} was given {len(given)} columns of "
            f"{', '.join(str(len(c.valid)) for c in given)} rows; it takes one of each argument, all of one length"
        )
    found = function.run(transform, given)
    return found.values, found.valid


def apply(transform: TransformSpec, arguments: Sequence[np.ndarray]) -> np.ndarray:
    """Run a transformation where null is NaN or None; whole numbers and booleans with nulls come as float64."""
    return Column(*evaluate(transform, arguments)).plain()


def single(transform: TransformSpec) -> One | None:
    """Return a function of one row's numbers (NaN is null; times as µs), where there is one: it takes a microsecond."""
    function = FUNCTIONS.get(transform.function)
    if function is None or function.one is None or not types.is_number(transform.type):
        return None
    return function.one(transform)


def check(transform: TransformSpec, given: Mapping[str, ColumnType]) -> None:
    """Check at definition time that a transformation's arguments exist and are of types it takes.

    Args:
        transform: What to compute.
        given: Types of everything an argument may name.

    Raises:
        UnknownName: an argument or the function does not exist.
        DefinitionError: an argument's type does not fit, or there are too many or too few.
    """
    function = _function(transform.function)
    if not transform.args or (function.count is not None and len(transform.args) != function.count):
        wanted = function.count or "one or more"
        raise DefinitionError(f"{transform.function} takes {wanted} arguments, but has {len(transform.args)}")
    declared = params(transform).get("types")
    for place, name in enumerate(transform.args):
        if name not in given:
            raise UnknownName.of(f"argument of {transform.function}", name, given)
        kind: Any = function.takes[min(place, len(function.takes) - 1)]
        if transform.function == "cyclic":
            kind = "time" if isinstance(params(transform)["period"], str) else "number"
        wanted_type = str(declared[place]) if isinstance(declared, tuple) else None
        if not _fits(kind, given[name]) or (wanted_type is not None and not _converts(given[name], wanted_type)):
            raise DefinitionError(
                f"{transform.function} needs {'a ' + (wanted_type or kind)} as argument {name!r}, "
                f"but that is {given[name]}; give another column or derive one"
            )


def _fits(kind: Kind, found: ColumnType) -> bool:
    match kind:
        case "time":
            return found in {"timestamp", "date"}
        case "number":
            return types.is_number(found)
        case "text":
            return found == "string"
        case "any":
            return found != "duration" and types.element_of(found) is None


def _converts(found: ColumnType, wanted: ColumnType) -> bool:
    if wanted in {"float64", "float32"}:
        return types.is_number(found)
    return found == wanted


def _function(name: str) -> Function:
    if name not in FUNCTIONS:
        raise UnknownName.of("transformation", name, FUNCTIONS)
    return FUNCTIONS[name]
