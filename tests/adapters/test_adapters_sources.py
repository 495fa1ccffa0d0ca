"""Every kind of source through the DuckDB engine: types, order, schema changes, damage, addresses, strictness."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.errors import DefinitionError, InputError, SourceError
from flyball.features import reading
from flyball.features.frames import keep_frames
from flyball.features.offline import history
from flyball.features.raw import raw_table
from flyball.features.spec import SourceSpec, Status

T0 = dt.datetime(2020, 3, 1, 12, tzinfo=dt.UTC)
UTC = pa.timestamp("us", "UTC")


def _times(*minutes: int) -> pa.Array:
    return pa.array([T0 + dt.timedelta(minutes=m) for m in minutes], UTC)


def _rows(engine: DuckDBEngine, source: fb.ParquetSource | Any, *columns: str) -> list[dict[str, Any]]:
    table = engine.scan(source.spec, columns=list(columns))
    return table.select(list(columns)).to_pylist()


class Log:
    """Pushed rows in memory."""

    def __init__(self, *rows: dict[str, object], arrival: int = 0) -> None:
        self.rows, self.arrival, self.changes = list(rows), arrival, 0

    def read(self, source: str, *, after: int = 0) -> pa.Table:
        mine = list(enumerate(self.rows, 1))[after:]
        table = raw_table([row for _, row in mine]) if mine else pa.table({})
        table = table.append_column("__sequence", pa.array([k for k, _ in mine], pa.int64()))
        return table.append_column("__arrival", pa.array([self.arrival] * len(mine), pa.int64()))

    def revision(self, source: str) -> int:
        return self.changes


EVERY = {
    "at": dt.datetime, "i": int, "f": "float32", "d": float, "b": bool, "s": str, "raw": bytes, "day": dt.date,
    "price": fb.Decimal(18, 2), "tags": fb.List(str), "v": fb.Vector(3),
}  # fmt: skip
VALUES: dict[str, Any] = {
    "i": [2**53 + 1, None], "f": [1.5, None], "d": [0.1, None], "b": [True, None], "s": ["é", None],
    "raw": [b"\x00\xff", None], "day": [dt.date(2020, 2, 29), None], "price": [decimal.Decimal("12.30"), None],
    "tags": [["a", ""], None], "v": [[1.0, 0.5, -2.0], None],
}  # fmt: skip


def _every_table() -> pa.Table:
    kinds = {
        "i": pa.int64(), "f": pa.float32(), "d": pa.float64(), "b": pa.bool_(), "s": pa.string(), "raw": pa.binary(),
        "day": pa.date32(), "price": pa.decimal128(10, 2), "tags": pa.list_(pa.string()), "v": pa.list_(pa.float32()),
    }  # fmt: skip
    return pa.table({"at": _times(0, 1), **{n: pa.array(VALUES[n], k) for n, k in kinds.items()}})


def test_every_type_of_files_and_pushes_is_exact(tmp_path: Path) -> None:
    pq.write_table(_every_table(), tmp_path / "a.parquet")
    pushed = {
        "at": "2020-03-01T12:02:00Z", "i": 2**53 + 1, "f": 1.5, "d": 0.1, "b": True, "s": "é",
        "raw": base64.b64encode(b"\x00\xff").decode(), "day": "2020-02-29", "price": 12.3, "tags": ["a", ""],
        "v": [1, 0.5, -2],
    }  # fmt: skip
    source = fb.ParquetSource("every", "a.parquet", event_time="at", schema=EVERY)
    engine = DuckDBEngine(tmp_path, Log(pushed))  # type: ignore[arg-type]
    names = list(VALUES)
    reading.check_rows(source.spec, [pushed], reading.file_types(tmp_path, source.spec))
    found = _rows(engine, source, *names)
    assert found[0] == found[2] == {n: VALUES[n][0] for n in names}
    assert found[1] == dict.fromkeys(names)
    assert engine.types(source.spec)["v"] == "vector<3>"
    assert engine.types(source.spec)["price"] == "decimal(18,2)"


@pytest.mark.parametrize(
    ("column", "value"),
    [("v", [1, 2]), ("v", "abc"), ("price", "1.234"), ("raw", "not base64!"), ("day", "2020-02-30"), ("tags", [1])],
)
def test_a_pushed_value_that_does_not_fit_its_type_is_refused(column: str, value: Any) -> None:
    spec = fb.PushSource("p", schema=EVERY, event_time="at").spec
    with pytest.raises(InputError, match=f"row 0 pushed to 'p' has {column} = "):
        reading.check_rows(spec, [{"at": "2020-03-01T12:00Z", column: value}], reading.file_types(Path(), spec))


def test_every_type_is_a_feature_of_history(tmp_path: Path) -> None:
    pq.write_table(_every_table(), tmp_path / "a.parquet")
    source = fb.ParquetSource("every", "a.parquet", event_time="at", schema=EVERY)
    view = fb.FeatureView("all", entity=fb.Entity("e", keys={"s": str}), source=source, features=[
        fb.Feature(n, EVERY[n]) for n in VALUES if n != "s"
    ]).spec  # fmt: skip
    requests = pa.table({"s": ["é", "x"], "T": _times(5, 5)})
    table = history(DuckDBEngine(tmp_path), requests, [view], None, at="T")
    first, second = table.to_arrow().to_pylist()
    assert {n: first[n] for n in VALUES} == {n: VALUES[n][0] for n in VALUES}
    assert table.status("v").tolist() == [Status.PRESENT, Status.MISSING]
    assert second["v"] is None
    assert table.to_polars()["i"].to_list() == [2**53 + 1, None]


# ------------------------------------------------------------------------------------------------ files


def test_a_folder_a_list_and_an_address_name_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name, k in (("b", 2), ("a", 1), ("sub/c", 3)):
        pq.write_table(pa.table({"at": _times(0), "k": [k]}), tmp_path / "data" / f"{name}.parquet")
    (tmp_path / "data" / "_draft.parquet").write_bytes(b"half")
    (tmp_path / "data" / "note.txt").write_text("no rows")
    engine = DuckDBEngine(tmp_path)
    for path in ("data", ["data/sub", "data/a.parquet", "data/b.parquet"], f"file://{tmp_path}/data/**/[abc].parquet"):
        source = fb.ParquetSource("s", path, event_time="at")
        assert [r["k"] for r in _rows(engine, source, "k")] == [1, 2, 3], path
    found = engine.files(fb.ParquetSource("s", "data", event_time="at").spec)
    assert [(f.path, f.index, f.rows) for f in found] == [
        ("data/a.parquet", 0, 1), ("data/b.parquet", 1, 1), ("data/sub/c.parquet", 2, 1),
    ]  # fmt: skip


@pytest.fixture
def memory() -> Iterator[Any]:
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.makedirs("/flyball-test", exist_ok=True)
    yield filesystem
    filesystem.rm("/flyball-test", recursive=True)


def test_files_in_an_object_store_are_read_through_fsspec(tmp_path: Path, memory: Any) -> None:
    for name in ("a", "b"):
        with memory.open(f"/flyball-test/{name}.parquet", "wb") as file:
            pq.write_table(pa.table({"at": _times(0, 1), "k": [name, name]}), file)
        with memory.open(f"/flyball-test/{name}.csv", "wb") as file:
            file.write(f"at,k\n2020-03-01T12:00:00Z,{name}\n".encode())
    engine = DuckDBEngine(tmp_path)
    parquet = fb.ParquetSource("s", "memory://flyball-test/*.parquet", event_time="at")
    assert [r["k"] for r in _rows(engine, parquet, "k")] == ["a", "b", "a", "b"]
    csv = fb.CSVSource("c", "memory://flyball-test/*.csv", event_time="at")
    assert [r["k"] for r in _rows(engine, csv, "k")] == ["a", "b"]
    with memory.open("/flyball-test/b.parquet", "wb") as file:
        file.write(b"half")
    with pytest.raises(SourceError, match=r"b\.parquet is no readable Parquet"):
        _rows(engine, parquet, "k")


def test_only_chosen_files_keep_their_numbers(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b", "c")):
        pq.write_table(pa.table({"at": _times(k), "k": [k]}), tmp_path / f"{name}.parquet")
    engine, spec = DuckDBEngine(tmp_path), fb.ParquetSource("s", "*.parquet", event_time="at").spec
    whole = engine.scan(spec, columns=["k"])
    some = engine.scan(spec, columns=["k"], files=["a.parquet", "c.parquet"])
    assert some["__sequence"].to_pylist() == [whole["__sequence"][0].as_py(), whole["__sequence"][2].as_py()]
    pq.write_table(pa.table({"at": _times(9), "k": [9]}), tmp_path / "d.parquet")
    assert engine.scan(spec, columns=["k"])["__sequence"].to_pylist()[:3] == whole["__sequence"].to_pylist()
    assert engine.scan(spec, columns=["k"], files=[]).num_rows == 0


def test_rows_of_a_published_file_are_known_no_earlier(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        pq.write_table(pa.table({"at": _times(k), "k": [k]}), tmp_path / f"{name}.parquet")
    spec = fb.ParquetSource("s", "*.parquet", event_time="at", delay="1m").spec
    late = int((T0 + dt.timedelta(hours=1)).timestamp() * 1e6)
    found = DuckDBEngine(tmp_path).scan(spec, columns=["k"], published={"b.parquet": late})
    known = [k - e for k, e in zip(found["__known"].to_pylist(), found["__event"].to_pylist(), strict=True)]
    assert known == [60_000_000, 59 * 60_000_000]
    view = fb.FeatureView("v", entity=fb.Entity("e", keys={"k": int}), source=fb.ParquetSource(
        "s", "*.parquet", event_time="at"), features=[fb.count("n", window="1h")]).spec  # fmt: skip
    engine = DuckDBEngine(tmp_path, published=lambda _: {"b.parquet": late})
    requests = pa.table({"k": [0, 1], "T": _times(5, 5)})
    assert history(engine, requests, [view], None, at="T").to_arrow()["n"].to_pylist() == [1, 0]
    corrected = history(engine, requests, [view], None, at="T", join="as_corrected")
    assert corrected.to_arrow()["n"].to_pylist() == [1, 1]


# ------------------------------------------------------------------------------------------------ schema changes


def test_a_column_that_changed_in_any_file_is_named(tmp_path: Path) -> None:
    spec = fb.ParquetSource("s", "*.parquet", event_time="at").spec
    pq.write_table(pa.table({"at": _times(0), "x": [1], "y": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"at": _times(0), "x": ["1"], "y": [1.0]}), tmp_path / "b.parquet")
    engine = DuckDBEngine(tmp_path)
    with pytest.raises(
        SourceError, match=r"column 'x' of b.parquet changed its type \(was int64, a.parquet; is string"
    ):
        engine.scan(spec, columns=["x"])
    assert engine.scan(spec, columns=["y"]).num_rows == 2  # who does not read it is not troubled
    pq.write_table(pa.table({"at": _times(0), "y": [1.0]}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"b.parquet has no column 'x' any more \(was int64"):
        engine.scan(spec, columns=["x"])


def test_an_added_column_is_null_in_older_files(tmp_path: Path) -> None:
    source = fb.ParquetSource("s", "*.parquet", event_time="at", derive={"z": "coalesce(y, 0.5) + x"})
    pq.write_table(pa.table({"at": _times(0), "x": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"at": _times(1), "x": [2], "y": [1.0]}), tmp_path / "b.parquet")
    assert _rows(DuckDBEngine(tmp_path), source, "y", "z") == [{"y": None, "z": 1.5}, {"y": 1.0, "z": 3.0}]


def test_what_was_pinned_at_apply_holds_for_a_file_written_anew(tmp_path: Path) -> None:
    spec = fb.ParquetSource("s", "*.parquet", event_time="at").spec
    pq.write_table(pa.table({"at": _times(0), "x": [1]}), tmp_path / "a.parquet")
    engine = DuckDBEngine(tmp_path)
    engine.pin(spec)
    pq.write_table(pa.table({"at": _times(0), "x": [1.5]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"was int64, applied; is float64\); write .* or run flyball apply"):
        DuckDBEngine(tmp_path).scan(spec, columns=["x"])
    assert engine.types(spec, fresh=True)["x"] == "float64"
    engine.pin(spec)
    assert engine.scan(spec, columns=["x"])["x"].to_pylist() == [1.5]


def test_a_damaged_file_is_named_and_the_others_stay(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = pa.table({"at": _times(*range(2000)), "x": np.random.default_rng(1).normal(size=2000)})
        pq.write_table(rows, tmp_path / f"{name}.parquet", compression="zstd")
    source = fb.ParquetSource("s", "*.parquet", event_time="at")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"b\.parquet is no readable Parquet file"):
        _rows(DuckDBEngine(tmp_path), source, "x")
    middle = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(1).data_page_offset
    (tmp_path / "b.parquet").write_bytes(whole[:middle] + os.urandom(64) + whole[middle + 64 :])
    with pytest.raises(SourceError, match=r"b\.parquet is damaged"):
        _rows(DuckDBEngine(tmp_path), source, "x")
    (tmp_path / "b.parquet").unlink()
    assert len(_rows(DuckDBEngine(tmp_path), source, "x")) == 2000


def test_mixed_units_and_offsets_of_files_are_one_time(tmp_path: Path) -> None:
    local = dt.datetime(2020, 3, 1, 7)  # 12:00 UTC in New York
    kinds = [pa.timestamp("us"), pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("ms", "UTC"), pa.timestamp("s")]
    for k, kind in enumerate(kinds):
        at = pa.array([T0 if kind.tz else local], kind)
        pq.write_table(pa.table({"at": at, "k": [k]}), tmp_path / f"{k}.parquet")
    source = fb.ParquetSource("s", "*.parquet", event_time="at", timezone="America/New_York")
    found = DuckDBEngine(tmp_path).scan(source.spec, columns=["k"])
    assert found["k"].to_pylist() == [0, 1, 2, 3]
    assert set(found["__event"].to_pylist()) == {int(T0.timestamp() * 1e6)}


def test_a_strict_source_refuses_times_without_an_offset(tmp_path: Path) -> None:
    source = fb.ParquetSource("s", "a.parquet", event_time="at", strict=True)
    pq.write_table(
        pa.table({"at": pa.array([None, dt.datetime(2020, 3, 1)], pa.timestamp("us"))}), tmp_path / "a.parquet"
    )
    with pytest.raises(SourceError, match=r"strict, but a.parquet: row 1 has at = 2020-03-01 00:00:00"):
        DuckDBEngine(tmp_path).scan(source.spec, columns=[])
    types = {"at": "timestamp"}
    with pytest.raises(InputError, match="row 1 .* without an offset"):
        reading.check_rows(source.spec, [{"at": "2020-03-01T00:00Z"}, {"at": "2020-03-01T00:00"}], types)
    csv = fb.CSVSource("c", "a.csv", event_time="at", strict=True)
    (tmp_path / "a.csv").write_text("at\n2020-03-01T00:00:00+01:00\n2020-03-01 00:00:00\n")
    with pytest.raises(SourceError, match=r"a.csv: row 1 has at = 2020-03-01 00:00:00"):
        DuckDBEngine(tmp_path).scan(csv.spec, columns=[])


# ------------------------------------------------------------------------------------------------ other kinds


def test_csv_types_are_sniffed_once_and_pinned(tmp_path: Path) -> None:
    source = fb.CSVSource("c", "*.csv", event_time="at", timezone="America/New_York", derive={"twice": "n * 2"})
    (tmp_path / "a.csv").write_text("at,n,s\n2020-03-01 07:00:00,1,x\n2020-03-01T13:00:00+01:00,2,\n")
    engine = DuckDBEngine(tmp_path)
    found = engine.scan(source.spec, columns=["n", "twice", "s"])
    assert found["twice"].to_pylist() == [2, 4]
    assert set(found["__event"].to_pylist()) == {int(T0.timestamp() * 1e6)}
    (tmp_path / "b.csv").write_text("at,n,s\n2020-03-01 08:00:00,many,x\n")
    with pytest.raises(SourceError, match=r"b.csv: line 2 has n = 'many'"):
        DuckDBEngine(tmp_path).scan(source.spec, columns=["n"])
    (tmp_path / "b.csv").write_text("at,n,s\n" + "2020-03-01 08:00:00,1,x\n" * 30_000 + "2020-03-01 08:00:00,many,x\n")
    with pytest.raises(SourceError, match=r"b.csv: line 30002 has n = 'many', but the column is int64"):
        DuckDBEngine(tmp_path).scan(source.spec, columns=["n"])
    (tmp_path / "b.csv").write_text("at,n,s\nyesterday,1,x\n")
    with pytest.raises(SourceError, match=r"b\.csv"):
        DuckDBEngine(tmp_path).scan(source.spec, columns=["n"])


def test_declared_csv_types_win_over_what_texts_look_like(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("at,zip,price,raw\n2020-03-01,01234,12.30,AP8=\n")
    source = fb.CSVSource("c", "a.csv", event_time="at", schema={"zip": str, "price": fb.Decimal(9, 2), "raw": bytes})
    row = {"zip": "01234", "price": decimal.Decimal("12.30"), "raw": b"\x00\xff"}
    assert _rows(DuckDBEngine(tmp_path), source, *row) == [row]
    with pytest.raises(DefinitionError, match="cannot be a vector<2>"):
        fb.CSVSource("c", "a.csv", event_time="at", schema={"v": fb.Vector(2)})


def test_a_table_and_a_query_are_sources_whose_content_decides_ties(tmp_path: Path) -> None:
    rows = [(1, 2.0), (1, 1.0), (2, 5.0)]
    for order in (rows, rows[::-1]):
        (tmp_path / "shop.db").unlink(missing_ok=True)
        with duckdb.connect(str(tmp_path / "shop.db")) as connection:
            connection.execute('CREATE TABLE orders (id BIGINT, "at" TIMESTAMPTZ, x DOUBLE)')
            for key, x in order:
                connection.execute("INSERT INTO orders VALUES (?, '2020-03-01 12:00:00+00', ?)", [key, x])
        engine = DuckDBEngine(tmp_path)
        table = fb.TableSource("orders", database="shop.db", event_time="at")
        query = fb.SQLSource(
            "q", 'SELECT id, "at", x FROM orders;', database="shop.db", event_time="at", where="id = 1"
        )
        assert [r["x"] for r in _rows(engine, table, "x")] == [1.0, 2.0, 5.0]
        assert [r["x"] for r in _rows(engine, query, "x")] == [1.0, 2.0]
        assert engine.report(query.spec).rejected == 1
    with pytest.raises(SourceError, match="nowhere"):
        engine.scan(fb.SQLSource("w", "SELECT * FROM nowhere", event_time="at").spec, columns=[])


def test_a_query_reads_files_of_the_project_and_no_session_zone_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"at": _times(0, 1), "x": [1, 2]}), tmp_path / "a.parquet")
    source = fb.SQLSource(
        "q", 'SELECT "at", hour("at") AS h, sum(x) AS x FROM \'a.parquet\' GROUP BY ALL', event_time="at"
    )
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        found = _rows(DuckDBEngine(tmp_path), source, "h")
        assert [r["h"] for r in found] == [12, 12]


def test_a_frame_is_frozen_by_its_content(tmp_path: Path) -> None:
    frame = pd.DataFrame({"at": pd.to_datetime(["2020-03-02", "2020-03-01"], utc=True), "k": [1, 2]}, index=[7, 8])
    source = fb.DataFrameSource("f", frame, event_time="at")
    same = fb.DataFrameSource("f", pa.Table.from_pandas(frame, preserve_index=False), event_time="at")
    assert source.spec.path == same.spec.path
    assert fb.DataFrameSource("f", frame.assign(k=[1, 3]), event_time="at").spec.path != source.spec.path
    frame.loc[7, "k"] = 99
    assert keep_frames([source.spec], tmp_path / ".flyball") == []
    assert [r["k"] for r in _rows(DuckDBEngine(tmp_path), source, "k")] == [2, 1]
    polars = fb.DataFrameSource("p", pl.DataFrame({"at": [T0], "v": [[1.0, 2.0]]}), event_time="at",
                                schema={"v": fb.Vector(2)})  # fmt: skip
    assert _rows(DuckDBEngine(tmp_path), polars, "v") == [{"v": [1.0, 2.0]}]
    gone = SourceSpec("g", "0" * 64, "at", None, "UTC", (), None, 0, kind="frame")
    with pytest.raises(SourceError, match="run flyball apply where"):
        DuckDBEngine(tmp_path).scan(gone, columns=[])
    end = T0 + dt.timedelta(hours=1)
    assert DuckDBEngine(tmp_path).scan(source.spec, columns=["k"], end=end)["k"].to_pylist() == [2]


def test_a_push_source_is_there_before_anything_was_pushed(tmp_path: Path) -> None:
    source = fb.PushSource("clicks", schema={"user": int, "n": int}, event_time="at", derive={"m": "n + 1"})
    log = Log()
    engine = DuckDBEngine(tmp_path, log)  # type: ignore[arg-type]
    assert engine.types(source.spec) == {"user": "int64", "n": "int64", "at": "timestamp", "m": "int64"}
    assert engine.scan(source.spec, columns=["user", "m"]).num_rows == 0
    log.rows.append({"at": "2020-03-01T12:00:00Z", "user": 1, "n": 1})
    assert _rows(engine, source, "m") == [{"m": 2}]
    log.rows[0] = {"at": "2020-03-01T12:00:00Z", "user": 1, "n": 5}
    assert _rows(engine, source, "m") == [{"m": 2}]  # what was accepted is kept ...
    log.changes += 1
    assert _rows(engine, source, "m") == [{"m": 6}]  # ... until the log's past changed
    log.rows[0] = {"at": "2020-03-01T12:00:00Z", "user": 1, "n": 7}
    engine.forget("clicks")
    assert _rows(engine, source, "m") == [{"m": 8}]


def test_a_stream_source_names_its_connector() -> None:
    kafka = fb.StreamSource("s", "kafka", brokers="env:BROKERS", topic="t", schema={"k": int}, event_time="at").spec
    assert dict(kafka.stream) == {
        "connector": "kafka", "brokers": "env:BROKERS", "topic": "t", "group": "flyball", "format": "json",
    }  # fmt: skip
    assert [(c.name, c.type) for c in kafka.schema] == [("k", "int64"), ("at", "timestamp")]
    with pytest.raises(DefinitionError, match="lacks url="):
        fb.StreamSource("s", "redis", stream="x", schema={"k": int}, event_time="at")
    with pytest.raises(DefinitionError, match="literal secret"):
        fb.StreamSource("s", "redis", url="redis://:pw@host", stream="x", schema={"k": int}, event_time="at")


def test_quarantined_rows_are_absent_in_scans_and_at_ingest_alike(tmp_path: Path) -> None:
    pq.write_table(pa.table({"at": _times(0, 1, 2), "n": [1, 99, 3]}), tmp_path / "a.parquet")
    source = fb.ParquetSource("s", "a.parquet", event_time="at", derive={"m": "n + 1"}, checks=[
        fb.check.range("m", 0, 10, policy="quarantine")])  # fmt: skip
    engine = DuckDBEngine(tmp_path)
    assert [r["n"] for r in _rows(engine, source, "n")] == [1, 3]
    assert engine.rejected(source.spec) == 1
    accepted, rejected = reading.accept(
        source.spec, pq.read_table(tmp_path / "a.parquet"), {"at": "timestamp", "n": "int64"}
    )
    assert (accepted["n"].to_pylist(), rejected) == ([1, 3], 1)


def test_a_transformation_after_sql_steps_means_the_same_in_files_and_pushes(tmp_path: Path) -> None:
    table = pa.table({"at": _times(0, 1, 2, 3), "n": pa.array([1, None, 30, 4])})
    pq.write_table(table, tmp_path / "a.parquet")
    source = fb.ParquetSource("s", "a.parquet", event_time="at", where="size <> 'big' and n2 > 0", derive={
        "n2": "n * 2", "size": fb.bucket("n2", edges=[4, 20], labels=["small", "middle", "big"]), "n3": "n2 + 1",
    })  # fmt: skip
    engine = DuckDBEngine(tmp_path)
    names = ["size", "n3", "__event", "__known", "__created"]
    by_scan = engine.scan(source.spec, columns=["size", "n3"])
    by_accept, rejected = reading.accept(source.spec, table, reading.file_types(tmp_path, source.spec))
    assert by_scan.select(names).to_pylist() == by_accept.select(names).to_pylist()
    assert (by_scan.num_rows, engine.rejected(source.spec)) == (4 - rejected, rejected)
