"""The laws of offline engines on Spark in local mode, and what is Spark's own: no Java, no pyspark, errors of tasks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flyball as fb
from flyball.adapters.duckdb import DuckDBEngine
from flyball.adapters.spark import SparkEngine
from flyball.errors import ConfigError, InputError, MissingExtra, SourceError, Unavailable
from flyball.features.offline import history
from flyball.testing.laws_offline import OfflineEngineLaws

T0 = 1_583_000_000_000_000
needs_spark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(600)]


def _engine(root: Path, log: Any = None, **more: Any) -> SparkEngine:
    local = DuckDBEngine(root, log)
    return SparkEngine(root, local, reader=partial(DuckDBEngine, root), master="local[2]", **more)


class TestSpark(OfflineEngineLaws):
    pytestmark = needs_spark
    seeds = (31,)
    cases = 50

    def make_engine(self, root: Path, log: Any) -> SparkEngine:
        return _engine(root, log)

    def other_engines(self, root: Path, log: Any) -> Iterator[Any]:
        for zone, ansi in (("America/New_York", "false"), ("Asia/Kolkata", "true")):
            other = _engine(root, log, buckets=7)
            other.session.conf.set("spark.sql.session.timeZone", zone)
            other.session.conf.set("spark.sql.ansi.enabled", ansi)
            other.session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "17")
            other.session.conf.set("spark.sql.files.maxPartitionBytes", "4096")
            yield other


def test_without_pyspark_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyspark", None)
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    with pytest.raises(MissingExtra, match=r"flyball\[spark\]"):
        _ = _engine(tmp_path).session


def test_without_java_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flyball.adapters import spark_session

    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="Java 17"):
        spark_session.need_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match="JAVA_HOME"):
        spark_session.need_java()


def test_options_are_pairs_and_a_typo_is_named() -> None:
    from flyball.adapters.spark_session import parse_options

    assert parse_options("spark.a=1; spark.b = x=y\n") == {"spark.a": "1", "spark.b": "x=y"}
    assert parse_options("") == {}
    with pytest.raises(ConfigError, match="executor"):
        parse_options("executor.memory=4g")


def _rows(n: int, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    at = pa.array(T0 + rng.integers(0, 10**11, n)).cast(pa.timestamp("us"))
    return pa.table({"k": rng.integers(0, 50, n), "x": rng.normal(size=n), "at": at})


def _views(source: Any) -> list[Any]:
    thing = fb.Entity("thing", keys={"k": int})
    return [
        fb.FeatureView("newest", entity=thing, source=source, features=[fb.Feature("x", float)]).spec,
        fb.FeatureView("w", entity=thing, source=source, features=[fb.mean("m", of="x", window="24h")]).spec,
    ]


def _requests(n: int) -> pa.Table:
    rng = np.random.default_rng(2)
    at = pa.array(T0 + rng.integers(0, 10**11, n)).cast(pa.timestamp("us"))
    return pa.table({"k": rng.integers(0, 55, n), "T": at})


class TestSparkAlone:
    pytestmark = needs_spark

    def test_sources_of_other_kinds_are_answered_as_duckdb_answers_them(self, tmp_path: Path) -> None:
        import duckdb
        import pyarrow.csv

        pq.write_table(_rows(300), tmp_path / "a=1 %.parquet")  # a name that Spark's reader would read as a pattern
        pyarrow.csv.write_csv(_rows(300), tmp_path / "a.csv")
        with duckdb.connect(str(tmp_path / "b.duckdb")) as connection:
            connection.sql(f"CREATE TABLE rows AS FROM '{tmp_path}/a.csv'")
        sources = [
            fb.ParquetSource("p", "*.parquet", event_time="at"), fb.CSVSource("c", "*.csv", event_time="at"),
            fb.TableSource("t", table="rows", database="b.duckdb", event_time="at"),
            fb.SQLSource("q", "SELECT k, x + 1 AS x, \"at\" FROM 'a.csv'", event_time="at"),
        ]  # fmt: skip
        for source in sources:
            views, asked = _views(source), _requests(200)
            want = history(DuckDBEngine(tmp_path), asked, views, None, at="T").to_arrow()
            assert history(_engine(tmp_path), asked, views, None, at="T").to_arrow().equals(want), source

    def test_rows_are_read_once_for_lots_of_requests(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from flyball.adapters import spark
        from flyball.features.history_file import write_history

        pq.write_table(_rows(2000), tmp_path / "a.parquet")
        views, asked = _views(fb.ParquetSource("p", "a.parquet", event_time="at")), _requests(1000)
        want = history(DuckDBEngine(tmp_path), asked, views, None, at="T").to_arrow()
        monkeypatch.setattr(spark, "LOT", 400)
        monkeypatch.setattr("flyball.features.history_file._ROWS", 300)
        out = write_history(_engine(tmp_path), asked, views, None, at="T", out=tmp_path / "o.parquet")
        assert pq.read_table(out).equals(want)

    def test_an_error_of_a_task_is_the_error_it_was(self, tmp_path: Path) -> None:
        pq.write_table(_rows(30), tmp_path / "a.parquet")
        strict = fb.ParquetSource("p", "a.parquet", event_time="at", strict=True)
        with pytest.raises(SourceError, match="strict"):
            _engine(tmp_path).scan(strict.spec, columns=["x"])
        view = fb.FeatureView("v", entity=fb.Entity("e", keys={"x": int}),
                              source=fb.ParquetSource("q", "a.parquet", event_time="at"),
                              features=[fb.Feature("k", int)]).spec  # fmt: skip
        asked = pa.table({"x": [1], "__at": [T0]})
        with pytest.raises(InputError, match="key column 'x'"):
            _engine(tmp_path).answer(asked, view, view.features, join="as_known")


@pytest.mark.spark
@pytest.mark.slow
def test_a_machine_for_spark_has_java() -> None:
    assert shutil.which("java"), "Spark needs Java 17: install openjdk-17-jre-headless, or set JAVA_HOME and PATH"
