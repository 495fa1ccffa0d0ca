from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flyball.errors import DefinitionError, UnitError, UnknownName
from flyball.loop.policy import (
    STARTED,
    Retrain,
    damp,
    drift_trigger,
    on,
    performance_trigger,
    schedule_trigger,
)
from flyball.loop.types import Trigger
from flyball.monitoring.types import DriftWindow, FeatureDrift, PerformanceWindow

NOW = datetime(2020, 3, 18, 4, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
HANDLED = "already handled: a run started at 2020-03-18 05:00 UTC, after this evidence"
SPEC = Retrain(on=[on.drift()], cooldown="6h", budget="3/week")
OPEN = Trigger("drift/m/v1/x", "m", "drift", NOW, {"version": "v1"})


def _ran(ago: timedelta, name: str = "old") -> Trigger:
    at = NOW - ago
    return Trigger(name, "m", "drift", at, {"version": "v1", STARTED: at.isoformat()}, state="handled", run="r")


def _window(day: int, level: str = "page", version: str = "v1") -> DriftWindow:
    start = NOW + day * DAY
    feature = FeatureDrift("trips_1h", 0.4, 0.1, 1e-9, level, True)
    return DriftWindow("m", version, start, start + DAY, 900, level, (feature,), f"day {day}")


def test_definitions_parse_their_units_and_refuse_nonsense() -> None:
    assert (SPEC.cooldown, SPEC.budget, SPEC.budget_window) == (6 * HOUR, 3, 7 * DAY)
    with pytest.raises(DefinitionError, match="never retrains"):
        Retrain(on=[])
    with pytest.raises(UnitError, match="no budget"):
        Retrain(on=[on.drift()], budget="often")
    with pytest.raises(DefinitionError, match="no cron expression"):
        on.schedule("every monday")
    with pytest.raises(DefinitionError, match="no timezone 'Mars/Base'"):
        on.schedule("0 4 * * 1", timezone="Mars/Base")
    with pytest.raises(UnknownName, match="did you mean mae"):
        on.performance("maee", max=1)
    with pytest.raises(DefinitionError, match="needs one limit"):
        on.performance("mae")


def test_nothing_in_the_way_launches() -> None:
    assert damp(OPEN, SPEC, [OPEN], None, NOW, champion="v1").action == "launch"


@pytest.mark.parametrize(
    ("history", "frozen", "more", "action", "reason"),
    [
        ([], "incident 7", {}, "drop", "the loop is frozen: incident 7"),
        ([], None, {"champion": "v2"}, "drop", "already handled: v1 is no longer champion, v2 is"),
        ([], None, {"active": "rollout o1"}, "wait", "rollout o1 is still active"),
        ([_ran(2 * HOUR)], None, {}, "drop", "cooldown: the last run started 2 h ago, 4 h to go"),
        ([_ran(k * DAY, str(k)) for k in (1, 3, 6)], None, {}, "drop", "budget: 3 of 3 runs in 7 d are used"),
        ([_ran(k * DAY, str(k)) for k in (1, 3, 8)], None, {}, "launch", "nothing stands in the way"),
        ([_ran(6 * HOUR)], None, {}, "launch", "nothing stands in the way"),
        (
            [_ran(-HOUR)],
            None,
            {},
            "drop",
            "already handled: a run started at 2020-03-18 05:00 UTC, after this evidence",
        ),
        ([replace(OPEN, id="newer", at=NOW + DAY)], None, {}, "drop", "newer evidence came: newer"),
    ],
)
def test_damping_says_why(history: list[Trigger], frozen: str | None, more, action: str, reason: str) -> None:
    found = damp(OPEN, SPEC, [OPEN, *history], frozen, NOW, **more)
    assert (found.action, found.reason) == (action, reason)


def test_only_the_newest_judged_window_of_the_champion_fires() -> None:
    assert drift_trigger("m", [_window(0), _window(1, "warn")], "v1", NOW) is None
    assert drift_trigger("m", [_window(0)], "v2", NOW) is None
    unjudged = replace(_window(2, "none"), features=())
    found = drift_trigger("m", [_window(0, "warn"), _window(1), unjudged], "v1", NOW)
    assert found is not None
    assert found.id == "drift/m/v1/20200319T040000Z"
    assert found.evidence["features"] == {"trips_1h": 0.4}
    assert drift_trigger("m", [_window(1)], None, NOW + HOUR).id == found.id


def test_missed_ticks_fire_once_and_ticks_before_arming_never() -> None:
    spec = on.schedule("0 4 * * *", timezone="America/New_York")
    armed = datetime(2020, 3, 5, 9, tzinfo=UTC)  # 4:00 in New York is 9:00 UTC before 8 March, 8:00 after
    assert schedule_trigger("m", spec, armed, armed) is None
    assert schedule_trigger("m", spec, armed, armed + 23 * HOUR) is None
    assert schedule_trigger("m", spec, armed, armed + 24 * HOUR).id == "schedule/m/20200306T090000Z"
    assert schedule_trigger("m", spec, armed, armed + 5 * DAY).id == "schedule/m/20200310T080000Z"


def test_performance_fires_on_two_of_three_final_windows() -> None:
    def window(day: int, value: float, **more) -> PerformanceWindow:
        base = PerformanceWindow("m", "v1", "mae", NOW + day * DAY, NOW + (day + 1) * DAY, value, 900, 0.9, "final")
        return replace(base, **more)

    spec = on.performance("mae", max=4.0)
    assert performance_trigger("m", spec, [window(0, 5), window(1, 3)], "v1", NOW) is None
    assert performance_trigger("m", spec, [window(0, 5), window(1, 5, coverage=0.2)], "v1", NOW) is None
    assert performance_trigger("m", spec, [window(0, 5), window(1, 5, state="provisional")], "v1", NOW) is None
    found = performance_trigger("m", spec, [window(0, 5), window(1, 3), window(2, 5)], "v1", NOW)
    assert found.evidence["text"] == "mae was 5, above 4, in 2 of 3 windows"
    assert performance_trigger("m", on.performance("auc", min=0.7), [window(0, 0.5, metric="auc")] * 2, "v1", NOW)
