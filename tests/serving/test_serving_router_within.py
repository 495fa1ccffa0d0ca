"""A rollout's step that draws from one segment only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyball.rollout.routing import BUCKETS, Condition, ModelRoute, Segment, VersionRef, cut
from flyball.serving.routing.router import (
    CANDIDATE,
    CHAMPION,
    CONTROL,
    HOLDOUT,
    KILLED,
    OUTSIDE,
    VETOED,
    assign,
    bucket,
)

A, B = VersionRef("v1", "a", "x", True), VersionRef("v2", "b", "y", False)
WITHIN = (Condition("country", "==", ("NL",)),)
ROUTE = ModelRoute("m", "s", A, B, cut(0.3), cut(0.3), cut(0.6), within=WITHIN)
UNITS = [f"u{i}" for i in range(300)]


def test_inside_the_segment_units_are_drawn_as_without_one() -> None:
    plain = replace(ROUTE, within=())
    for unit in UNITS:
        assert assign(ROUTE, unit, attributes={"country": "NL"}) == assign(plain, unit)
    assert {assign(ROUTE, unit, attributes={"country": "NL"}) for unit in UNITS} == {CANDIDATE, CONTROL, CHAMPION}


@pytest.mark.parametrize("attributes", [None, {}, {"country": "DE"}, {"country": None}])
def test_outside_of_it_the_champion_answers_and_nothing_is_compared(attributes: dict[str, str] | None) -> None:
    assert {assign(ROUTE, unit, attributes=attributes) for unit in UNITS} == {OUTSIDE}
    assert not OUTSIDE.drawn


def test_veto_and_kill_switch_reach_into_the_segment() -> None:
    inside = {"country": "NL"}
    mine = next(unit for unit in UNITS if bucket("s", unit) < ROUTE.candidate_cut)
    assert assign(ROUTE, mine, attributes=inside, veto=True) == VETOED
    assert assign(ROUTE, mine, attributes=inside, kill=True) == KILLED


def test_the_holdout_outside_of_the_segment_is_no_control() -> None:
    held = replace(ROUTE, holdout=BUCKETS // 5)
    top = next(unit for unit in UNITS if bucket("s", unit) >= BUCKETS - held.holdout)
    assert assign(held, top, attributes={"country": "NL"}) == HOLDOUT
    assert assign(held, top, attributes={"country": "DE"}) == OUTSIDE


def test_the_models_own_segments_go_first() -> None:
    own = Segment("staff", (Condition("staff", "==", (True,)),), "candidate")
    made = replace(ROUTE, segments=(own,))
    assert assign(made, "u1", attributes={"staff": True, "country": "DE"}).why == "segment staff"
    assert assign(made, "u1", attributes={"country": "DE"}) == OUTSIDE
