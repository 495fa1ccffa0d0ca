from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.errors import InputError, SourceError
from flyball.features.reading import accept, check_rows, file_types
from flyball.features.spec import SourceSpec

NEW_YORK = "America/New_York"


class Log:
    """Pushed rows in memory."""

    def __init__(self, rows: list[dict[str, object]], *, arrival: int) -> None:
        self._table = pa.Table.from_pylist(rows)
        n = len(rows)
        self._table = self._table.append_column("__sequence", pa.array(range(1, n + 1), pa.int64()))
        self._table = self._table.append_column("__arrival", pa.array([arrival] * n, pa.int64()))

    def append(self, source: str, rows: list[dict[str, object]], *, arrival: int) -> int:
        raise NotImplementedError

    def read(self, source: str, *, after: int = 0) -> pa.Table:
        return self._table


def _source(**more: Any) -> SourceSpec:
    settings_ = {
        "event_time": "dropoff_at", "timezone": NEW_YORK, "derive": {"minutes": "(dropoff_at - pickup_at) / 1m"},
        "where": "minutes between 1 and 60", **more,
    }  # fmt: skip
    return fb.ParquetSource("trips", "data/*.parquet", **settings_).spec


def _write(root: Path, table: pa.Table, name: str = "a") -> None:
    (root / "data").mkdir(exist_ok=True)
    pq.write_table(table, root / "data" / f"{name}.parquet")


def _trips(pickups: list[str | None], dropoffs: list[str | None], **more: Any) -> pa.Table:
    local = pa.timestamp("us")
    return pa.table({
        "pickup_at": pa.array(pickups).cast(local), "dropoff_at": pa.array(dropoffs).cast(local),
        "zone": pa.array(range(len(pickups)), pa.int32()), **more,
    })  # fmt: skip


def _utc(*at: int) -> int:
    return int(datetime(*at, tzinfo=UTC).timestamp() * 1e6)  # type: ignore[misc,arg-type]


def test_rows_are_derived_filtered_counted_and_in_utc(tmp_path: Path) -> None:
    table = _trips(
        ["2020-03-08T01:50", "2020-03-08T01:00", None, "2020-03-08T01:59"],
        ["2020-03-08T03:10", "2020-03-08T05:00", "2020-03-08T05:00", "2020-03-08T02:30"],
    )
    _write(tmp_path, table)
    engine = DuckDBEngine(tmp_path)
    found = engine.scan(_source(), columns=["zone", "minutes", "dropoff_at"])
    assert found["minutes"].to_pylist() == [20.0, 31.0]
    assert found["__event"].to_pylist() == [_utc(2020, 3, 8, 7, 10), _utc(2020, 3, 8, 7, 30)]
    assert found["dropoff_at"].cast(pa.int64()).to_pylist() == found["__event"].to_pylist()
    assert found.schema.field("zone").type == pa.int64()
    report = engine.report(_source())
    assert (report.rows, report.rejected, report.missing_hour, report.doubled_hour) == (4, 2, 1, 0)


_moment = st.none() | st.integers(0, 2 * 3600).map(
    lambda s: np.datetime64("2020-03-08T00:30") + np.timedelta64(s * 2, "s")
)

_text = st.none() | st.sampled_from(["a", "b'", ""])


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(_moment, _moment, _moment, st.none() | st.floats(), _text), min_size=1, max_size=12),
    st.sampled_from([NEW_YORK, "UTC", "Europe/Berlin"]),
    st.booleans(), st.booleans(), st.sampled_from(["0s", "90s"]),
)  # fmt: skip
def test_files_and_pushed_rows_mean_the_same(
    tmp_path: Path, rows: Any, zone: str, aware: bool, with_created: bool, delay: str
) -> None:
    kind = pa.timestamp("us", "UTC") if aware else pa.timestamp("us")
    columns = {
        name: pa.array([None if r[k] is None else int(r[k].astype("datetime64[us]").astype(np.int64)) for r in rows],
                       pa.int64()).cast(kind)
        for k, name in enumerate(("pickup_at", "dropoff_at", "learned_at"))
    }  # fmt: skip
    table = pa.table({**columns, "x": pa.array([r[3] for r in rows], pa.float32()), "s": [r[4] for r in rows]})
    table = table.set_column(4, "s", table["s"].cast(pa.string()).dictionary_encode())
    _write(tmp_path, table)
    spec = _source(
        timezone=zone, created_time="learned_at" if with_created else None, delay=delay,
        derive={"minutes": "(dropoff_at - pickup_at) / 1m", "x": "x * 2 + minutes", "late": "s = 'a' or x > 3"},
        where="minutes > -30 and (late or s is null or x is not null)",
    )  # fmt: skip
    names = ["minutes", "x", "late", "s", "pickup_at"]
    engine = DuckDBEngine(tmp_path)
    by_sql = engine.scan(spec, columns=names)
    by_arrow, rejected = accept(spec, table, file_types(tmp_path, spec))
    keys = ["__event", "__created"]
    place = np.lexsort([np.arange(by_arrow.num_rows), *(by_arrow[k].to_numpy() for k in reversed(keys))])
    by_arrow = by_arrow.take(place)
    for name in [*names, *keys, "__known"]:
        assert str(by_sql[name].to_pylist()) == str(by_arrow[name].to_pylist()), name
    assert engine.rejected(spec) == rejected


def test_pushed_rows_are_joined_above_the_files(tmp_path: Path) -> None:
    _write(tmp_path, _trips(["2020-03-01T10:00", "2020-03-01T10:00"], ["2020-03-01T10:20", "2020-03-01T10:10"]))
    pushed: list[dict[str, object]] = [
        {"pickup_at": "2020-03-01T10:00:00", "dropoff_at": "2020-03-01T10:20:00", "zone": 7},
        {"pickup_at": "2020-03-01T15:00:00Z", "dropoff_at": "2020-03-01T10:15:00-05:00", "zone": 8},
        {"pickup_at": "2020-03-01T10:00:00", "dropoff_at": "2020-03-01T18:20:00", "zone": 9},
    ]
    arrival = _utc(2020, 3, 1, 15, 18)
    engine = DuckDBEngine(tmp_path, Log(pushed, arrival=arrival))
    found = engine.scan(_source(delay="1m"), columns=["zone", "minutes"])
    assert found["zone"].to_pylist() == [1, 8, 0, 7]
    assert found["minutes"].to_pylist() == [10.0, 15.0, 20.0, 20.0]
    late = [k - e for k, e in zip(found["__known"].to_pylist(), found["__event"].to_pylist(), strict=True)]
    assert late == [60_000_000, 180_000_000, 60_000_000, 0]
    assert [s > 0 for s in found["__sequence"].to_pylist()] == [False, True, False, True]
    assert engine.report(_source()).rejected == 1


def test_pushed_rows_alone_are_a_source(tmp_path: Path) -> None:
    pushed: list[dict[str, object]] = [
        {"pickup_at": "2020-07-01T10:00:00", "dropoff_at": "2020-07-01T10:20:00", "zone": 7}
    ]
    found = DuckDBEngine(tmp_path, Log(pushed, arrival=0)).scan(_source(), columns=["minutes", "zone"])
    assert found.to_pylist()[0]["minutes"] == 20.0
    assert found["__event"].to_pylist() == [_utc(2020, 7, 1, 14, 20)]


def test_several_files_are_one_source_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _write(tmp_path, _trips(["2020-03-01T10:00"] * 2, ["2020-03-01T10:20"] * 2, of=[name] * 2), name)
    found = DuckDBEngine(tmp_path).scan(_source(), columns=["of", "zone"])
    assert list(zip(found["of"].to_pylist(), found["zone"].to_pylist(), strict=True)) == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1),
    ]  # fmt: skip


def test_start_and_end_cut_by_event(tmp_path: Path) -> None:
    _write(tmp_path, _trips(["2020-03-01T10:00"] * 3, ["2020-03-01T10:10", "2020-03-01T10:20", "2020-03-01T10:30"]))
    start, end = datetime(2020, 3, 1, 15, 20, tzinfo=UTC), datetime(2020, 3, 1, 15, 30, tzinfo=UTC)
    assert DuckDBEngine(tmp_path).scan(_source(), columns=["zone"], start=start, end=end)["zone"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"event_time": "dropof_at"}, "did you mean dropoff_at"),
        ({"event_time": "zone"}, "must hold timestamps"),
        ({"created_time": "learned"}, "created_time"),
        ({"where": "minuts > 1"}, "did you mean minutes"),
        ({"where": "minutes + 1"}, "must be a condition"),
        ({"derive": {"minutes": "dropoff_at - pickup_at"}}, "divide it"),
        ({"derive": {"minutes": "zone + pickup_at"}}, "has no meaning"),
    ],
)
def test_a_source_that_does_not_fit_its_files_is_one_sentence(tmp_path: Path, change: Any, says: str) -> None:
    _write(tmp_path, _trips(["2020-03-01T10:00"], ["2020-03-01T10:20"]))
    with pytest.raises(SourceError, match=says) as raised:
        DuckDBEngine(tmp_path).scan(_source(**change), columns=["zone"])
    assert "trips" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file_an_empty_file_and_a_broken_file_are_told_apart(tmp_path: Path) -> None:
    engine = DuckDBEngine(tmp_path)
    with pytest.raises(SourceError, match="has no file"):
        engine.scan(_source(), columns=["zone"])
    _write(tmp_path, _trips([], []))
    with pytest.raises(SourceError, match="is empty"):
        engine.scan(_source(), columns=["zone"])
    (tmp_path / "data" / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="no readable Parquet"):
        engine.scan(_source(), columns=["zone"])
    with pytest.raises(SourceError, match="no readable Parquet"):
        engine.rejected(_source())


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    _write(tmp_path, _trips(["2020-03-01T10:00"], ["2020-03-01T10:20"]))
    with pytest.raises(SourceError, match="did you mean zone"):
        DuckDBEngine(tmp_path).scan(_source(), columns=["zon"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"pickup_at": "2020-03-01T10:00"}, "has no column dropoff_at"),
        ({"pickup_at": None, "dropoff_at": None, "zone": 1}, "event time"),
        ({"pickup_at": "soon", "dropoff_at": "2020-03-01T10:00", "zone": 1}, "pickup_at = 'soon'"),
        ({"pickup_at": None, "dropoff_at": "2020-03-01T10:00", "zone": "1"}, "zone = '1', which is no int64"),
        ({"pickup_at": None, "dropoff_at": "2020-03-01T10:00", "zone": True}, "no int64"),
    ],
)
def test_wrong_pushed_rows_are_refused_by_name(tmp_path: Path, row: Any, says: str) -> None:
    _write(tmp_path, _trips(["2020-03-01T10:00"], ["2020-03-01T10:20"]))
    good = {"pickup_at": "2020-03-01T10:00", "dropoff_at": "2020-03-01T10:10Z", "zone": 1}
    types = file_types(tmp_path, _source())
    check_rows(_source(), [good], types)
    with pytest.raises(InputError, match=says):
        check_rows(_source(), [good, row], types)


def test_a_value_that_does_not_fit_counts_as_null() -> None:
    raw = pa.table({"dropoff_at": ["2020-03-01T10:10", "never", "2020-03-01T10:10+01:00"], "x": ["1", "b", None]})
    spec = fb.ParquetSource("s", "p", event_time="dropoff_at").spec
    found, rejected = accept(spec, raw, {"dropoff_at": "timestamp", "x": "int64"})
    assert rejected == 1
    assert found["x"].to_pylist() == [None, None]
    assert found["__event"].to_pylist() == [_utc(2020, 3, 1, 10, 10), _utc(2020, 3, 1, 9, 10)]


def test_a_column_of_nulls_alone_takes_the_type_that_fits() -> None:
    spec = fb.ParquetSource(
        "s", "p", event_time="at", where="name is null or name <> 'x'", derive={"d": "(till - at) / 1h"}
    ).spec
    found, rejected = accept(spec, pa.table({"at": ["2020-03-01"], "name": pa.nulls(1), "till": pa.nulls(1)}))
    assert (rejected, found["d"].to_pylist(), found.schema.field("name").type) == (0, [None], pa.string())


def test_what_is_pushed_later_is_seen_by_the_same_engine(tmp_path: Path) -> None:
    _write(tmp_path, _trips(["2020-03-01T10:00"], ["2020-03-01T10:20"]))
    row: dict[str, object] = {"pickup_at": "2020-03-01T10:00:00", "dropoff_at": "2020-03-01T11:30:00", "zone": 7}
    log = Log([row], arrival=0)
    engine = DuckDBEngine(tmp_path, log)
    assert engine.scan(_source(), columns=["zone"])["zone"].to_pylist() == [0]
    log._table = Log([row, {**row, "dropoff_at": "2020-03-01T10:30:00"}], arrival=0)._table
    for _ in range(2):
        assert engine.scan(_source(), columns=["zone"])["__sequence"].to_pylist()[1:] == [2]
        assert engine.rejected(_source()) == 1
