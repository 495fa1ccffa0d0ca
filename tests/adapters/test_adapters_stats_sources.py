"""DuckDB over Parquet, Arrow, pandas, polars and a slow loop find the same statistics of each arm."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flyball as fb
from flyball.adapters.duckdb_stats import arms_of_files, arms_of_query
from flyball.errors import InputError, SourceError, UnknownName
from flyball.experiments import ArmData, Stats, arms_of_table

Read = Callable[[pa.Table, fb.Experiment, dict[str, Any]], dict[str, ArmData]]


def _duckdb(table: pa.Table, experiment: fb.Experiment, asked: dict[str, Any]) -> dict[str, ArmData]:
    with duckdb.connect() as connection:
        connection.register("rows_of_test", table)
        return arms_of_query(connection, "rows_of_test", experiment, **asked)


READERS: dict[str, Read] = {
    "duckdb": _duckdb,
    "arrow": lambda t, e, a: arms_of_table(t, e, **a),
    "pandas": lambda t, e, a: arms_of_table(t.to_pandas(), e, **a),
    "polars": lambda t, e, a: arms_of_table(pl.from_arrow(t), e, **a),
}


def _experiment(*metrics: fb.Metric, strata: tuple[str, ...] = ()) -> fb.Experiment:
    return fb.Experiment("e", arms={"a": 0.5, "b": 0.5}, metrics=metrics, strata=strata)


def _same(one: Stats, other: Stats, *, rel: float = 1e-12) -> None:
    assert (one.n, one.names) == (other.n, other.names)
    scale = [math.sqrt(max(other.products[i][i], 1e-300)) for i in range(len(other.names))]
    for i in range(len(one.names)):
        spread = scale[i] / math.sqrt(max(one.n, 1))
        assert math.isclose(one.means[i], other.means[i], rel_tol=rel, abs_tol=rel * spread)
        for j in range(len(one.names)):
            assert math.isclose(
                one.products[i][j], other.products[i][j], rel_tol=rel, abs_tol=rel * scale[i] * scale[j]
            )


def _table(n: int = 3000, *, seed: int = 1, offset: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    spend = rng.gamma(1.5, 20.0, n) + offset
    return pa.table({
        "id": np.arange(n), "arm": np.where(rng.random(n) < 0.4, "a", "b"), "spend": spend,
        "before": 0.5 * spend + rng.normal(size=n), "visits": 1 + rng.poisson(2, n), "paid": rng.random(n) < 0.3,
        "land": np.where(rng.random(n) < 0.2, "north", "south"), "day": rng.integers(0, 5, n),
    })  # fmt: skip


METRICS = (
    fb.Metric("paid", kind="proportion", role="primary"),
    fb.Metric("spend", covariate="before"),
    fb.Metric("capped", of="spend", winsor=(5.0, 60.0)),
    fb.Metric("per_visit", kind="ratio", of="spend", over="visits"),
    fb.Metric("median", kind="quantile", of="spend"),
)


def _loop(table: pa.Table) -> dict[str, dict[str, Stats]]:
    """Return the statistics by a loop over rows and the plain constructor."""
    found: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in table.to_pylist():
        for metric in METRICS:
            for column in metric.columns:
                value = float(row[column])
                if metric.winsor is not None:
                    value = min(max(value, 5.0), 60.0)
                found[row["arm"]][metric.name][column].append(value)
    return {arm: {name: Stats.of(dict(columns)) for name, columns in of.items()} for arm, of in found.items()}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_every_source_finds_what_a_loop_finds(reader: str, offset: float) -> None:
    table = _table(offset=offset)
    arms = READERS[reader](table, _experiment(*METRICS), {})
    right = _loop(table)
    for arm, data in arms.items():
        assert data.units == table.column("arm").to_pylist().count(arm)
        for metric in METRICS:
            _same(data.metrics[metric.name], right[arm][metric.name], rel=1e-12 if offset == 0 else 1e-9)
        mine = np.array(table.column("spend"))[np.array(table.column("arm")) == arm]
        assert sorted(data.values["median"]) == sorted(mine)


@pytest.mark.parametrize("reader", READERS)
def test_strata_and_days_merge_to_the_whole(reader: str) -> None:
    arms = READERS[reader](_table(), _experiment(fb.Metric("spend"), strata=("land",)), {"day": "day"})
    for data in arms.values():
        assert set(data.strata) == {"north", "south"}
        assert set(data.days) == {0, 1, 2, 3, 4}
        for groups in (data.strata, data.days):
            parts = [group["spend"] for group in groups.values()]
            whole = parts[0]
            for part in parts[1:]:
                whole = whole.merge(part)
            _same(whole, data.metrics["spend"])


CELLS = st.one_of(
    st.none(), st.just(float("nan")), st.just(float("inf")), st.integers(-8000, 8000).map(lambda eighths: eighths / 8)
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), CELLS, CELLS, st.booleans()), min_size=1, max_size=30),
       st.sampled_from(["drop", "zero"]))  # fmt: skip
def test_every_source_treats_missing_values_and_open_windows_alike(
    rows: list[tuple[str | None, float | None, float | None, bool]], missing: Any
) -> None:
    table = pa.table({
        "arm": pa.array([r[0] for r in rows], pa.string()), "y": pa.array([r[1] for r in rows], pa.float64()),
        "x": pa.array([r[2] for r in rows], pa.float64()), "done": [r[3] for r in rows],
    })  # fmt: skip
    experiment = _experiment(
        fb.Metric("y", missing=missing), fb.Metric("r", of="y", over="x", kind="ratio", missing=missing)
    )
    found = [read(table, experiment, {"closed": {"r": "done"}}) for read in READERS.values()]
    for other in found[1:]:
        for arm, data in other.items():
            assert data.units == found[0][arm].units == sum(r[0] == arm for r in rows)
            assert data.pending == found[0][arm].pending
            for name, stats in data.metrics.items():
                _same(stats, found[0][arm].metrics[name], rel=1e-9)


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_value_is_refused_with_its_arm_and_metric(reader: str) -> None:
    table = pa.table({"arm": ["a", "b"], "y": pa.array([1.0, None])})
    with pytest.raises(InputError, match="metric 'y' has no finite value for 1 units of arm 'b'"):
        READERS[reader](table, _experiment(fb.Metric("y")), {})


@pytest.mark.parametrize("reader", READERS)
def test_rows_of_a_unit_are_totalled_and_units_of_two_arms_left_out(reader: str) -> None:
    table = pa.table({
        "user": [1, 1, 2, 3, 3, 4, 5, 5], "arm": ["a", "a", "b", "a", "b", "b", "a", "a"],
        "spend": [1.0, 2.0, 5.0, 9.0, 9.0, 7.0, None, 4.0], "paid": [0, 2, 0, 1, 1, 1, 0, 0],
    })  # fmt: skip
    experiment = _experiment(fb.Metric("spend"), fb.Metric("paid", kind="proportion"), fb.Metric("n", of="paid", kind="count"),
                             fb.Metric("q", of="spend", kind="quantile", missing="drop"))  # fmt: skip
    arms = READERS[reader](table, experiment, {"rows": "events"})
    assert (arms["a"].units, arms["b"].units) == (2, 2)
    assert (arms["a"].crossed, arms["b"].crossed) == (1, 1)
    assert arms["a"].metrics["spend"].mean("spend") == 3.5
    assert arms["a"].metrics["paid"].mean("paid") == 0.5
    assert arms["a"].metrics["n"].mean("paid") == 1.0
    assert sorted(arms["a"].values["q"]) == [1.0, 2.0, 4.0]
    assert len(set(arms["a"].clusters["q"])) == 2


@pytest.mark.parametrize("reader", READERS)
def test_units_that_are_there_twice_are_refused(reader: str) -> None:
    table = pa.table({"user": [1, 1], "arm": ["a", "b"], "y": [1.0, 2.0]})
    with pytest.raises(InputError, match='rows="events"'):
        READERS[reader](table, _experiment(fb.Metric("y")), {})


@pytest.mark.parametrize("reader", READERS)
def test_an_arm_or_column_that_nobody_knows_is_refused(reader: str) -> None:
    table = pa.table({"arm": ["a", "c"], "y": [1.0, 2.0]})
    with pytest.raises(UnknownName, match="'c'"):
        READERS[reader](table, _experiment(fb.Metric("y")), {})
    with pytest.raises(UnknownName, match="'z'"):
        READERS[reader](table, _experiment(fb.Metric("z")), {})
    with pytest.raises(InputError, match="numbers or truth values"):
        READERS[reader](pa.table({"arm": ["a"], "y": ["x"]}), _experiment(fb.Metric("y")), {})


def test_a_sorted_column_far_from_its_first_rows_keeps_its_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    y = np.sort(np.r_[np.full(5000, 0.0), 1e9 + rng.normal(size=50_000)])
    table = pa.table({"arm": np.where(y == 0.0, "a", "b"), "y": y})
    pq.write_table(table, tmp_path / "t.parquet")
    arms = arms_of_files(tmp_path / "t.parquet", _experiment(fb.Metric("y")))
    right = Stats.of({"y": y[5000:]})
    assert arms["a"].metrics["y"].variance("y") == 0.0
    _same(arms["b"].metrics["y"], right, rel=1e-9)


def test_a_constant_column_has_a_variance_of_exactly_zero(tmp_path: Path) -> None:
    table = pa.table({"arm": ["a", "b"] * 500, "y": [0.1] * 1000})
    pq.write_table(table, tmp_path / "t.parquet")
    assert arms_of_files(tmp_path / "t.parquet", _experiment(fb.Metric("y")))["b"].metrics["y"].variance("y") == 0.0


def test_files_of_several_kinds_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    frame = _table(200).to_pandas()
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    pq.write_table(_table(200), tmp_path / "t.parquet")
    found = [
        arms_of_files(tmp_path / f"t.{end}", _experiment(fb.Metric("visits"))) for end in ("parquet", "csv", "jsonl")
    ]
    for other in found[1:]:
        _same(other["a"].metrics["visits"], found[0]["a"].metrics["visits"])
    with pytest.raises(SourceError, match=r"gone\.parquet"):
        arms_of_files(tmp_path / "gone.parquet", _experiment(fb.Metric("visits")))


def test_analyze_takes_files_and_tables(tmp_path: Path) -> None:
    table = _table(2000)
    pq.write_table(table, tmp_path / "one.parquet")
    experiment = _experiment(fb.Metric("spend"))
    one = fb.analyze(tmp_path / "one.parquet", experiment)
    other = fb.analyze(pd.DataFrame(table.to_pandas()), experiment)
    assert one.outcome is other.outcome
    e, f = one.comparisons[0].estimate, other.comparisons[0].estimate
    assert e is not None and f is not None
    assert e.effect == pytest.approx(f.effect, rel=1e-9)


@pytest.mark.parametrize("reader", READERS)
def test_the_ends_of_a_primary_mean_are_kept_by_every_source(reader: str) -> None:
    table = _table(offset=1e6)
    experiment = _experiment(fb.Metric("spend"), fb.Metric("before"), strata=("land",))
    arms = READERS[reader](table, experiment, {"day": "day"})
    for arm, data in arms.items():
        mine = np.sort(np.array(table.column("spend"))[np.array(table.column("arm")) == arm])
        assert set(data.tails) == {"spend"}
        np.testing.assert_allclose(data.tails["spend"].lowest, mine[:100], rtol=1e-13)
        np.testing.assert_allclose(data.tails["spend"].highest, mine[::-1][:100], rtol=1e-13)


@pytest.mark.parametrize("reader", READERS)
def test_days_that_are_dates_are_of_the_calendar_and_counts_are_not(reader: str) -> None:
    table = _table(600)
    dates = pa.array(np.array(table.column("day")).astype("datetime64[D]"))
    experiment = _experiment(fb.Metric("spend"))
    arms = READERS[reader](table.append_column("date", dates), experiment, {"day": "date"})
    assert all(data.calendar and set(data.days) == {0, 1, 2, 3, 4} for data in arms.values())
    assert not any(data.calendar for data in READERS[reader](table, experiment, {"day": "day"}).values())


def test_a_large_file_that_was_appended_twice_by_its_last_rows_is_refused(tmp_path: Path) -> None:
    n, again = 400_000, 4_000
    ids = np.r_[np.arange(n), np.arange(n - again, n)]
    table = pa.table({"user": ids, "arm": np.where(ids % 2, "a", "b"), "spend": ids % 7})
    pq.write_table(table, tmp_path / "users.parquet")
    with pytest.raises(InputError, match=r"of one unit in 8.*say rows=\"events\""):
        arms_of_files(tmp_path / "users.parquet", _experiment(fb.Metric("spend")), unit="user")
    pq.write_table(table.slice(0, n), tmp_path / "users.parquet")
    arms = arms_of_files(tmp_path / "users.parquet", _experiment(fb.Metric("spend")), unit="user")
    assert sum(data.units for data in arms.values()) == n


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint32()])
def test_whole_numbers_near_their_types_end_keep_every_digit(reader: str, kind: pa.DataType) -> None:
    values = 2**31 - 1 - np.random.default_rng(4).integers(0, 50, 5000)
    table = pa.table({"arm": ["a", "b"] * 2500, "y": pa.array(values, kind)})
    arms = READERS[reader](table, _experiment(fb.Metric("y")), {})
    right = Stats.of({"y": values[::2]})
    assert arms["a"].metrics["y"].variance("y") == pytest.approx(right.variance("y"), rel=1e-9)
    assert arms["a"].metrics["y"].mean("y") == pytest.approx(right.mean("y"), rel=1e-15)
    assert arms["a"].tails["y"].highest[0] == values[::2].max()
