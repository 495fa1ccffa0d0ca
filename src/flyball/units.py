"""Texts such as "7d", "5%", "50MB" and "1pp" become numbers here, once, at the border.

The surprise: a margin has two halves, a relative and an absolute one, because "5%" of a mean and
"1 percentage point" of a rate are different promises; both live in `Margin`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flyball.errors import UnitError

__all__ = ["Margin", "duration", "from_micros", "margin", "micros", "per", "share", "size", "spoken", "to_micros"]

_MICROS = {
    "us": 1, "µs": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "min": 60_000_000,
    "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000,
}  # fmt: skip
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
_PER = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1), "month": timedelta(days=30)}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Margin:
    """Largest harm that is accepted: the larger of `relative` x the control's value and `absolute`."""

    relative: float = 0.0
    absolute: float = 0.0

    def at(self, base: float) -> float:
        """Return the accepted harm in the metric's own unit when the control stands at `base`."""
        return max(self.relative * abs(base), self.absolute)


def duration(text: str | timedelta) -> timedelta:
    """Parse "90s", "1h30m", "7d"; a timedelta passes through.

    Raises:
        UnitError: not a non-negative number with one of us, ms, s, m, h, d, w.
    """
    if isinstance(text, timedelta):
        return text
    rest = text.strip().lower()
    parts = _PART.findall(rest)
    if not parts or _PART.sub("", rest).strip() or any(unit not in _MICROS for _, unit in parts):
        raise UnitError(f"{text!r} is no duration; write a number and a unit, such as 90s, 20m, 6h, 7d or 2w")
    return timedelta(microseconds=round(sum(float(n) * _MICROS[unit] for n, unit in parts)))


def share(text: str | float) -> float:
    """Parse "5%" or 0.05 into a float in [0, 1].

    Raises:
        UnitError: not a share, or outside [0, 1].
    """
    value = _number(text, "%", 0.01)
    if value is None or not 0.0 <= value <= 1.0:
        raise UnitError(f"{text!r} is no share; write a per cent such as 5% or a number from 0 to 1")
    return value


def size(text: str | int) -> int:
    """Parse "50MB" (10**6) or "64MiB" (2**20) into bytes; an int passes through.

    Raises:
        UnitError: not a number with one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.
    """
    if isinstance(text, int):
        return text
    match = _PART.fullmatch(text.strip().lower())
    if match is None or match[2] not in _BYTES:
        raise UnitError(f"{text!r} is no size; write a number and a unit, such as 50MB or 64MiB")
    return round(float(match[1]) * _BYTES[match[2]])


def margin(text: str | float | Margin) -> Margin:
    """Parse "5%" (relative), "1pp" (absolute, of a rate) or "0.3" (absolute, in the metric's unit).

    Raises:
        UnitError: none of these, negative, or a per cent above 100.
    """
    if isinstance(text, Margin):
        return text
    points = _number(text, "pp", 0.01) if isinstance(text, str) and text.strip().endswith("pp") else None
    if points is not None:
        return Margin(absolute=points)
    if isinstance(text, str) and text.strip().endswith("%"):
        return Margin(relative=share(text))
    value = _number(text, "", 1.0)
    if value is None or value < 0:
        raise UnitError(f"{text!r} is no margin; write 5% (of the control), 1pp (percentage points) or 0.3")
    return Margin(absolute=value)


def per(text: str) -> tuple[int, timedelta]:
    """Parse "3/week" into (3, 7 days); a month counts 30 days.

    Raises:
        UnitError: not a whole count per hour, day, week or month.
    """
    count, _, unit = text.partition("/")
    if not count.strip().isdigit() or unit.strip() not in _PER:
        raise UnitError(f"{text!r} is no budget; write a count per hour, day, week or month, such as 3/week")
    return int(count), _PER[unit.strip()]


def to_micros(at: datetime) -> int:
    """Return microseconds since 1970 UTC; a naive time counts as UTC."""
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """Return the aware UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def micros(span: timedelta) -> int:
    """Return a span in whole microseconds."""
    return span // timedelta(microseconds=1)


def spoken(span: timedelta) -> str:
    """Return a span in words with three digits and its largest fitting unit.

    Example:
        >>> spoken(timedelta(hours=36)), spoken(timedelta(minutes=20)), spoken(timedelta(seconds=0.5))
        ('1.5 d', '20 min', '0.5 s')
    """
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _number(text: str | float, suffix: str, factor: float) -> float | None:
    """Return the finite number of a text, None when it is none."""
    if isinstance(text, int | float):
        return float(text) if math.isfinite(text) else None
    stripped = text.strip()
    scale = factor if suffix and stripped.endswith(suffix) else 1.0
    try:
        value = float(stripped.removesuffix(suffix) if suffix else stripped) * scale
    except ValueError:
        return None
    return value if math.isfinite(value) else None
