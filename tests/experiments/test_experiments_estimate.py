"""What all tests answer in: sides, directions, ends."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.errors import UnknownName
from flyball.experiments import Alternative, Estimate
from flyball.experiments.estimate import Direction, Interval, direction_of, finite

SIDES = list(Alternative)


@pytest.mark.parametrize("side", SIDES)
def test_an_alternative_swapped_twice_is_itself(side: Alternative) -> None:
    assert side.swapped.swapped is side


@pytest.mark.parametrize("side", SIDES)
@given(value=st.floats(-1e9, 1e9))
def test_swapped_arms_lie_as_far_toward_the_swapped_alternative(side: Alternative, value: float) -> None:
    assert side.toward(value) == side.swapped.toward(-value)


@pytest.mark.parametrize("side", SIDES)
@given(lower=st.floats(-1e9, 1e9), width=st.floats(0.0, 1e9))
def test_swapped_arms_have_the_mirrored_interval(side: Alternative, lower: float, width: float) -> None:
    low, high = side.ends(lower, lower + width)
    assert side.swapped.ends(-(lower + width), -lower) == (-high, -low)


def test_only_one_sided_intervals_are_open() -> None:
    assert {side: side.ends(1.0, 2.0) for side in SIDES} == {
        Alternative.TWO_SIDED: (1.0, 2.0),
        Alternative.GREATER: (1.0, math.inf),
        Alternative.LESS: (-math.inf, 2.0),
    }


def test_an_unknown_direction_names_the_known_ones() -> None:
    assert direction_of("down") is Direction.DOWN
    with pytest.raises(UnknownName, match="up"):
        direction_of("upp")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, None])
def test_json_gets_none_for_what_is_no_number(value: float | None) -> None:
    assert finite(value) is None


def test_an_open_interval_goes_through_json() -> None:
    lower, upper = Alternative.GREATER.ends(0.1, 0.2)
    data = Estimate(0.15, lower, upper, 0.01, math.inf, (10, 10), "some test").to_dict()
    assert json.loads(json.dumps(data, allow_nan=False))["upper"] is None


def test_an_interval_prints_its_ends() -> None:
    assert str(Interval(0.3, 0.25, 0.36, 263, "Wilson")) == "Wilson: 0.3 [0.25, 0.36] at 95%, n = 263"
