"""Data checks: what each kind refuses, with each policy it may have."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flyball.errors import CheckFailed, DefinitionError, SourceError
from flyball.features import checks
from flyball.features.definitions.checks import Check, check, check_specs
from flyball.features.spec import ColumnSpec

HOUR = 3_600_000_000
NAN = float("nan")


def table(**columns: Any) -> pa.Table:
    made = pa.table(columns)
    return made.append_column("__event", pa.array(np.arange(made.num_rows) * HOUR, pa.int64()))


def judged(one: Check, rows: pa.Table, *, now: int = 0, previous: checks.CheckReport | None = None) -> checks.Verdict:
    return checks.run([one.spec], rows, now, previous).verdicts[0]


def kept(one: Check, rows: pa.Table) -> list[bool]:
    mask = checks.row_mask([one.spec], rows)
    return [True] * rows.num_rows if mask is None else mask.tolist()


def no_three(values: np.ndarray) -> np.ndarray:
    return np.asarray(values != 3)


def never(values: np.ndarray) -> bool:
    return False


ROWS = table(n=pa.array([1, 3, None, 9]), x=pa.array([0.5, NAN, None, 7.0]), s=pa.array(["a", "b", None, "z"]))
CASES: list[tuple[str, Any, list[bool]]] = [
    ("range of integers", lambda p: check.range("n", 1, 3, policy=p), [True, True, True, False]),
    ("range refuses NaN", lambda p: check.range("x", 0.0, policy=p), [True, False, True, True]),
    ("not null", lambda p: check.not_null("n", policy=p), [True, True, False, True]),
    ("accepted", lambda p: check.accepted("s", ["a", "b"], policy=p), [True, True, True, False]),
    ("custom", lambda p: check.custom(no_three, of=["n"], policy=p), [True, False, True, True]),
]


@pytest.mark.parametrize("policy", ["stop", "quarantine", "warn"])
@pytest.mark.parametrize(("make", "good"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_row_level_check_finds_its_rows_and_follows_its_policy(make: Any, good: list[bool], policy: str) -> None:
    one = make(policy)
    verdict = judged(one, ROWS)
    assert (verdict.passed, verdict.failed, len(verdict.examples)) == (False, good.count(False), good.count(False))
    assert kept(one, ROWS) == (good if policy == "quarantine" else [True] * 4)
    report = checks.run([one.spec], ROWS, 0)
    if policy == "stop":
        with pytest.raises(CheckFailed, match="nothing was changed"):
            report.require("source 'trips'")
    else:
        report.require("source 'trips'")
        assert len(report.failed(policy)) == 1


@pytest.mark.parametrize("make", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_good_rows_and_no_rows_pass(make: Any) -> None:
    good = table(n=pa.array([1, 2]), x=pa.array([0.5, 1.0]), s=pa.array(["a", "b"]))
    for rows in (good, good.slice(0, 0)):
        assert judged(make("stop"), rows).passed
        assert checks.row_mask([make("quarantine").spec], rows) is None


@pytest.mark.parametrize(
    ("make", "passing", "failing"),
    [
        (lambda p: check.types({"n": int}, policy=p), table(n=[1]), table(n=["1"])),
        (lambda p: check.unique("n", "s", policy=p), table(n=[1, 1, None, None], s=["a", "b", "c", "c"]),
         table(n=[1, 2, 1], s=["a", "a", "a"])),
        (lambda p: check.freshness("2h", policy=p), table(n=[1, 2, 3, 4]), table(n=[1])),
        (lambda p: check.volume(2, policy=p), table(n=[1, 2]), table(n=[1])),
        (lambda p: check.not_null("n", max_share="50%", policy=p), table(n=[1, None]), table(n=[1, None, None])),
    ],
    ids=["types", "unique", "freshness", "volume", "null share"],
)  # fmt: skip
def test_a_table_level_check_stops_or_warns_and_cannot_quarantine(make: Any, passing: Any, failing: Any) -> None:
    now = 5 * HOUR
    assert judged(make("stop"), passing, now=now).passed
    report = checks.run([make("stop").spec], failing, now)
    with pytest.raises(CheckFailed):
        report.require("source 'trips'")
    checks.run([make("warn").spec], failing, now).require("source 'trips'")
    with pytest.raises(DefinitionError, match="cannot quarantine"):
        make("quarantine")


def test_freshness_of_nothing_fails_and_its_edge_passes() -> None:
    assert not judged(check.freshness("2h"), table(n=pa.array([], pa.int64())), now=0).passed
    assert judged(check.freshness("2h"), table(n=[1]), now=2 * HOUR).passed
    assert not judged(check.freshness("2h"), table(n=[1]), now=2 * HOUR + 1).passed


def test_volume_compares_with_the_last_run_and_counts_rows_judged_before() -> None:
    previous = checks.CheckReport(rows=10)
    one = check.volume(max_change="20%")
    assert judged(one, table(n=list(range(12))), previous=previous).passed
    assert not judged(one, table(n=list(range(13))), previous=previous).passed
    assert judged(one, table(n=[1])).passed, "there is nothing to compare with the first time"
    later = checks.Judge([one.spec], 0, previous, already=10)
    later.add(table(n=[1, 2]))
    assert later.report().verdicts[0].passed and later.report().rows == 12


def test_integers_beyond_two_to_the_53_are_compared_exactly() -> None:
    big = 2**53
    assert kept(check.range("n", high=big, policy="quarantine"), table(n=[big, big + 1])) == [True, False]
    assert kept(check.range("n", 1.5, 2.5, policy="quarantine"), table(n=[1, 2, 3])) == [False, True, False]
    assert kept(check.range("n", high=1e300, policy="quarantine"), table(n=[1, 2**62])) == [True, True]


def test_a_type_that_is_declared_by_the_source_is_checked_without_naming_it() -> None:
    schema = [ColumnSpec("n", "int64"), ColumnSpec("gone", "string")]
    report = checks.run([check.types().spec], table(n=[1.5]), 0, schema=schema)
    assert report.verdicts[0].value == "n is float64, declared int64; gone is missing"


def test_a_column_nobody_sent_is_null_and_an_uncomparable_one_is_an_error() -> None:
    assert kept(check.not_null("gone", policy="quarantine"), table(n=[1])) == [False]
    assert kept(check.range("gone", 0, policy="quarantine"), table(n=[1])) == [True]
    with pytest.raises(SourceError, match="needs numbers"):
        checks.row_mask([check.range("s", 0, policy="quarantine").spec], table(s=["a"]))
    with pytest.raises(SourceError, match="list values of its type"):
        checks.row_mask([check.accepted("n", ["a"], policy="quarantine").spec], table(n=[1]))


def test_a_function_that_names_no_rows_cannot_quarantine_and_a_broken_one_is_named() -> None:
    with pytest.raises(CheckFailed, match="names no rows"):
        checks.row_mask([check.custom(never, of=["n"], policy="quarantine").spec], table(n=[1]))
    assert not judged(check.custom(never, of=["n"]), table(n=[1])).passed
    with pytest.raises(CheckFailed, match="one bool"):
        judged(check.custom(lambda n: n[:1] > 0, of=["n"]), table(n=[1, 2]))
    with pytest.raises(CheckFailed, match="raised ZeroDivisionError"):
        judged(check.custom(lambda n: 1 / 0, of=["n"]), table(n=[1, 2]))


def test_bad_definitions_say_what_is_wrong() -> None:
    makers: tuple[Any, ...] = (
        lambda: check.range("n"), lambda: check.range("n", 2, 1), lambda: check.range("n", NAN),
        lambda: check.accepted("n", []), lambda: check.accepted("n", [1, "a"]), check.volume,
        check.unique, lambda: check.custom(no_three, of=[]), lambda: check.range("n", 1, policy="drop"),  # type: ignore[arg-type]
    )  # fmt: skip
    for make in makers:
        with pytest.raises(DefinitionError):
            make()
    with pytest.raises(DefinitionError, match="fb.check"):
        check_specs("source 'trips'", ["range"])  # type: ignore[list-item]
    with pytest.raises(DefinitionError, match="declare it there"):
        check_specs("view 'v'", [check.not_null("n", policy="quarantine")], view=True)


def test_reasons_name_every_check_that_a_row_fails() -> None:
    both = [check.range("n", 0, policy="quarantine").spec, check.accepted("s", ["a"], policy="quarantine").spec]
    assert checks.reasons(both, table(n=[-1, 1, -1], s=["a", "a", "b"])) == ["range(n)", "", "range(n), accepted(s)"]
    assert checks.columns_needed(both) == {"n", "s"}


def test_a_pandera_schema_judges_rows_whatever_pandas_makes_of_nulls() -> None:
    pandera = pytest.importorskip("pandera.pandas")
    schema = pandera.DataFrameSchema(
        {"n": pandera.Column(int, pandera.Check.ge(0)), "s": pandera.Column(str, nullable=True),
         "at": pandera.Column("datetime64[ns, UTC]")}, name="rows",
    )  # fmt: skip
    at = pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 4, pa.timestamp("us", "UTC"))
    rows = table(n=pa.array([1, -2, None, 4]), s=pa.array(["a", "b", "c", None]), at=at)
    one = check.pandera(schema, policy="quarantine")
    assert checks.columns_needed([one.spec]) == {"n", "s", "at"}
    assert kept(one, rows) == [True, False, False, True]
    assert judged(check.pandera(schema), rows).failed == 2
    assert judged(check.pandera(schema, policy="warn"), rows.slice(3)).passed


def test_a_pandera_model_is_accepted_and_a_wrong_dtype_stops_everything() -> None:
    pandera = pytest.importorskip("pandera.pandas")

    class Model(pandera.DataFrameModel):  # type: ignore[misc,name-defined]
        n: int = pandera.Field(ge=0)

    assert judged(check.pandera(Model), table(n=[1, 2])).passed
    assert not judged(check.pandera(Model), table(n=["a"])).passed
    with pytest.raises(CheckFailed, match="names no rows"):
        kept(check.pandera(Model, policy="quarantine"), table(n=["a"]))
    other = check.pandera(pandera.DataFrameSchema({"n": pandera.Column(int, pandera.Check.ge(1))}, name="Model"))
    assert check.pandera(Model).spec.code == check.pandera(Model).spec.code != other.spec.code
    with pytest.raises(DefinitionError, match="unique"):
        check.pandera(pandera.DataFrameSchema({"n": pandera.Column(int, unique=True)}), policy="quarantine")
    with pytest.raises(DefinitionError, match="DataFrameSchema"):
        check.pandera("n")
