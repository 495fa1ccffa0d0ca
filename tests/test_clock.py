from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from flyball.clock import Clock, ManualClock, SystemClock
from flyball.errors import InputError

START = datetime(2020, 3, 11, tzinfo=UTC)


def test_the_system_clock_tells_aware_utc_and_never_goes_back() -> None:
    clock: Clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(START)
    assert clock.now() == clock.now() == START
    before = clock.monotonic()
    clock.advance(timedelta(minutes=5))
    assert clock.now() == START + timedelta(minutes=5)
    assert clock.monotonic() - before == 300.0


def test_a_manual_clock_never_goes_back() -> None:
    clock = ManualClock(START)
    with pytest.raises(InputError, match="may not go back"):
        clock.set(START - timedelta(microseconds=1))
    clock.set(START)


def test_a_manual_clock_answers_in_utc_whatever_it_is_given() -> None:
    local = START.astimezone(timezone(timedelta(hours=-4)))
    assert ManualClock(local).now().tzinfo is UTC
    assert ManualClock(local).now() == START
