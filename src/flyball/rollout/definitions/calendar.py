"""When shares may rise: freeze hours, holidays, business hours, in one time zone's wall clock.

The surprise: a freeze is written in wall time and the week is the wall clock's, so "fri 16:00 - mon 08:00" stays what
people read on their clock over a change to summer time. An hour that comes twice is frozen twice. Rolling back is
always allowed; nothing here is asked about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flyball.errors import DefinitionError, UnknownName
from flyball.rollout.types import Calendar, Freeze

__all__ = ["calendar", "frozen", "thaws", "weeks_later"]

_DAY, _WEEK = 1440, 7 * 1440  # minutes
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = r"(\d{1,2}):(\d\d)"
_HOURS = re.compile(rf"(?:([a-z]+)(?:\s*-\s*([a-z]+))?\s+)?{_CLOCK}\s*-\s*(?:([a-z]+)\s+)?{_CLOCK}")
_WHOLE = re.compile(r"([a-z]+)(?:\s*-\s*([a-z]+))?")
_DATES = re.compile(r"(\d{4}-\d\d-\d\d)(?:\s*(?:-|to)\s*(\d{4}-\d\d-\d\d))?")
_AHEAD = timedelta(days=15)  # how far ahead the end of a freeze is looked for
_LONGEST = 366  # days that one range of dates may have


def calendar(
    *,
    timezone: str = "UTC",
    freeze: Sequence[str | Freeze] = (),
    holidays: Sequence[str | date] = (),
    open: Sequence[str] = (),
) -> Calendar:
    """Say when shares may not rise.

    Args:
        timezone: Whose wall clock the times below are read on, such as "Europe/Amsterdam".
        freeze: Stretches such as "fri 16:00 - mon 08:00", "mon-fri 22:00 - 06:00", "22:00 - 06:00" (every day), "sun",
            "2026-12-24 - 2027-01-02", or a `Freeze` with a reason.
        holidays: Dates that are frozen as a whole, such as "2026-12-25".
        open: The only hours in which a share may rise, such as "mon-fri 09:00 - 17:00"; empty for all.

    Raises:
        DefinitionError: a text is no stretch of time, or there is no such time zone.

    Example:
        >>> rules = calendar(timezone="Europe/Amsterdam", freeze=["fri 16:00 - mon 08:00"])
        >>> frozen(rules, datetime(2026, 1, 9, 15, 30, tzinfo=UTC))
        'frozen by the calendar: fri 16:00 - mon 08:00 (Europe/Amsterdam)'
    """
    _zone(timezone)
    rules: list[Freeze] = []
    for text in freeze:
        rules += [text] if isinstance(text, Freeze) else _parsed(text)
    dates = tuple(sorted(_date(str(day)).isoformat() for day in holidays))
    if dates:
        rules.append(Freeze(days=dates, reason="holiday"))
    if open:
        rules += _closed([f for text in open for f in _weekly(text)], f"outside of {', '.join(open)}")
    return Calendar(timezone, tuple(rules))


def frozen(rules: Calendar, now: datetime) -> str:
    """Return why no share may rise at `now` (aware), "" when it may."""
    if not rules.freezes:
        return ""
    local = now.astimezone(_zone(rules.timezone))
    minute = local.weekday() * _DAY + local.hour * 60 + local.minute
    day = local.date().isoformat()
    for rule in rules.freezes:
        if day in rule.days or _holds(rule, minute):
            what = rule.reason or (day if day in rule.days else "freeze")
            return f"frozen by the calendar: {what} ({rules.timezone})"
    return ""


def thaws(rules: Calendar, now: datetime) -> datetime | None:
    """Return when shares may rise again (UTC, to the minute): `now` where they may, None beyond 15 days."""
    if not frozen(rules, now):
        return now
    moments = (at for at in sorted(set(_turns(rules, now))) if at > now)
    return next((at for at in moments if not frozen(rules, at)), None)


def weeks_later(start: datetime, weeks: int, timezone: str) -> datetime:
    """Return the same wall time so many weeks later, as UTC: 167 or 169 hours a week where the clock is changed.

    Example:
        >>> weeks_later(datetime(2026, 3, 25, 12, tzinfo=UTC), 1, "Europe/Amsterdam").hour
        11
    """
    local = start.astimezone(_zone(timezone))
    wall = local.replace(tzinfo=None) + timedelta(weeks=weeks)
    return wall.replace(tzinfo=local.tzinfo).astimezone(UTC)


def _turns(rules: Calendar, now: datetime) -> Iterator[datetime]:
    """Yield all moments at which a freeze can end: its last minute's end, midnights, and changes of the clock."""
    zone = _zone(rules.timezone)
    monday = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    monday -= timedelta(days=monday.weekday())
    for week in range(-(-_AHEAD // timedelta(weeks=1)) + 1):
        for minute in {0, *(rule.end for rule in rules.freezes), *range(0, _WEEK, _DAY)}:
            wall = monday + timedelta(weeks=week, minutes=minute)
            for fold in (0, 1):
                yield wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
    quarter = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for step in range(_AHEAD // timedelta(minutes=15)):  # clocks are changed at full quarters of an hour
        yield quarter + timedelta(minutes=15) * step


def _holds(rule: Freeze, minute: int) -> bool:
    if rule.start <= rule.end:
        return rule.start <= minute < rule.end
    return minute >= rule.start or minute < rule.end


def _parsed(text: str) -> list[Freeze]:
    match = _DATES.fullmatch(text.strip().lower())
    if match is None:
        return _weekly(text)
    first, last = _date(match[1]), _date(match[2] or match[1])
    if not 0 <= (last - first).days < _LONGEST:
        raise DefinitionError(f"{text!r} ends before it begins, or is longer than a year; write the earlier date first")
    days = tuple((first + timedelta(days=k)).isoformat() for k in range((last - first).days + 1))
    return [Freeze(days=days, reason=text)]


def _weekly(text: str) -> list[Freeze]:
    plain = text.strip().lower()
    if (match := _HOURS.fullmatch(plain)) is not None:
        first, last, h1, m1, until, h2, m2 = match.groups()
        begin, end = _minute(text, h1, m1), _minute(text, h2, m2)
        if until is not None:
            if first is None or last is not None:
                raise DefinitionError(f"{text!r} has an end day without one first day; write fri 16:00 - mon 08:00")
            return [_stretch(_weekday(text, first) * _DAY + begin, _weekday(text, until) * _DAY + end, text)]
        length = end - begin if end > begin else end - begin + _DAY
        starts = [day * _DAY + begin for day in _days(text, first, last)]
        return [_stretch(start, start + length, text) for start in starts]
    if (match := _WHOLE.fullmatch(plain)) is not None:
        return [_stretch(d * _DAY, (d + 1) * _DAY, text) for d in _days(text, match[1], match[2])]
    raise DefinitionError(
        f"{text!r} is no stretch of time; write fri 16:00 - mon 08:00, mon-fri 22:00 - 06:00, sun or 2026-12-24"
    )


def _stretch(start: int, end: int, text: str) -> Freeze:
    return Freeze(start, end if end <= _WEEK else end - _WEEK, reason=text)


def _closed(open: list[Freeze], reason: str) -> list[Freeze]:
    """Return the stretches of the week that none of `open` covers."""
    shut = [not any(_holds(rule, minute) for rule in open) for minute in range(_WEEK)]
    starts = [m for m in range(_WEEK) if shut[m] and (m == 0 or not shut[m - 1])]
    return [Freeze(s, next((m for m in range(s, _WEEK) if not shut[m]), _WEEK), reason=reason) for s in starts]


def _days(text: str, first: str | None, last: str | None) -> list[int]:
    if first is None:
        return list(range(7))
    begin = _weekday(text, first)
    end = begin if last is None else _weekday(text, last)
    return [day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)]


def _weekday(text: str, name: str) -> int:
    if name[:3] not in _DAYS or not {
        "mon": "monday",
        "tue": "tuesday",
        "wed": "wednesday",
        "thu": "thursday",
        "fri": "friday",
        "sat": "saturday",
        "sun": "sunday",
    }[name[:3]].startswith(name):
        raise UnknownName.of(f"day of {text!r}", name, _DAYS)  # fmt: skip
    return _DAYS.index(name[:3])


def _minute(text: str, hours: str, minutes: str) -> int:
    found = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or found > _DAY:
        raise DefinitionError(f"{text!r} has the time {hours}:{minutes}; write a time from 00:00 to 24:00")
    return found


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise DefinitionError(f"{text!r} is no date; write one such as 2026-12-24") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise DefinitionError(f"there is no time zone {name!r}; write one such as UTC or Europe/Amsterdam") from None
