"""feature skew: what was served against what history says should have been."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.errors import InputError

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["parse_time", "skew"]

_COLUMNS = ("version", "view", "feature", "compared", "mismatch", "missing", "extra", "worst", "rule")


@click.argument("view", required=False)
@click.option("--model", help="Only this model's versions.")
@click.option("--since", help="Only predictions from this time on (ISO 8601, UTC without an offset).")
@click.option("--sample", type=float, default=1.0, show_default=True, help="Share of the entities, by a hash.")
@click.option("--out", type=click.Path(), help="Write one HTML page.")
def _skew(
    project: Project,
    view: str | None,
    *,
    model: str | None,
    since: str | None,
    sample: float,
    out: str | None,
    show: Callable[..., None],
) -> int:
    """Compare served vectors with history as known at their time; exact features must not differ (exit 1)."""
    report = project.features.skew(view, model=model, since=parse_time(since, "--since"), sample=sample)
    if out is not None:
        Path(out).write_text(_page(_rows(report), report.broken), encoding="utf-8")
        note(f"written to {out}")
    show({"broken": report.broken, "skewed": report.skewed, "report": report}, lambda d: _print(report, d))
    return 1 if report.broken else 0


def parse_time(text: str | None, option: str) -> datetime | None:
    """Return the time that an option names, UTC without an offset; raises InputError."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{option} {text!r} is no time; write ISO 8601, such as 2020-03-11T04:00:00Z") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _rows(report: Any) -> list[tuple[Any, ...]]:
    return [
        (f"{v.model} {v.version}", c.view or "-", c.name, c.compared, c.mismatch, c.missing, c.extra, c.worst,
         "exact" if c.exact else "1e-12")
        for v in report.versions
        for c in v.columns
    ]  # fmt: skip


def _print(report: Any, document: dict[str, Any]) -> None:
    print_table(_COLUMNS, _rows(report), empty="no served vector is in the log")
    for version in report.versions:
        if version.skipped:
            click.echo(f"{version.model} {version.version} was not compared: {version.skipped}")
        for column in version.columns:
            for e in column.examples:
                click.echo(f"  {column.name} of {e.prediction}: served {e.served}, history says {e.recomputed}")
    compared = sum(column.compared for version in report.versions for column in version.columns)
    if compared:
        click.echo(f"{document['skewed']:,} of {compared:,} served values differ from history")
    for name in document["broken"]:
        note(f"{name} must be exact and is not; see: flyball explain PREDICTION_ID")


def _page(rows: list[tuple[Any, ...]], broken: tuple[str, ...]) -> str:
    from flyball.drawing.page import page

    def cell(value: Any) -> str:
        number = isinstance(value, int | float)
        text = f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if number else escape(str(value))
        return f'<td class="n">{text}</td>' if number else f"<td>{text}</td>"

    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    verdict = (
        f"Not exact: {escape(', '.join(broken))}." if broken else "Every exact feature was served as it should be."
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return page("Skew", ["<h1>Skew between serving and history</h1>", f"<p>{verdict}</p>", table])


skew = verb(_skew)
