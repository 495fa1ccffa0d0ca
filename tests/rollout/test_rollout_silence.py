"""Time that nobody saw is no bake time: clocks that jump ahead, lulls, weekends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from flyball.rollout.definitions.guards import guard
from flyball.rollout.definitions.strategies import strategy
from flyball.rollout.evidence.silence import Silence, lull
from flyball.testing import scenario
from flyball.units import from_micros

BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
SECOND = int(BEGIN.timestamp())


def _heard(*seconds: int) -> Silence:
    silence = Silence()
    for second in seconds:
        silence.heard(SECOND + second)
    return silence


def _oracle(seconds: list[int], since: int, now: int, allowed: int) -> int:
    """Walk over every second and count those that lie more than `allowed` after the last request."""
    lost, quiet = 0, 0
    for at in range(since, now):
        if at in seconds:
            quiet = 0
        quiet += 1
        lost += quiet > allowed
    return lost


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=12), st.integers(0, 300), st.integers(0, 300), st.integers(10, 90))
def test_lost_time_is_what_a_walk_over_every_second_finds(seconds, since, more, allowed):
    silence = _heard(*sorted(seconds))
    now = max([since + more, *seconds])
    begin, end = (BEGIN + timedelta(seconds=s) for s in (since, now))
    found = silence.lost(begin, end, timedelta(seconds=allowed))
    assert found == timedelta(seconds=_oracle(seconds, since, now, allowed))


def test_requests_without_a_gap_lose_nothing_and_none_at_all_lose_all_but_a_lull():
    busy = _heard(*range(3600))
    hour = from_micros((SECOND + 3600) * 1_000_000)
    assert busy.lost(BEGIN, hour, timedelta(minutes=1)) == timedelta(0)
    assert Silence().lost(BEGIN, hour, timedelta(minutes=1)) == timedelta(minutes=59)


@pytest.mark.parametrize(
    ("bake", "seconds"), [("10s", 10), ("10m", 150), ("20m", 300), ("4h", 3600), ("72h", 3600)]
)  # fmt: skip
def test_a_lull_is_a_quarter_of_the_bake_within_bounds(bake, seconds):
    from flyball.units import duration

    assert lull(duration(bake)) == timedelta(seconds=seconds)


def _ramp(bake: str = "1h", **more):
    rails = [guard.errors(margin="20pp")]
    steps = [strategy.step(share, **more) for share in ("10%", "50%")]
    spec = strategy.canary(steps, bake=bake, min_requests=20, guardrails=rails)
    return scenario(spec).given_traffic(per_minute=60)


@pytest.mark.parametrize("ahead", ["2h", "2d"])
def test_a_clock_that_jumps_ahead_over_the_bake_does_not_advance(ahead):
    story = _ramp().for_("10m")
    assert story.status.step == 0
    story.given_traffic(per_minute=0).for_(ahead, every=ahead)  # one look after the jump
    story.given_traffic(per_minute=60).for_("5m")
    assert story.status.step == 0, story.status.reason
    assert "no request came do not count" in story.status.state["waiting"]
    story.for_("32m")
    assert story.status.step == 1  # 10 min, the lull of 15 min, then 35 min
    assert story.replay().same


def test_no_number_of_jumps_promotes_faster_than_requests_come():
    story = _ramp()
    for _ in range(20):
        story.given_traffic(per_minute=60).for_("10s")
        story.given_traffic(per_minute=0).for_("3h", every="3h")
    assert story.status.phase == "Step"
    assert story.status.step <= 1, "20 lulls of 15 min are 5 h at most; each step needs its hour and its requests"


def test_a_controller_that_was_away_while_requests_came_loses_no_bake_time():
    story = _ramp().for_("5m")
    story.for_("58m", every="58m")
    assert story.status.step == 1


def test_a_step_of_whole_weeks_counts_nights_and_weekends_but_no_jump_of_a_week():
    story = _ramp(bake="1h", weeks=1)
    for _ in range(4):
        story.given_traffic(per_minute=2).for_("10h", every="1h")
        story.given_traffic(per_minute=0).for_("14h", every="14h")
    story.given_traffic(per_minute=2).for_("10h", every="1h")
    story.given_traffic(per_minute=0).for_("62h", every="62h")
    assert story.status.step == 0
    story.given_traffic(per_minute=20).for_("1h", every="10m")
    assert story.status.step == 1
    story.given_traffic(per_minute=20).for_("2h", every="30m")
    story.given_traffic(per_minute=0).for_("8d", every="8d")
    story.given_traffic(per_minute=20).for_("1h", every="10m")
    assert story.status.step == 1
