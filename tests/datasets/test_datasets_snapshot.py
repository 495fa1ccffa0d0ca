"""Training sets: known labels only, embargo, digests, and one clear sentence for what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.datasets.compare import compare, difference
from flyball.datasets.files import content_digest, open_dataset
from flyball.datasets.snapshot import build_snapshot, split
from flyball.datasets.types import TrainingSet
from flyball.errors import DefinitionError, IntegrityError, SourceError, Unavailable
from flyball.features.service import compile_service
from flyball.layout import Layout
from flyball.units import micros, to_micros

START = datetime(2020, 3, 1, tzinfo=UTC)
HOUR = 3_600_000_000


def write(folder: Path, rows: int = 400, *, early: int = 0, spread: float = 96.0) -> None:
    """Write trips over `spread` hours; `early` of them end before they begin."""
    rng = np.random.default_rng(5)
    pickup = to_micros(START) + np.sort(rng.uniform(0, spread * HOUR, rows)).astype(np.int64)
    took = rng.integers(2, 40, rows) * 60_000_000
    took[:early] = -60_000_000
    stamp = pa.timestamp("us")
    table = pa.table({
        "zone": rng.integers(1, 4, rows), "rider": [f"u{i % 7}" for i in range(rows)],
        "distance": rng.gamma(2.0, size=rows), "pickup_at": pa.array(pickup).cast(stamp),
        "dropoff_at": pa.array(pickup + took).cast(stamp),
    })  # fmt: skip
    pq.write_table(table, folder / "trips.parquet")


def source(**changes: Any) -> fb.ParquetSource:
    given = {"event_time": "dropoff_at", "derive": {"minutes": "(dropoff_at - pickup_at) / 1m"}, **changes}
    return fb.ParquetSource("trips", "trips.parquet", **given)


def make(folder: Path, examples: fb.Examples | None = None, **changes: Any) -> TrainingSet:
    trips = changes.pop("source", None) or source()
    view = fb.FeatureView(
        "traffic", entity=fb.Entity("zone", keys={"zone": int}), source=trips,
        features=[fb.count("trips_1h", window="1h"), fb.mean("distance_24h", of="distance", window="24h")],
    )  # fmt: skip
    examples = examples or fb.Examples(trips, at="pickup_at")
    wanted = {
        "examples": examples, "label": fb.Label("minutes", matures="2h"), "train_on": timedelta(days=4), "holdout": 0.2,
        "service": compile_service("eta", "pickup_at", [view, fb.Field("distance", float)], trips.spec),
        "until": START + timedelta(days=4), "code": "c", "layout": Layout(folder, folder / "state"), **changes,
    }  # fmt: skip
    return build_snapshot(DuckDBEngine(folder), **wanted)


def column(data: TrainingSet, name: str) -> np.ndarray:
    return np.asarray(data.table.column(name).to_numpy())


def test_same_inputs_give_the_same_digest_and_the_same_file(tmp_path: Path) -> None:
    write(tmp_path)
    first = make(tmp_path)
    path = tmp_path / "state" / first.manifest.path
    body = path.read_bytes()
    path.unlink()
    again = make(tmp_path)
    assert again.manifest == first.manifest
    assert path.read_bytes() == body


def test_labels_not_known_yet_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path)
    until = START + timedelta(days=3)
    data = make(tmp_path, until=until, train_on=timedelta(days=3))
    raw = pq.read_table(tmp_path / "trips.parquet")
    at, event = (raw.column(c).cast(pa.int64()).to_numpy() for c in ("pickup_at", "dropoff_at"))
    asked = at < to_micros(until)
    known = event + 2 * HOUR <= to_micros(until)
    assert data.manifest.immature == int((asked & ~known).sum()) > 0
    assert (column(data, "__event") + 2 * HOUR <= to_micros(until)).all()


def test_embargo_lies_between_the_parts(tmp_path: Path) -> None:
    write(tmp_path)
    data = make(tmp_path)
    held = column(data, "__part") == 1
    first = column(data, "__at")[held].min()
    assert first == to_micros(data.manifest.holdout_from)
    assert (column(data, "__event")[~held] + 2 * HOUR <= first).all()
    assert data.manifest.embargo == micros(timedelta(hours=2))
    assert data.manifest.train_rows + data.manifest.holdout_rows == data.manifest.rows < 400


@given(
    gaps=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    late=st.lists(st.integers(0, 40), min_size=60, max_size=60),
    holdout=st.floats(0.01, 0.9),
)
def test_no_training_label_is_known_after_the_holdout_begins(gaps: list[int], late: list[int], holdout: float) -> None:
    at = np.cumsum(np.array(gaps, dtype=np.int64))
    known = at + np.array(late[: len(at)])
    parts, begin = split(at, known, holdout)
    assert (known[parts == 0] <= begin).all()
    assert (at[parts == 1] >= begin).all()
    assert ((parts == 1) == (at >= begin)).all()
    assert (parts == 1).sum() >= max(1, round(len(at) * holdout))


def test_a_label_before_its_request_is_refused_with_count_and_first_row(tmp_path: Path) -> None:
    write(tmp_path, early=3)
    with pytest.raises(SourceError, match=r"'trips' has [23] examples whose label 'minutes' is older than its request"):
        make(tmp_path)


def test_too_few_rows_say_how_many_and_why(tmp_path: Path) -> None:
    write(tmp_path, rows=15)
    with pytest.raises(SourceError, match=r"model 'eta' has \d+ examples to train on .* widen train_on"):
        make(tmp_path)


def test_examples_derive_and_where_leave_the_views_alone(tmp_path: Path) -> None:
    write(tmp_path)
    trips = source()
    plain = make(tmp_path, source=trips)
    changed = make(
        tmp_path,
        fb.Examples(trips, at="pickup_at", derive={"distance": "distance * 1.609"}, where="distance > 1"),
        source=trips,
    )
    assert 0 < changed.manifest.rows < plain.manifest.rows
    assert changed.manifest.rejected > plain.manifest.rejected
    key = {k: i for i, k in enumerate(column(plain, "__sequence").tolist())}
    rows = [key[s] for s in column(changed, "__sequence").tolist() if s in key]
    common = np.isin(column(changed, "__sequence"), list(key))
    assert column(changed, "distance")[common] == pytest.approx(column(plain, "distance")[rows] * 1.609)
    for name in ("trips_1h", "distance_24h"):
        assert np.array_equal(column(changed, name)[common], column(plain, name)[rows], equal_nan=True)


def test_features_are_as_known_at_the_request(tmp_path: Path) -> None:
    write(tmp_path)
    data = make(tmp_path)
    raw = pq.read_table(tmp_path / "trips.parquet")
    zone, event = raw.column("zone").to_numpy(), raw.column("dropoff_at").cast(pa.int64()).to_numpy()
    at = raw.column("pickup_at").cast(pa.int64()).to_numpy()
    zones = dict(zip(at.tolist(), zone.tolist(), strict=True))
    hop = 60_000_000  # 1h / 48 is 75 s, the ladder's next lower step is one minute
    for i in range(0, data.manifest.rows, 37):
        t = int(column(data, "__at")[i])
        floor = (t - HOUR) // hop * hop
        expected = int(((zone == zones[t]) & (event <= t) & (event > floor)).sum())
        assert column(data, "trips_1h")[i] == expected


def test_poisoned_windows_are_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    begin, end = START + timedelta(days=1), START + timedelta(days=2)
    data = make(tmp_path, poisoned=((begin, end),))
    for name in ("__at", "__event"):
        times = column(data, name)
        assert not ((times >= to_micros(begin)) & (times < to_micros(end))).any()


def test_unit_is_the_named_column_else_the_request(tmp_path: Path) -> None:
    write(tmp_path)
    trips = source()
    named = make(tmp_path, fb.Examples(trips, at="pickup_at", unit="rider"), source=trips)
    assert set(named.table.column("__unit").to_pylist()) == {f"u{i}" for i in range(7)}
    plain = make(tmp_path)
    assert len(set(plain.table.column("__unit").to_pylist())) == plain.manifest.rows


def test_a_time_column_that_is_no_time_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    trips = source()
    with pytest.raises(SourceError, match=r"'distance' of source 'trips' is double, at= needs a timestamp"):
        make(tmp_path, fb.Examples(trips, at="distance"), source=trips)
    with pytest.raises(SourceError, match="label 'rider'"):
        make(tmp_path, label=fb.Label("rider"))


def test_a_changed_file_is_noticed_and_a_missing_one_too(tmp_path: Path) -> None:
    write(tmp_path)
    data = make(tmp_path)
    layout = Layout(tmp_path, tmp_path / "state")
    path = layout.state / data.manifest.path
    assert open_dataset(data.manifest, layout).table.equals(data.table)
    pq.write_table(data.table.slice(1), path)
    with pytest.raises(IntegrityError, match="holds content"):
        open_dataset(data.manifest, layout)
    path.unlink()
    with pytest.raises(Unavailable, match="build it again"):
        open_dataset(data.manifest, layout)


def test_digest_sees_content_and_nothing_else() -> None:
    table = pa.table({"a": pa.array([1.0, None, float("nan")]), "b": ["x", None, "z"]})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    filled = pa.table(
        {"a": pa.array(np.array([1.0, 7.0, np.nan]), mask=np.array([False, True, False])), "b": table["b"]}
    )
    assert content_digest(chunked) == content_digest(table) == content_digest(filled)
    others = [
        table.slice(0, 2),
        table.rename_columns(["a", "c"]),
        pa.table({"a": pa.array([1.0, 0.0, float("nan")]), "b": table["b"]}),
        pa.table({"a": pa.array([1.0, None, None]), "b": table["b"]}),
        pa.table({"a": table["a"], "b": ["x", "", "z"]}),
    ]
    assert len({content_digest(t) for t in [table, *others]}) == len(others) + 1


def test_definitions_say_what_is_missing() -> None:
    with pytest.raises(DefinitionError, match="need a source, got str"):
        fb.Examples("trips", at="pickup_at")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="need at="):
        fb.Examples(source(), at="")
    with pytest.raises(DefinitionError, match="name of a column"):
        fb.Label("")


def test_compare_says_what_moved(tmp_path: Path) -> None:
    write(tmp_path)
    trips = source()
    old = make(tmp_path, source=trips)
    new = make(tmp_path, fb.Examples(trips, at="pickup_at", derive={"distance": "distance + 10"}), source=trips)
    found = difference(old, new)
    shift = {c.name: c for c in found.columns}
    assert shift["distance"].moved > 3
    assert abs(shift["trips_1h"].moved) < 0.01
    assert found.columns[0].name == "distance"
    assert difference(old, old).same
    document = compare(old.manifest, new.manifest, Layout(tmp_path, tmp_path / "state"))
    assert next(iter(document["columns"])) == "distance"
    assert document["shared_rows"] > 0
    assert set(document["manifest"]) == {"digest", "path"}
