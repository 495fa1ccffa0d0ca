"""The difference of two definitions: every field counts once, and what is for people rebuilds nothing."""

from __future__ import annotations

from dataclasses import replace

from flyball.features.difference import breaks, difference
from flyball.features.spec import (
    About,
    ColumnSpec,
    EntitySpec,
    FeatureAbout,
    FeatureSpec,
    SourceSpec,
    Stat,
    TransformSpec,
    ViewSpec,
)  # fmt: skip

HOUR = 3_600_000_000
SOURCE = SourceSpec("trips", "data/*.parquet", "at", None, "UTC", (("a", "x + 1"), ("b", "a * 2")), None, 0)
COUNT = FeatureSpec("n", "int64", None, Stat.COUNT, HOUR, HOUR // 60)
MEAN = FeatureSpec("m", "float64", "a", Stat.MEAN, HOUR, HOUR // 60)
VIEW = ViewSpec("v", EntitySpec("e", (ColumnSpec("k", "int64"),)), SOURCE, None, (COUNT, MEAN))


def told(new: ViewSpec) -> list[tuple[str, str | None, str | None, bool]]:
    return [(f.field, f.was, f.now, f.rebuilds) for f in difference(VIEW, new)]


def test_nothing_differs_from_itself():
    assert difference(VIEW, VIEW) == ()
    assert breaks(VIEW, VIEW) == ()


def test_what_is_for_people_rebuilds_and_breaks_nothing():
    features = (replace(COUNT, about=FeatureAbout("trips", "1")), MEAN)
    source = replace(SOURCE, about=About(owner="ingest"))
    new = replace(VIEW, about=About(owner="maps", freshness=HOUR), features=features, source=source)
    assert new.digest == VIEW.digest
    assert told(new) == [
        ("source owner", None, "ingest", False),
        ("owner", None, "maps", False),
        ("freshness", None, "1 h", False),
        ("feature n description", None, "trips", False),
        ("feature n unit", None, "1", False),
    ]
    assert breaks(VIEW, new) == ()


def test_a_derived_column_is_compared_by_its_name():
    new = replace(VIEW, source=replace(SOURCE, derive=(("a", "x + 2"), ("c", "a"))))
    assert told(new) == [
        ("source derive a", "x + 1", "x + 2", True),
        ("source derive b", "a * 2", None, True),
        ("source derive c", None, "a", True),
    ]


def test_an_order_alone_is_a_difference():
    assert told(replace(VIEW, features=(MEAN, COUNT))) == [("order of features", "n, m", "m, n", True)]
    turned = replace(VIEW, source=replace(SOURCE, derive=SOURCE.derive[::-1]))
    assert told(turned) == [("order of source derive", "a, b", "b, a", False)]
    assert turned.digest == VIEW.digest  # it reads a, whatever b is


def test_a_difference_that_three_digits_hide_is_shown():
    day = 24 * HOUR
    old, new = replace(VIEW, ttl=7 * day), replace(VIEW, ttl=7 * day + 1)
    assert [(f.was, f.now) for f in difference(old, new)] == [(str(7 * day), str(7 * day + 1))]


def test_a_view_that_is_removed_takes_all_features_away():
    assert breaks(VIEW, None)[0].features == ()


def test_a_change_that_readers_can_follow_breaks_nothing():
    wider = replace(VIEW, features=(COUNT, replace(MEAN, window=2 * HOUR), FeatureSpec("x", "float64", "b")))
    assert breaks(VIEW, wider) == ()


def test_a_transformation_that_changed_is_shown_as_it_was_written():
    was = FeatureSpec(
        "size", "int64", None, transform=TransformSpec("cross", ("zone", "hour"), "int64", (("buckets", 64),))
    )
    now = replace(was, transform=TransformSpec("cross", ("zone",), "int64", (("buckets", 128),)))
    found = difference(replace(VIEW, features=(was,)), replace(VIEW, features=(now,)))
    assert [(c.was, c.now) for c in found] == [("cross(zone, hour, buckets=64)", "cross(zone, buckets=128)")]
