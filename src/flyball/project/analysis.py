"""`fb.analyze(source, experiment)`: judge an experiment by files or by a table, whichever is given.

The surprise: it needs no project. Files are scanned by DuckDB and never held; a table in memory is read where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

if TYPE_CHECKING:
    from flyball.experiments.design.result import Result
    from flyball.experiments.design.types import Experiment
    from flyball.experiments.design.wanted import Layout

__all__ = ["analyze"]


def analyze(
    source: object,
    experiment: Experiment,
    *,
    ended: bool = False,
    **layout: Unpack[Layout],
) -> Result:
    """Judge an experiment by what is in a table.

    Args:
        source: Parquet, CSV or JSON-lines file, glob, or several; or an Arrow, pandas or polars table, or columns by
            name.
        experiment: The design.
        ended: Whether no more data will come.
        **layout: How the table tells arms, units and days. `arm="arm"`: the column of the arm, whose rows without one
            are left out. `unit=`: the column of the unit; the experiment's, where there is such a column.
            `rows="events"`: a unit has several rows, whose values are totalled first. `day=`: a whole number or a
            date, for effects by day. `closed=`: per metric, the column that says whether a unit's window has closed.

    Raises:
        SourceError: a file cannot be read.
        UnknownName: a column or arm does not exist.
        InputError: units are there twice, or lack a value that the metric does not do without.
    """
    from flyball.experiments.design.analysis import analyze as judge

    places = _places(source)
    if places is not None:
        from flyball.adapters.duckdb_stats import arms_of_files

        arms = arms_of_files(places, experiment, **layout)
    else:
        from flyball.experiments.design.tables import arms_of_table

        arms = arms_of_table(source, experiment, **layout)
    return judge(experiment, arms, ended=ended)


def _places(source: object) -> list[str | Path] | None:
    """Return the files that are meant, None for a table."""
    if isinstance(source, str | Path):
        return [source]
    if isinstance(source, Sequence) and source and all(isinstance(place, str | Path) for place in source):
        return list(source)
    return None
