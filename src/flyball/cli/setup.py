"""init, check, apply."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import emit, note, progress_bar, verb

if TYPE_CHECKING:
    from flyball.project import Project


@click.command()
@click.argument("folder", default=".")
@click.option("--template", default="eta", show_default=True, help="eta: trip minutes, with sample trips.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def init(folder: str, template: str, as_json: bool) -> None:
    """Write a new project into FOLDER."""
    from flyball.templates import write_template

    written = write_template(template, Path(folder))
    document = {"folder": folder, "template": template, "files": [str(p) for p in written]}
    steps = f"next: {'cd ' + shlex.quote(folder) + ' && ' if folder != '.' else ''}flyball up"
    emit(document, lambda d: click.echo("\n".join([*d["files"], steps])), as_json=as_json)


@verb
def check(project: Project, *, show: Callable[..., None]) -> None:
    """Check settings, definitions and sources; change nothing."""
    from flyball.project.apply import check_columns

    definitions = project.working
    check_columns(project)
    rows = {name: project.engine.report(source) for name, source in definitions.sources.items()}
    document = {
        "project": project.settings.project.name,
        "models": sorted(definitions.models),
        "views": sorted(definitions.views),
        "sources": {n: {"accepted": r.rows - r.rejected, "rejected": r.rejected} for n, r in rows.items()},
    }
    show(document, _print_check)


def _print_check(document: dict[str, Any]) -> None:
    click.echo(f"project {document['project']}: definitions and settings are fine")
    for name, found in document["sources"].items():
        click.echo(
            f"source {name}: {found['accepted']:,} rows accepted, {found['rejected']:,} left out by where or checks"
        )
    click.echo(f"views: {', '.join(document['views']) or 'none'}; models: {', '.join(document['models']) or 'none'}")


@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--force", is_flag=True, help="Apply although models that read a view break; it is recorded.")
def _apply(project: Project, *, dry_run: bool, force: bool, show: Callable[..., None]) -> None:
    """Make the definitions live."""
    bars: dict[str, Callable[[int, int], None]] = {}

    def tell(name: str, done: int, total: int) -> None:
        bars.setdefault(name, progress_bar(f"filling {name}"))(done, total)

    plan = project.apply(dry_run=dry_run, force=force, progress=tell)
    show(plan, lambda d: _print_plan(d, dry_run, breaking=bool(plan.breaking) and not force))


def _print_plan(plan: dict[str, Any], dry_run: bool, *, breaking: bool) -> None:
    signs = {"add": "+", "change": "~", "remove": "-"}
    for change in plan["changes"]:
        click.echo(f"{signs[change['action']]} {change['text']}")
        _print_change(change)
    if not plan["changes"]:
        click.echo("nothing changes")
    _print_sharing(plan["sharing"], dry_run)
    for name in plan["filled"]:
        note(f"view {name} filled")
    if dry_run and plan["changes"]:
        note(f"nothing was applied; run: flyball apply{' --force' if breaking else ''}")


def _print_sharing(sharing: dict[str, Any], dry_run: bool) -> None:
    for view in sharing["new"]:
        click.echo(f"catalog: view {view['name']} {'would be' if dry_run else 'is'} published")
    for text in sharing["refused"]:
        click.echo(f"catalog: REFUSED: {text}")
    for text in sharing["notes"]:
        note(f"catalog: {text}")


def _print_change(change: dict[str, Any]) -> None:
    for field in change["fields"]:
        was, now = (field[side] or "(none)" for side in ("was", "now"))
        click.echo(f"    {field['field']}: {was} -> {now}")
    if change["kind"] == "view" and change["rebuilds"]:
        beside = ", beside those that are served" if change["action"] == "change" else ""
        click.echo(f"    its online rows are built{beside}")
    if change["readers"]:
        click.echo(f"    read by {', '.join(change['readers'])}")
    for text in change["breaks"]:
        click.echo(f"    BREAKING: {text}")


apply = verb(_apply)
