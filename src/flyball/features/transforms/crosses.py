"""Crosses: several columns become one category, as a number below `buckets` or as a label.

Each part becomes a text that says its type, so 1 and "1" are different categories and no two combinations share a
text; xxh3 of it, modulo the buckets, is the number. The surprise: a null is a category of its own here, so a cross is
never null; and 1, 1.0 and true are one category, because a model's matrix holds all of them as 1.0.
"""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import xxhash

from flyball.errors import InputError
from flyball.features.spec import TransformSpec
from flyball.features.transforms.column import Column, params

__all__ = ["cross"]


def cross(transform: TransformSpec, arguments: list[Column]) -> Column:
    r"""Return int64 in [0, buckets), or labels such as "a|b" (in parts, "|" is "\|", "\" is "\\", null is "\N")."""
    count = params(transform).get("buckets")
    n = len(arguments[0].valid)
    codes, combinations = _combinations(arguments)
    if count is None:
        found = np.array(["|".join(map(_label, c)) for c in combinations], dtype=object)
    else:
        assert isinstance(count, int)
        texts = (b"".join(map(_canonical, c)) for c in combinations)
        found = np.array([xxhash.xxh3_64_intdigest(t) % count for t in texts], dtype=np.int64)
    return Column(found[codes] if n else found, np.ones(n, dtype=bool))


def _combinations(arguments: list[Column]) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """Return each row's combination, and the distinct combinations: text is made once for each of them."""
    columns = [_values(c) for c in arguments]
    seen: dict[tuple[Any, ...], int] = {}
    codes = np.fromiter((seen.setdefault(row, len(seen)) for row in zip(*columns, strict=True)), np.int64)
    return codes, list(seen)


def _values(column: Column) -> list[Any]:
    """Return one hashable Python value per row: None, a number, a text, bytes or a date."""
    if column.values.ndim != 1:
        raise InputError("cross takes single values, not vectors; bucket a part of the vector first")
    values = column.values
    if values.dtype.kind == "M":
        values = values.astype("M8[D]")
    listed = values.tolist()
    if values.dtype.kind == "f":
        listed = [_number(v) for v in listed]
    elif values.dtype.kind == "O":
        listed = [_number(float(v)) if isinstance(v, Decimal) else v for v in listed]
    return listed if column.valid.all() else [v if ok else None for v, ok in zip(listed, column.valid, strict=True)]


def _number(value: float) -> int | float | _NotANumber:
    """Return whole floats as int; one NaN is like any other."""
    if math.isnan(value):
        return _NAN
    return int(value) if math.isfinite(value) and value.is_integer() else value


class _NotANumber:
    """The category of NaN, which equals itself and no text."""


_NAN = _NotANumber()


def _canonical(value: Any) -> bytes:
    match value:
        case None:
            return b"n;"
        case _NotANumber():
            return b"d:nan;"
        case bool() | int():
            return b"d:%d;" % int(value)
        case float():
            return f"d:{value!r};".encode()
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return b"s:%d:%s;" % (len(data), data)
        case bytes():
            return b"b:%d:%s;" % (len(value), value)
        case date():
            return f"t:{value.isoformat()};".encode()
    raise InputError(f"cross cannot take {type(value).__name__} values; use numbers, texts, bytes or dates")


def _label(value: Any) -> str:
    match value:
        case None:
            return r"\N"
        case _NotANumber():
            return "nan"
        case bool():
            return str(int(value))
        case str():
            return value.replace("\\", "\\\\").replace("|", "\\|")
        case bytes():
            return value.hex()
        case date():
            return value.isoformat()
        case int() | float():
            return repr(value)
    raise InputError(f"cross cannot take {type(value).__name__} values; use numbers, texts, bytes or dates")
