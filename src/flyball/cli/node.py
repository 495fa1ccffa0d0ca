"""up, status."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, progress_bar, verb

if TYPE_CHECKING:
    from flyball.project import Project


@click.option("--no-bootstrap", is_flag=True, help="Do not apply definitions or train a first champion.")
def _up(project: Project, *, no_bootstrap: bool, show: Callable[..., None]) -> int:
    """Serve, and keep the loop turning, until Ctrl-C.

    What a new project lacks is done first: definitions are applied, and a model without any version is trained and, if
    its gate passes, made champion.
    """
    from flyball.node.supervisor import serve
    from flyball.project.bootstrap import bootstrap

    if not no_bootstrap:
        bars: dict[str, Callable[[int, int], None]] = {}
        bootstrap(project, say=note, progress=lambda n, d, t: bars.setdefault(n, progress_bar(f"filling {n}"))(d, t))
    root, environment = project.root, project.config.environment
    project.close()
    return serve(root, environment)


@verb
def status(project: Project, *, show: Callable[..., None]) -> None:
    """Say how everything is."""
    from flyball.project.status import status as read

    show(read(project), _print_status)


def _print_status(document: dict[str, Any]) -> None:
    node = document["node"]
    click.echo(
        f"{document['project']}: "
        + (f"up, {node['url']} (pid {node['pid']})" if node else "not running; start it with: flyball up")
    )
    if document["degraded"]:
        click.echo(f"degraded: {document['degraded']}")
    rows = [
        (m["model"], m["champion"] or "-", m["rollout"] or "-", m["drift"] or "-", m["frozen"] or "no")
        for m in document["models"]
    ]
    empty = "no models are applied" if document["applied"] else "nothing is applied yet; run: flyball apply"
    print_table(("model", "champion", "rollout", "drift", "frozen"), rows, empty=empty)
    for model in document["models"]:
        for text in [*filter(None, [model["storm"]]), *model["held_back"]]:
            click.echo(f"{model['model']}: {text}")
    for view in document["refresh"]:
        fresh = view["last"] or "never"
        click.echo(f"view {view['view']}: fresh until {fresh}, next refresh {view['next']} (every {view['every']})")
        if view["error"]:
            click.echo(f"  the last refresh failed: {view['error']}")
    for alert in document["alerts"]:
        click.echo(f"{alert['severity']}: {alert['text']}")


up = verb(_up)
