"""What the log says about an experiment: who was exposed to which arm first, and what became of them since.

One row per unit: arm, first exposure, a number per metric from the rows in its attribution window, and whether that
window has closed. The surprise: a request that was answered by a fallback, a tester's header or a segment exposed
nobody. Chance did not choose there, or the unit never saw what chance chose; such rows are counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flyball.adapters.duckdb_sql import quoted
from flyball.errors import DefinitionError, UnknownName
from flyball.experiments.design.metric import Kind, Metric, Missing
from flyball.experiments.design.types import ArmData, Experiment
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.experiments.lifecycle import ExperimentStatus
    from flyball.project.log import Kind as RecordKind
    from flyball.project.root import Project

__all__ = ["Gathered", "check_columns", "gather"]

OF_PREDICTIONS = ("outcome", "prediction", "latency", "error")
_BEFORE = timedelta(days=14)  # that a covariate looks back where its metric has no window
_DAY = 86_400_000_000
_EXPOSED = pa.schema([("unit", pa.string()), ("arm", pa.string()), ("began", pa.int64())])
_DRAWN = pa.schema([
    ("id", pa.string()), ("unit", pa.string()), ("arm", pa.string()), ("began", pa.int64()), ("value", pa.float64()),
    ("total", pa.int64()), ("failed", pa.bool_()), ("fallback", pa.bool_()),
])  # fmt: skip
_OUTCOMES = pa.schema([("id", pa.string()), ("value", pa.float64()), ("revision", pa.int64())])


@dataclass(frozen=True, slots=True)
class Gathered:
    """Each arm's data, and what was left out of it, in records by why."""

    arms: dict[str, ArmData]
    left_out: dict[str, int]

    @property
    def exposed(self) -> dict[str, int]:
        """Distinct units by arm."""
        return {arm: data.units for arm, data in self.arms.items()}


def check_columns(project: Project, experiment: Experiment) -> None:
    """Raise unless every column that the metrics read can be read of the log or of a source.

    Raises:
        DefinitionError: the experiment has strata, which the log does not know, or its units are no key of a source.
        UnknownName: there is no such source or column.
    """
    if experiment.strata:
        raise DefinitionError(
            f"experiment {experiment.name!r} has strata {list(experiment.strata)}, which the log does not know; leave "
            "them out, or analyse a table that has them: flyball exp analyze FILE"
        )
    for metric in experiment.metrics:
        for column in metric.columns:
            if "." in column:
                _event_columns(project, experiment, column)
            elif not experiment.model or column not in OF_PREDICTIONS:
                known = [*(OF_PREDICTIONS if experiment.model else ()), *(f"{s}.*" for s in project.applied.sources)]
                raise UnknownName.of(f"column of metric {metric.name!r}", column, known)
            elif column in metric.covariate:
                raise DefinitionError(
                    f"metric {metric.name!r} has covariate {column!r}, which is known after exposure only; "
                    "name a source's column, SOURCE.COLUMN, whose rows before the exposure are taken"
                )


def gather(project: Project, experiment: Experiment, status: ExperimentStatus, now: datetime) -> Gathered:
    """Read the log once and return each arm's data as of `now`."""
    from flyball.adapters.duckdb_stats import arms_of_query

    left_out: dict[str, int] = {}
    with duckdb.connect(config={"threads": 2}) as db:
        if experiment.model:
            drawn = _drawn(project, experiment, status, left_out)
            db.register("drawn", drawn)
            db.register("outcomes", _outcomes(project, experiment, status))
            db.execute("CREATE VIEW exposed AS SELECT unit, arm, began FROM drawn WHERE NOT fallback")
        else:
            db.register("exposed", _exposures(project, experiment, status, left_out))
        _first(db)
        for column in _columns_of_events(experiment):
            db.register(f"events {column}", _events(project, experiment, column, status))
        counted = _counted(experiment)
        arms = arms_of_query(
            db, _units(project, experiment, now), counted, unit="unit", day="day",
            closed={metric.name: f"{metric.name}:closed" for metric in experiment.metrics},
        )  # fmt: skip
        crossed = dict(db.sql("SELECT arm, count(DISTINCT unit) FROM exposed SEMI JOIN twice USING (unit) "
                              "GROUP BY arm").fetchall())  # fmt: skip
        arms = {
            arm: _with_values(db, project, experiment, arm, replace(data, crossed=crossed.get(arm, 0)), now)
            for arm, data in arms.items()
        }
    named = {arm: _renamed(experiment, data) for arm, data in arms.items()}
    return Gathered(named, left_out)


# -- who was exposed --------------------------------------------------------------------------------------------------


def _drawn(project: Project, experiment: Experiment, status: ExperimentStatus, left_out: dict[str, int]) -> pa.Table:
    """Return the predictions for which chance chose an arm of the experiment."""
    arms = {served: arm for arm, served in status.served.items()}
    first, last = status.tables
    found = [_DRAWN.empty_table()]
    for part in _parts(project, "predictions", experiment.model, status):
        table = part["table"]
        ours = pc.greater_equal(table, first)
        if last:
            ours = pc.and_(ours, pc.less(table, last))
        rows = part.filter(ours)
        why, arm = rows["why"].cast(pa.string()), rows["arm"].cast(pa.string())
        chance = pc.and_(pc.is_in(why, pa.array(["variant", "control"])), pc.is_in(arm, pa.array(list(arms))))
        _count(left_out, why.filter(pc.invert(chance)).to_pylist())
        rows = rows.filter(chance)
        _count(left_out, ["fallback"] * (pc.sum(rows["fallback"]).as_py() or 0))
        names = pa.array([arms[a] for a in rows["arm"].cast(pa.string()).to_pylist()], pa.string())
        found.append(pa.table({
            "id": rows["id"], "unit": rows["unit"], "arm": names, "began": rows["at"].cast(pa.int64()),
            "value": rows["value"], "total": rows["total"], "failed": pc.is_valid(rows["error"]),
            "fallback": rows["fallback"],
        }).cast(_DRAWN))  # fmt: skip
    return pa.concat_tables(found)


def _exposures(
    project: Project, experiment: Experiment, status: ExperimentStatus, left_out: dict[str, int]
) -> pa.Table:
    arms = {served: arm for arm, served in status.served.items()} | {arm: arm for arm in experiment.shares}
    found = [_EXPOSED.empty_table()]
    for part in _parts(project, "exposures", None, status):
        rows = part.filter(pc.equal(part["experiment"].cast(pa.string()), experiment.name))
        known = pc.is_in(rows["arm"].cast(pa.string()), pa.array(list(arms)))
        _count(left_out, ["unknown arm"] * (len(rows) - (pc.sum(known).as_py() or 0)))
        rows = rows.filter(known)
        names = pa.array([arms[a] for a in rows["arm"].cast(pa.string()).to_pylist()], pa.string())
        found.append(
            pa.table({"unit": rows["unit"], "arm": names, "began": rows["at"].cast(pa.int64())}).cast(_EXPOSED)
        )
    return pa.concat_tables(found)


def _outcomes(project: Project, experiment: Experiment, status: ExperimentStatus) -> pa.Table:
    if not any("outcome" in metric.columns for metric in experiment.metrics):
        return _OUTCOMES.empty_table()
    parts = _parts(project, "outcomes", None, status)
    return pa.concat_tables([_OUTCOMES.empty_table(), *(p.select(_OUTCOMES.names).cast(_OUTCOMES) for p in parts)])


def _parts(project: Project, kind: RecordKind, model: str | None, status: ExperimentStatus) -> Iterator[pa.Table]:
    for part in project.log.parts(kind, model, status.created):
        yield part if model is None else part.filter(pc.equal(part["model"].cast(pa.string()), model))


def _first(db: duckdb.DuckDBPyConnection) -> None:
    """Make `first`, one row per unit that saw one arm only, and `twice`, the units that saw several."""
    db.execute("CREATE TEMP TABLE seen AS SELECT unit, min(arm) AS arm, max(arm) AS other, min(began) AS began "
               "FROM exposed GROUP BY unit")  # fmt: skip
    db.execute("CREATE VIEW first AS SELECT unit, arm, began FROM seen WHERE arm = other")
    db.execute("CREATE VIEW twice AS SELECT unit FROM seen WHERE arm <> other")


def _count(left_out: dict[str, int], whys: Sequence[str]) -> None:
    for why in whys:
        left_out[why] = left_out.get(why, 0) + 1


# -- what became of them ----------------------------------------------------------------------------------------------


def _units(project: Project, experiment: Experiment, now: datetime) -> str:
    """Return the query of one row per unit."""
    columns = ["f.unit AS unit", "f.arm AS arm", f"(f.began // {_DAY}) AS day"]
    joins = []
    for number, metric in enumerate(experiment.metrics):
        columns.append(f"{_closed(project, experiment, metric, now)} AS {quoted(f'{metric.name}:closed')}")
        for at, column in enumerate(metric.columns):
            name = f"m{number}_{at}"
            value = f"{name}.v" if metric.missing is Missing.DROP else f"coalesce({name}.v, 0.0)"
            columns.append(f"{value} AS {quoted(_unique(metric, column))}")
            window = _window(metric, column)
            joins.append(f"LEFT JOIN (SELECT f.unit AS unit, {_total(metric)} AS v FROM first f "
                         f"JOIN {_rows(column)} r ON r.unit = f.unit WHERE {window} GROUP BY f.unit) {name} "
                         f"ON {name}.unit = f.unit")  # fmt: skip
    return f"(SELECT {', '.join(columns)} FROM first f {' '.join(joins)})"


def _total(metric: Metric) -> str:
    match metric.kind:
        case Kind.PROPORTION:
            return "max((r.v <> 0)::DOUBLE)"
        case Kind.COUNT:
            return "count_if(r.v <> 0)::DOUBLE"
        case _:
            return "sum(r.v)"


def _window(metric: Metric, column: str) -> str:
    """Return the condition under which a row counts: in the window after exposure, or of a covariate before it."""
    if column in metric.covariate:
        span = to_span((metric.window or metric.starts + _BEFORE) - metric.starts)
        return f"r.t >= f.began - {span} AND r.t < f.at"
    begun = f"r.t >= f.began + {to_span(metric.starts)}"
    return begun if metric.window is None else f"{begun} AND r.t < f.began + {to_span(metric.window)}"


def _closed(project: Project, experiment: Experiment, metric: Metric, now: datetime) -> str:
    """Return whether nothing that comes now can count for a unit any more."""
    if metric.window is None:
        return "true"
    late = timedelta(0)
    if experiment.model and "outcome" in metric.columns and experiment.model in project.applied.models:
        late = project.applied.models[experiment.model].label.matures
    return f"(f.began + {to_span(metric.window + late)} <= {to_micros(now)})"


def _rows(column: str) -> str:
    """Return the relation (unit, t, v) of a column."""
    if "." in column:
        return quoted(f"events {column}")
    match column:
        case "outcome":
            newest = "SELECT id, arg_max(value, revision) AS value FROM outcomes GROUP BY id"
            return (f"(SELECT d.unit AS unit, d.began AS t, o.value AS v FROM drawn d JOIN ({newest}) o ON o.id = d.id "
                    "WHERE NOT d.fallback)")  # fmt: skip
        case "prediction":
            return "(SELECT unit, began AS t, value AS v FROM drawn WHERE NOT fallback)"
        case "latency":
            return "(SELECT unit, began AS t, total / 1e6 AS v FROM drawn)"
        case _:
            return "(SELECT unit, began AS t, failed::DOUBLE AS v FROM drawn)"


def to_span(span: timedelta) -> int:
    """Return µs."""
    return span // timedelta(microseconds=1)


def _with_values(
    db: duckdb.DuckDBPyConnection, project: Project, experiment: Experiment, arm: str, data: ArmData, now: datetime
) -> ArmData:
    """Give quantile metrics all their values, and the unit of each."""
    values: dict[str, np.ndarray] = {}
    clusters: dict[str, np.ndarray] = {}
    for metric in experiment.metrics:
        if metric.kind is not Kind.QUANTILE:
            continue
        where = f"{_window(metric, metric.of)} AND {_closed(project, experiment, metric, now)} AND f.arm = ?"
        query = (f"SELECT f.unit AS unit, r.v AS v FROM first f JOIN {_rows(metric.of)} r ON r.unit = f.unit "
                 f"WHERE {where} AND isfinite(r.v) ORDER BY f.unit, r.t, r.v")  # fmt: skip
        found: pa.Table = db.execute(query, [arm]).to_arrow_table()
        values[metric.name] = found["v"].to_numpy()
        codes = found["unit"].combine_chunks().dictionary_encode().indices
        clusters[metric.name] = codes.to_numpy(zero_copy_only=False).astype(np.int64)
    return replace(data, values=values, clusters=clusters) if values else data


# -- columns by metric: two metrics may read one column in two windows ------------------------------------------------


def _unique(metric: Metric, column: str) -> str:
    return f"{metric.name}:{column}"


def _counted(experiment: Experiment) -> Experiment:
    """Return the experiment with metrics that read columns of their own."""
    metrics = [
        replace(m, of=_unique(m, m.of), over=m.over and _unique(m, m.over),
                covariate=tuple(_unique(m, c) for c in m.covariate))
        for m in experiment.metrics
    ]  # fmt: skip
    return replace(experiment, metrics=tuple(metrics))


def _renamed(experiment: Experiment, data: ArmData) -> ArmData:
    def plain(found: Mapping[str, Any]) -> dict[str, Any]:
        return {name: replace(stats, names=experiment.metric(name).columns) for name, stats in found.items()}

    days = {day: plain(found) for day, found in data.days.items()}
    return replace(data, metrics=plain(data.metrics), days=days)


# -- events of sources ------------------------------------------------------------------------------------------------


def _columns_of_events(experiment: Experiment) -> list[str]:
    return sorted({column for metric in experiment.metrics for column in metric.columns if "." in column})


def _event_columns(project: Project, experiment: Experiment, name: str) -> tuple[str, str, str | None]:
    """Return (source, the column of its units, the column of values or None for its rows themselves)."""
    source, _, column = name.partition(".")
    definitions = project.applied
    types = project.engine.types(definitions.source(source))
    keys = [
        key.name
        for view in definitions.view_specs
        if view.source.name == source and view.entity.name == experiment.unit and len(view.entity.keys) == 1
        for key in view.entity.keys
    ]
    key = next((k for k in [*keys, experiment.unit] if k in types), None)
    if key is None:
        raise DefinitionError(
            f"source {source} has no column {experiment.unit!r}, which the units of experiment {experiment.name!r} "
            f"are, and no view of it has an entity of that name with one key; it has {', '.join(sorted(types))}"
        )
    if column != "*" and column not in types:
        raise UnknownName.of(f"column of source {source}", column, [*types, "*"])
    return source, key, None if column == "*" else column


def _events(project: Project, experiment: Experiment, name: str, status: ExperimentStatus) -> pa.Table:
    """Return (unit, t, v) of a source's rows from the longest look back of a covariate on."""
    source, key, column = _event_columns(project, experiment, name)
    back = max((m.window or _BEFORE for m in experiment.metrics if name in m.covariate), default=timedelta(0))
    wanted = [key, *([column] if column else [])]
    rows = project.engine.scan(project.applied.source(source), columns=wanted, start=status.created - back)
    values = pa.array(np.ones(len(rows))) if column is None else rows[column].cast(pa.float64())
    units = _as_logged(project, experiment, rows[key].cast(pa.string()))
    return pa.table({"unit": units, "t": rows["__event"].cast(pa.int64()), "v": values})


def _as_logged(project: Project, experiment: Experiment, units: pa.ChunkedArray) -> pa.Array:
    """Return units as the log names them, where it keeps them hashed or encrypted."""
    from flyball.serving.routing.exposures import is_personal

    plain = units.combine_chunks().dictionary_encode() if isinstance(units, pa.ChunkedArray) else units
    table = project.database.routing.current()
    if experiment.model and experiment.model in table.models:
        kind = table.models[experiment.model].serving.personal.get("unit")
    else:
        kind = "hash" if is_personal(table, experiment.flag) else None
    names = plain.dictionary.to_pylist()
    if kind is not None:
        keys = project.personal_keys()
        names = [None if n is None else keys.encrypted("unit", n) if kind == "encrypt" else keys.hashed(n)
                 for n in names]  # fmt: skip
    return pa.DictionaryArray.from_arrays(plain.indices, pa.array(names, pa.string())).cast(pa.string())
