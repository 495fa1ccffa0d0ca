"""From Parquet files, or any query, to each arm's statistics in one scan of DuckDB; nothing is materialised.

The surprise: the sums are of deviations from an origin, a typical value of the first rows. Plain sums of squares are
the fastest that DuckDB has (two thirds of the time of `var_pop`), and keep their digits when the origin is near. Where
it was far (a sorted file, an offset of 1e9), the file is read again, with the mean of each group as its origin.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Unpack

import duckdb
import numpy as np

from flyball.adapters.duckdb_sql import quoted
from flyball.adapters.duckdb_stats_units import crossed_units, refuse_doubles
from flyball.errors import InputError, SourceError, first_line
from flyball.experiments.design.metric import Kind, Missing
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.design.wanted import Keys, Layout, Tally, Wanted, assemble, day_index, label, wanted
from flyball.experiments.stats import Stats
from flyball.experiments.tails import KEPT, Tails

__all__ = ["arms_of_files", "arms_of_query", "files"]

_SAMPLE = 4096  # first rows that tell a column's origin
_FAR = 100.0  # (mean - origin)^2 in variances from which the plain sums lose digits
_FLOATS = ("FLOAT", "DOUBLE")
_WHOLE = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT")  # squares fit into 64 bits
_DATES = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")


def arms_of_files(
    places: str | Path | Sequence[str | Path],
    experiment: Experiment,
    *,
    threads: int | None = None,
    **layout: Unpack[Layout],
) -> dict[str, ArmData]:
    """Return each arm's statistics of Parquet, CSV or JSON-lines files.

    Args:
        places: A file, a glob, or several.
        experiment: Which arms, metrics and strata.
        threads: DuckDB's threads; None: one per core.
        **layout: As `arms_of_table` has it.

    Raises:
        SourceError: a file cannot be read.
        UnknownName: a column or arm does not exist.
        InputError: units are there twice, or lack a value that the metric does not do without.
    """
    with _opened(threads or os.cpu_count() or 1, os.getpid()).cursor() as connection:
        try:
            return arms_of_query(connection, files(places), experiment, **layout)
        except (duckdb.Error, OSError) as error:
            shown = ", ".join(Path(str(p)).name for p in _listed(places))
            raise SourceError(f"{shown} cannot be analysed: {first_line(error)}") from error


def arms_of_query(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    experiment: Experiment,
    *,
    arm: str = "arm",
    unit: str | None = None,
    rows: Literal["units", "events"] = "units",
    day: str | None = None,
    closed: Mapping[str, str] | None = None,
) -> dict[str, ArmData]:
    """Return each arm's statistics of what may stand after FROM: a table, a function, or a query in brackets.

    `source` is trusted SQL; the options are those of `arms_of_table`.
    """
    kinds = _kinds(connection, source)
    if unit is None and experiment.unit in kinds:
        unit = experiment.unit
    if rows == "events" and unit is None:
        raise InputError(f"the table has no column {experiment.unit!r}; say unit=, as its rows are events of units")
    want = wanted(experiment, kinds, needed=[c for c in (arm, unit, day) if c], closed=closed or {})
    scan = _Scan(source, kinds, experiment, tuple(want), arm, unit, day, rows)
    scan.check_kinds()
    origins = _origins(connection, scan)
    units, tallies, far = _run(connection, scan, origins, _from_origin)
    if rows == "units" and unit is not None:
        refuse_doubles(connection, scan.rows_of_units, unit, rows=sum(units.values()))
    if far:
        units, tallies, _ = _run(connection, scan, origins, _from_means)
    arms = assemble(experiment, units, tallies, calendar=day is not None and kinds[day] in _DATES)
    crossed = crossed_units(connection, scan.rows_of_units, unit, arm) if unit and rows == "events" else {}
    return {
        name: replace(_with_values(connection, scan, name, data), crossed=crossed.get(name, 0))
        for name, data in arms.items()
    }


@cache
def _opened(threads: int, process: int) -> duckdb.DuckDBPyConnection:
    """Open DuckDB once per process: opening takes as long as reading half a million users does."""
    return duckdb.connect(config={"threads": threads})


def files(places: str | Path | Sequence[str | Path]) -> str:
    """Return what reads some files, by the end of their names, as it may stand after FROM."""
    listed = [str(place) for place in _listed(places)]
    reader = {".csv": "read_csv", ".json": "read_json", ".jsonl": "read_json", ".ndjson": "read_json"}
    function = reader.get(Path(listed[0]).suffix.lower(), "read_parquet") if listed else "read_parquet"
    return f"{function}([{', '.join(map(_text, listed))}])"


@dataclass(frozen=True, slots=True)
class _Scan:
    """What is read, and how its columns are named."""

    source: str
    kinds: Mapping[str, str]
    experiment: Experiment
    want: tuple[Wanted, ...]
    arm: str
    unit: str | None
    day: str | None
    rows: str

    @property
    def keys(self) -> list[str]:
        """Expressions of arm, strata and day."""
        return [quoted(c) for c in (self.arm, *self.experiment.strata, *([self.day] if self.day else []))]

    @property
    def rows_of_units(self) -> str:
        """The rows that belong to an arm, and to a unit where rows are its events."""
        named = f" AND {quoted(self.unit or '')} IS NOT NULL" if self.rows == "events" else ""
        return f"(SELECT * FROM {self.source} WHERE {quoted(self.arm)} IS NOT NULL{named})"

    @property
    def table(self) -> str:
        """One row per unit, as it may stand after FROM."""
        if self.rows == "units":
            return self.rows_of_units
        unit, arm = quoted(self.unit or ""), quoted(self.arm)
        parts = [f"min({key}) AS {key}" for key in self.keys]
        for each in self.want:
            parts += [f"{self._total(each, c)} AS {quoted(self.alias(each, c))}" for c in each.columns]
            if each.closed:
                parts.append(f"bool_and({quoted(each.closed)}::BOOLEAN) AS {quoted(each.closed)}")
        whole = ", ".join(dict.fromkeys(parts))
        return (f"(SELECT {whole} FROM {self.rows_of_units} GROUP BY {unit} "
                f"HAVING min({arm}) = max({arm}))")  # fmt: skip

    def alias(self, want: Wanted, column: str) -> str:
        """Return the name of a unit's value of a column."""
        if self.rows == "units":
            return column
        return f"{column}:{'first' if column in want.metric.covariate else want.totals}"

    def _total(self, want: Wanted, column: str) -> str:
        value = f"{quoted(column)}::DOUBLE"
        if column in want.metric.covariate:
            return f"min({value})"
        return f"max(({value} <> 0)::DOUBLE)" if want.totals == "ever" else f"sum({value})"

    def check_kinds(self) -> None:
        for each in self.want:
            for column in each.columns:
                kind = self.kinds[column]
                if kind.split("(")[0] in ("VARCHAR", "BLOB", "DATE", "TIMESTAMP", "UUID", "STRUCT", "MAP"):
                    raise InputError(f"column {column!r} of metric {each.metric.name!r} has type {kind}; "
                                     "it needs numbers or truth values")  # fmt: skip

    def value(self, want: Wanted, at: int) -> str:
        """Return the expression of a metric's column as a finite number or NULL, held between its limits."""
        column = want.columns[at]
        text = f"{quoted(self.alias(want, column))}::DOUBLE"
        if self.rows == "events" or self.kinds[column] in _FLOATS:
            text = f"(CASE WHEN isfinite({text}) THEN {text} END)"
        if want.metric.missing is Missing.ZERO:
            text = f"coalesce({text}, 0.0)"
        if at == 0 and want.metric.winsor is not None:
            low, high = want.metric.winsor
            below = "" if low is None else f"WHEN {text} < {_number(low)} THEN {_number(low)}"
            above = "" if high is None else f"WHEN {text} > {_number(high)} THEN {_number(high)}"
            text = f"(CASE {below} {above} ELSE {text} END)"
        return text

    def whole(self, want: Wanted) -> bool:
        """Say whether a metric is one column of small whole numbers: their sums are exact, and need no origin."""
        plain = self.rows == "units" and len(want.columns) == 1 and want.metric.missing is not Missing.ZERO
        return plain and want.metric.winsor is None and self.kinds[want.columns[0]] in _WHOLE

    def counted(self, want: Wanted) -> str:
        """Return the condition under which a unit counts for a metric; "" where a single value's NULL says it."""
        parts = [f"{self.value(want, at)} IS NOT NULL" for at in range(len(want.columns))]
        closed = [f"coalesce({quoted(want.closed)}::BOOLEAN, false)"] if want.closed else []
        return " AND ".join([*closed, *parts]) if len(parts) > 1 or closed else ""


def _run(
    connection: duckdb.DuckDBPyConnection,
    scan: _Scan,
    origins: Mapping[tuple[str, int], float],
    centred: Callable[[str, int, Sequence[str]], str],
) -> tuple[dict[Keys, int], dict[str, dict[Keys, Tally]], bool]:
    """Scan once; return units, tallies, and whether an origin was too far from a mean."""
    k = len(scan.keys)
    names = [[f"m{number}_{at}" for at in range(len(want.columns))] for number, want in enumerate(scan.want)]
    inner = [f"{key} AS k{at}" for at, key in enumerate(scan.keys)]
    outer = [*(f"k{at}" for at in range(k)), "count(*)"]
    for number, want in enumerate(scan.want):
        inner += _values(scan, want, names[number], origins)
        if want.closed:
            inner.append(f"NOT coalesce({quoted(want.closed)}::BOOLEAN, false) AS p{number}")
        outer += [f"count({names[number][0]})", f"count_if(p{number})" if want.closed else "0"]
        outer += [f"any_value(c{name})" for name in names[number]] if centred is _from_means else []
        outer += [f"sum({name})" for name in names[number]]
        outer += [f"sum({a} * {b})" for i, a in enumerate(names[number]) for b in names[number][i:]]
        outer += [f"{end}({names[number][0]}, {KEPT})" for end in ("min", "max")] if want.tailed else []
    source = centred(f"(SELECT {', '.join(inner)} FROM {scan.table})", k, [n for of in names for n in of])
    # GROUP BY the keys by name: GROUP BY ALL would also take a constant 0 as a key
    sql = f"SELECT {', '.join(outer)} FROM {source} GROUP BY {', '.join(outer[:k])}"
    units: dict[Keys, int] = {}
    tallies: dict[str, dict[Keys, Tally]] = {want.metric.name: {} for want in scan.want}
    far = False
    for row in connection.sql(sql).fetchall():
        key, count = _key(row[:k], bool(scan.day)), row[k]
        rest: Sequence[Any] = row[k + 1 :]
        units[key] = units.get(key, 0) + count
        for want in scan.want:
            size = len(want.columns)
            start = [origins[want.metric.name, at] for at in range(size)]
            n, pending, rest = rest[0], rest[1], rest[2:]
            if centred is _from_means:
                start = [o + (c or 0.0) for o, c in zip(start, rest[:size], strict=True)]
                rest = rest[size:]
            stats, lost = _stats(want, n, start, rest)
            rest = rest[size + size * (size + 1) // 2 :]
            tails = Tails()
            if want.tailed:
                tails, rest = _tails(start[0], rest[:2]), rest[2:]
            tally, known = Tally(stats, count - n - pending, pending, tails), tallies[want.metric.name].get(key)
            tallies[want.metric.name][key] = tally if known is None else known.merge(tally)  # 1 and "1" are one name
            far = far or lost
    return units, tallies, far


def _values(scan: _Scan, want: Wanted, names: Sequence[str], origins: Mapping[tuple[str, int], float]) -> Iterator[str]:
    condition = scan.counted(want)
    for at, name in enumerate(names):
        shifted = f"{scan.value(want, at)} - {_number(origins[want.metric.name, at])}"
        if scan.whole(want):
            shifted = f"{quoted(want.columns[at])}::BIGINT"
        yield f"CASE WHEN {condition} THEN {shifted} END AS {name}" if condition else f"{shifted} AS {name}"


def _from_origin(rows: str, keys: int, names: Sequence[str]) -> str:
    """Take deviations as they are."""
    return rows


def _from_means(rows: str, keys: int, names: Sequence[str]) -> str:
    """Take deviations from each group's mean, which a scan before this one finds."""
    groups = ", ".join(f"k{at}" for at in range(keys))
    means = ", ".join(f"avg({name}) AS c{name}" for name in names)
    same = " AND ".join(f"r.k{at} IS NOT DISTINCT FROM g.k{at}" for at in range(keys))
    moved = ", ".join(f"{name} - c{name} AS {name}, c{name}" for name in names)
    shown = ", ".join(f"r.k{at}" for at in range(keys))
    rest = f"r.* EXCLUDE ({groups}, {', '.join(names)})"
    return (f"(SELECT {shown}, {moved}, {rest} FROM {rows} AS r "
            f"JOIN (SELECT {groups}, {means} FROM {rows} GROUP BY {groups}) AS g ON {same})")  # fmt: skip


def _stats(want: Wanted, n: int, start: Sequence[float], cells: Sequence[Any]) -> tuple[Stats, bool]:
    """Return a metric's statistics of one group from its sums, and whether digits were lost."""
    k, names = len(start), want.metric.columns
    if n == 0:
        return Stats(0, names, (0.0,) * k, ((0.0,) * k,) * k), False
    if isinstance(cells[0], int):  # sums of whole numbers, of any length
        total, squares = cells[0], cells[1]
        return Stats(n, names, (total / n,), (((n * squares - total * total) / n,),)), False
    deltas, pairs = [s / n for s in cells[:k]], iter(cells[k:])
    products = [[0.0] * k for _ in range(k)]
    for i in range(k):
        for j in range(i, k):
            product = next(pairs) - deltas[i] * deltas[j] * n
            products[i][j] = products[j][i] = max(product, 0.0) if i == j else product
    means = tuple(o + d for o, d in zip(start, deltas, strict=True))
    if not all(map(math.isfinite, (*means, *(p for row in products for p in row)))):
        raise InputError(f"metric {want.metric.name!r} has values too large to square; divide the column first")
    lost = n > 1 and any(_far(deltas[i], products[i][i], n) for i in range(k))
    return Stats(n, names, means, tuple(map(tuple, products))), lost


def _far(delta: float, spread: float, n: int) -> bool:
    """Say whether an origin was so far from the mean that digits of the sum of squares were lost."""
    return delta * delta * n > _FAR * spread if spread > 0.0 else abs(delta) > 1.0


def _tails(start: float, ends: Sequence[Sequence[float] | None]) -> Tails:
    lowest, highest = (tuple(start + value for value in end or ()) for end in ends)
    return Tails(lowest, highest)


def _origins(connection: duckdb.DuckDBPyConnection, scan: _Scan) -> dict[tuple[str, int], float]:
    """Return a typical value of every column, one that occurs: a constant column then has deviations of exactly 0."""
    columns = list(dict.fromkeys(column for want in scan.want for column in want.columns))
    asked = ", ".join(f"{quoted(c)}::DOUBLE" for c in columns)
    rows = connection.sql(f"SELECT {asked} FROM {scan.source} LIMIT {_SAMPLE}").fetchnumpy()
    sampled = dict(zip(columns, rows.values(), strict=True))
    found = {}
    for want in scan.want:
        for at, column in enumerate(want.columns):
            values = np.ma.filled(np.ma.asarray(sampled[column], dtype=np.float64), np.nan)
            if at == 0 and want.metric.winsor is not None:
                values = np.clip(values, *want.metric.winsor)
            values = np.sort(values[np.isfinite(values)])
            origin = float(values[len(values) // 2]) if len(values) and not scan.whole(want) else 0.0
            found[want.metric.name, at] = origin
    return found


def _kinds(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()}


def _with_values(connection: duckdb.DuckDBPyConnection, scan: _Scan, name: str, data: ArmData) -> ArmData:
    """Add all values of the quantile metrics, and the unit of each where units have several."""
    values, clusters = {}, {}
    events = scan.rows == "events"
    unit, arm = quoted(scan.unit or ""), quoted(scan.arm)
    alone = (f"AND {unit} NOT IN (SELECT {unit} FROM {scan.rows_of_units} GROUP BY {unit} "
             f"HAVING min({arm}) <> max({arm}))") if events else ""  # fmt: skip
    for want in scan.want:
        if want.metric.kind is not Kind.QUANTILE:
            continue
        value = f"{quoted(want.metric.of)}::DOUBLE"
        closed = f"AND coalesce({quoted(want.closed)}::BOOLEAN, false)" if want.closed else ""
        sql = (f"SELECT {value} AS value{f', {unit} AS unit' if events else ''} FROM {scan.rows_of_units} "
               f"WHERE {arm}::VARCHAR = $1 AND isfinite({value}) {closed} {alone}")  # fmt: skip
        found = connection.execute(sql, [name]).fetchnumpy()
        values[want.metric.name] = np.asarray(found["value"], dtype=np.float64)
        if events:
            clusters[want.metric.name] = np.unique(np.asarray(found["unit"]), return_inverse=True)[1].astype(np.int64)
    return replace(data, values=values, clusters=clusters)


def _key(cells: Sequence[Any], has_day: bool) -> Keys:
    parts = list(cells)
    day = day_index(parts.pop()) if has_day else None
    return label(parts[0]), " / ".join(label(part) for part in parts[1:]), day


def _listed(places: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [places] if isinstance(places, str | Path) else list(places)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _number(value: float) -> str:
    return f"'{value!r}'::DOUBLE"
