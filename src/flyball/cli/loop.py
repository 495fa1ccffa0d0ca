"""loop status|once|why|freeze|thaw."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.cli.run import only_model

if TYPE_CHECKING:
    from flyball.project import Project

_model = click.option("--model", help="Left out: all models.")


@verb
def status(project: Project, *, show: Callable[..., None]) -> None:
    """What the loop is doing, per model."""
    store = project.database.loop
    document = [
        {
            "model": name,
            "retrains_on": [t.kind for t in model.retrain.on] if model.retrain else [],
            "frozen": store.frozen(name),
            "last": next(reversed(store.story(name)), None),
        }
        for name, model in sorted(project.applied.models.items())
    ]
    show(document, _print_status)


def _print_status(models: list[dict[str, Any]]) -> None:
    rows = [
        (
            m["model"],
            ", ".join(m["retrains_on"]) or "never",
            m["frozen"] or "no",
            f"{m['last']['at'][:16]} {m['last']['text']}" if m["last"] else "nothing yet",
        )
        for m in models
    ]
    print_table(("model", "retrains on", "frozen", "last"), rows)


@verb
def once(project: Project, *, show: Callable[..., None]) -> None:
    """Do everything that is due, once."""
    show({"did": project.loop.once()}, lambda d: click.echo("\n".join(d["did"]) or "nothing was due"))


@click.argument("model", required=False)
def _why(project: Project, model: str | None, *, show: Callable[..., None]) -> None:
    """Tell the story: trigger, run, gate, rollout, verdict."""
    show(project.loop.why(model or only_model(project)), _print_story)


def _print_story(story: list[dict[str, Any]]) -> None:
    from flyball.loop.story import lines

    click.echo("\n".join(lines(story)))


@_model
@click.option("--reason", default="frozen by hand", help="For the record.")
def _freeze(project: Project, *, model: str | None, reason: str, show: Callable[..., None]) -> None:
    """Stop retraining."""
    project.loop.freeze(model, reason=reason)
    show({"frozen": model or "all models"}, lambda d: note(f"{d['frozen']} frozen"))


@_model
def _thaw(project: Project, *, model: str | None, show: Callable[..., None]) -> None:
    """Let it retrain again."""
    project.loop.thaw(model)
    show({"thawed": model or "all models"}, lambda d: note(f"{d['thawed']} thawed"))


why = verb(_why)
freeze = verb(_freeze)
thaw = verb(_thaw)
