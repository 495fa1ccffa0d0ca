from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from flyball.errors import BadRequest
from flyball.features import definitions as fb
from flyball.features.online import OnlineReader
from flyball.features.service import compile_service
from flyball.features.spec import Status
from flyball.units import to_micros

SOURCE = fb.ParquetSource("trips", "none/*.parquet", event_time="at", timezone="America/New_York")
AT = to_micros(datetime(2020, 3, 9, 15, 30, tzinfo=UTC))  # a Monday, 11:30 in New York


class NoStore:
    """A store that must not be asked."""

    def get_many(self, keys: Any) -> Any:
        raise AssertionError(keys)


def reader(*features: Any) -> OnlineReader:
    return OnlineReader(NoStore(), compile_service("m", "at", features, SOURCE.spec))  # type: ignore[arg-type]


def test_fields_and_request_columns_need_no_store() -> None:
    mine = reader(
        fb.Field("miles", float), fb.hour_of_day("at"), fb.day_of_week("at"), fb.ratio("miles", "minutes", name="pace")
    )
    for n in (1, 3):
        matrix, statuses = mine.read({"miles": [6.0] * n, "minutes": np.full(n, 3)}, n, AT)
        assert matrix.tolist() == [[6.0, 11.0, 0.0, 2.0]] * n
        assert (statuses == Status.PRESENT).all()


def test_null_and_left_out_fields_have_a_status() -> None:
    mine = reader(fb.Field("a", float), fb.Field("b", int, required=False))
    matrix, statuses = mine.read({"a": [None, 1.0]}, 2, AT)
    np.testing.assert_array_equal(matrix, [[np.nan, np.nan], [1.0, np.nan]])
    assert statuses.tolist() == [[Status.NULL, Status.MISSING], [Status.PRESENT, Status.MISSING]]


def test_times_in_a_request_may_be_text_or_microseconds() -> None:
    mine = reader(fb.hour_of_day("booked"))
    for value in ("2020-03-09T15:30:00Z", "2020-03-09T15:30:00", AT, datetime(2020, 3, 9, 15, 30, tzinfo=UTC)):
        assert mine.read({"booked": [value]}, 1, AT)[0].tolist() == [[11.0]]
    matrix, statuses = mine.read({"booked": ["2020-03-09T15:30:00Z", None]}, 2, AT)
    assert statuses.tolist() == [[Status.PRESENT], [Status.NULL]]
    assert matrix[0, 0] == 11.0


@pytest.mark.parametrize(
    ("inputs", "says"),
    [({}, "misses 'a'"), ({"a": ["x"]}, "declared as a number"), ({"a": [1.0, 2.0]}, "2 values and the request 1")],
)
def test_a_wrong_field_is_a_bad_request(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        reader(fb.Field("a", float)).read(inputs, 1, AT)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (["74"], "declared as an integer"),
        ([True], "declared as an integer"),
        (np.array([74.0]), "float64"),
        ([2**70], "64 bits"),
    ],
)
def test_a_key_of_wrong_type_is_a_bad_request(value: Any, says: str) -> None:
    zone = fb.Entity("zone", keys={"zone": int})
    view = fb.FeatureView("v", entity=zone, source=SOURCE, features=[fb.Feature("x", float)])
    with pytest.raises(BadRequest, match=says):
        reader(view).read({"zone": value}, 1, AT)
