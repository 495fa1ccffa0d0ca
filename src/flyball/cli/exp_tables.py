"""exp power|analyze|srm|interleave|ope: the statistics of `fb.experiments` on files, or on an experiment's log.

The surprise: what looks at a file needs no project. Any folder will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import emit, print_table, write_page

if TYPE_CHECKING:
    import pyarrow as pa

    from flyball.experiments.design.result import Result
    from flyball.experiments.design.types import Experiment

__all__ = ["analyze", "interleave", "ope", "power", "srm"]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_arm = click.option("--arm", default="arm", show_default=True, help="Column of the arm.")
_shares = click.option(
    "--share", "shares", multiple=True, metavar="ARM=SHARE", help="Designed share; equal by default."
)
_project = click.option("-p", "--project", "project", default=".", show_default=True, help="Folder or flyball.toml.")
_env = click.option("--env", default=None, help="Overlay [env.NAME] of flyball.toml.")


@click.command()
@click.option("--kind", type=click.Choice(["mean", "proportion"]), default="proportion", show_default=True)
@click.option("--base", type=float, help="The control's mean or share.")
@click.option("--sd", type=float, help="Standard deviation of a unit's value, of a mean.")
@click.option("--effect", type=float, help="Difference to find, in the metric's unit.")
@click.option("--relative", type=float, help="The same as a share of the base: 0.05 is 5 % more.")
@click.option("--units", type=int, help="Units of each arm.")
@click.option("--power", "wanted", type=float, help="Chance to find it; 0.8 unless effect and units are given.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence level.")
@click.option("--comparisons", type=int, default=1, show_default=True, help="Treatments compared with the control.")
@click.option("--explained", type=float, default=0.0, help="Share of the variance that covariates explain (CUPED).")
@click.option("--per-day", type=float, help="New units a day, to say how long it takes.")
@click.option("--share", type=float, default=1.0, show_default=True, help="Share of them in the experiment.")
@_json
def power(
    *, kind: str, base: float | None, sd: float | None, effect: float | None, relative: float | None,
    units: int | None, wanted: float | None, level: float, comparisons: int, explained: float,
    per_day: float | None, share: float, as_json: bool,
) -> None:  # fmt: skip
    """Say how many units are needed, what they would find, and how long that takes."""
    from flyball.experiments import duration, plan_means, plan_proportions

    given: dict[str, Any] = {"effect": effect, "relative": relative, "n": units, "power": wanted, "level": level,
                             "comparisons": comparisons, "r2": explained}  # fmt: skip
    if kind == "mean":
        if sd is None:
            raise click.UsageError("the power of a mean needs --sd, the deviation of a unit's value")
        found = plan_means(sd=sd, base=base, **given)
    else:
        if base is None:
            raise click.UsageError("the power of a proportion needs --base, the control's share")
        found = plan_proportions(base=base, **given)
    lasts = None if per_day is None else duration(found, arrivals=per_day, share=share)
    document = {"plan": found.to_dict(), "duration": None if lasts is None else lasts.to_dict()}
    emit(document, lambda _: click.echo(f"{found}" + ("" if lasts is None else f"\n{lasts}")), as_json=as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--table", type=click.Path(path_type=Path), help="Parquet, CSV or JSON lines, not the log.")
@click.option("--file", "path", type=click.Path(path_type=Path), help="A file that defines the experiment.")
@click.option("--metric", "metrics", multiple=True, metavar="COLUMN[:KIND]", help="Of a --table without a design.")
@click.option("--control", help="Control arm of a --table without a design.")
@_arm
@click.option("--unit", help="Column of the unit.")
@click.option("--rows", type=click.Choice(["units", "events"]), default="units", show_default=True,
              help="Whether a row is a unit, or one of its events.")  # fmt: skip
@click.option("--ended", is_flag=True, help="No more data will come.")
@click.option("--peek", is_flag=True, help="Look before the plan allows it; that is no verdict.")
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page to this file too.")
@_project
@_env
@_json
def analyze(
    *, name: str | None, table: Path | None, path: Path | None, metrics: tuple[str, ...], control: str | None, arm: str,
    unit: str | None, rows: str, ended: bool, peek: bool, html: Path | None, project: str, env: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Judge an experiment by its log, or by a --table; exit code 1 for harm, and where nothing can be trusted."""
    from flyball.experiments import render_experiment

    if table is None:
        if name is None:
            raise click.UsageError("name an experiment, or give a --table")
        design, result = _of_log(project, env, name, peek)
    else:
        design = _design(table, name, path, metrics, control, arm, project, env)
        result = _of_table(table, design, arm=arm, unit=unit, rows=rows, ended=ended or peek)
    if html is not None:
        write_page(html, render_experiment(design, result))
    document = result.to_dict() | {"peek": peek}
    warned = "\nthis is a peek, and no verdict" if peek else ""
    emit(document, lambda _: click.echo(f"{result}{warned}"), as_json=as_json)
    return 1 if result.harmful and not peek else 0


def _of_log(project: str, env: str | None, name: str, peek: bool) -> tuple[Experiment, Result]:
    from flyball.project import Project

    with Project.open(project, environment=env) as opened:
        handle = opened.experiments[name]
        return handle.design, handle.result(peek=peek)


def _of_table(table: Path, design: Experiment, *, arm: str, unit: str | None, rows: Any, ended: bool) -> Result:
    from flyball.adapters.duckdb_stats import arms_of_files
    from flyball.experiments import analyze as judge

    return judge(design, arms_of_files(table, design, arm=arm, unit=unit, rows=rows), ended=ended)


def _design(
    table: Path, name: str | None, path: Path | None, metrics: tuple[str, ...], control: str | None, arm: str,
    project: str, env: str | None,
) -> Experiment:  # fmt: skip
    from flyball.project.experiment_files import read_experiment

    if path is not None:
        return read_experiment(path, name)
    if metrics:
        return _simple(table, metrics, control, arm)
    if name is None:
        raise click.UsageError("say what to judge: an experiment's name, its --file, or --metric COLUMN:KIND")
    from flyball.project import Project

    with Project.open(project, environment=env) as opened:
        return opened.experiments[name].design


def _simple(table: Path, metrics: tuple[str, ...], control: str | None, arm: str) -> Experiment:
    """Return the design of a finished test that nobody wrote down: equal arms, judged once."""
    from flyball.experiments import Experiment, Metric, plan

    counts = _counts(_read(table, arm), arm)
    made = []
    for text in metrics:
        column, _, kind = text.partition(":")
        made.append(Metric(column, kind=kind or "mean"))  # type: ignore[arg-type]
    names = sorted(counts, key=lambda a: (a != control, a))
    if control is not None and control not in counts:
        raise click.UsageError(f"--control {control!r} is no arm of the table; these are: {', '.join(sorted(counts))}")
    units = max(sum(counts.values()), len(names))
    shares = {a: 1.0 / len(names) for a in names}
    return Experiment("table", arms=shares, metrics=made, plan=plan.fixed(units=units))


@click.command()
@click.argument("counts", nargs=-1, metavar="[NAME | ARM=UNITS ...]")
@click.option("--table", type=click.Path(path_type=Path), help="Parquet, CSV or JSON lines of units.")
@_arm
@_shares
@_project
@_env
@_json
def srm(
    *, counts: tuple[str, ...], table: Path | None, arm: str, shares: tuple[str, ...], project: str, env: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Say whether units arrive as designed: of an experiment, of a --table, or of counts; exit code 1 when not."""
    from flyball.experiments import srm_test

    if table is None and len(counts) == 1 and "=" not in counts[0]:
        check = _ratio_of_log(project, env, counts[0])
    else:
        seen = _counts(_read(table, arm), arm) if table is not None else _numbers(counts, "counts", int)
        if len(seen) < 2:
            raise click.UsageError(
                "give an experiment's name, a --table, or counts of two arms or more: old=510 new=490"
            )
        wanted = _numbers(shares, "--share", float) or dict.fromkeys(seen, 1.0 / len(seen))
        if set(wanted) != set(seen):
            raise click.UsageError(f"shares are of {sorted(wanted)}, and units of {sorted(seen)}; name the same arms")
        check = srm_test([seen[a] for a in seen], [wanted[a] for a in seen], names=list(seen))
    emit(check.to_dict(), lambda _: click.echo(str(check)), as_json=as_json)
    return 1 if check.verdict == "failed" else 0


def _ratio_of_log(project: str, env: str | None, name: str) -> Any:
    from flyball.project import Project
    from flyball.project.experiment_status import ratio_of

    with Project.open(project, environment=env) as opened:
        handle = opened.experiments[name]
        return ratio_of(handle.design, handle.gather().exposed)


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--credit", default="credit", show_default=True,
              help="Column of the vote: above 0 for the treatment's ranking, below for the control's.")  # fmt: skip
@click.option("--unit", help="Column of the unit; its votes are added first.")
@click.option("--test", "how", type=click.Choice(["sequential", "sign", "t"]), default="sequential", show_default=True,
              help="sequential may be looked at as often as wanted; sign and t are judged once.")  # fmt: skip
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence level.")
@_json
def interleave(*, table: Path, credit: str, unit: str | None, how: str, level: float, as_json: bool) -> int:
    """Say which of two interleaved rankings the clicks of a table prefer; exit code 1 for the control's."""
    from flyball.experiments import PreferenceProcess, preference

    rows = _read(table, credit, *([unit] if unit else []))
    votes, units = rows[credit].to_numpy(), None if unit is None else rows[unit].to_numpy()
    if how == "sequential":
        found = PreferenceProcess().add(votes if units is None else _added(votes, units)).estimate(level=level)
    else:
        found = preference(votes, units=units, test=how, level=level)
    emit(found.to_dict(), lambda _: click.echo(str(found)), as_json=as_json)
    return 1 if found.upper < 0 else 0


def _added(votes: Any, units: Any) -> Any:
    """Return each unit's votes together, so that nobody counts twice."""
    import numpy as np

    return np.bincount(np.unique(units, return_inverse=True)[1], weights=votes)


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--policy", required=True, metavar="COLUMNS|SHARES",
              help="Columns with the policy's chance of each action, or one number for each: 0.2,0.8.")  # fmt: skip
@click.option("--action", default="action", show_default=True, help="Column of the action taken, from 0.")
@click.option("--reward", default="reward", show_default=True, help="Column of its reward.")
@click.option("--propensity", default="propensity", show_default=True, help="Column of the chance it was taken with.")
@click.option("--predicted", metavar="COLUMNS", help="Columns of the predicted reward of each action.")
@click.option("--unit", help="Column of the unit, whose rows are not independent.")
@click.option("--limit", type=float, default=10.0, show_default=True, help="Largest weight, where weights are clipped.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence level.")
@_json
def ope(
    *, table: Path, policy: str, action: str, reward: str, propensity: str, predicted: str | None, unit: str | None,
    limit: float, level: float, as_json: bool,
) -> None:  # fmt: skip
    """Say what another policy would have earned, by a table of actions, rewards and propensities."""
    import numpy as np

    from flyball.experiments import PolicyLog, evaluate_policy

    rows = _read(table)
    names = rows.column_names
    log = PolicyLog.of(
        actions=_column(rows, action), rewards=_column(rows, reward),
        propensities=_column(rows, propensity) if propensity in names else None,
        policy=_matrix(rows, policy), clusters=None if unit is None else _column(rows, unit),
    )  # fmt: skip
    model = None if predicted is None else np.asarray(_matrix(rows, predicted))
    found = evaluate_policy(log, predicted=model, limit=limit, level=level)
    document = [value.to_dict() for value in found]
    emit(document, lambda _: _print_values(found), as_json=as_json)


def _print_values(found: Any) -> None:
    print_table(("method", "value", "from", "to"), [(v.method, v.value, v.lower, v.upper) for v in found])
    for warning in dict.fromkeys(w for v in found for w in v.warnings):
        click.echo(f"  {warning}")


# -- tables -----------------------------------------------------------------------------------------------------------


def _read(table: Path, *columns: str) -> pa.Table:
    """Return a file's rows; all columns where none is named."""
    import duckdb

    from flyball.adapters.duckdb_sql import quoted
    from flyball.adapters.duckdb_stats import files
    from flyball.errors import SourceError, first_line

    asked = ", ".join(map(quoted, columns)) or "*"
    try:
        with duckdb.connect() as connection:
            found: pa.Table = connection.sql(f"SELECT {asked} FROM {files(table)}").to_arrow_table()
            return found
    except duckdb.Error as error:
        raise SourceError(f"{table.name} cannot be read: {first_line(error)}") from error


def _counts(rows: pa.Table, arm: str) -> dict[str, int]:
    from flyball.experiments.design.wanted import label

    found = {label(c["values"]): c["counts"] for c in rows[arm].value_counts().to_pylist() if c["values"] is not None}
    return dict(sorted(found.items()))


def _column(rows: pa.Table, name: str) -> Any:
    from flyball.errors import UnknownName

    if name not in rows.column_names:
        raise UnknownName.of("column", name, rows.column_names)
    return rows[name].to_numpy()


def _matrix(rows: pa.Table, text: str) -> Any:
    """Return the columns that a text names, shape (n, k), or its numbers, shape (k,)."""
    import numpy as np

    parts = [part.strip() for part in text.split(",")]
    if all(part in rows.column_names for part in parts):
        return np.column_stack([rows[part].to_numpy() for part in parts])
    try:
        return np.array([float(part) for part in parts])
    except ValueError:
        return np.column_stack([_column(rows, part) for part in parts])


def _numbers(pairs: tuple[str, ...], what: str, kind: Callable[[str], Any]) -> Mapping[str, Any]:
    found = {}
    for pair in pairs:
        name, sign, text = pair.rpartition("=")
        try:
            found[name] = kind(text)
        except ValueError:
            sign = ""
        if not sign:
            raise click.UsageError(f"{what} are written ARM=NUMBER, not {pair!r}")
    return found
