from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.errors import DuplicateName, InputError, UnknownName
from flyball.features.answers import answer_by_scan
from flyball.features.kernel import windows
from flyball.features.kernel.timeline import row_order
from flyball.features.offline import history, service_history
from flyball.features.spec import SourceSpec, Status, ViewSpec
from flyball.features.table import to_requests
from flyball.testing.oracle import Row, answer

HOP = 1_000_000  # a 48 s window has hops of 1 s
WINDOW = 48 * HOP
T0 = 1_583_000_000_000_000 // HOP * HOP

SOURCE = fb.ParquetSource("events", "x.parquet", event_time="at")
KEYS = fb.Entity("thing", keys={"k": int})
PAIR = fb.Entity("pair", keys={"k": int, "s": str})


class Memory:
    """An engine over rows in memory, in the order of the port."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def scan(self, source: SourceSpec, *, columns: Sequence[str], start: Any = None, end: Any = None) -> pa.Table:
        kinds = {"k": pa.int64(), "s": pa.string(), "x": pa.float64(), "n": pa.int64(), "t": pa.string()}
        values = {c: pa.array([_value(r, c) for r in self.rows], kinds[c]) for c in columns}
        times = {f"__{f}": np.array([getattr(r, f) for r in self.rows], dtype=np.int64) for f in
                 ("event", "created", "known", "sequence")}  # fmt: skip
        order = row_order(times["__event"], times["__created"], times["__sequence"])
        table = pa.table({**values, **times})
        return table if order is None else table.take(order)

    def answer(self, requests: pa.Table, view: ViewSpec, features: Any, *, join: Any) -> pa.Table:
        return answer_by_scan(self, requests, view, features, join=join)

    def rejected(self, source: SourceSpec) -> int:
        return 0


def _value(row: Row, column: str) -> Any:
    return row.values[column] if column in row.values else dict(zip(("k", "s"), row.key, strict=False))[column]


def _windows(entity: fb.Entity, ttl: str | None = None) -> ViewSpec:
    return fb.FeatureView("w", entity=entity, source=SOURCE, ttl=ttl, features=[
        fb.count("rows", window="48s"), fb.count("rows_long", window="96s"), fb.count("some", of="x", window="48s"),
        fb.sum("sum", of="x", window="48s"), fb.mean("mean", of="x", window="48s"), fb.std("std", of="x", window="96s"),
        fb.min("min", of="n", window="48s"), fb.max("max", of="n", window="96s", default=-1.0),
    ]).spec  # fmt: skip


def _newest(entity: fb.Entity, ttl: str | None) -> ViewSpec:
    return fb.FeatureView("r", entity=entity, source=SOURCE, ttl=ttl, features=[
        fb.Feature("n", int), fb.Feature("x", float), fb.Feature("text", str, of="t", default="none"),
    ]).spec  # fmt: skip


_offset = st.one_of(
    st.integers(-60, 60).map(lambda s: s * HOP),
    st.integers(-3, 3),
    st.sampled_from([WINDOW, -WINDOW, 2 * WINDOW, HOP]).flatmap(lambda w: st.integers(-1, 1).map(lambda d: w + d)),
)
_late = st.one_of(st.just(0), st.just(0), st.integers(0, 3), st.integers(0, 200).map(lambda s: s * HOP))
_x = st.none() | st.sampled_from([0.0, 1.5, -2.0, 1e9 + 0.25, math.nan]) | st.floats(-1e6, 1e6)
_n = st.none() | st.integers(-(2**53), 2**53)


@st.composite
def _rows(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(0, 25))
    rows = []
    for sequence in range(count):
        key = (draw(st.sampled_from([1, 1, 2, None])), draw(st.sampled_from(["a", "a", "b", None])))
        event = T0 + draw(_offset)
        created = event + draw(st.sampled_from([0, 0, -5, 7]))
        values = {"x": draw(_x), "n": draw(_n), "t": draw(st.none() | st.sampled_from(["u", "v"]))}
        rows.append(Row(key, event, created, max(event, created) + draw(_late), sequence - 5, values))
    return rows


_requests = st.lists(
    st.tuples(st.sampled_from([1, 1, 2, 3, None]), st.sampled_from(["a", "b", "z", None]), _offset), max_size=8
)


def _request_table(requests: list[tuple[Any, Any, int]]) -> pa.Table:
    at = pa.array([T0 + o for _, _, o in requests], pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table({
        "k": pa.array([r[0] for r in requests], pa.int64()),
        "s": pa.array([r[1] for r in requests], pa.string()),
        "T": at,
    })  # fmt: skip


def _check(rows: list[Row], requests: list[tuple[Any, Any, int]], view: ViewSpec, join: Any) -> None:
    width = len(view.entity.keys)
    short = [Row(r.key[:width], r.event, r.created, r.known, r.sequence, {**r.values, "s": r.key[1]}) for r in rows]
    table = history(Memory(short), _request_table(requests), [view], None, at="T", join=join)
    features = table.to_arrow()
    for feature in view.features:
        found, status = features.column(feature.name).to_pylist(), table.status(feature.name)
        for i, (k, s, offset) in enumerate(requests):
            want, want_status = answer(short, view, feature, (k, s)[:width], T0 + offset, join=join)
            where = (feature.name, requests[i], found[i], want)
            assert Status(int(status[i])) is want_status, where
            _equal(found[i], want, short, feature.of, where)


def _equal(found: Any, want: Any, rows: list[Row], of: str | None, where: Any) -> None:
    if not isinstance(want, float) or not isinstance(found, float):
        assert found == want, where
    elif math.isnan(want):
        assert math.isnan(found), where
    else:
        numbers = [abs(r.values[of]) for r in rows if of and r.values[of] is not None and not math.isnan(r.values[of])]
        assert abs(found - want) <= 1e-12 * max([1.0, *numbers]) * max(1, len(rows)), where


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_rows(), _requests, st.sampled_from([KEYS, PAIR]), st.sampled_from(["as_known", "as_corrected"]))
def test_windows_are_what_the_oracle_says(rows: Any, requests: Any, entity: fb.Entity, join: str) -> None:
    _check(rows, requests, _windows(entity), join)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    _rows(), _requests, st.sampled_from([KEYS, PAIR]), st.sampled_from(["as_known", "as_corrected"]),
    st.sampled_from([None, "48s", "1s", "3us"]),
)  # fmt: skip
def test_newest_rows_are_what_the_oracle_says(rows: Any, requests: Any, entity: Any, join: str, ttl: Any) -> None:
    _check(rows, requests, _newest(entity, ttl), join)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_rows(), _requests, st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(rows: list[Row], requests: Any, random: Any) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    for view in (_newest(PAIR, "48s"), _windows(PAIR)):
        one = history(Memory(rows), _request_table(requests), [view], None, at="T")
        other = history(Memory(shuffled), _request_table(requests), [view], None, at="T")
        for name in one.names:
            assert str(one.to_arrow()[name].to_pylist()) == str(other.to_arrow()[name].to_pylist())


@pytest.mark.parametrize("pairs", [1, 7])
def test_slices_and_chains_change_nothing(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    rows = []
    for i in range(300):
        event = T0 + int(rng.integers(-100, 100)) * HOP
        late = int(rng.integers(0, 90)) * HOP  # lateness of any size: chains cannot hold all rows
        rows.append(
            Row((int(rng.integers(3)), "a"), event, event, event + late, i, {"x": float(rng.normal()), "n": i, "t": ""})
        )
    requests = [(int(rng.integers(4)), "a", int(rng.integers(-100, 200)) * HOP) for _ in range(60)]
    monkeypatch.setattr(windows, "_PAIRS", pairs)
    for chains in (0, 1, 3):
        monkeypatch.setattr(windows, "_CHAINS", chains)
        _check(rows, requests, _windows(KEYS), "as_known")


def _at(second: float) -> datetime:
    return datetime.fromtimestamp(T0 / 1e6 + second, UTC)


def _row(key: int, second: float, *, n: int | None = 1, known: float | None = None, sequence: int = 0) -> Row:
    event = T0 + int(second * 1e6)
    seen = event if known is None else T0 + int(known * 1e6)
    return Row((key,), event, event, seen, sequence, {"n": n, "x": None, "t": None})


def test_age_equal_to_ttl_still_counts_and_one_microsecond_more_does_not() -> None:
    engine = Memory([_row(1, 0)])
    at = pa.array([T0 + WINDOW, T0 + WINDOW + 1, T0 - 1]).cast(pa.timestamp("us", "UTC"))
    table = history(engine, pa.table({"k": [1, 1, 1], "T": at}), [_newest(KEYS, "48s")], ["r:n"], at="T")
    assert table.status("n").tolist() == [Status.PRESENT, Status.EXPIRED, Status.MISSING]


def test_a_late_row_never_replaces_a_newer_one() -> None:
    engine = Memory([_row(1, 0, n=1, known=50, sequence=1), _row(1, 10, n=2, sequence=2)])
    requests = pa.table({"k": [1, 1, 1], "T": [_at(5), _at(20), _at(60)]})
    assert history(engine, requests, [_newest(KEYS, None)], ["r:n"], at="T").to_arrow()["n"].to_pylist() == [None, 2, 2]


def test_pandas_keeps_index_order_duplicates_and_ints_and_is_not_touched() -> None:
    engine = Memory([_row(1, 0, n=2**60 + 1)])
    frame = pd.DataFrame({"k": [1, 9, 1], "T": [_at(5)] * 3, "own": ["c", "b", "a"]}, index=[7, 3, 7])
    before = frame.copy(deep=True)
    result = history(engine, to_requests(frame), [_newest(KEYS, None)], ["r:n"], at="T").to_pandas()
    pd.testing.assert_frame_equal(frame, before)
    assert result.index.tolist() == [7, 3, 7]
    assert result["own"].tolist() == ["c", "b", "a"]
    assert str(result["n"].dtype) == "Int64"
    assert result["n"].tolist() == [2**60 + 1, pd.NA, 2**60 + 1]


def test_requests_come_as_polars_arrow_dicts_or_path(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    arrow = pa.table({"k": [1], "s": ["é"]})
    pq.write_table(arrow, tmp_path / "r.parquet")
    for given_as in (arrow, pl.DataFrame({"k": [1], "s": ["é"]}), [{"k": 1, "s": "é"}], tmp_path / "r.parquet"):
        assert to_requests(given_as).to_pylist() == [{"k": 1, "s": "é"}]
    with pytest.raises(InputError, match="no file"):
        to_requests(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="a pandas or polars frame"):
        to_requests(3)


def test_wrong_requests_are_named() -> None:
    view = _newest(KEYS, None)
    engine = Memory([_row(1, 0)])
    with pytest.raises(InputError, match='1 and "1" differ'):
        history(engine, pa.table({"k": ["1"], "T": [_at(1)]}), [view], None, at="T")
    with pytest.raises(UnknownName, match="time"):
        history(engine, pa.table({"k": [1], "time": [_at(1)]}), [view], None, at="tim")
    with pytest.raises(InputError, match="nulls"):
        history(engine, pa.table({"k": [1, 1], "T": [_at(1), None]}), [view], None, at="T")
    with pytest.raises(UnknownName, match="feature view named 'q'"):
        history(engine, pa.table({"k": [1], "T": [_at(1)]}), [view], ["q"], at="T")
    with pytest.raises(UnknownName, match="did you mean text"):
        history(engine, pa.table({"k": [1], "T": [_at(1)]}), [view], ["r:texd"], at="T")
    with pytest.raises(DuplicateName, match="request column"):
        history(engine, pa.table({"k": [1], "T": [_at(1)], "n": [1]}), [view], None, at="T")
    with pytest.raises(InputError, match="neither"):
        history(engine, pa.table({"k": [1], "T": [_at(1)]}), [view], None, at="T", join="x")


def test_service_history_gives_the_columns_in_order() -> None:
    view = fb.FeatureView(
        "w", entity=KEYS, source=SOURCE, features=[fb.count("rows", window="1h"), fb.mean("m", of="x", window="1h")]
    )
    from flyball.features.service import compile_service

    service = compile_service("m", "T", [fb.hour_of_day("T"), view, fb.Field("miles", float), fb.Field("k", int),
                                         fb.ratio("miles", "k", name="per")], SOURCE.spec)  # fmt: skip
    assert [(i.name, i.type) for i in service.inputs] == [("k", "int64"), ("miles", "float64")]
    requests = pa.table({"k": [1, 2], "miles": [3.0, None]})
    at = np.array([T0 + 5 * HOP, T0 + 5 * HOP])
    table = service_history(Memory([_row(1, 0)]), requests, service, at)
    assert table.column_names == ["hour_of_day", "rows", "m", "miles", "k", "per"]
    assert table.to_pylist()[0] == {"hour_of_day": 18.0, "rows": 1, "m": None, "miles": 3.0, "k": 1, "per": 3.0}
    assert table.to_pylist()[1] == {"hour_of_day": 18.0, "rows": 0, "m": None, "miles": None, "k": 2, "per": None}
    assert table.schema.field("rows").type == pa.int64()
