from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import flyball as fb
from flyball.errors import FlyballError
from flyball.features.answers import answer_rows
from flyball.features.kernel.computed import with_computed
from flyball.features.spec import Status

DAY = 86_400_000_000
SOURCE = fb.ParquetSource("events", "x.parquet", event_time="at")
THING = fb.Entity("thing", keys={"k": int})


def test_several_windows_and_a_trend_are_features_with_visible_names() -> None:
    view = fb.FeatureView("w", entity=THING, source=SOURCE, features=[
        fb.windows(fb.quantile, "p90", of="x", q=0.9, windows=["1h", "7d"], where="x > 0"),
        fb.trend("x_trend", of="x", short="7d", long="30d", description="recent against usual"),
    ]).spec  # fmt: skip
    assert [f.name for f in view.features] == ["p90_1h", "p90_7d", "x_trend_7d", "x_trend_30d", "x_trend"]
    assert [f.where for f in view.features[:2]] == ["x > 0"] * 2
    assert view.features[-1].about.description == "recent against usual"
    at = [100 * DAY, 90 * DAY]
    rows = pa.table({"k": [1, 1], "x": [6.0, 2.0], "__event": at, "__created": at, "__known": at, "__sequence": [1, 2]})
    asked = pa.table({"k": [1, 1, 2], "__at": [100 * DAY, 99 * DAY, 100 * DAY]})
    found = answer_rows(rows, asked, view, list(view.features))
    assert found.column("x_trend").to_pylist() == [6.0 / 4.0, None, None]
    assert found.column("__status_x_trend").to_pylist() == [Status.PRESENT, Status.NULL, Status.MISSING]


def test_a_computed_feature_sees_defaults_where_a_value_is_absent() -> None:
    view = fb.FeatureView("r", entity=THING, source=SOURCE, features=[
        fb.Feature("a", float, default=8.0), fb.Feature("b", float), fb.computed("share", fb.ratio("a", "b")),
    ]).spec  # fmt: skip
    values = {"a": np.array([1.0, 0.0, 1.0]), "b": np.array([2.0, 2.0, 0.0])}
    status = {"a": np.array([0, 1, 0], np.uint8), "b": np.array([0, 0, 1], np.uint8)}
    found, statuses = with_computed(view, values, status)
    assert found["share"][:2].tolist() == [0.5, 4.0]
    assert statuses["share"].tolist() == [Status.PRESENT, Status.PRESENT, Status.NULL]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fb.quantile("p", of="x", q=1.0, window="1h"), "between 0 and 1"),
        (lambda: fb.sum("s", of="x", window="1h", dtype=str), "float or int"),
        (lambda: fb.last("l", of="x", window="1h", dtype=fb.Vector(3)), "float or int or datetime or bool"),
        (lambda: fb.mean("m", of="x", window="1h", dtype=int), "fb.Vector"),
        (lambda: fb.count("c", window="1h", where="x >"), "where"),
        (lambda: fb.windows(fb.mean, "m", of="x", windows="1h"), "list of lengths"),
        (lambda: fb.trend("t", of="x", short="7d", long="7d"), "shorter"),
    ],
)
def test_what_cannot_be_folded_is_refused_when_it_is_written(make: object, says: str) -> None:
    with pytest.raises(FlyballError, match=says):
        make()  # type: ignore[operator]
