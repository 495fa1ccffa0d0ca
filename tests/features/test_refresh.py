"""When a refresh is due and when it was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flyball.errors import DefinitionError
from flyball.features.refresh import due, late, missed, next_due, retry_at

NOW = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_a_duration_is_due_when_it_has_passed_and_not_before() -> None:
    assert due("15m", NOW - 15 * MINUTE, NOW) == NOW
    assert due("15m", NOW - 15 * MINUTE + timedelta(microseconds=1), NOW) is None
    assert next_due("15m", NOW, NOW) == NOW + 15 * MINUTE


def test_a_cron_line_is_due_at_its_tick_in_utc() -> None:
    last = datetime(2024, 3, 1, 4, 0, tzinfo=UTC)
    assert due("0 * * * *", last, last + 59 * MINUTE) is None
    assert due("0 * * * *", last, last + 60 * MINUTE) == last + 60 * MINUTE
    assert next_due("30 4 * * 1", last, last) == datetime(2024, 3, 4, 4, 30, tzinfo=UTC)


def test_what_was_never_fresh_is_due_now_and_not_missed() -> None:
    assert due("15m", None, NOW) == NOW == next_due("15m", None, NOW)
    assert missed("15m", None, NOW) is None


@pytest.mark.parametrize("spec", ["15m", "*/15 * * * *"])
def test_a_refresh_is_missed_when_it_is_late_by_more_than_its_period(spec: str) -> None:
    assert missed(spec, NOW, NOW + 30 * MINUTE) is None
    assert missed(spec, NOW, NOW + 31 * MINUTE) == 16 * MINUTE == late(spec, NOW, NOW + 31 * MINUTE)
    assert due(spec, NOW, NOW + 300 * MINUTE) == NOW + 15 * MINUTE, "many periods are one refresh"


def test_retries_back_off_to_the_period() -> None:
    waits = [(retry_at("1m", NOW, n) - NOW).total_seconds() for n in range(1, 6)]
    assert waits == [10, 20, 40, 60, 60]


@pytest.mark.parametrize("spec", ["soon", "0s", "* * *", "61 * * * *"])
def test_what_is_neither_duration_nor_cron_is_refused(spec: str) -> None:
    with pytest.raises(DefinitionError):
        due(spec, None, NOW)
