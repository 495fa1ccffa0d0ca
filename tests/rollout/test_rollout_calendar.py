"""When shares may rise, on the wall clock of one time zone, over changes of the clock too."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import hypothesis.strategies as st
import pytest
from hypothesis import given

from flyball.errors import DefinitionError, UnknownName
from flyball.rollout.definitions.calendar import calendar, frozen, thaws, weeks_later
from flyball.rollout.types import Freeze

AMSTERDAM = ZoneInfo("Europe/Amsterdam")


def at(text, zone=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


@pytest.mark.parametrize(
    ("text", "shut", "open"),
    [
        ("fri 16:00 - mon 08:00", ["2026-01-09 16:00", "2026-01-11 12:00", "2026-01-12 07:59"], ["2026-01-09 15:59", "2026-01-12 08:00"]),
        ("mon-fri 22:00 - 06:00", ["2026-01-05 22:00", "2026-01-10 05:59"], ["2026-01-05 05:59", "2026-01-10 22:00", "2026-01-05 12:00"]),
        ("22:00 - 06:00", ["2026-01-05 05:59", "2026-01-10 23:00"], ["2026-01-10 06:00"]),
        ("sat-sun", ["2026-01-10 00:00", "2026-01-11 23:59"], ["2026-01-09 23:59", "2026-01-12 00:00"]),
        ("sunday", ["2026-01-11 12:00"], ["2026-01-10 12:00"]),
        ("sun 12:00 - 24:00", ["2026-01-11 23:59"], ["2026-01-12 00:00", "2026-01-11 11:59"]),
        ("2026-12-24 - 2027-01-01", ["2026-12-24 00:00", "2027-01-01 23:59"], ["2026-12-23 23:59", "2027-01-02 00:00"]),
        ("2026-12-24", ["2026-12-24 12:00"], ["2026-12-25 00:00"]),
    ],
)  # fmt: skip
def test_texts_mean_what_they_say(text, shut, open):
    rules = calendar(freeze=[text])
    assert [bool(frozen(rules, at(moment))) for moment in shut] == [True] * len(shut)
    assert [frozen(rules, at(moment)) for moment in open] == [""] * len(open)


def test_business_hours_shut_everything_else():
    rules = calendar(timezone="Europe/Amsterdam", open=["mon-fri 09:00 - 17:00"])
    assert frozen(rules, at("2026-01-09 16:59", AMSTERDAM)) == ""
    assert "outside of mon-fri 09:00 - 17:00" in frozen(rules, at("2026-01-09 17:00", AMSTERDAM))
    assert thaws(rules, at("2026-01-09 17:00", AMSTERDAM)) == at("2026-01-12 09:00", AMSTERDAM)


def test_holidays_and_reasons_are_told():
    rules = calendar(holidays=[date(2026, 12, 25)], freeze=[Freeze(0, 60, reason="books close")])
    assert frozen(rules, at("2026-12-25 10:00")) == "frozen by the calendar: holiday (UTC)"
    assert frozen(rules, at("2026-01-05 00:30")) == "frozen by the calendar: books close (UTC)"


def test_a_freeze_keeps_its_wall_time_over_a_change_to_summer_time():
    rules = calendar(timezone="Europe/Amsterdam", freeze=["22:00 - 06:00"])
    assert thaws(rules, at("2026-03-28 23:00", AMSTERDAM)) == at("2026-03-29 06:00", AMSTERDAM)
    assert at("2026-03-29 06:00", AMSTERDAM) - at("2026-03-28 22:00", AMSTERDAM) == timedelta(hours=7)
    assert thaws(rules, at("2026-10-24 23:00", AMSTERDAM)) - at("2026-10-24 22:00", AMSTERDAM) == timedelta(hours=9)


def test_an_end_within_the_missing_hour_comes_when_the_clock_has_jumped():
    rules = calendar(timezone="Europe/Amsterdam", freeze=["sun 00:00 - 02:30"])
    assert thaws(rules, at("2026-03-29 01:00", AMSTERDAM)) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_an_hour_that_comes_twice_is_frozen_twice():
    rules = calendar(timezone="Europe/Amsterdam", freeze=["sun 02:00 - 03:00"])
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert [bool(frozen(rules, first + timedelta(minutes=m))) for m in (0, 60, 90)] == [True, True, False]


def test_without_an_end_within_fifteen_days_nothing_is_promised():
    assert thaws(calendar(freeze=["mon-sun"]), at("2026-01-05 00:00")) is None


@given(
    minutes=st.integers(0, 366 * 1440), weekly=st.sampled_from(["fri 16:00 - mon 08:00", "22:00 - 06:00", "sat-sun"])
)
def test_the_end_of_a_freeze_is_the_first_minute_that_is_not_frozen(minutes, weekly):
    rules = calendar(timezone="America/New_York", freeze=[weekly])
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    end = thaws(rules, now)
    assert end is not None
    assert frozen(rules, end) == ""
    assert now == end or frozen(rules, end - timedelta(minutes=1))
    between = [now + (end - now) * k / 7 for k in range(7)]
    assert now == end or all(frozen(rules, moment) for moment in between)


def test_a_week_is_the_wall_clocks():
    before = at("2026-03-25 12:00", AMSTERDAM)
    assert weeks_later(before, 1, "Europe/Amsterdam") - before == timedelta(hours=167)
    assert weeks_later(before, 1, "UTC") - before == timedelta(hours=168)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"timezone": "Europe/Amsterdm"}, DefinitionError, "no time zone"),
        ({"timezone": "../etc"}, DefinitionError, "no time zone"),
        ({"freeze": ["sometimes"]}, UnknownName, "day of"),
        ({"freeze": ["fri 16 - mon 8"]}, DefinitionError, "no stretch of time"),
        ({"freeze": ["fri 25:00 - mon 08:00"]}, DefinitionError, "from 00:00 to 24:00"),
        ({"freeze": ["mon-tue 10:00 - fri 12:00"]}, DefinitionError, "without one first day"),
        ({"freeze": ["2026-12-24 - 2026-12-01"]}, DefinitionError, "ends before it begins"),
        ({"holidays": ["24.12."]}, DefinitionError, "is no date"),
    ],
)
def test_calendars_that_make_no_sense_are_named(given, error, message):
    with pytest.raises(error, match=message):
        calendar(**given)
