"""Spark's SQL gives what numpy gives, with and without its ANSI mode."""

from __future__ import annotations

import datetime
import decimal
import math
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from flyball.features.expressions import evaluate, parse, to_sql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a cold Spark on busy cores
KINDS = {"i": "int64", "j": "int64", "x": "float64", "y": "float64", "s": "string", "r": "string", "b": "bool",
         "c": "bool", "t": "timestamp", "u": "timestamp", "f": "float32", "d": "date", "m": "decimal(18,3)"}  # fmt: skip
ARROW = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(), "float32": pa.float32(),
         "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(), "decimal(18,3)": pa.decimal128(18, 3)}  # fmt: skip
EDGES: dict[str, list[Any]] = {
    "int64": [None, 0, 1, -1, 2, -7, 2**53 + 1, 2**63 - 1, -(2**63), -(2**62)],
    "float64": [
        None,
        0.0,
        -0.0,
        1.0,
        0.5,
        -2.5,
        0.49999999999999994,
        1e300,
        math.nan,
        math.inf,
        -math.inf,
        2.0**53 + 2,
    ],
    "float32": [None, 0.0, 1.5, -0.25, math.nan, math.inf],
    "string": [None, "", "a", "ab", " A\tb\n", "é😀Z", "İıßΣς", "a'\\%_", "aaa"],
    "bool": [None, True, False],
    "timestamp": [None, 0, 1, -1, 86_400_000_000, 1_580_000_000_123_456],
    "date": [None, datetime.date(1970, 1, 1), datetime.date(2020, 2, 29), datetime.date(1900, 1, 1)],
    "decimal(18,3)": [None, decimal.Decimal("0.1"), decimal.Decimal("-999999999999999.999"), decimal.Decimal("7.125")],
}
TEXTS = [
    *(f"{a} {op} {b}" for op in ("+", "-", "*", "/", "//", "%") for a, b in (("i", "j"), ("i", "-1"), ("j", "3"))),
    *(f"{a} {op} {b}" for op in ("+", "-", "*", "/", "%") for a, b in (("x", "y"), ("i", "x"), ("m", "f"))),
    *(f"{a} {op} {b}" for op in ("=", "<>", "<", "<=", ">", ">=") for a, b in (("x", "y"), ("i", "x"), ("s", "r"), ("t", "d"), ("b", "c"))),
    "-i", "-x", "abs(i)", "abs(x)", "floor(x)", "ceil(x)", "round(x)", "round(i)", "floor(m)", "round(f)",
    "(t - u) / 1h", "(t - u) // 7m", "(t - u) % 7m", "t + 1h", "(t - d) / 1d", "(t - u) * i", "t > time('2020-01-01')",
    "lower(s)", "upper(s)", "trim(s)", "length(s)", "substr(s, 2, 2)", "substr(s, 3)", "substr(s, 1, 0)", "concat(s, r, '\\x')",
    "starts_with(s, 'a')", "ends_with(s, 'Z')", "contains(s, '')", "contains(s, '%')", "replace(s, 'a', '😀')", "replace(s, '\\', '')",
    "coalesce(i, x)", "coalesce(s, r, 'none')", "coalesce(t, u)", "if(x > 1, i, y)", "if(b, s, r)", "if(b, t, d)",
    "b and c", "b or c", "not b", "i in (1, 2, -7)", "s in ('a', 'it''s')", "x between 0 and 1", "x not between 0 and 1",
    "m is null", "(i / j) is not null", "x / 0 is null",
]  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["ansi", "plain"])
def spark(request: pytest.FixtureRequest) -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql")
    session = (
        sql.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "America/New_York")
        .getOrCreate()
    )
    session.conf.set("spark.sql.ansi.enabled", str(request.param).lower())
    yield session
    session.stop()


def _table() -> pa.Table:
    rng = random.Random(5)
    rows = 150
    columns = {name: [rng.choice(EDGES[kind]) for _ in range(rows)] for name, kind in KINDS.items()}
    return pa.table({name: pa.array(columns[name], ARROW[kind]) for name, kind in KINDS.items()})


def test_spark_and_numpy_give_the_same(spark: Any, tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    table = _table()
    plain = [table[n].cast(pa.int64()) if KINDS[n] == "timestamp" else table[n] for n in table.column_names]
    pq.write_table(pa.table(plain, names=table.column_names), tmp_path / "rows.parquet")
    frame = spark.read.parquet(str(tmp_path / "rows.parquet")).coalesce(1)
    found = frame.selectExpr(
        *(f"{to_sql(parse(text), KINDS, 'spark')} AS v{k}" for k, text in enumerate(TEXTS))
    ).collect()
    wrong = []
    for k, text in enumerate(TEXTS):
        array = evaluate(parse(text), table)
        wanted = (array.cast(pa.int64()) if pa.types.is_temporal(array.type) else array).to_pylist()
        for row, (a, b) in enumerate(zip((r[k] for r in found), wanted, strict=True)):
            both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
            if not both_nan and (a != b or type(a) is not type(b)):
                wrong.append((text, a, b, {n: table[n][row].as_py() for n in KINDS if n in text}))
                break
    assert wrong == []
