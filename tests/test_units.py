from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball import units
from flyball.errors import UnitError
from flyball.units import Margin


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("7d", 604800), ("2w", 1209600), ("1.5h", 5400), ("20 min", 1200), ("250ms", 0.25),
     ("5us", 5e-6), ("5µs", 5e-6), ("0s", 0), (" 1H ", 3600)],
)  # fmt: skip
def test_a_duration_is_numbers_and_units(text: str, seconds: float) -> None:
    assert units.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "5 apples", "h", "-5s", "1h and 2m", "1h2", "one hour", "5%"])
def test_what_is_no_duration_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(UnitError, match="is no duration"):
        units.duration(text)


def test_a_timedelta_passes_through() -> None:
    assert units.duration(timedelta(days=1)) == timedelta(days=1)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), (" 100% ", 1.0), ("0.25", 0.25), (0.5, 0.5), (1, 1.0)])
def test_a_share_lies_between_0_and_1(text: str | float, value: float) -> None:
    assert units.share(text) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("text", ["101%", "-1%", 1.5, "nan", float("nan"), "", "half", "%"])
def test_what_is_no_share_is_refused(text: str | float) -> None:
    with pytest.raises(UnitError, match="is no share"):
        units.share(text)


@pytest.mark.parametrize(
    ("text", "value"), [("50MB", 50_000_000), ("64MiB", 67_108_864), ("1.5 kb", 1500), ("7b", 7), (12, 12)]
)
def test_a_size_is_decimal_or_binary(text: str | int, value: int) -> None:
    assert units.size(text) == value


@pytest.mark.parametrize("text", ["50", "MB", "50 apples", "-1MB", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UnitError, match="is no size"):
        units.size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5%", Margin(relative=0.05)),
        ("1pp", Margin(absolute=0.01)),
        ("0.3", Margin(absolute=0.3)),
        (0.3, Margin(absolute=0.3)),
    ],
)
def test_a_margin_is_relative_or_absolute(text: str | float, expected: Margin) -> None:
    assert units.margin(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-0.3", "pp", "5 apples", "nan", "inf", "nanpp"])
def test_what_is_no_margin_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        units.margin(text)


def test_the_larger_half_of_a_margin_holds() -> None:
    both = Margin(relative=0.1, absolute=0.5)
    assert (both.at(2.0), both.at(20.0), both.at(-20.0)) == (0.5, 2.0, 2.0)
    assert units.margin(both) is both


def test_a_budget_is_a_count_per_time() -> None:
    assert units.per("3/week") == (3, timedelta(weeks=1))
    for text in ("3", "x/week", "3/fortnight", "/day", "-1/day"):
        with pytest.raises(UnitError, match="is no budget"):
            units.per(text)


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))
def test_microseconds_and_times_convert_without_loss(at: datetime) -> None:
    assert units.from_micros(units.to_micros(at)) == at


def test_zones_are_respected_and_naive_times_count_as_utc() -> None:
    east = datetime(2020, 3, 8, 12, tzinfo=timezone(timedelta(hours=5)))
    assert units.to_micros(east) == units.to_micros(datetime(2020, 3, 8, 7))


@given(st.integers(min_value=0, max_value=10**15))
def test_a_span_in_whole_microseconds(value: int) -> None:
    assert units.micros(timedelta(microseconds=value)) == value


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (0.25, "0.25 s"), (59, "59 s"), (90, "1.5 min"), (7200, "2 h"), (604_800, "7 d")]
)
def test_a_span_in_words(seconds: float, words: str) -> None:
    assert units.spoken(timedelta(seconds=seconds)) == words
