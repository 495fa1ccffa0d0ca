from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flyball as fb
from flyball.errors import DefinitionError, InputError
from flyball.features.definitions.names import checked_type
from flyball.features.types import PLAIN, canonical, from_arrow, to_arrow
from flyball.features.values import exact, from_plain, scaled, to_plain, unscaled

EVERY = [
    *PLAIN,
    "decimal(18,2)",
    "decimal(38,9)",
    "list<int64>",
    "list<list<string>>",
    "list<decimal(4,1)>",
    "vector<3>",
]


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (int, "int64"), (float, "float64"), (bool, "bool"), (str, "string"), (bytes, "bytes"),
        (datetime, "timestamp"), (date, "date"), (Decimal, "decimal(38,9)"), (np.float32, "float32"),
        (np.int64, "int64"), (np.bool_, "bool"), ("float32", "float32"), ("decimal(18, 2)", "decimal(18,2)"),
        (fb.Decimal(18, 2), "decimal(18,2)"), (fb.Vector(384), "vector<384>"), (fb.List(float), "list<float64>"),
        (fb.List(fb.List(date)), "list<list<date>>"), (list[str], "list<string>"),
    ],
)  # fmt: skip
def test_a_type_is_named_once(dtype: Any, kind: str) -> None:
    assert checked_type("x", dtype) == kind


@pytest.mark.parametrize(
    "dtype", [complex, "int63", "decimal(39,2)", "decimal(4,5)", "vector<0>", "list<>", None, 3, list]
)
def test_a_type_that_is_none_is_refused(dtype: Any) -> None:
    with pytest.raises(DefinitionError, match=r"has type .*use int"):
        checked_type("feature 'x'", dtype)


@pytest.mark.parametrize("make", [lambda: fb.Vector(0), lambda: fb.Decimal(39, 2), lambda: fb.List("x")])
def test_a_type_with_wrong_parameters_is_refused(make: Any) -> None:
    with pytest.raises(DefinitionError, match="use int"):
        make()


@pytest.mark.parametrize("kind", EVERY)
def test_arrow_gives_a_type_back(kind: str) -> None:
    assert from_arrow(pa.field("x", to_arrow(kind))) == kind
    assert canonical(kind) == kind


@pytest.mark.parametrize(
    ("arrow", "kind"),
    [
        (pa.int8(), "int64"), (pa.float16(), "float32"), (pa.large_string(), "string"), (pa.large_binary(), "bytes"),
        (pa.timestamp("ns"), "timestamp"), (pa.date64(), "date"), (pa.dictionary(pa.int32(), pa.string()), "string"),
        (pa.list_(pa.float64(), 2), "vector<2>"), (pa.large_list(pa.int16()), "list<int64>"), (pa.binary(4), "bytes"),
        (pa.decimal256(60, 2), None), (pa.struct([]), None), (pa.list_(pa.struct([])), None), (pa.duration("s"), None),
    ],
)  # fmt: skip
def test_arrow_types_are_read_as_ours(arrow: pa.DataType, kind: str | None) -> None:
    assert from_arrow(arrow) == kind


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1), "float64": st.floats(), "float32": st.floats(width=32), "bool": st.booleans(),
    "string": st.text(), "bytes": st.binary(), "date": st.dates(),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
    "decimal(18,2)": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda v: scaled(v, 2)),
    "decimal(38,9)": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda v: scaled(v, 9)),
    "list<int64>": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    "list<list<string>>": st.lists(st.none() | st.lists(st.none() | st.text())),
    "list<decimal(4,1)>": st.lists(st.none() | st.integers(-9999, 9999).map(lambda v: scaled(v, 1))),
    "vector<3>": st.lists(st.floats(width=32), min_size=3, max_size=3).map(lambda v: np.array(v, np.float32)),
}  # fmt: skip


@given(data=st.data())
@pytest.mark.parametrize("kind", EVERY)
def test_the_plain_form_gives_every_value_back(kind: str, data: Any) -> None:
    value = data.draw(VALUES[kind])
    again = from_plain(kind, to_plain(kind, exact(kind, value, "v")))
    assert type(again) is type(value)
    if kind.startswith(("float", "vector")):
        assert np.array(again).tobytes() == np.array(value).tobytes() or np.isnan(again).any()
    else:
        assert again == value


@given(st.integers(-(10**38) + 1, 10**38 - 1), st.integers(0, 38))
def test_a_decimal_is_an_integer_and_a_scale(number: int, scale: int) -> None:
    assert unscaled(scaled(number, scale), scale) == number


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("int64", True, "whole number"), ("int64", 1.0, "whole number"), ("int64", 2**63, "64 bits"),
        ("int64", "1", "whole number"), ("string", 1, "send a text"), ("bool", 1, "true or false"),
        ("float32", 1e39, "a number"), ("bytes", "not base64!", "base64"), ("date", "2020-13-01", "2020-03-11"),
        ("date", datetime(2020, 1, 1), "a date"), ("timestamp", "noon", "a time"), ("decimal(4,2)", "123.45", "4 digits"),
        ("decimal(4,2)", Decimal("1.234"), "4 digits"), ("decimal(4,2)", 1.5, "decimal"), ("decimal(4,2)", "NaN", "decimal"),
        ("vector<2>", [1.0], "a list of 2 numbers"), ("vector<2>", [1.0, None], "list of 2"), ("vector<2>", "ab", "list of 2"),
        ("vector<2>", [[1.0], [2.0]], "list of 2"), ("list<int64>", [1, "2"], "a list, each"), ("list<int64>", 3, "a list"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_told_with_what_is_needed(kind: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        exact(kind, value, "column 'x'")
    assert "column 'x' is " in str(error.value)
    assert kind in str(error.value)


def test_times_with_offsets_and_without_are_utc() -> None:
    noon = datetime(2020, 3, 1, 12, tzinfo=UTC)
    for value in (noon, "2020-03-01T12:00:00", "2020-03-01T14:00:00+02:00", noon.replace(tzinfo=None),
                  noon.astimezone(timezone(timedelta(hours=-5))), 1_583_064_000_000_000):  # fmt: skip
        assert exact("timestamp", value, "t") == noon


@pytest.mark.parametrize(
    ("dtype", "default", "plain"),
    [
        (int, 3, 3), (float, 1, 1.0), ("float32", 0.5, 0.5), (bool, False, False), (str, "", ""), (bytes, b"\0", "AA=="),
        (date, date(2020, 1, 2), "2020-01-02"), (datetime, datetime(1970, 1, 1, tzinfo=UTC), 0),
        (fb.Decimal(6, 2), Decimal("1.5"), "1.50"), (fb.List(int), [1, None], (1, None)), (fb.Vector(2), [0, 1], (0.0, 1.0)),
        (fb.Vector(2), None, None), (fb.List(str), [], ()),
    ],
)  # fmt: skip
def test_a_default_is_kept_as_plain_data(dtype: Any, default: Any, plain: Any) -> None:
    spec = fb.Feature("x", dtype, default=default).spec
    assert spec.default == plain
    assert type(spec.default) is type(plain)


@pytest.mark.parametrize(
    ("dtype", "default"),
    [(int, 1.5), (int, True), (str, 1), (fb.Vector(2), [1]), (fb.Decimal(4, 2), "100.00"), (date, "x"), (bool, 0)],
)
def test_a_default_of_another_type_is_refused(dtype: Any, default: Any) -> None:
    with pytest.raises(DefinitionError, match="its default is"):
        fb.Feature("x", dtype, default=default)
