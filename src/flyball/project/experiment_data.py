"""What the log says about an experiment: who was exposed to which arm first, and what became of them since.

One row per unit: arm, first exposure, a number per metric from the rows in its attribution window, and whether that
window has closed. The surprise: a request that was answered by a fallback, a tester's header or a segment exposed
nobody. Chance did not choose there, or the unit never saw what chance chose; such rows are counted and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from flyball.adapters.duckdb_sql import quoted
from flyball.experiments.design.metric import Kind, Metric, Missing
from flyball.experiments.design.types import ArmData, Experiment
from flyball.project.experiment_events import (
    OF_PREDICTIONS,
    check_columns,
    columns_of_events,
    events,
    input_of,
    look_back,
    strata_of_events,
)
from flyball.project.experiment_log import LogScan
from flyball.units import to_micros

if TYPE_CHECKING:
    from flyball.experiments.lifecycle import ExperimentStatus
    from flyball.project.root import Project

__all__ = ["Gathered", "check_columns", "exposed_units", "gather"]

_DAY = 86_400_000_000
_CHANCE = "why IN ('variant', 'control')"
_PREDICTED = ("id", "unit", "arm", "began", "why", "routed", "value", "total", "failed", "fallback")
_UNKNOWN = "unknown"  # the stratum of units that have none


@dataclass(frozen=True, slots=True)
class Gathered:
    """Each arm's data, and what was left out of it.

    Args:
        arms: By arm.
        left_out: Records by why.
        silent: Units without a row for a metric whose column is `outcome`, by metric; they count as 0 there.
    """

    arms: dict[str, ArmData]
    left_out: dict[str, int]
    silent: dict[str, int] = field(default_factory=dict)

    @property
    def exposed(self) -> dict[str, int]:
        """Distinct units by arm."""
        return {arm: data.units for arm, data in self.arms.items()}


def gather(project: Project, experiment: Experiment, status: ExperimentStatus, now: datetime) -> Gathered:
    """Read the log once and return each arm's data as of `now`.

    Raises:
        Unavailable: the shipped part of the log, or a source, cannot be reached.
    """
    from flyball.adapters.duckdb_stats import arms_of_query

    log = LogScan(project, status.created)
    with duckdb.connect(config={"threads": 2}) as db:
        if experiment.model:
            left_out = _drawn(db, log, experiment, status)
            _calls(db, log, experiment, left_out)
        else:
            left_out = _exposures(db, log, experiment, status)
        _first(db)
        for column in columns_of_events(experiment):
            db.register(f"events {column}", events(project, experiment, column, status))
        for name in experiment.strata:
            if "." in name:
                db.register(f"stratum {name}", strata_of_events(project, experiment, name, status))
        db.execute(f"CREATE TEMP TABLE units AS {_units(project, experiment, now)}")
        arms = arms_of_query(
            db, "units", _counted(experiment), unit="unit", day="day",
            closed={metric.name: f"{metric.name}:closed" for metric in experiment.metrics},
        )  # fmt: skip
        crossed = dict(db.sql("SELECT arm, count(DISTINCT unit) FROM exposed SEMI JOIN twice USING (unit) "
                              "GROUP BY arm").fetchall())  # fmt: skip
        arms = {
            arm: _with_values(
                db, project, experiment, arm, replace(data, crossed=crossed.get(arm, 0), calendar=True), now
            )
            for arm, data in arms.items()
        }
        silent = _silent(db, experiment)
    return Gathered({arm: _renamed(experiment, data) for arm, data in arms.items()}, left_out, silent)


def exposed_units(project: Project, experiment: Experiment, status: ExperimentStatus) -> dict[str, int]:
    """Return distinct units by arm, without what became of them: a fraction of the work of `gather`."""
    log, plain = LogScan(project, status.created), replace(experiment, strata=())
    with duckdb.connect(config={"threads": 2}) as db:
        (_drawn if experiment.model else _exposures)(db, log, plain, status)
        _first(db)
        found = dict(db.sql("SELECT arm, count(*) FROM first GROUP BY arm").fetchall())
    return {arm: found.get(arm, 0) for arm in experiment.shares}


# -- who was exposed --------------------------------------------------------------------------------------------------


def _arms(db: duckdb.DuckDBPyConnection, names: Mapping[str, str]) -> None:
    """Make `arms`, what the log calls each arm."""
    table = pa.table({"served": pa.array(list(names), pa.string()), "name": pa.array(names.values(), pa.string())})
    db.register("arms", table)


def _drawn(
    db: duckdb.DuckDBPyConnection, log: LogScan, experiment: Experiment, status: ExperimentStatus
) -> dict[str, int]:
    """Make `drawn`, the predictions for which chance chose an arm, and `exposed`; return the others by why.

    While a version cannot be asked (it is being loaded, its host is gone) its units get the champion. To leave out only
    them would thin out one arm, so the seconds beside a veto are left out of every arm.
    """
    _arms(db, {served: arm for arm, served in status.served.items()})
    first, last = status.tables
    strata = [name for name in experiment.strata if "." not in name]
    source = log.source(db, "predictions", experiment.model, [*_PREDICTED, *(["inputs"] if strata else [])])
    groups = "".join(f", {input_of(name)} AS {quoted(name)}" for name in strata)
    ours = f"routed >= {int(first)}" + (f" AND routed < {int(last)}" if last else "")
    db.execute(f"CREATE TEMP TABLE ours AS SELECT p.* REPLACE (arms.name AS arm){groups} FROM {source} p "
               f"LEFT JOIN arms ON arms.served = p.arm WHERE {ours}")  # fmt: skip
    db.execute("CREATE TEMP TABLE away AS SELECT DISTINCT began // 1000000 + unnest([-1, 0, 1]) AS second FROM ours "
               "WHERE why LIKE 'variant, %'")  # fmt: skip
    drawn = f"{_CHANCE} AND arm IS NOT NULL"
    beside = "began // 1000000 IN (SELECT second FROM away)"
    db.execute(f"CREATE VIEW drawn AS SELECT * FROM ours WHERE {drawn} AND NOT {beside}")
    db.execute("CREATE VIEW exposed AS SELECT * FROM drawn WHERE NOT fallback")
    why = f"CASE WHEN NOT ({drawn}) THEN why WHEN {beside} THEN 'beside a veto' ELSE 'fallback' END"
    return dict(db.sql(f"SELECT {why}, count(*) FROM ours WHERE fallback OR NOT ({drawn}) OR {beside} "
                       "GROUP BY ALL ORDER BY ALL").fetchall())  # fmt: skip


def _exposures(
    db: duckdb.DuckDBPyConnection, log: LogScan, experiment: Experiment, status: ExperimentStatus
) -> dict[str, int]:
    """Make `exposed` of a flag's exposures, or of those that were sent; return how many name no arm."""
    _arms(db, {served: arm for arm, served in status.served.items()} | {arm: arm for arm in experiment.shares})
    source = log.source(db, "exposures", experiment.name, ["unit", "arm", "began"])
    db.execute(f"CREATE TEMP TABLE ours AS SELECT e.unit, arms.name AS arm, e.began FROM {source} e "
               "LEFT JOIN arms ON arms.served = e.arm")  # fmt: skip
    db.execute("CREATE VIEW exposed AS SELECT * FROM ours WHERE arm IS NOT NULL")
    unknown = db.sql("SELECT count(*) FROM ours WHERE arm IS NULL").fetchall()[0][0]
    return {"unknown arm": unknown} if unknown else {}


def _first(db: duckdb.DuckDBPyConnection) -> None:
    """Make `first`, one row per unit that saw one arm only, and `twice`, the units that saw several."""
    db.execute("CREATE TEMP TABLE seen AS SELECT unit, min(arm) AS arm, max(arm) AS other, min(began) AS began "
               "FROM exposed GROUP BY unit")  # fmt: skip
    db.execute("CREATE VIEW first AS SELECT unit, arm, began FROM seen WHERE arm = other")
    db.execute("CREATE VIEW twice AS SELECT unit FROM seen WHERE arm <> other")


# -- what became of them ----------------------------------------------------------------------------------------------


def _calls(db: duckdb.DuckDBPyConnection, log: LogScan, experiment: Experiment, left_out: dict[str, int]) -> None:
    """Make `calls`, what each prediction of a drawn unit was worth, with the newest outcome of each.

    What a fallback answered says nothing about the arm, what it cost and that it failed does.
    """
    listed = ["unit", "began AS t", "CASE WHEN NOT fallback THEN value END AS prediction",
              "total / 1e6 AS latency", "failed::DOUBLE AS error"]  # fmt: skip
    if not any("outcome" in metric.columns for metric in experiment.metrics):
        db.execute(f"CREATE VIEW calls AS SELECT {', '.join(listed)} FROM drawn")
        return
    source = log.source(db, "outcomes", "", ["id", "value", "revision"])
    listed.append("CASE WHEN NOT fallback AND isfinite(truth) THEN truth END AS outcome")
    db.execute(f"CREATE TEMP TABLE joined AS SELECT d.id, {', '.join(listed)}, truth, revision FROM drawn d "
               f"LEFT JOIN (SELECT id, value AS truth, revision FROM {source}) o ON o.id = d.id")  # fmt: skip
    db.execute(f"CREATE VIEW calls AS SELECT * FROM {_newest(db)}")
    if broken := db.sql("SELECT count(*) FROM calls WHERE NOT isfinite(truth)").fetchall()[0][0]:
        left_out["outcome is no number"] = broken


def _newest(db: duckdb.DuckDBPyConnection) -> str:
    """Return the joined rows with one outcome each; where no outcome came twice, that is known without a sort."""
    drawn, joined = db.sql("SELECT (SELECT count(*) FROM drawn), (SELECT count(*) FROM joined)").fetchall()[0]
    if drawn == joined:
        return "joined"
    doubled = "SELECT id FROM joined GROUP BY id HAVING count(*) > 1"
    return (f"(SELECT * FROM joined WHERE id NOT IN ({doubled}) UNION ALL SELECT * FROM joined WHERE id IN ({doubled}) "
            "QUALIFY row_number() OVER (PARTITION BY id ORDER BY revision DESC, truth) = 1)")  # fmt: skip


def _units(project: Project, experiment: Experiment, now: datetime) -> str:
    """Return the query of one row per unit; each relation is joined once, however many metrics read it."""
    columns = ["f.unit AS unit", "f.arm AS arm", f"(f.began // {_DAY}) AS day"]
    totals: dict[str, list[str]] = {}
    for number, metric in enumerate(experiment.metrics):
        columns.append(f"{_closed(project, experiment, metric, now)} AS {quoted(f'{metric.name}:closed')}")
        for at, column in enumerate(metric.columns):
            relation, value = _rows(column)
            name = f"m{number}_{at}"
            totals.setdefault(relation, []).append(
                f"{_total(metric, value)} FILTER (WHERE {_window(metric, column)}) AS {name}"
            )
            kept = name if metric.missing is Missing.DROP else f"coalesce({name}, 0.0)"
            columns.append(f"{kept} AS {quoted(_unique(metric, column))}")
            if column == "outcome":
                columns.append(f"{name} IS NULL AS {quoted(f'{metric.name}:silent')}")
    joins = [
        f"LEFT JOIN (SELECT f.unit AS unit, {', '.join(asked)} FROM first f JOIN {relation} r ON r.unit = f.unit "
        f"GROUP BY f.unit) j{number} ON j{number}.unit = f.unit"
        for number, (relation, asked) in enumerate(totals.items())
    ]
    columns += [f"coalesce({quoted(name)}, '{_UNKNOWN}') AS {quoted(name)}" for name in experiment.strata]
    joins += _strata(experiment)
    return f"SELECT {', '.join(columns)} FROM first f {' '.join(joins)}"


def _strata(experiment: Experiment) -> list[str]:
    """Return joins that give each unit its strata: of its first request, and of the newest rows before that."""
    joins = []
    if plain := [name for name in experiment.strata if "." not in name]:
        firsts = ", ".join(f"arg_min({quoted(name)}, began) AS {quoted(name)}" for name in plain)
        joins.append(f"LEFT JOIN (SELECT unit, {firsts} FROM exposed GROUP BY unit) s ON s.unit = f.unit")
    for number, name in enumerate(n for n in experiment.strata if "." in n):
        joins.append(
            f"LEFT JOIN (SELECT f.unit AS unit, arg_max(r.v, r.t) AS {quoted(name)} FROM first f "
            f"JOIN {quoted(f'stratum {name}')} r ON r.unit = f.unit AND r.t < f.began GROUP BY f.unit) s{number} "
            f"ON s{number}.unit = f.unit"
        )
    return joins


def _total(metric: Metric, value: str) -> str:
    """Return how a unit's rows become its number; NULL where it has none."""
    match metric.kind:
        case Kind.PROPORTION:
            return f"max(({value} <> 0)::DOUBLE)"
        case Kind.COUNT:
            return f"sum(({value} <> 0)::DOUBLE)"
        case _:
            return f"sum({value})"


def _window(metric: Metric, column: str) -> str:
    """Return the condition under which a row counts: in the window after exposure, or of a covariate before it."""
    if column in metric.covariate:
        return f"r.t >= f.began - {to_span(look_back(metric))} AND r.t < f.began"
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


def _rows(column: str) -> tuple[str, str]:
    """Return the relation that holds a column, and its name there."""
    return (quoted(f"events {column}"), "r.v") if column not in OF_PREDICTIONS else ("calls", f"r.{column}")


def to_span(span: timedelta) -> int:
    """Return µs."""
    return span // timedelta(microseconds=1)


def _silent(db: duckdb.DuckDBPyConnection, experiment: Experiment) -> dict[str, int]:
    """Return how many units whose window has closed have no outcome, by metric that counts those as 0."""
    found = {}
    for metric in experiment.metrics:
        if metric.of == "outcome" and metric.kind is Kind.MEAN and metric.missing is not Missing.DROP:
            closed, silent = (quoted(f"{metric.name}:{what}") for what in ("closed", "silent"))
            found[metric.name] = int(db.sql(f"SELECT count(*) FROM units WHERE {closed} AND {silent}").fetchall()[0][0])
    return found


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
        relation, value = _rows(metric.of)
        query = (f"SELECT f.unit AS unit, {value} AS v FROM first f JOIN {relation} r ON r.unit = f.unit "
                 f"WHERE {where} AND isfinite({value}) ORDER BY f.unit, r.t, v")  # fmt: skip
        found: pa.Table = db.sql(query, params=[arm]).to_arrow_table()
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
    strata = {name: plain(found) for name, found in data.strata.items()}
    return replace(data, metrics=plain(data.metrics), days=days, strata=strata)
