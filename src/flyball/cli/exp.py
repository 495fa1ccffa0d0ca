"""exp start|stop|list|show|archive: the life of experiments on flags and on versions of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb, write_page

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["archive", "list_", "show", "start", "stop"]

_name = click.argument("name")
_reason = click.option("--reason", default="", help="For the record.")


@click.argument("name", required=False)
@click.option("--file", "file", type=click.Path(path_type=Path), help="A .toml, .json or .py file that defines it.")
@click.option("--dry-run", is_flag=True, help="Only check it, and say what would be stored.")
def _start(project: Project, name: str | None, *, file: Path | None, dry_run: bool, show: Callable[..., None]) -> None:
    """Store experiment NAME and let it draw its units; the same command goes on with a start that was interrupted."""
    from flyball.project.experiment_files import read_experiment

    if name is None and file is None:
        raise click.UsageError("name a defined experiment, or give its --file")
    experiment = project.experiments[name or ""].design if file is None else read_experiment(file, name)
    if dry_run:
        show(project.experiments.check(experiment), lambda d: note(f"{d['name']} may start; digest {d['digest'][:12]}"))
        return
    show(project.experiments.start(experiment), _print_record)


@_name
@_reason
@click.option("--ship", default="", metavar="ARM", help="Give everybody this arm from now on.")
def _stop(project: Project, name: str, *, reason: str, ship: str, show: Callable[..., None]) -> None:
    """End an experiment and give its units back."""
    show(project.experiments[name].stop(reason, ship=ship), _print_record)


def _print_record(status: dict[str, Any]) -> None:
    reason = f": {status['reason']}" if status["reason"] else ""
    click.echo(f"{status['name']}: {status['state']}, design {status['digest'][:12]}{reason}")


@click.option("--archived", is_flag=True, help="Those that were archived too.")
def _list(project: Project, *, archived: bool, show: Callable[..., None]) -> None:
    """List experiments: state, units seen against planned, sample ratio, days left."""
    show(project.experiments.list(archived=archived, seen=True), _print_list)


def _print_list(found: list[dict[str, Any]]) -> None:
    headings = ("experiment", "state", "on", "arms", "units", "ratio", "started", "ends", "days left")
    print_table(headings, [_row(e) for e in found], empty="no experiments yet")


def _row(e: dict[str, Any]) -> tuple[str, ...]:
    on = f"model {e['model']}" if e["model"] else f"flag {e['flag']}" if e["flag"] else "any table"
    arms = ", ".join(f"{arm} {share:.3g}" for arm, share in e["arms"].items())
    seen, planned = e.get("units"), e["planned_units"]
    units = "-" if seen is None and planned is None else "-" if seen is None else f"{seen:,}"
    left = e.get("days_left")
    return (e["name"], e["state"], on, arms, units if planned is None else f"{units} of {planned:,}",
            e.get("ratio", "-"), (e["started"] or "-")[:16], (e["ended"] or e["ends"] or "-")[:16],
            "-" if left is None else f"{left:.1f}")  # fmt: skip


@_name
@click.option("--html", type=click.Path(path_type=Path), help="Write one page on the result so far to this file too.")
def _show(project: Project, name: str, *, html: Path | None, show: Callable[..., None]) -> int:
    """Show who was exposed, against the plan, and the verdict so far; exit code 1 for a sample ratio mismatch."""
    handle = project.experiments[name]
    document = handle.status()
    if html is not None:
        write_page(html, handle.report(peek=True))
    show(document, _print_status)
    return 1 if document.get("ratio", {}).get("verdict") == "failed" else 0


def _print_status(status: dict[str, Any]) -> None:
    what = status["model"] or status["flag"] or "any table"
    click.echo(f"{status['name']}: {status['state']} on {what}, design {status['digest'][:12]}")
    if status["hypothesis"]:
        click.echo(f"  {status['hypothesis']}")
    if "exposed" not in status:
        return
    shares = status["arms"]
    print_table(("arm", "share", "units"), [(arm, shares[arm], status["exposed"][arm]) for arm in shares])
    if status["planned_units"]:
        click.echo(f"{status['units']:,} of {status['planned_units']:,} planned units ({status['progress']:.0%})")
    if status["days_left"] is not None:
        click.echo(f"about {status['days_left']:.1f} days left")
    if status["crossed"]:
        click.echo(f"{status['crossed']:,} units saw several arms and are left out")
    for metric, share in status["coverage"].items():
        if share is not None and share < 1.0:
            click.echo(f"{metric}: the window of {share:.0%} of the units has closed")
    for metric, units in status["silent"].items():
        if units:
            click.echo(f"{metric}: {units:,} units have no outcome and count as 0")
    if status["left_out"]:
        click.echo("left out: " + ", ".join(f"{n:,} rows by {why}" for why, n in status["left_out"].items()))
    click.echo(f"sample ratio: {status['ratio']['verdict']}; {status['ratio']['sentence']}")
    click.echo(status["verdict"]["sentence"])


@_name
def _archive(project: Project, name: str, *, show: Callable[..., None]) -> None:
    """Leave an ended experiment out of lists; what it found stays."""
    show(project.experiments[name].archive(), _print_record)


start = verb(_start)
stop = verb(_stop)
list_ = verb(_list)
show = verb(_show)
archive = verb(_archive)
