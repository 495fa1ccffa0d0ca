from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.features.definitions import FeatureView
from flyball.features.packing import RowLayout, latest_known, merge_rows, read_rows
from flyball.features.rowlayout import decimal_floats
from flyball.features.spec import Status
from flyball.features.types import PLAIN, to_arrow
from flyball.features.values import scaled
from flyball.features.viewreader import ViewReader

T0 = 1_600_000_000_000_000
SOURCE = fb.ParquetSource("s", "none/*.parquet", event_time="at")
USER = fb.Entity("user", keys={"user": int})
EVERY = [*PLAIN, "decimal(18,2)", "decimal(38,9)", "list<int64>", "list<list<string>>", "list<date>", "vector<3>"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1), "float64": st.floats(), "float32": st.floats(width=32), "bool": st.booleans(),
    "string": st.text(), "bytes": st.binary(), "date": st.dates(), "timestamp": st.datetimes(timezones=st.just(UTC)),
    "decimal(18,2)": st.integers(-(10**18) + 1, 10**18 - 1).map(lambda v: scaled(v, 2)),
    "decimal(38,9)": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda v: scaled(v, 9)),
    "list<int64>": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4),
    "list<list<string>>": st.lists(st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3), max_size=3),
    "list<date>": st.lists(st.none() | st.dates(), max_size=3),
    "vector<3>": st.lists(st.floats(width=32), min_size=3, max_size=3),
}  # fmt: skip


def view(*kinds: str, **more: Any) -> FeatureView:
    features = [fb.Feature(f"f{i}", kind) for i, kind in enumerate(kinds)]
    return fb.FeatureView("v", entity=USER, source=SOURCE, features=features, **more)


def packed(spec: Any, rows: list[tuple[Any, ...]], *, known: int = T0) -> dict[bytes, bytes]:
    """Rows, one per user from 0 on, as stored."""
    n = len(rows)
    columns = {f.of: pa.array([r[i] for r in rows], to_arrow(f.type)) for i, f in enumerate(spec.stored)}
    times = {name: pa.array([T0] * n, pa.int64()) for name in ("__event", "__created", "__known")}
    times["__known"] = pa.array([known] * n, pa.int64())
    table = pa.table(
        {"user": pa.array(range(n), pa.int64()), **columns, **times, "__sequence": pa.array(range(n), pa.int64())}
    )
    return dict(RowLayout(spec).pack(read_rows(spec, table), T0 + 10))


def objects(reader: ViewReader, values: Any, at: int) -> tuple[list[list[Any]], np.ndarray]:
    return reader.objects(values, at)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, np.array(b, np.float32), equal_nan=True)
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rows_of_every_type_come_back_exactly(data: Any) -> None:
    kinds = data.draw(st.lists(st.sampled_from(EVERY), min_size=1, max_size=5))
    rows = data.draw(st.lists(st.tuples(*(st.none() | VALUES[k] for k in kinds)), min_size=1, max_size=4))
    reader = ViewReader(view(*kinds).spec)
    stored = packed(reader.view, rows)
    values = [stored[k[len(reader.prefix) :]] for k in reader.keys({"user": list(range(len(rows)))}, len(rows)) if k]
    columns, statuses = objects(reader, values, T0)
    matrix, again = reader.many(values, T0)
    np.testing.assert_array_equal(statuses, again)
    for i, row in enumerate(rows):
        numbers, status = reader.one(values[i], T0)
        np.testing.assert_array_equal(np.array(numbers, np.float64), matrix[i])
        np.testing.assert_array_equal(np.zeros(len(kinds)) if status is None else status, statuses[i])
        for k, value in enumerate(row):
            assert statuses[i, k] == (Status.NULL if value is None else Status.PRESENT)
            assert same(columns[k][i], value), (kinds[k], value)
            assert type(columns[k][i]) is type(value) or kinds[k] == "vector<3>"


def test_a_vector_lies_in_the_record_as_float32() -> None:
    spec = view("vector<4>", "float32").spec
    layout, record = RowLayout(spec), next(iter(packed(spec, [([1, 2, 3, 4], 0.5)]).values()))
    assert record.endswith(np.array([1, 2, 3, 4, 0.5], "<f4").tobytes())
    assert layout.dtype.itemsize == len(record) == 24 + 24 + 8 + 20


def test_the_matrix_has_a_column_for_each_part_and_each_number() -> None:
    reader = ViewReader(view("vector<2>", "decimal(18,2)", "bool", "string", "decimal(38,9)", "float32", "date").spec)
    rows = [([1, 2], Decimal("0.10"), True, "x", Decimal("1e28") + Decimal("0.1"), 0.25, date(2020, 1, 1)), (None,) * 7]
    values = list(packed(reader.view, rows).values())
    matrix, statuses = reader.many(values, T0)
    nan = np.nan
    np.testing.assert_array_equal(
        matrix, [[1, 2, 0.1, 1, nan, float(Decimal("1e28") + Decimal("0.1")), 0.25, nan], [nan] * 8]
    )
    assert statuses.tolist() == [[0] * 7, [Status.NULL] * 7]


def test_expired_missing_and_unknown_rows_have_defaults_and_a_status() -> None:
    features = [fb.Feature("e", fb.Vector(2), default=[7, 8]), fb.Feature("d", date, default=date(1999, 1, 1)),
                fb.Feature("m", fb.Decimal(6, 2), default=Decimal("2.50")), fb.Feature("l", fb.List(int), default=[1]),
                fb.Feature("n", int)]  # fmt: skip
    reader = ViewReader(fb.FeatureView("v", entity=USER, source=SOURCE, features=features, ttl="1s").spec)
    row = ([1, 2], date(2020, 1, 1), Decimal("1.00"), [5], 9)
    value = next(iter(packed(reader.view, [row]).values()))
    later = next(iter(packed(reader.view, [row], known=T0 + 5).values()))
    late = T0 + 1_000_001
    assert reader.many([value], late - 1)[1].tolist() == [[0] * 5]  # age equal to ttl still counts
    for values, at, status in (
        ([value], late, Status.EXPIRED),
        ([None], T0, Status.MISSING),
        ([later], T0, Status.MISSING),
    ):
        columns, statuses = objects(reader, values, at)
        assert statuses.tolist() == [[status] * 5]
        assert columns[0][0].tolist() == [7, 8]
        assert [c[0] for c in columns[1:]] == [date(1999, 1, 1), Decimal("2.50"), [1], None]
        matrix, _ = reader.many([*values, value], at)
        np.testing.assert_array_equal(matrix[0], [7, 8, np.nan, 2.5, np.nan, np.nan])
        np.testing.assert_array_equal(matrix[0], reader.one(values[0], at)[0])


def test_chains_and_single_records_are_read_alike() -> None:
    reader = ViewReader(view("float64", "string").spec)
    first = next(iter(packed(reader.view, [(1.0, "old")]).values()))
    second = next(iter(packed(reader.view, [(2.0, "newer")], known=T0 + 100).values()))
    second = second[:16] + (int.from_bytes(second[16:24], "big") + 1).to_bytes(8, "big") + second[24:]
    chain = merge_rows(first, second)
    assert chain is not None and len(chain) == len(first) + len(second)
    assert latest_known(chain, T0) == first
    for at, number, text in ((T0, 1.0, "old"), (T0 + 100, 2.0, "newer")):
        columns, _ = objects(reader, [chain, first, None], at)
        assert [columns[0][0], columns[1][0]] == [number, text]
        assert [columns[0][1], columns[1][1]] == [1.0, "old"]
        assert reader.many([chain, first, None], at)[0][:, 0].tolist()[:2] == [number, 1.0]


def test_values_of_another_type_than_declared_are_null() -> None:
    spec = view("vector<2>", "string", "decimal(4,2)", "list<int64>").spec
    table = pa.table({
        "user": [1, 2], "f0": [[1.0, 2.0], [1.0]], "f1": [1, 2], "f2": ["1.50", "x"], "f3": [["a"], ["b"]],
        **{n: pa.array([T0] * 2, pa.int64()) for n in ("__event", "__created", "__known", "__sequence")},
    })  # fmt: skip
    values = [v for _, v in RowLayout(spec).pack(read_rows(spec, table), T0)]
    columns, _ = objects(ViewReader(spec), values, T0)
    assert columns[0][0].tolist() == [1.0, 2.0]
    assert columns[0][1] is None
    assert columns[1:] == [[None, None], [Decimal("1.50"), None], [None, None]]


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), min_size=1), st.integers(0, 18))
def test_decimals_in_a_matrix_are_the_nearest_floats(numbers: list[int], scale: int) -> None:
    found = decimal_floats(np.array(numbers), scale)
    assert found.tolist() == [float(scaled(v, scale)) for v in numbers]


@pytest.mark.parametrize("count", [64, 65, 130])
def test_null_bits_of_many_features(count: int) -> None:
    reader = ViewReader(view(*["int64"] * count).spec)
    row = tuple(None if i % 3 == 0 else i for i in range(count))
    value = next(iter(packed(reader.view, [row]).values()))
    columns, _ = objects(reader, [value], T0)
    assert tuple(c[0] for c in columns) == row


def test_a_time_is_aware_again() -> None:
    reader = ViewReader(view("timestamp").spec)
    moment = datetime(2020, 3, 1, 12, tzinfo=UTC)
    value = next(iter(packed(reader.view, [(moment,)]).values()))
    assert objects(reader, [value], T0)[0][0][0] == moment
    assert np.isnan(reader.many([value], T0)[0]).all()
