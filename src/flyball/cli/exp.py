"""exp start|stop|list|show|archive: the life of experiments on flags and on versions of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb

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
    """List experiments: defined, scheduled, running, stopped."""
    show(project.experiments.list(archived=archived), _print_list)


def _print_list(found: list[dict[str, Any]]) -> None:
    rows = [
        (e["name"], e["state"], e["model"] or e["flag"] or "any table", e["arms"], (e["started"] or "-")[:16],
         (e["ended"] or e["ends"] or "-")[:16])
        for e in found
    ]  # fmt: skip
    print_table(("experiment", "state", "on", "arms", "started", "ends"), rows, empty="no experiments yet")


@_name
def _show(project: Project, name: str, *, show: Callable[..., None]) -> int:
    """Show who was exposed, against the plan, and the verdict so far; exit code 1 for a sample ratio mismatch."""
    document = project.experiments[name].status()
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
