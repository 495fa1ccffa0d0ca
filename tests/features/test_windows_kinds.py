"""Every window statistic, online and in batch, against the oracle: ties, late rows, nulls, NaN, infinities, edges."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.features.answers import STATUS, answer_rows
from flyball.features.cells import HEAD_LIMIT, WindowLayout, answer, answer_columns, answer_one, merge_windows
from flyball.features.packing import SPAN, read_rows
from flyball.features.spec import FeatureSpec, Stat, Status, ViewSpec
from flyball.testing.oracle import Row
from flyball.testing.oracle import answer as oracle

HOP = 1_000_000
T0 = 1_583_000_000_000_000 // HOP * HOP
VECTOR = "vector<3>"
SOURCE = fb.ParquetSource("events", "x.parquet", event_time="at")
THING = fb.Entity("thing", keys={"k": int})


def view(*features: Any) -> ViewSpec:
    return fb.FeatureView("w", entity=THING, source=SOURCE, features=list(features)).spec


ALL = view(
    fb.count("rows", window="48s"), fb.count("rows_long", window="240s"), fb.count("some", of="x", window="48s"),
    fb.count("big", of="x", where="n > 3", window="48s"), fb.count("texts", of="t", window="48s"),
    fb.count("chosen", where="t = 'u'", window="240s"),
    fb.sum("sum", of="x", window="48s"), fb.mean("mean", of="x", window="240s"), fb.std("std", of="x", window="240s"),
    fb.var("var", of="x", window="48s", where="n > 3"), fb.min("min", of="x", window="48s"),
    fb.max("max", of="x", window="240s"), fb.sum("isum", of="n", window="240s", dtype=int),
    fb.min("imin", of="n", window="48s", dtype=int), fb.max("imax", of="n", window="240s", dtype=int, default=-1),
    fb.sum("isum_u", of="n", window="48s", dtype=int, where="t = 'u'"),
    fb.first("first", of="x", window="48s"), fb.last("last", of="x", window="240s"),
    fb.first("ifirst", of="n", window="240s", dtype=int), fb.last("ilast", of="n", window="48s", dtype=int),
    fb.last("ilast_u", of="n", window="240s", dtype=int, where="t = 'u'"),
    fb.distinct("texts_distinct", of="t", window="48s"), fb.distinct("xs", of="x", window="240s"),
    fb.quantile("median", of="x", q=0.5, window="240s"), fb.quantile("p90", of="x", q=0.9, window="48s"),
    fb.mean("vector", of="v", window="240s", dtype=fb.Vector(3)),
)  # fmt: skip

_offset = st.one_of(
    st.integers(-60, 60).map(lambda s: s * HOP),
    st.integers(-3, 3),
    st.sampled_from([48, -48, 240, -240, 1]).flatmap(lambda w: st.integers(-1, 1).map(lambda d: w * HOP + d)),
)
_late = st.one_of(st.just(0), st.just(0), st.integers(0, 3), st.integers(0, 200).map(lambda s: s * HOP))
_x = st.none() | st.sampled_from([0.0, 1.5, -2.0, 1e9 + 0.25, math.nan, math.inf, -math.inf]) | st.floats(-1e6, 1e6)
_n = st.none() | st.sampled_from([3, 4, 2**53 + 1, -(2**63), 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
_v = st.none() | st.lists(st.integers(-8, 8).map(float), min_size=3, max_size=3)


@st.composite
def _rows(draw: st.DrawFn) -> list[Row]:
    rows = []
    for sequence in range(draw(st.integers(0, 25))):
        event = T0 + draw(_offset)
        created = event + draw(st.sampled_from([0, 0, -5, 7]))
        values = {"x": draw(_x), "n": draw(_n), "t": draw(st.sampled_from([None, "u", "v"])), "v": draw(_v)}
        key = (draw(st.sampled_from([1, 1, 2])),)
        rows.append(Row(key, event, created, max(event, created) + draw(_late), sequence + 1, values))
    return rows


def table(rows: list[Row]) -> pa.Table:
    kinds = {"x": pa.float64(), "n": pa.int64(), "t": pa.string(), "v": pa.list_(pa.float32(), 3)}
    columns = {name: pa.array([r.values.get(name) for r in rows], kind) for name, kind in kinds.items()}
    times = {f"__{n}": pa.array([getattr(r, n) for r in rows], pa.int64())
             for n in ("event", "created", "known", "sequence")}  # fmt: skip
    return pa.table({"k": pa.array([r.key[0] for r in rows], pa.int64()), **columns, **times})


def close(found: Any, want: Any, feature: FeatureSpec, rows: list[Row]) -> bool:
    """Exact but for float sums: 1e-12 of the largest value that went in."""
    if found is None or want is None or not isinstance(want, float | list):
        return bool(found == want)
    if isinstance(want, list):
        return bool(np.allclose(found, want, rtol=1e-6))
    if found == want or feature.stat not in {Stat.SUM, Stat.MEAN, Stat.STD, Stat.VAR}:
        return bool(found == want)
    largest = max(
        [1.0, *(abs(r.values["x"]) for r in rows if r.values["x"] is not None and math.isfinite(r.values["x"]))]
    )
    scale = largest**2 if feature.stat is Stat.VAR else largest
    return abs(found - want) <= 1e-11 * scale * max(1, len(rows))


def check_batch(spec: ViewSpec, rows: list[Row], requests: list[tuple[int, int]]) -> None:
    asked = pa.table({"k": pa.array([k for k, _ in requests], pa.int64()),
                      "__at": pa.array([at for _, at in requests], pa.int64())})  # fmt: skip
    found = answer_rows(table(rows), asked, spec, list(spec.features))
    for feature in spec.features:
        values, statuses = found.column(feature.name).to_pylist(), found.column(STATUS + feature.name).to_pylist()
        for i, (k, at) in enumerate(requests):
            want, status = oracle(rows, spec, feature, (k,), at)
            assert (Status(statuses[i]), close(values[i], want, feature, rows)) == (status, True), (
                feature.name, values[i], want, at - T0)  # fmt: skip


def stored(spec: ViewSpec, rows: list[Row], until: int, cuts: list[int]) -> dict[bytes, bytes]:
    """Rows known up to `until` merged in the given parts, each with the floor of its newest arrival."""
    layout, held = WindowLayout(spec), {}
    mine = [r for r in rows if r.known <= until]
    bounds = sorted({0, len(mine), *(min(c, len(mine)) for c in cuts)})
    for a, b in pairwise(bounds):
        part = mine[a:b]
        floor = max(r.known for r in mine[:b]) - SPAN
        packed = layout.pack(read_rows(spec, table(part)), floor)
        merged = merge_windows([(held.get(key), value) for key, value in packed])
        held |= {key: value for (key, _), value in zip(packed, merged, strict=True)}
    return held


def check_online(spec: ViewSpec, rows: list[Row], held: dict[bytes, bytes], at: int) -> None:
    spec = replace(spec, features=tuple(replace(f, default=None) for f in spec.features))  # defaults are the reader's
    layout = WindowLayout(spec)
    keys = sorted(held)
    if not keys:
        return
    columns, statuses = answer_columns(layout, [held[k] for k in keys], at)
    for feature, column, status in zip(spec.features, columns, statuses.T, strict=True):
        for i, key in enumerate(keys):
            number = int.from_bytes(key[1:9], "big") - 2**63
            want, want_status = oracle(rows, spec, feature, (number,), at)
            assert Status(int(status[i])) is want_status, (feature.name, at - T0)
            if status[i] == Status.PRESENT:
                assert close(column[i].tolist(), want, feature, rows), (feature.name, column[i], want, at - T0)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(_rows(), st.lists(st.tuples(st.sampled_from([1, 2, 3]), _offset.map(lambda o: T0 + o)), max_size=6))
def test_batch_is_what_the_oracle_says(rows: list[Row], requests: list[tuple[int, int]]) -> None:
    check_batch(ALL, rows, requests)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(_rows(), st.lists(st.integers(0, 25), max_size=4), st.lists(_offset, max_size=3))
def test_online_is_what_the_oracle_says(rows: list[Row], cuts: list[int], offsets: list[int]) -> None:
    rows = sorted(rows, key=lambda r: r.known)
    rows = [replace(r, sequence=i + 1) for i, r in enumerate(rows)]  # numbered as they arrive
    held = stored(ALL, rows, 2**62, cuts)
    newest = max((r.known for r in rows), default=T0)
    for at in (newest - SPAN, newest, newest + 1, *(newest + abs(o) for o in offsets)):
        check_online(ALL, rows, held, at)


@pytest.mark.parametrize("seed", range(4))
def test_order_of_parts_redelivery_and_batches_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        Row((1,), T0 + rng.randrange(300) * HOP, T0, T0 + 300 * HOP, i + 1,
            {"x": rng.choice([None, math.nan, rng.random()]), "n": rng.randrange(-(2**63), 2**63),
             "t": rng.choice("uvw"), "v": [1.0, rng.random(), 2.0]})
        for i in range(60)
    ]  # fmt: skip
    rows = [replace(r, created=r.event) for r in rows]
    one = stored(ALL, rows, 2**62, [])
    many = stored(ALL, rows, 2**62, [rng.randrange(60) for _ in range(5)])
    packed = WindowLayout(ALL).pack(read_rows(ALL, table(rows[:20])), T0)
    again = merge_windows([(many[key], value) for key, value in packed])
    at = T0 + 320 * HOP
    (key,) = one
    for held in (one, many, {key: again[0]}):
        check_online(ALL, rows, held, at)
    assert again[0] == many[key]


def test_a_lone_value_gives_the_same_bits_as_many() -> None:
    rng = random.Random(5)
    spec = view(
        fb.count("rows", window="1h"), *fb.windows(fb.mean, "m", of="x", windows=["1h", "2h", "24h"]),
        *fb.windows(fb.std, "s", of="x", windows=["1h", "2h"]), fb.max("max", of="x", window="24h"),
        fb.sum("isum", of="n", window="24h", dtype=int), fb.min("imin", of="n", window="1h", dtype=int),
        fb.count("where", where="n > 5", window="2h"), fb.var("var", of="x", window="1h", where="n > 5"),
    )  # fmt: skip
    at, values = T0 + 86_400 * HOP, []
    for k in range(12):
        rows = [
            Row((k,), at - rng.randrange(90_000) * HOP, 0, at - rng.choice([0, 0, SPAN, 9 * SPAN, -SPAN]), i + 1,
                {"x": rng.choice([None, rng.gauss(1e6, 1)]), "n": rng.choice([None, rng.randrange(9)])})
            for i in range(rng.choice([1, 3, 40, 150]))
        ]  # fmt: skip
        values += stored(spec, [replace(r, created=r.event) for r in rows], 2**62, [70]).values()
    layout = WindowLayout(spec)
    for moment in (at - SPAN, at, at + 3600 * HOP, at + 10**12):
        together, statuses = answer(layout, values, moment)
        for i, value in enumerate(values):
            numbers, status = answer_one(layout, value, moment)
            np.testing.assert_array_equal(numbers, together[i])
            assert (status or [0] * len(numbers)) == statuses[i].tolist()


def test_a_sum_of_integers_that_leaves_64_bits_is_null_and_comes_back() -> None:
    spec = view(fb.sum("n", of="n", window="48s", dtype=int))
    top = 2**63 - 1
    rows = [Row((1,), T0 + i, T0 + i, T0 + i, i + 1, {"n": n}) for i, n in enumerate([top, top, -top, 5 - top])]
    for count, want in ((1, top), (2, None), (3, top), (4, 5)):
        held = stored(spec, rows[:count], 2**62, [1])
        columns, statuses = answer_columns(WindowLayout(spec), list(held.values()), T0 + 10)
        assert (None if statuses[0, 0] == Status.NULL else columns[0][0]) == want
        check_batch(spec, rows[:count], [(1, T0 + 10)])


def test_times_and_booleans_may_be_first_and_last() -> None:
    from datetime import UTC, datetime

    spec = view(
        fb.last("seen", of="seen", window="48s", dtype=datetime), fb.first("flag", of="flag", window="48s", dtype=bool)
    )
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    rows = table([Row((1,), T0 + i, T0 + i, T0 + i, i + 1, {}) for i in range(2)])
    rows = rows.append_column("seen", pa.array([moment, None], pa.timestamp("us", "UTC")))
    rows = rows.append_column("flag", pa.array([None, True]))
    asked = pa.table({"k": [1, 2], "__at": [T0 + 5, T0 + 5]})
    found = answer_rows(rows, asked, spec, list(spec.features))
    assert found.column("seen").to_pylist() == [moment, None]
    assert found.column("flag").to_pylist() == [True, None]
    packed = WindowLayout(spec).pack(read_rows(spec, rows), T0 + SPAN)
    value = merge_windows([(None, packed[0][1])])
    columns, statuses = answer_columns(WindowLayout(spec), value, T0 + 2 * SPAN)
    assert columns[0][0] == int(moment.timestamp()) * HOP + 6
    assert columns[1].dtype == bool and columns[1][0]
    assert not statuses.any()


def test_a_crowded_head_is_folded_early_and_nothing_is_lost() -> None:
    spec = view(fb.count("rows", window="48s"), fb.last("n", of="n", window="48s", dtype=int))
    rows = [Row((1,), T0 + i, T0 + i, T0 + i, i + 1, {"n": i}) for i in range(HEAD_LIMIT * 3)]
    held = stored(spec, rows, 2**62, list(range(0, len(rows), 7)))
    check_online(spec, rows, held, T0 + len(rows))


def test_a_view_pays_only_for_the_columns_it_asks_for() -> None:
    def size(*features: Any) -> int:
        rows = [Row((1,), T0 + i * HOP, T0, T0 + i * HOP, i + 1, {"x": 1.0}) for i in range(40)]
        (value,) = stored(view(*features), rows, 2**62, [39]).values()
        return len(value)

    count = size(fb.count("c", window="48s"))
    mean = size(fb.mean("m", of="x", window="48s"))
    std = size(fb.std("s", of="x", window="48s"))
    assert count < mean < std < 40 * 48 + 200  # no larger than when each cell held all five


def test_a_stored_value_of_another_layout_is_refused() -> None:
    from flyball.errors import IntegrityError

    rows = [Row((1,), T0, T0, T0, 1, {"x": 1.0})]
    one = WindowLayout(view(fb.sum("s", of="x", window="48s"))).pack(read_rows(ALL, table(rows)), T0)[0][1]
    other = WindowLayout(view(fb.sum("s", of="x", window="96s"))).pack(read_rows(ALL, table(rows)), T0)[0][1]
    with pytest.raises(IntegrityError, match="materialize --full"):
        merge_windows([(one, other)])
    with pytest.raises(IntegrityError, match="materialize --full"):
        merge_windows([(b"\x01" + one[1:], one)])
