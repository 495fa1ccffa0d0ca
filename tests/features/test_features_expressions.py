from __future__ import annotations

import functools
import math

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.errors import ExpressionError, UnknownName
from flyball.features.expressions import columns, evaluate, parse, to_sql, type_of

TYPES = {"i": "int64", "j": "int64", "x": "float64", "y": "float64", "s": "string", "r": "string",
         "b": "bool", "c": "bool", "t": "timestamp", "u": "timestamp", "f": "float32", "d": "date",
         "m": "decimal(18,3)", "z": "bytes"}  # fmt: skip
_ARROW = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_(),
          "timestamp": pa.timestamp("us", "UTC"), "float32": pa.float32(), "date": pa.date32(),
          "decimal(18,3)": pa.decimal128(18, 3), "bytes": pa.binary()}  # fmt: skip


def _table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.table({name: pa.array([r[name] for r in rows], _ARROW[kind]) for name, kind in TYPES.items()})


@functools.cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def _by_sql(text: str, table: pa.Table) -> list[object]:
    plain = pa.table({f.name: table[f.name].cast(pa.int64()) if TYPES[f.name] == "timestamp" else table[f.name]
                      for f in table.schema})  # fmt: skip
    connection = _duckdb()
    connection.register("rows", plain)
    sql = f"SELECT {to_sql(parse(text), TYPES)} AS v FROM rows"
    return connection.sql(sql).to_arrow_table()["v"].to_pylist()


def _by_numpy(text: str, table: pa.Table) -> list[object]:
    array = evaluate(parse(text), table)
    if pa.types.is_timestamp(array.type) or pa.types.is_duration(array.type):
        array = array.cast(pa.int64())
    return array.to_pylist()


def _same(left: list[object], right: list[object]) -> bool:
    return all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
        for a, b in zip(left, right, strict=True)
    ) and [type(a) for a in left] == [type(b) for b in right]


_ints = st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1))
_floats = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan]))
_texts = st.text(alphabet="abAB' é😀ZİıßǅΣς\t\n\\%_", max_size=5)
_times = st.integers(-(2**45), 2**51)
_row = st.fixed_dictionaries(
    {
        **{k: st.none() | _ints for k in "ij"},
        **{k: st.none() | _floats for k in "xy"},
        **{k: st.none() | _texts for k in "sr"},
        **{k: st.none() | st.booleans() for k in "bc"},
        **{k: st.none() | _times for k in "tu"},
        "f": st.none() | st.floats(width=32),
        "d": st.none() | st.dates(),
        "m": st.none() | st.decimals(-(10**15) + 1, 10**15 - 1, places=3),
        "z": st.none() | st.binary(max_size=2),
    }
)


def _numeric(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(["i", "j", "x", "y", "0", "1", "3", "2.5", "1e-3", "9223372036854775807", "((t - u) / 1h)",
                            "((u - t) / (t - u))", "(1m / 1s)", "f", "m", "length(s)", "((t - u) // 7m)", "((t - d) / 1d)",
                            "(i // j)", "((i + 1) // 3)", "abs(i)"])  # fmt: skip
    if not depth:
        return leaf
    below = _numeric(depth - 1)
    pair = st.tuples(below, st.sampled_from("+-*/%"), below).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
    called = st.tuples(st.sampled_from(["abs", "floor", "ceil", "round"]), below).map(lambda p: f"{p[0]}({p[1]})")
    chosen = st.tuples(st.sampled_from(["b", "x > y", "i is null"]), below, below).map(
        lambda p: f"if({p[0]}, {p[1]}, {p[2]})"
    )
    first = st.tuples(below, below).map(lambda p: f"coalesce({p[0]}, {p[1]}, 1)")
    return leaf | pair | called | chosen | first | below.map(lambda e: f"(-{e})")


_spans = st.sampled_from(
    ["(t - u)", "1h", "(1h + 30m)", "((t - u) % 7m)", "((t - u) * i)", "(t - (u - 5s))", "(-(t - u))"]
)
_moments = st.sampled_from(["t", "u", "(t + 1d)", "(1d + u)", "(t - 24h)", "d", "(d + 1h)", "time('2020-01-31T12:00')",
                            "if(b, t, d)", "coalesce(d, u)"])  # fmt: skip
_strings = st.recursive(
    st.sampled_from(["s", "r", "'a'", "'b''é'", "''", "'\\'"]),
    lambda below: st.one_of(
        st.tuples(st.sampled_from(["lower", "upper", "trim"]), below).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(below, st.integers(1, 4), st.integers(0, 3)).map(lambda p: f"substr({p[0]}, {p[1]}, {p[2]})"),
        st.tuples(below, st.integers(1, 4)).map(lambda p: f"substr({p[0]}, {p[1]})"),
        st.tuples(below, below).map(lambda p: f"concat({p[0]}, {p[1]}, '|')"),
        st.tuples(below, st.sampled_from(["a", "ab", "%", "é", "\\"]), st.sampled_from(["", "aa", "😀"])).map(
            lambda p: f"replace({p[0]}, '{p[1]}', '{p[2]}')"
        ),
        st.tuples(below, below).map(lambda p: f"coalesce({p[0]}, {p[1]})"),
        st.tuples(below, below).map(lambda p: f"if(b, {p[0]}, {p[1]})"),
    ),
    max_leaves=4,
)


def _condition(depth: int) -> st.SearchStrategy[str]:
    compare = st.sampled_from(["=", "==", "<>", "!=", "<", "<=", ">", ">="])
    same = st.sampled_from([_numeric(1), _spans, _moments, _strings, st.sampled_from(["b", "c", "true"])])
    leaf = same.flatmap(lambda kind: st.tuples(kind, compare, kind)).map(" ".join)
    more = st.one_of(
        st.tuples(_numeric(1), _numeric(0), _numeric(0)).map(lambda p: f"{p[0]} between {p[1]} and {p[2]}"),
        st.tuples(_numeric(1), _numeric(0), _numeric(0)).map(lambda p: f"{p[0]} not in ({p[1]}, {p[2]}, -1)"),
        st.tuples(_strings, _strings).map(lambda p: f"{p[0]} in ({p[1]}, 'ab')"),
        st.sampled_from("ijxysrbctufdmz").map(lambda c: f"{c} is null"),
        st.tuples(
            st.sampled_from(["starts_with", "ends_with", "contains"]),
            _strings,
            st.sampled_from(["", "a", "é", "\t", "%", "_"]),
        ).map(lambda p: f"{p[0]}({p[1]}, '{p[2]}')"),
        st.sampled_from(["if(b, c, true)", "coalesce(b, c)"]),
        _numeric(1).map(lambda e: f"({e}) is not null"),
        st.sampled_from(["b", "c", "false"]),
    )
    if not depth:
        return leaf | more
    below = _condition(depth - 1)
    return (
        leaf
        | more
        | st.tuples(below, st.sampled_from(["and", "or"]), below).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})")
        | below.map(lambda e: f"not ({e})")
    )


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.one_of(_numeric(2), _condition(2), _spans, _moments, _strings), st.lists(_row, min_size=1, max_size=6))
def test_sql_and_numpy_give_the_same(text: str, rows: list[dict[str, object]]) -> None:
    table = _table(rows)
    by_sql, by_numpy = _by_sql(text, table), _by_numpy(text, table)
    assert _same(by_sql, by_numpy), (text, rows, by_sql, by_numpy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 / 2", 3.5), ("7 % 4", 3), ("-7 % 4", -3), ("1 / 0", None), ("1 % 0", None), ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20), ("-2 - -3", 1), ("90m / 1h", 1.5), ("not true or true", True), ("1 in (3, 2)", False),
        ("5 between 1 and 5", True), ("5 not between 1 and 5", False), ("'it''s' = 'it''s'", True),
        ("9223372036854775807 + 1", None), ("1 <= 1.0 and 'a' < 'b'", True),
        ("7 // 2", 3), ("-7 // 2", -3), ("7 // -2", -3), ("-7 % 2", -1), ("1 // 0", None), ("90m // 1h", 1),
        ("(-9223372036854775807 - 1) // -1", None), ("abs(-9223372036854775807 - 1)", None), ("round(2.5)", 3.0),
        ("round(-2.5)", -3.0), ("round(0.49999999999999994)", 0.0), ("floor(-0.5)", -1.0), ("ceil(7)", 7),
        ("lower('ÄB')", "Äb"), ("upper('ß')", "ß"), ("length('é😀')", 2), ("substr('abcd', 2, 2)", "bc"),
        ("substr('ab', 5)", ""), ("concat('a', 'b', 'c')", "abc"), ("trim(' a ')", "a"), ("replace('aaa', 'aa', 'b')", "ba"),
        ("if(1 / 0 > 1, 'a', 'b')", "b"), ("coalesce(1 / 0, 2)", 2.0), ("contains('abc', '')", True),
        ("(time('2020-01-02') - time('2020-01-01T00:00:00+01:00')) / 1h", 25.0), ("starts_with('abc', 'ab')", True),
    ],
)  # fmt: skip
def test_constants(text: str, expected: object) -> None:
    assert _by_numpy(text, pa.table({"k": [1]})) == [expected]


def test_time_less_time_over_duration_is_minutes() -> None:
    table = pa.table({"a": pa.array([0], pa.timestamp("us")), "b": pa.array([90_000_000], pa.timestamp("us"))})
    assert evaluate(parse("(b - a) / 1m"), table).to_pylist() == [1.5]


def test_columns_are_found() -> None:
    assert columns(parse("a + b > 1 and not (c is null) or d in (e, 2)")) == set("abcde")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("minutes between 1", "ends too early"), ("a + * b", "'* b'"), ("a ? b", "'? b'"), ("", "ends too early"),
        ("a in ()", "does not parse"), ("5 apples > a", "5apples|apples"), ("a not 3", "does not parse"),
        ("(a", "ends too early"), ("5zz", "no duration"),
    ],
)  # fmt: skip
def test_errors_show_where(text: str, says: str) -> None:
    with pytest.raises(ExpressionError, match=says.replace("?", r"\?").replace("*", r"\*")):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "s + 1",
        "t + u",
        "t = 1",
        "not i",
        "b and 1",
        "t / 2",
        "s > 1",
        "-s",
        "1h * 2.5",
        "x // 2",
        "lower(i)",
        "if(i, 1, 2)",
        "if(b, 1, 'a')",
        "coalesce(1)",
        "substr(s, i)",
        "substr(s, 0)",
        "replace(s, '', 'a')",
        "z = z",
        "abs(t)",
        "length(s, 1)",
        "concat(s, i)",
    ],
)
def test_types_must_fit(text: str) -> None:
    with pytest.raises(ExpressionError):
        type_of(parse(text), TYPES)


def test_an_unknown_column_names_near_ones() -> None:
    with pytest.raises(UnknownName, match="minutes"):
        type_of(parse("minuts > 1"), {"minutes": "float64"})
    with pytest.raises(UnknownName, match="minutes"):
        evaluate(parse("minuts > 1"), pa.table({"minutes": [1.0]}))
