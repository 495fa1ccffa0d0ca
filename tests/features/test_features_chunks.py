"""History through buckets on disk says what history in memory says; other orders of the input give the same bytes."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flyball as fb
from flyball.adapters import duckdb as engine_module
from flyball.adapters.duckdb import DuckDBEngine
from flyball.errors import DuplicateName, InputError, UnknownName
from flyball.features import chunks
from flyball.features.history_file import write_history
from flyball.features.kernel.buckets import bucket_of
from flyball.features.offline import history
from flyball.features.spec import ViewSpec

UTC = pa.timestamp("us", "UTC")
T0 = 1_583_000_000_000_000
HOUR = 3_600_000_000


def _rows(n: int, seed: int = 3) -> pa.Table:
    """Rows with ties, late rows, nulls, NaN and repeated keys."""
    rng = np.random.default_rng(seed)
    event = T0 + rng.integers(0, 50, n) * HOUR
    return pa.table({
        "user": pa.array(rng.integers(0, 40, n), pa.int64(), mask=rng.random(n) < 0.03),
        "shop": pa.array([None if v == 0 else f"shop \x00{v}" for v in rng.integers(0, 9, n)]),
        "at": pa.array(event).cast(UTC), "learned": pa.array(event + rng.integers(0, 5, n) * HOUR).cast(UTC),
        "x": pa.array(np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)), mask=rng.random(n) < 0.1),
        "n": pa.array(rng.integers(-(2**60), 2**60, n)),
    })  # fmt: skip


def _views() -> list[ViewSpec]:
    source = fb.ParquetSource("s", "data", event_time="at", created_time="learned")
    user, pair = fb.Entity("user", keys={"user": int}), fb.Entity("pair", keys={"user": int, "shop": str})
    newest = fb.FeatureView("newest", entity=pair, source=source, ttl="9h", features=[
        fb.Feature("x", float), fb.Feature("n", int, default=-1)])  # fmt: skip
    windows = fb.FeatureView("windows", entity=user, source=source, features=[
        fb.count("rows", window="24h"), fb.mean("mean", of="x", window="24h"), fb.max("most", of="x", window="48h"),
    ])  # fmt: skip
    return [newest.spec, windows.spec]


def _requests(n: int, seed: int = 5) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({
        "own": pa.array(np.arange(n) % 7), "user": pa.array(rng.integers(0, 45, n), pa.int64(), mask=rng.random(n) < 0.05),
        "shop": [f"shop \x00{v}" for v in rng.integers(0, 11, n)],
        "T": pa.array(T0 + rng.integers(-2, 60, n) * HOUR).cast(UTC),
    })  # fmt: skip


def _bytes(table: pa.Table) -> dict[str, list[str]]:
    """Every value as text, exactly: Arrow's own comparison finds NaN unequal to itself."""
    return {name: [repr(v) for v in table.column(name).to_pylist()] for name in table.column_names}


def _same(found: pa.Table, want: pa.Table) -> None:
    """Exact but for means, which are summed in another order: the design's tolerance."""
    floats = [t.column("mean").to_numpy() for t in (found, want)]
    np.testing.assert_allclose(*floats, rtol=0, atol=1e-12 * 3, equal_nan=True)
    assert _bytes(found.drop_columns(["mean"])) == _bytes(want.drop_columns(["mean"]))
    assert found.schema.equals(want.schema)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    pq.write_table(_rows(3000), tmp_path / "data" / "a.parquet")
    return tmp_path


@pytest.mark.parametrize("join", ["as_known", "as_corrected"])
@pytest.mark.parametrize(("rows", "stretch", "batch"), [(200, 90, 11), (1400, 10_000, 64)])
def test_buckets_change_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, join: Any, rows: int, stretch: int, batch: int
) -> None:
    requests, views, engine = _requests(700), _views(), DuckDBEngine(project)
    whole = history(engine, requests, views, None, at="T", join=join)
    for name, value in (("ROWS", rows), ("_STRETCH", stretch), ("_BATCH", batch)):
        monkeypatch.setattr(chunks, name, value)
    assert engine_module.buckets_for(3000, 700) > 2
    told: list[tuple[int, int]] = []
    pq.write_table(requests, project / "requests.parquet", row_group_size=100)
    found = pq.read_table(write_history(
        engine, project / "requests.parquet", views, None, at="T", out=project / "out" / "o.parquet", join=join,
        statuses=True, progress=lambda done, total: told.append((done, total)),
    ))  # fmt: skip
    assert found.schema.field("x").type == pa.float64()
    _same(found.select(whole.to_arrow().column_names), whole.to_arrow())
    for name, status in whole.status().items():
        assert found[f"__status_{name}"].to_pylist() == status.tolist()
    assert told[-1] == (1400, 1400)
    in_memory = history(engine, requests, views, None, at="T", join=join)
    _same(in_memory.to_arrow(), whole.to_arrow())
    assert not list((project / ".flyball" / "spill").iterdir())


def test_a_folder_of_requests_is_read_in_order_of_its_files(project: Path) -> None:
    requests, views, engine = _requests(300), _views(), DuckDBEngine(project)
    (project / "asked").mkdir()
    for k, begin in enumerate(range(0, 300, 100)):
        pq.write_table(requests.slice(begin, 100), project / "asked" / f"{k}.parquet")
    out = write_history(engine, project / "asked", views, ["windows:rows"], at="T", out=project / "o.parquet")
    want = history(engine, requests, views, ["windows:rows"], at="T")
    assert pq.read_table(out).equals(want.to_arrow())
    assert pq.read_table(want.to_parquet(project / "p.parquet")).equals(want.to_arrow())


def test_a_failed_history_leaves_no_file(project: Path) -> None:
    engine, views, out = DuckDBEngine(project), _views(), project / "o.parquet"
    requests = _requests(50)
    for bad, error in (
        (requests.drop_columns(["shop"]), UnknownName),
        (requests.rename_columns(["x", "user", "shop", "T"]), DuplicateName),
        (requests.set_column(1, "user", requests["user"].cast(pa.string())), InputError),
    ):
        with pytest.raises(error):
            write_history(engine, bad, views, None, at="T", out=out)
    assert [p.name for p in project.iterdir() if p.suffix in {".parquet", ".tmp"}] == []


def test_shuffled_and_split_files_threads_and_zones_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, requests, answers = _rows(2000), _requests(400), []
    # ties are decided by sequence, so rows must differ in (event, created) per key for order not to matter
    at = pa.array(T0 + np.arange(2000) * 90_000_000).cast(UTC)
    rows = rows.set_column(2, "at", at).set_column(3, "learned", at)
    rng = np.random.default_rng(8)
    for case, (parts, shuffle, threads, zone) in enumerate(
        [(1, False, 1, "UTC"), (1, True, 2, "Asia/Tokyo"), (7, True, 2, "America/New_York"), (3, False, 1, "UTC")]
    ):
        monkeypatch.setenv("TZ", zone)
        root = tmp_path / str(case)
        (root / "data").mkdir(parents=True)
        mine = rows.take(rng.permutation(2000)) if shuffle else rows
        for k in range(parts):
            begin, end = 2000 * k // parts, 2000 * (k + 1) // parts
            pq.write_table(mine.slice(begin, end - begin), root / "data" / f"{k}.parquet", row_group_size=97)
        answers.append(history(DuckDBEngine(root, threads=threads), requests, _views(), None, at="T").to_arrow())
    for other in answers[1:]:
        assert _bytes(other) == _bytes(answers[0])


def test_a_repeated_file_changes_no_newest_row(project: Path) -> None:
    view, requests = _views()[:1], _requests(300)
    before = history(DuckDBEngine(project), requests, view, None, at="T").to_arrow()
    pq.write_table(_rows(3000), project / "data" / "b.parquet")
    assert _bytes(history(DuckDBEngine(project), requests, view, None, at="T").to_arrow()) == _bytes(before)


def test_equal_keys_share_a_bucket_and_buckets_are_even() -> None:
    keys = [f"user-{i}" for i in range(20_000)]
    places = bucket_of([pa.chunked_array([keys])], 16)
    assert np.bincount(places, minlength=16).min() > 1000
    again = bucket_of([pa.chunked_array([keys[:7], keys[7:]])], 16)
    assert (again == places).all()
    sliced = pa.array(["x", "", None, *keys]).slice(3)
    assert (bucket_of([pa.chunked_array([sliced])], 16) == places).all()
    for kind, values in (
        (pa.int64(), [1, None, 1]), (pa.string(), ["", None, ""]), (pa.binary(), [b"\x00", None, b"\x00"]),
        (pa.bool_(), [True, None, True]), (pa.date32(), [dt.date(1969, 1, 1), None, dt.date(1969, 1, 1)]),
        (UTC, [dt.datetime(1969, 1, 1, tzinfo=dt.UTC), None, dt.datetime(1969, 1, 1, tzinfo=dt.UTC)]),
    ):  # fmt: skip
        found = bucket_of([pa.chunked_array([pa.array(values, kind)])], 1000)
        assert found[0] == found[2]


def test_a_key_of_another_type_is_named_through_buckets_as_in_memory(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = _views()[1]
    asked = pa.table({"user": pa.array([1.5, 2.0]), "__at": pa.array([T0, T0])})
    said = []
    for rows in (chunks.ROWS, 200):
        monkeypatch.setattr(chunks, "ROWS", rows)
        with pytest.raises(InputError, match="'user'") as caught:
            DuckDBEngine(project).answer(asked, view, view.features, join="as_known")
        said.append(str(caught.value))
    assert said[0] == said[1]
