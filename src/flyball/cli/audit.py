"""audit list."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import print_table, verb
from flyball.errors import InputError

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["list_"]


@click.option("--subject", help="Only about this: a key's name, a rollout, a prediction id.")
@click.option("--since", help="Only from this time on (ISO 8601), in domain time.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many, newest last.")
def _list(project: Project, *, subject: str | None, since: str | None, limit: int, show: Callable[..., None]) -> None:
    """List who did what, and who read the prediction log."""
    found = project.audit.list(subject=subject, since=None if since is None else _time(since), limit=limit)
    show(
        [{"at": e.at, "actor": e.actor, "action": e.action, "subject": e.subject, "details": e.details} for e in found],
        _print,
    )


def _print(entries: list[dict[str, Any]]) -> None:
    rows = [
        (e["at"][:19], e["actor"], e["action"], e["subject"], ", ".join(f"{k} {v}" for k, v in e["details"].items()))
        for e in entries
    ]
    print_table(("at", "actor", "action", "subject", "details"), rows, empty="nothing was done yet")


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--since {text!r} is no time; write ISO 8601, such as 2026-03-11T04:00:00Z") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


list_ = verb(_list)
