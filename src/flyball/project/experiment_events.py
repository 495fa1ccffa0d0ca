"""Which columns an experiment may read: of its predictions, of the sources whose rows its units can be found in.

The surprise: units are compared as the log names them. Where it keeps them hashed or encrypted, the rows of a source
are hashed or encrypted too before they are joined.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flyball.errors import DefinitionError, UnknownName
from flyball.experiments.design.metric import Kind, Metric
from flyball.experiments.design.types import Experiment
from flyball.features.types import is_number

if TYPE_CHECKING:
    from flyball.experiments.lifecycle import ExperimentStatus
    from flyball.project.root import Project

__all__ = [
    "OF_PREDICTIONS",
    "check_columns",
    "columns_of_events",
    "events",
    "input_of",
    "look_back",
    "strata_of_events",
]

OF_PREDICTIONS = ("outcome", "prediction", "latency", "error")
_BEFORE = timedelta(days=14)  # that a covariate looks back where its metric has no window
_STRATUM_BEFORE = timedelta(days=90)  # how far back the newest row that tells a unit's stratum may lie


def check_columns(project: Project, experiment: Experiment) -> None:
    """Raise unless every column that metrics and strata read can be read of the log or of a source.

    Raises:
        DefinitionError: a column is text where a number is needed, or the units are no key of a source.
        UnknownName: there is no such source, column or input.
    """
    for metric in experiment.metrics:
        for column in metric.columns:
            _check_column(project, experiment, metric, column)
    for name in experiment.strata:
        if "." in name:
            _whole_rows_refused(project, experiment, name)
        else:
            _check_input(project, experiment, name)


def _check_column(project: Project, experiment: Experiment, metric: Metric, column: str) -> None:
    if "." in column:
        source, _, name = _event_columns(project, experiment, column)
        kind = None if name is None else project.engine.types(project.applied.source(source))[name]
        if kind is not None and not is_number(kind) and metric.kind is not Kind.COUNT:
            raise DefinitionError(
                f"metric {metric.name!r} reads {column}, of type {kind} and no number; count its rows "
                f'(kind="count", of="{source}.*"), or give the source a derived column'
            )
    elif not experiment.model or column not in OF_PREDICTIONS:
        known = [*(OF_PREDICTIONS if experiment.model else ()), *(f"{s}.*" for s in project.applied.sources)]
        raise UnknownName.of(f"column of metric {metric.name!r}", column, known)
    elif column in metric.covariate:
        raise DefinitionError(
            f"metric {metric.name!r} has covariate {column!r}, which is known after exposure only; "
            "name a source's column, SOURCE.COLUMN, whose rows before the exposure are taken"
        )


def _check_input(project: Project, experiment: Experiment, name: str) -> None:
    """Raise unless a stratum is an input of the model, as its first request of each unit carries it."""
    from flyball.project.readers import service_of

    if not experiment.model:
        raise DefinitionError(
            f"experiment {experiment.name!r} has stratum {name!r}, and an exposure says nothing but its unit; name a "
            "source's column, SOURCE.COLUMN, whose newest row before the exposure is taken"
        )
    route = project.database.routing.current().models.get(experiment.model)
    if route is None:
        return  # it is told so where its arms are looked at
    version = project.database.versions.get(experiment.model, route.champion.version)
    service = service_of(project, version)
    known = [] if service is None else [spec.name for spec in service.inputs]
    if name not in known:
        raise UnknownName.of(
            f"stratum of experiment {experiment.name!r}, an input of {experiment.model} or SOURCE.COLUMN,", name, known
        )


def _whole_rows_refused(project: Project, experiment: Experiment, name: str) -> None:
    _, _, column = _event_columns(project, experiment, name)
    if column is None:
        raise DefinitionError(f"experiment {experiment.name!r} has stratum {name!r}; name a column, not all rows")


def input_of(name: str) -> str:
    """Return the SQL of an input of a prediction, as text."""
    key = name.replace("\\", "\\\\").replace('"', '\\"').replace("'", "''")
    return f"json_extract_string(p.inputs, '$.\"{key}\"')"


def look_back(metric: Metric) -> timedelta:
    """Return how long before the exposure a covariate's rows count: as long as the metric's own, or 14 days."""
    return (metric.window or metric.starts + _BEFORE) - metric.starts


# -- events of sources ------------------------------------------------------------------------------------------------


def columns_of_events(experiment: Experiment) -> list[str]:
    """Return the columns of sources that metrics read."""
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


def events(project: Project, experiment: Experiment, name: str, status: ExperimentStatus) -> pa.Table:
    """Return (unit, t, v) of a source's rows from the longest look back of a covariate on."""
    source, key, column = _event_columns(project, experiment, name)
    types = project.engine.types(project.applied.source(source))
    back = max((look_back(m) for m in experiment.metrics if name in m.covariate), default=timedelta(0))
    wanted = list(dict.fromkeys([key, *([column] if column else [])]))
    rows = project.engine.scan(project.applied.source(source), columns=wanted, start=status.created - back)
    if column is None:
        values = pa.array(np.ones(len(rows)))
    elif not is_number(types[column]):  # only ever counted
        values = rows[column].is_valid().cast(pa.float64())
    else:
        values = rows[column].cast(pa.float64())
    units = _as_logged(project, experiment, rows[key].cast(pa.string()))
    return pa.table({"unit": units, "t": rows["__event"].cast(pa.int64()), "v": values})


def strata_of_events(project: Project, experiment: Experiment, name: str, status: ExperimentStatus) -> pa.Table:
    """Return (unit, t, v) of a source's column that groups units, as text."""
    source, key, column = _event_columns(project, experiment, name)
    assert column is not None, "a start refuses all rows as a stratum"
    wanted = list(dict.fromkeys([key, column]))
    start = status.created - _STRATUM_BEFORE
    rows = project.engine.scan(project.applied.source(source), columns=wanted, start=start)
    units = _as_logged(project, experiment, rows[key].cast(pa.string()))
    return pa.table({"unit": units, "t": rows["__event"].cast(pa.int64()), "v": rows[column].cast(pa.string())})


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
