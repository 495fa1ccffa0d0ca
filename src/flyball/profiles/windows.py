"""Closed windows of domain time, aligned to local midnight.

The surprise: a day is a local day, so on the days when clocks change it has 23 or 25 hours; a shorter window counts
from local midnight and the day's last one may be cut.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from flyball.errors import InputError

__all__ = ["window_bounds", "windows_between"]

_DAY = timedelta(days=1)


def window_bounds(at: datetime, window: timedelta, timezone: str = "UTC") -> tuple[datetime, datetime]:
    """Return [start, end) in UTC of the window that holds `at`.

    Windows of whole days start at local midnight (counted from 1970-01-01 when longer than one day); a shorter window
    is counted from local midnight in elapsed time.

    Raises:
        InputError: the window is neither whole days nor shorter than a day.
    """
    zone = ZoneInfo(timezone)
    today = at.astimezone(zone).date()
    days, rest = divmod(window, _DAY)
    if window <= timedelta(0) or (days and rest):
        raise InputError(
            f"a window of {window} is neither whole days nor shorter than a day; use such as 1h, 6h, 1d, 7d"
        )
    if days:
        first = today - timedelta(days=(today - date(1970, 1, 1)).days % days)
        return _midnight(first, zone), _midnight(first + timedelta(days=days), zone)
    midnight = _midnight(today, zone)
    start = midnight + (at - midnight) // window * window
    return start, min(start + window, _midnight(today + _DAY, zone))


def windows_between(
    first: datetime, last: datetime, window: timedelta, timezone: str = "UTC"
) -> list[tuple[datetime, datetime]]:
    """Return the windows from the one that holds `first` to the one that holds `last`."""
    found = [window_bounds(first, window, timezone)]
    while found[-1][1] <= last:
        found.append(window_bounds(found[-1][1], window, timezone))
    return found


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
