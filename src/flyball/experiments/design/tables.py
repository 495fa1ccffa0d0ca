"""From a table in memory to each arm's statistics: Arrow, pandas, polars, or a mapping of arrays, chunk by chunk.

The surprise: a missing value and NaN are the same here, and infinity is neither counted nor clipped: all three are
"no finite value", which the metric's `missing` decides about. Files are scanned by DuckDB instead, to the same result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.errors import InputError
from flyball.experiments.design.metric import Kind, Missing
from flyball.experiments.design.types import ArmData, Experiment
from flyball.experiments.design.wanted import Keys, Layout, Tally, Wanted, assemble, day_index, label, wanted
from flyball.experiments.stats import Stats
from flyball.experiments.tails import KEPT, Tails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flyball.experiments.design.result import Result

    Floats = NDArray[np.float64]

__all__ = ["analyze_table", "arms_of_table", "to_arrow"]

CHUNK = 1 << 18  # rows whose deviations are held at once


def arms_of_table(
    table: object,
    experiment: Experiment,
    *,
    arm: str = "arm",
    unit: str | None = None,
    rows: Literal["units", "events"] = "units",
    day: str | None = None,
    closed: Mapping[str, str] | None = None,
) -> dict[str, ArmData]:
    """Return each arm's statistics of a table.

    Args:
        table: Arrow, pandas or polars table, or columns by name.
        experiment: Which arms, metrics and strata.
        arm: Column of the arm; rows without one are no part of the experiment.
        unit: Column of the unit; the experiment's unit by default, where the table has such a column.
        rows: "units" where each row is a unit; "events" where a unit has several, whose values are totalled first.
        day: Column of a whole number or a date, for effects by day.
        closed: Column that says whether a unit's window has closed, by metric.

    Raises:
        UnknownName: a column or arm does not exist.
        InputError: units are there twice, or lack a value that the metric does not do without.

    Example:
        >>> from flyball.experiments import Metric
        >>> e = Experiment("checkout", arms={"old": 0.5, "new": 0.5}, metrics=[Metric("spend")])
        >>> arms = arms_of_table({"arm": ["old", "new", "new"], "spend": [1.0, 2.0, 4.0]}, e)
        >>> arms["new"].units, arms["new"].metrics["spend"].mean("spend")
        (2, 3.0)
    """
    whole = to_arrow(table)
    if unit is None and experiment.unit in whole.column_names:
        unit = experiment.unit
    needed = [c for c in (arm, unit, day) if c]
    if rows == "events" and unit is None:
        raise InputError(f"the table has no column {experiment.unit!r}; say unit=, as its rows are events of units")
    want = wanted(experiment, whole.column_names, needed=needed, closed=closed or {})
    whole = whole.filter(pc.is_valid(whole[arm]))
    crossed: dict[str, int] = {}
    raw = whole
    if rows == "events":
        assert unit is not None
        whole = whole.filter(pc.is_valid(whole[unit]))
        whole, raw, crossed = _per_unit(whole, experiment, want, arm, unit, day)
        want = [
            replace(w, columns=tuple(_alias(w, c) for c in w.columns), closed=w.closed and f"{w.closed}:all")
            for w in want
        ]
    elif unit is not None and pc.count_distinct(whole[unit]).as_py() < whole.num_rows:
        raise InputError(
            f"column {unit!r} has {pc.count_distinct(whole[unit]).as_py():,} units in {whole.num_rows:,} rows; "
            'say rows="events" to total the rows of each unit first'
        )
    units, tallies = _scan(whole, experiment, want, arm, day)
    arms = assemble(experiment, units, tallies, calendar=day is not None and pa.types.is_temporal(whole[day].type))
    quantiles = [w for w in wanted(experiment, raw.column_names, needed=(), closed=closed or {})
                 if w.metric.kind is Kind.QUANTILE]  # fmt: skip
    if quantiles:
        arms = {name: _with_values(data, raw, quantiles, name, arm, unit if rows == "events" else None)
                for name, data in arms.items()}  # fmt: skip
    return {name: replace(data, crossed=crossed.get(name, 0)) for name, data in arms.items()}


def analyze_table(
    table: object,
    experiment: Experiment,
    *,
    ended: bool = False,
    **layout: Unpack[Layout],
) -> Result:
    """Judge an experiment by a table in memory; `layout` is told at `arms_of_table`, the rest at `analyze`.

    Example:
        >>> import numpy as np
        >>> from flyball.experiments import Metric, plan
        >>> rng = np.random.default_rng(7)
        >>> new = rng.random(4000) < 0.5
        >>> paid = rng.random(4000) < np.where(new, 0.16, 0.10)
        >>> e = Experiment("checkout", arms={"false": 0.5, "true": 0.5}, planned_units=4000, plan=plan.fixed(),
        ...                metrics=[Metric("paid", kind="proportion")])
        >>> str(analyze_table({"arm": new, "paid": paid}, e).outcome)
        'ship'
    """
    from flyball.experiments.design.analysis import analyze

    arms = arms_of_table(table, experiment, **layout)
    return analyze(experiment, arms, ended=ended)


def to_arrow(table: object) -> pa.Table:
    """Return a table in Arrow's columns; raises InputError where it is none."""
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if isinstance(table, Mapping):
        return pa.table({name: _column(values) for name, values in table.items()})
    if type(table).__module__.startswith("polars") and hasattr(table, "to_arrow"):
        return pa.table(table.to_arrow())  # in types that every kernel of Arrow knows
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    if type(table).__module__.startswith("pandas"):
        return pa.Table.from_pandas(table, preserve_index=False)
    raise InputError(f"{type(table).__name__} is no table; give Arrow, pandas, polars, or columns by name")


def _column(values: Any) -> Any:
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)


def _scan(
    table: pa.Table, experiment: Experiment, want: Sequence[Wanted], arm: str, day: str | None
) -> tuple[dict[Keys, int], dict[str, dict[Keys, Tally]]]:
    keys, codes = _groups(table, experiment, arm, day)
    units = {key: int(n) for key, n in zip(keys, np.bincount(codes, minlength=len(keys)), strict=True) if n}
    tallies: dict[str, dict[Keys, Tally]] = {}
    for each in want:
        found: dict[Keys, list[Tally]] = defaultdict(list)
        for start in range(0, table.num_rows, CHUNK):
            part, group = table.slice(start, CHUNK), codes[start : start + CHUNK]
            for at, tally in _of_chunk(part, group, each):
                found[keys[at]].append(tally)
        tallies[each.metric.name] = {key: reduce(Tally.merge, parts) for key, parts in found.items()}
    return units, tallies


def _groups(table: pa.Table, experiment: Experiment, arm: str, day: str | None) -> tuple[list[Keys], NDArray[np.int64]]:
    """Return the groups and the number of each row's group."""
    names = [arm, *experiment.strata, *([day] if day else [])]
    codes = np.zeros(table.num_rows, np.int64)
    labels: list[list[object]] = []
    for name in names:
        encoded = _encoded(table[name])
        labels.append(encoded.dictionary.to_pylist())
        codes = codes * max(len(labels[-1]), 1) + encoded.indices.to_numpy(zero_copy_only=False)
    present, inverse = np.unique(codes, return_inverse=True)
    keys = [_key(int(code), labels, bool(day)) for code in present]
    return keys, inverse.astype(np.int64)


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return a column as codes and one dictionary; a missing cell is a label too."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    return encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded


def _key(code: int, labels: Sequence[Sequence[object]], has_day: bool) -> Keys:
    cells: list[object] = []
    for values in reversed(labels):
        code, at = divmod(code, max(len(values), 1))
        cells.append(values[at])
    cells.reverse()
    day = day_index(cells.pop()) if has_day else None
    return label(cells[0]), " / ".join(label(c) for c in cells[1:]), day


def _of_chunk(part: pa.Table, group: NDArray[np.int64], want: Wanted) -> Iterator[tuple[int, Tally]]:
    values = [_floats(part[column]) for column in want.columns]
    if want.metric.missing is Missing.ZERO:
        values = [np.where(np.isfinite(v), v, 0.0) for v in values]
    if want.metric.winsor is not None:
        low, high = want.metric.winsor
        values[0] = np.where(np.isfinite(values[0]), np.clip(values[0], low, high), values[0])
    open_ = ~_truth(part[want.closed]) if want.closed else np.zeros(part.num_rows, bool)
    whole = np.logical_and.reduce([np.isfinite(v) for v in values])
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0]) if len(group) else np.zeros(0, np.int64)
    for rows in np.split(order, starts[1:]) if len(group) else []:
        used = rows[whole[rows] & ~open_[rows]]
        stats = Stats.of({n: v[used] for n, v in zip(want.metric.columns, values, strict=True)})
        pending = int(open_[rows].sum())
        tails = _tails(values[0][used]) if want.tailed else Tails()
        yield int(group[rows[0]]), Tally(stats, len(rows) - pending - len(used), pending, tails)


def _tails(values: Floats) -> Tails:
    """Return the ends of a chunk, without a loop over all of it."""
    if len(values) > 2 * KEPT:
        parts = np.partition(values, (KEPT - 1, len(values) - KEPT))
        values = np.concatenate([parts[:KEPT], parts[-KEPT:]])
    return Tails.of(values.tolist())


def _floats(column: pa.ChunkedArray) -> Floats:
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"a metric's column has type {column.type}; it needs numbers or truth values") from error


def _truth(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column.cast(pa.bool_()), False).to_numpy(), dtype=bool)


def _alias(want: Wanted, column: str) -> str:
    return f"{column}:{'first' if column in want.metric.covariate else want.totals}"


def _per_unit(
    table: pa.Table, experiment: Experiment, want: Sequence[Wanted], arm: str, unit: str, day: str | None
) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    """Return one row per unit, the rows of uncrossed units, and the units seen in several arms by arm."""
    pairs = table.select([unit, arm]).group_by([unit, arm]).aggregate([])
    seen = pairs.group_by(unit).aggregate([(arm, "count")])
    twice = seen.filter(pc.greater(seen[f"{arm}_count"], 1))[unit]
    both = pairs.filter(pc.is_in(pairs[unit], twice))[arm]
    crossed = {label(cell["values"]): cell["counts"] for cell in pc.value_counts(both).to_pylist()}
    rows = table.filter(pc.invert(pc.is_in(table[unit], twice)))
    columns = {unit: rows[unit], arm: rows[arm]}
    how = [(arm, "min")]
    for name in (*experiment.strata, *([day] if day else [])):
        columns[name] = rows[name]
        how.append((name, "min"))
    for each in want:
        for column in each.columns:
            alias = _alias(each, column)
            columns[alias] = rows[column].cast(pa.float64())
            if alias.endswith(":ever"):
                columns[alias] = pc.cast(pc.not_equal(columns[alias], 0.0), pa.float64())
            how.append((alias, {"ever": "max", "total": "sum", "first": "min"}[alias.rsplit(":", 1)[1]]))
        if each.closed:
            columns[f"{each.closed}:all"] = rows[each.closed]
            how.append((f"{each.closed}:all", "min"))
    done = pa.table(columns).group_by(unit).aggregate(list(dict.fromkeys(how)))
    return done.rename_columns([_plain(n, how) for n in done.column_names]), rows, crossed


def _plain(name: str, how: Sequence[tuple[str, str]]) -> str:
    return next((column for column, way in how if name == f"{column}_{way}"), name)


def _with_values(
    data: ArmData, raw: pa.Table, quantiles: Sequence[Wanted], name: str, arm: str, unit: str | None
) -> ArmData:
    """Add all values of the quantile metrics, and the unit of each where units have several."""
    mine = raw.filter(pc.equal(raw[arm], pa.scalar(_cell(raw[arm], name), raw[arm].type)))
    values, clusters = {}, {}
    for want in quantiles:
        found = _floats(mine[want.metric.of])
        whole = np.isfinite(found) & (_truth(mine[want.closed]) if want.closed else True)
        values[want.metric.name] = found[whole]
        if unit is not None:
            codes = np.unique(mine[unit].to_numpy(), return_inverse=True)[1]
            clusters[want.metric.name] = codes.astype(np.int64)[whole]
    return replace(data, values=values, clusters=clusters)


def _cell(column: pa.ChunkedArray, name: str) -> object:
    """Return the cell that stands for an arm's name."""
    return next((v for v in pc.unique(column).to_pylist() if v is not None and label(v) == name), None)
