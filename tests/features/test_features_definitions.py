from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

import flyball as fb
from flyball.errors import DefinitionError, DuplicateName, ExpressionError, InputError, UnknownName
from flyball.features.matrix import to_matrix
from flyball.features.request import AT
from flyball.features.service import compile_service
from flyball.features.spec import FeatureService, TransformSpec
from flyball.features.transforms import apply, single
from flyball.features.zones import zone

trips = fb.ParquetSource("trips", "d/*.parquet", event_time="at", timezone="America/New_York")
zones = fb.Entity("zone", keys={"z": int})
COUNT = fb.count("n", window="1h")


def _view(name: str = "v", **more: object) -> fb.FeatureView:
    return fb.FeatureView(name, entity=zones, source=trips, features=[fb.count("n", window="1h")], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: fb.Entity("e", keys={"k": float}), DefinitionError, "must be int or str"),
        (lambda: fb.Entity("e", keys={}), DefinitionError, "no keys"),
        (lambda: fb.Entity("e e", keys={"k": int}), DefinitionError, "not usable"),
        (lambda: fb.ParquetSource("s", "p", event_time="t", timezone="Mars/Base"), DefinitionError, "no time zone"),
        (lambda: fb.ParquetSource("s", "p", event_time="t", where="a >"), ExpressionError, "where of source 's'"),
        (lambda: fb.ParquetSource("s", "p", event_time="t", derive={"d": "a +* b"}), ExpressionError, "derive 'd'"),
        (lambda: fb.count("n", window="5s"), DefinitionError, "too short"),
        (lambda: fb.mean("n", of="x", window="soon"), DefinitionError, "no duration"),
        (lambda: fb.Feature("n", list), DefinitionError, "use int, float"),
        (lambda: fb.Feature("n", int, default="x"), DefinitionError, "its default"),
        (lambda: fb.Feature("n", int, default=True), DefinitionError, "its default"),
        (
            lambda: fb.FeatureView("v", entity=zones, source=trips, features=[fb.count("n", window="1h")] * 2),
            DuplicateName, "twice",
        ),
        (
            lambda: fb.FeatureView("v", entity=zones, source=trips, features=[COUNT, fb.Feature("x", int)]),
            DefinitionError, "mixes",
        ),
        (lambda: fb.FeatureView("v", entity=zones, source=trips, features=[]), DefinitionError, "no features"),
        (lambda: compile_service("m", "at", [_view(), fb.Field("n", int)], trips.spec), DuplicateName, "twice"),
        (lambda: compile_service("m", "at", [_view(), _view()], trips.spec), DuplicateName, "twice"),
        (lambda: compile_service("m", "at", [_view(), fb.Field("z", float)], trips.spec), DefinitionError, "one type"),
        (lambda: compile_service("m", "at", [fb.Field("c", str)], trips.spec), DefinitionError, "holds numbers"),
        (lambda: compile_service("m", "at", [], trips.spec), DefinitionError, "no features"),
    ],
)  # fmt: skip
def test_a_wrong_definition_is_one_clear_error(make: object, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        make()  # type: ignore[operator]


def test_a_service_lists_columns_in_order_and_each_input_once() -> None:
    service = compile_service(
        "m", "at",
        [_view(), fb.Field("z", int), fb.Field("miles", float, required=False), fb.hour_of_day("at"),
         fb.day_of_week("asked", timezone="UTC"), fb.ratio("miles", "seats", name="r")], trips.spec,
    )  # fmt: skip
    assert service.names == ("n", "z", "miles", "hour_of_day", "day_of_week", "r")
    assert [(i.name, i.type, i.required) for i in service.inputs] == [
        ("z", "int64", True), ("miles", "float64", False), ("asked", "timestamp", True), ("seats", "float64", True),
    ]  # fmt: skip
    assert [(c.transform.args, dict(c.transform.params)) for c in service.columns[3:] if c.transform] == [
        ((AT,), {"timezone": "America/New_York"}), (("asked",), {"timezone": "UTC"}), (("miles", "seats"), {}),
    ]  # fmt: skip
    assert FeatureService.from_json(service.to_json()) == service


def _micros(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


@pytest.mark.parametrize("name", ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
def test_local_hours_and_days_are_those_of_the_standard_library(name: str) -> None:
    from zoneinfo import ZoneInfo

    rng = np.random.default_rng(1)
    at = rng.integers(_micros("1975-01-01"), _micros("2060-01-01"), 400)
    zoned = (("timezone", name),)
    hour, day = (TransformSpec(f, (AT,), "int64", zoned) for f in ("hour_of_day", "day_of_week"))
    hours, days, one = apply(hour, [at]), apply(day, [at]), single(hour)
    assert one is not None
    for k, moment in enumerate(at.tolist()):
        local = datetime.fromtimestamp(moment // 10**6, ZoneInfo(name))
        assert (hours[k], days[k]) == (local.hour, local.weekday())
        assert one([moment]) == local.hour


def test_local_to_utc_agrees_with_the_standard_library_where_hours_exist_once() -> None:
    rng = np.random.default_rng(2)
    utc = rng.integers(_micros("1975-01-01"), _micros("2060-01-01"), 2000)
    rules = zone("America/New_York")
    back = rules.to_utc(rules.to_local(utc))
    assert ((back.utc == utc) | (utc - back.utc == 3_600_000_000)).all()
    assert int((back.utc != utc).sum()) <= back.doubled
    assert back.missing == 0


def test_a_missing_hour_moves_forward_and_a_doubled_one_is_the_first() -> None:
    march = ["2020-03-08T01:59", "2020-03-08T02:30", "2020-03-08T03:00"]
    local = np.array([_micros(t) for t in [*march, "2020-11-01T01:30", "2020-11-01T02:00"]])
    found = zone("America/New_York").to_utc(local)
    assert found.utc.astype("datetime64[us]").astype("datetime64[m]").astype(str).tolist() == [
        "2020-03-08T06:59", "2020-03-08T07:30", "2020-03-08T07:00", "2020-11-01T05:30", "2020-11-01T07:00",
    ]  # fmt: skip
    assert (found.missing, found.doubled) == (1, 1)


def test_ratio_over_zero_is_nan() -> None:
    column = TransformSpec("ratio", ("a", "b"), "float64")
    found = apply(column, [np.array([1, 6, 2]), np.array([0, 3, np.nan])])
    np.testing.assert_array_equal(found, [np.nan, 2.0, np.nan])


def test_a_matrix_holds_null_as_nan() -> None:
    table = pa.table({"i": pa.array([1, None]), "b": pa.array([True, None]), "x": [0.5, 2.0], "s": ["a", "b"]})
    np.testing.assert_array_equal(to_matrix(table, ["x", "i", "b"]), [[0.5, 1, 1], [2.0, np.nan, np.nan]])
    with pytest.raises(InputError, match="encode"):
        to_matrix(table, ["s"])
    with pytest.raises(UnknownName):
        to_matrix(table, ["q"])


def test_what_a_source_derives_for_others_leaves_a_views_digest_alone():
    def view(of: str, **derive: str) -> str:
        trips = fb.ParquetSource("trips", "t.parquet", event_time="at", derive=derive, where="ok and speed > 0")
        return fb.FeatureView("v", entity=zones, source=trips, features=[fb.sum("s", of=of, window="1h")]).spec.digest

    base = {"speed": "miles / hours", "double": "2 * miles"}
    assert view("miles", **base) == view("miles", **base, triple="3 * miles") == view("miles", **base | {"double": "0"})
    assert view("miles", **base) != view("miles", **base | {"speed": "miles"})  # where reads it
    assert view("double", **base) != view("double", **base | {"double": "0"})
