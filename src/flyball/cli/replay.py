"""serve replay: a version over logged traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, progress_bar, verb
from flyball.cli.skew import parse_time

if TYPE_CHECKING:
    from flyball.project import Project
    from flyball.serving.log.replay import Replay

__all__ = ["replay"]


@click.argument("log", default="live")
@click.option("--model", required=True, help="The model.")
@click.option("--version", required=True, help="The version that is tried.")
@click.option("--since", help="Only requests from this time on (ISO 8601, UTC without an offset).")
@click.option("--until", help="Only requests before this time.")
@click.option("--limit", type=click.IntRange(min=1), default=100_000, show_default=True, help="Newest requests taken.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=1e-9, show_default=True,
              help="Distance up to which two numbers agree.")  # fmt: skip
@click.option("--recompute", is_flag=True, help="Read the features from history, not those that were served.")
def _replay(
    project: Project,
    log: str,
    *,
    model: str,
    version: str,
    since: str | None,
    until: str | None,
    limit: int,
    tolerance: float,
    recompute: bool,
    show: Callable[..., None],
) -> int:
    """Run a version over logged traffic and compare; exit 1 when it fails requests that were answered.

    LOG is live (this project's log), or a folder of segments or shipped Parquet.
    """
    bar = progress_bar("replay")
    found = project.replay(
        model, version, log=log, since=parse_time(since, "--since"), until=parse_time(until, "--until"), limit=limit,
        tolerance=tolerance, recompute=recompute, progress=lambda _, done, total: bar(done, total),
    )  # fmt: skip
    show(found, lambda _: _print(found))
    return 1 if found.worse else 0


def _print(found: Replay) -> None:
    s = found.shift
    interval = (
        "no interval from one unit" if s.low is None else f"95 % from {s.low:+.4g} to {s.high:+.4g}, {s.units} units"
    )
    rows: list[tuple[str, Any, Any]] = [
        ("requests", found.rows, ""),
        ("failed", found.failed, f"{found.logged_failed} at the time"),
        ("agree", f"{found.agreement:.2%}", f"tolerance {found.tolerance:g}"),
        ("mean shift", f"{s.mean:+.4g}", interval),
        ("largest difference", _last(found.difference), "half / 90 % / 99 %: " + _quantiles(found.difference)),
        ("one row, median", _first(found.micros, " µs"), f"{_first(found.logged_micros, ' µs')} at the time"),
    ]
    rows += [(name, f"{value:.4g}", f"{found.logged_metrics[name]:.4g} at the time, {found.labelled} outcomes")
             for name, value in found.metrics.items()]  # fmt: skip
    print_table((f"{found.model} {found.version}", "", ""), rows)
    click.echo()
    print_table(("part", "", "requests", "agree", "mean shift"),
                [(g.by, g.name, g.rows, f"{g.agreement:.2%}", f"{g.shift:+.4g}") for g in found.groups])  # fmt: skip
    if found.worst:
        click.echo()
        print_table(("moved most", "was", "is"), [(w.id, round(w.logged, 6), round(w.new, 6)) for w in found.worst])
    for cause, count in found.errors.items():
        note(f"{count} failed: {cause}")
    if found.left_out:
        note(f"{found.left_out} requests were left out: their features do not fit; take them in with --recompute")


def _quantiles(values: tuple[float, ...]) -> str:
    return " / ".join(f"{v:.4g}" for v in values[:3]) or "-"


def _first(values: tuple[float, ...], unit: str = "") -> str:
    return f"{values[0]:.4g}{unit}" if values else "-"


def _last(values: tuple[float, ...]) -> str:
    return f"{values[-1]:.4g}" if values else "-"


replay = verb(_replay)
