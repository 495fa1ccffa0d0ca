"""When a view's refresh is due, when the next one is, and whether one was missed. Pure.

The surprise: a refresh that fell due several times while nobody could run it is due once. It counts as missed when it
is late by more than its own period: a view refreshed every 15 minutes is missed after 30, a daily one after two days.
Cron lines are in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flyball import units
from flyball.errors import DefinitionError, UnitError

__all__ = ["due", "late", "missed", "next_due", "retry_at"]

_FIRST_RETRY = timedelta(seconds=10)


def due(spec: str, last: datetime | None, now: datetime) -> datetime | None:
    """Return since when a refresh is due, None when it is not.

    Args:
        spec: A duration ("15m") or a cron line ("0 * * * *").
        last: Until when the view is fresh; None: it never was, so it is due now.
        now: Domain time.

    Raises:
        DefinitionError: `spec` is neither.
    """
    if last is None:
        _period(spec, now)
        return now
    first = _after(spec, last)
    return first if first <= now else None


def next_due(spec: str, last: datetime | None, now: datetime) -> datetime:
    """Return when the view is to be refreshed next: the past if that is due already."""
    return now if last is None else _after(spec, last)


def late(spec: str, last: datetime | None, now: datetime) -> timedelta:
    """Return how long a refresh has been due, 0 when it is not."""
    since = due(spec, last, now)
    return timedelta(0) if since is None else now - since


def missed(spec: str, last: datetime | None, now: datetime) -> timedelta | None:
    """Return how late a refresh is, when that is more than its own period; else None."""
    if last is None:
        return None
    since = _after(spec, last)
    behind = now - since
    return behind if behind > _period(spec, since) else None


def retry_at(spec: str, failed: datetime, tries: int) -> datetime:
    """Return when to try again after the n-th failure in a row, n >= 1: 10 s, doubling, at most the period."""
    return failed + min(_FIRST_RETRY * (1 << min(tries - 1, 20)), _period(spec, failed))


def _after(spec: str, moment: datetime) -> datetime:
    """Return the first due time after a moment."""
    span = _span(spec)
    if span is not None:
        return moment + span
    from croniter import croniter

    tick: datetime = croniter(spec, moment.astimezone(UTC)).get_next(datetime)
    return tick


def _period(spec: str, moment: datetime) -> timedelta:
    """Return the time from the due time at or after a moment to the one after it."""
    span = _span(spec)
    if span is not None:
        return span
    first = _after(spec, moment - timedelta(microseconds=1))
    second: datetime = _after(spec, first)
    return second - first


def _span(spec: str) -> timedelta | None:
    """Return a duration; None for a cron line."""
    try:
        found = units.duration(spec)
    except UnitError:
        from croniter import croniter

        if len(spec.split()) == 5 and croniter.is_valid(spec):
            return None
        raise DefinitionError(
            f"refresh {spec!r} is neither a duration such as 15m nor a cron line of five fields"
        ) from None
    if found <= timedelta(0):
        raise DefinitionError(f"refresh {spec!r} is no time at all; write a duration such as 15m")
    return found
