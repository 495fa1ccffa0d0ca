from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from flyball.errors import DefinitionError, InputError, UnknownName
from flyball.monitoring import drift
from flyball.monitoring.definitions import monitor
from flyball.monitoring.drift import judge_window
from flyball.monitoring.types import DriftWindow, FeatureDrift
from flyball.profiles.profile import BinMismatch, Profile
from flyball.profiles.reference import Reference, build_reference
from flyball.units import to_micros

DAY = timedelta(days=1)
MONDAY = datetime(2020, 1, 6, tzinfo=UTC)
SPEC = monitor.drift()
FEATURES = 20


class World:
    """Days of 20 features with a weekly season of the mean, a little day-to-day wobble, and a request-time weekday."""

    def __init__(self, seed: int, rows: int = 600, season: float = 0.3, wobble: float = 0.02) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows, self.season, self.wobble = rows, season, wobble

    def day(self, number: int, shift: float = 0.0) -> np.ndarray:
        weekend = self.season * (number % 7 >= 5)
        base = self.rng.normal(0, self.wobble, FEATURES) + weekend * np.linspace(0, 1, FEATURES)
        matrix = self.rng.normal(base, 1.0, (self.rows, FEATURES))
        matrix[:, 0] = number % 7
        matrix[:, 1] = self.rng.integers(0, 24, self.rows)
        matrix[:, 2] = np.exp(matrix[:, 2])
        matrix[:, 3] += shift
        return matrix

    def reference(self, days: int) -> Reference:
        matrix = np.concatenate([self.day(d) for d in range(days)])
        start = to_micros(MONDAY)
        at = np.concatenate([start + d * 86_400_000_000 + np.linspace(0, 86_399e6, self.rows) for d in range(days)])
        return build_reference(matrix, [f"f{i}" for i in range(FEATURES)], at.astype(np.int64))


def _judge(reference: Reference, matrix: np.ndarray, day: int, history: list[DriftWindow], **more) -> DriftWindow:
    start = MONDAY + day * DAY
    profile = Profile.fold(reference.edges, matrix)
    window = judge_window(
        reference, profile, SPEC, history, model="m", version="v1", start=start, end=start + DAY, **more
    )
    history.append(window)
    return window


@pytest.mark.parametrize("days", [7, 9, 28])
def test_a_quiet_year_with_a_weekly_season_pages_nobody(days: int) -> None:
    # one year of daily windows, 20 features, references of one week, nine days and four weeks: 0 pages
    world = World(seed=days)
    reference = world.reference(days)
    history: list[DriftWindow] = []
    levels = [_judge(reference, world.day(d), d, history).level for d in range(days, days + 365)]
    assert levels.count("page") == 0
    assert levels.count("warn") <= (20 if days >= 14 else 120)


def test_a_shift_of_a_fifth_sd_pages_by_day_three_in_ninety_per_cent() -> None:
    # 50 repetitions (5 references x 10 starts); at a true rate of 0.97 fewer than 45 have a chance below 1 %
    caught = 0
    for seed in range(5):
        world = World(seed=seed, rows=2000, season=0.3)
        reference = world.reference(28)
        for start in range(28, 98, 7):
            begin, history = start + seed, []
            pages = [
                _judge(reference, world.day(d, shift=0.2), d, history).level == "page" for d in range(begin, begin + 3)
            ]
            caught += any(pages)
    assert caught >= 45


def test_one_large_day_warns_and_the_second_pages() -> None:
    world = World(seed=1)
    reference = world.reference(28)
    history: list[DriftWindow] = []
    levels = [
        _judge(reference, world.day(d, shift=s), d, history).level for d, s in [(28, 1), (29, 0), (30, 1), (31, 0)]
    ]
    assert levels == ["warn", "none", "page", "none"]
    assert history[2].features[3] == max(history[2].features, key=lambda f: f.distance)
    assert "f3 moved by" in history[2].text
    assert "lasting" in history[2].text


def test_two_large_days_of_an_older_version_do_not_page_the_new_one() -> None:
    world = World(seed=1)
    reference = world.reference(28)
    page = FeatureDrift("f3", 1.0, 0.1, 0.0, "page", True)
    old = [DriftWindow("m", "v0", MONDAY, MONDAY + DAY, 600, "page", (page,))]
    assert _judge(reference, world.day(28, shift=1), 28, old).level == "warn"


def test_a_single_day_makes_the_weekday_constant_without_an_alarm() -> None:
    world = World(seed=2, season=0.0)
    reference = world.reference(7)
    window = _judge(reference, world.day(9), 9, [])
    weekday = window.features[0]
    assert weekday.distance > 0.5
    assert weekday.usual > weekday.distance
    assert weekday.level == "none"


def test_nulls_that_begin_are_drift() -> None:
    world = World(seed=3)
    reference = world.reference(28)
    history: list[DriftWindow] = []
    for day in (28, 29):
        matrix = world.day(day)
        matrix[::3, 5] = np.nan
        _judge(reference, matrix, day, history)
    assert history[-1].level == "page"
    assert [f.feature for f in history[-1].features if f.level == "page"] == ["f5 is null"]


def test_a_window_of_few_rows_is_not_judged_and_says_so() -> None:
    world = World(seed=4)
    window = _judge(world.reference(8), world.day(8, shift=5)[:150], 8, [])
    assert (window.level, window.features) == ("none", ())
    assert window.text == "not judged: 150 rows, at least 200 are needed"


def test_a_short_reference_is_labelled_and_needs_more() -> None:
    world = World(seed=5)
    reference = world.reference(4)
    window = _judge(reference, world.day(4, shift=0.5), 4, [])
    assert not window.features[3].calibrated
    assert "uncalibrated: 4 whole reference windows" in window.text


def test_a_reference_of_one_window_may_only_warn() -> None:
    world = World(seed=6)
    reference, history = world.reference(1), []
    levels = [_judge(reference, world.day(d, shift=3), d, history).level for d in (1, 2, 3)]
    assert "page" not in levels


def test_one_weekend_of_reference_lets_weekends_warn_and_workdays_page() -> None:
    world = World(seed=10)
    reference, history = world.reference(7), []
    levels = [_judge(reference, world.day(d, shift=2), d, history).level for d in (12, 13, 14, 15)]
    assert levels == ["warn", "warn", "warn", "page"]
    assert "too few weekends" in history[0].text


def test_a_weekend_that_may_only_warn_does_not_end_a_streak() -> None:
    world = World(seed=10)
    reference, history = world.reference(7), []
    levels = [_judge(reference, world.day(d, shift=2), d, history).level for d in (10, 11, 12, 13, 14)]
    assert levels == ["warn", "page", "warn", "warn", "page"]


def test_part_of_a_day_may_only_warn() -> None:
    world = World(seed=7)
    reference, history = world.reference(28), []
    levels = [_judge(reference, world.day(d, shift=1), d, history, covered=0.5).level for d in (28, 29, 30)]
    assert levels == ["warn"] * 3
    assert "served 50% of the window" in history[0].text


def test_an_empty_column_is_judged_by_its_nulls_only() -> None:
    world = World(seed=8)
    reference = world.reference(10)
    matrix = world.day(10)
    matrix[:, 4] = np.nan
    window = _judge(reference, matrix, 10, [])
    assert "f4" not in [f.feature for f in window.features]
    assert next(f for f in window.features if f.feature == "f4 is null").distance == pytest.approx(1.0)


def test_other_edges_are_refused() -> None:
    world = World(seed=9)
    other = Profile.empty(World(seed=1).reference(3).edges)
    with pytest.raises(BinMismatch, match="other edges than version v1"):
        judge_window(world.reference(8), other, SPEC, [], model="m", version="v1", start=MONDAY, end=MONDAY + DAY)


def test_monitor_specs_parse_their_units() -> None:
    assert monitor.drift(window="6h").window == timedelta(hours=6)
    assert monitor.performance("mae").metric == "mae"
    with pytest.raises(UnknownName, match="did you mean mae"):
        monitor.performance("maee")
    with pytest.raises(DefinitionError, match="warn is 0.3"):
        monitor.drift(warn=0.3)
    with pytest.raises(DefinitionError, match="neither whole days"):
        monitor.drift(window="36h")


def _table(shift: float = 0.0, city: str = "a", seed: int = 0, rows: int = 1000) -> pa.Table:
    rng = np.random.default_rng(seed)
    cities = np.where(rng.random(rows) < 0.5, city, "b").tolist()
    cities[0] = None
    return pa.table(
        {
            "x": rng.normal(shift, 1, rows),
            "n": rng.integers(0, 5, rows),
            "city": cities,
            "at": pa.array(rng.integers(0, 10**15, rows), pa.timestamp("us")),
            "flag": rng.random(rows) < 0.5,
        }
    )


def test_compare_names_what_moved() -> None:
    report = drift.compare(_table(), _table(shift=0.5, city="c", seed=1))
    assert report.drifted == ("city", "x")
    assert "2 of 6 features moved" in report.explain()
    assert "moved" in str(report)
    assert report.to_dict()["drifted"] == ["city", "x"]


def test_compare_finds_nothing_between_equal_tables_and_takes_pandas_and_profiles() -> None:
    first = drift.profile(_table())
    again = Profile.from_bytes(first.to_bytes())
    assert drift.compare(again, _table(seed=2).to_pandas()).drifted == ()
    assert drift.compare(again, drift.profile(_table(seed=3), like=again)).drifted == ()


def test_compare_says_what_does_not_fit() -> None:
    first = drift.profile(_table())
    with pytest.raises(InputError, match="no column 'flag'"):
        drift.compare(first, _table().drop_columns(["flag"]))
    with pytest.raises(BinMismatch, match="like=first"):
        drift.compare(first, drift.profile(_table(seed=4)))
    with pytest.raises(InputError, match="which has no profile"):
        drift.profile(pa.table({"x": [[1], [2]]}))
    with pytest.raises(InputError, match="holds strings, but numbers"):
        drift.profile(pa.table({"x": ["a"]}), like=drift.profile(pa.table({"x": [1.5, 2.5]})))
