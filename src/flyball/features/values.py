"""Values of the column types: as Python has them, and as plain JSON data that gives them back exactly.

The surprise: one plain form serves defaults in definitions, lists in stored rows and values in the HTTP API. In it a
decimal and a date are text, bytes are base64 text, a timestamp is int µs, a list or vector a list.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from typing import TYPE_CHECKING, Any

from flyball.errors import InputError, shown
from flyball.features.types import decimal_of, element_of, is_vector, vector_size
from flyball.units import from_micros, to_micros

if TYPE_CHECKING:
    from flyball.features.spec import ColumnType

__all__ = ["date_of", "days_of", "exact", "float_of", "from_plain", "scaled", "to_plain", "unscaled", "wanted"]

_EPOCH = date(1970, 1, 1)
_SIGN = 1 << 63
_WANTS = {
    "int64": "a whole number within 64 bits", "float32": "a number", "float64": "a number", "bool": "true or false",
    "string": "a text", "bytes": "bytes (base64 text in JSON)", "date": "a date such as 2020-03-11",
    "timestamp": "a time such as 2020-03-11T08:00:00Z, or int µs",
}  # fmt: skip


def exact(kind: ColumnType, value: Any, what: str) -> Any:
    """Return a value as the exact Python object of its type; takes Python values and their plain JSON form.

    Args:
        kind: The type's name.
        value: A Python or numpy value, or plain JSON data.
        what: What it is, for the message ("key 'user'").

    Returns:
        int, float, bool, str, bytes, aware datetime (UTC), date, Decimal (of the type's scale), list, float32 array
        of shape (K,) for a vector; None for None.

    Raises:
        InputError: it is of another type, of wrong length or out of range.
    """
    if value is None:
        return None
    found = _exact(kind, value.item() if _is_numpy_scalar(value) else value)
    if found is None:
        raise InputError(f"{what} is {shown(value)} ({type(value).__name__}), but it is {kind}; send {wanted(kind)}")
    return found


def wanted(kind: ColumnType) -> str:
    """Say what a value of a type looks like."""
    if (digits := decimal_of(kind)) is not None:
        return f"a decimal (or its text) of at most {digits[0]} digits, {digits[1]} of them after the point"
    if is_vector(kind):
        return f"a list of {vector_size(kind)} numbers"
    element = element_of(kind)
    return f"a list, each {wanted(element)}" if element is not None else _WANTS[kind]


def to_plain(kind: ColumnType, value: Any) -> Any:
    """Return an exact value (see `exact`) as plain JSON data."""
    if value is None:
        return None
    if kind == "bytes":
        return base64.b64encode(value).decode()
    if kind == "timestamp":
        return to_micros(value)
    if kind == "date":
        return value.isoformat()
    if decimal_of(kind) is not None:
        return str(value)
    if is_vector(kind):
        return [float(v) for v in value]
    element = element_of(kind)
    return value if element is None else [to_plain(element, v) for v in value]


def from_plain(kind: ColumnType, plain: Any) -> Any:
    """Return the exact value that `to_plain` wrote."""
    return exact(kind, plain, "a stored value")


def unscaled(value: Decimal, scale: int) -> int:
    """Return a decimal of this scale as an integer: 1.50 of scale 2 is 150."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    number = int("".join(map(str, digits))) * 10 ** (exponent + scale)
    return -int(number) if sign else int(number)


def scaled(number: int, scale: int) -> Decimal:
    """Return the decimal of an unscaled integer."""
    return Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale))


def float_of(value: object) -> float:
    """Return a value as float64 sees it; null, texts, times and lists are NaN."""
    return float(value) if isinstance(value, int | float | Decimal) else math.nan


def _exact(kind: ColumnType, value: Any) -> Any:
    """Return the exact value, None when it does not fit."""
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    if (digits := decimal_of(kind)) is not None:
        return _decimal(value, *digits)
    if is_vector(kind):
        return _vector(value, vector_size(kind))
    element = element_of(kind)
    if element is None or isinstance(value, str | bytes) or not isinstance(value, Sequence | _arrays()):
        return None
    found = [None if v is None else _exact(element, v.item() if _is_numpy_scalar(v) else v) for v in value]
    return None if any(f is None and v is not None for f, v in zip(found, value, strict=True)) else found


def _integer(value: Any) -> int | None:
    return value if type(value) is int and -_SIGN <= value < _SIGN else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _float32(value: Any) -> float | None:
    """Return the nearest float32; what is finite and beyond its range does not fit."""
    import numpy as np

    number = _float(value)
    if number is None:
        return None
    with np.errstate(over="ignore"):
        found = float(np.float32(number))
    return None if math.isinf(found) and math.isfinite(number) else found


def _bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str) else None


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def _date(value: Any) -> date | None:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _time(value: Any) -> datetime | None:
    """Return an aware time; without an offset it counts as UTC."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        return from_micros(value) if type(value) is int else None
    except (ValueError, OverflowError):
        return None


def _decimal(value: Any, precision: int, scale: int) -> Decimal | None:
    """Return the value with exactly `scale` places; None when digits would be lost."""
    if isinstance(value, bool | float) or not isinstance(value, Decimal | int | str):
        return None
    try:
        with localcontext() as context:
            context.prec = 2 * precision + 2
            number = Decimal(value)
            if not number.is_finite():
                return None
            found = number.quantize(Decimal((0, (1,), -scale)))
            fits = found == number and len(found.as_tuple().digits) <= precision
    except InvalidOperation:
        return None
    return found if fits or found == 0 == number else None


def _vector(value: Any, size: int) -> Any:
    """Return K float32; what is finite and beyond their range does not fit."""
    import numpy as np

    if isinstance(value, np.ndarray):
        fits = value.dtype.kind in "fiu"
    else:
        fits = isinstance(value, list | tuple) and all(
            isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in value
        )
    if not fits or np.shape(value) != (size,):
        return None
    try:
        with np.errstate(over="ignore"):
            found = np.array(value, np.float32)
    except OverflowError:
        return None
    if np.isinf(found).any() and not np.array_equal(np.isinf(found), np.isinf(np.asarray(value, np.float64))):
        return None
    return found


def _arrays() -> Any:
    import numpy as np

    return np.ndarray


def _is_numpy_scalar(value: Any) -> bool:
    return type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()


def days_of(value: date) -> int:
    """Return days since 1970."""
    return (value - _EPOCH).days


def date_of(days: int) -> date:
    """Return the date of days since 1970."""
    return _EPOCH + timedelta(days=days)


_SCALARS: dict[str, Any] = {
    "int64": _integer, "float32": _float32, "float64": _float, "bool": _bool, "string": _text, "bytes": _bytes,
    "timestamp": _time, "date": _date,
}  # fmt: skip
