"""feature erase: take a subject out of everything, and print the proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb
from flyball.errors import InputError

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["erase"]


@click.option("--entity", "-e", multiple=True, required=True, help="KEY=VALUE, several for a part of a composite key.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--rewrite-sources", is_flag=True, help="Write your own source files again, without the subject's rows.")
def _erase(
    project: Project, *, entity: tuple[str, ...], dry_run: bool, rewrite_sources: bool, show: Callable[..., None]
) -> int:
    """Erase a subject: online, in the logs, in training sets; print the proof."""
    proof = project.features.erase(_subject(entity), dry_run=dry_run, rewrite_sources=rewrite_sources)
    show(proof, _print_proof)
    return 0 if proof.clean else 3


def _subject(entity: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in entity]
    for text, (name, sign, _) in zip(entity, pairs, strict=True):
        if not sign or not name:
            raise InputError(f"--entity {text!r} is not KEY=VALUE; write for example --entity user=42")
    return {name: value for name, _, value in pairs}


def _print_proof(proof: dict[str, Any]) -> None:
    dry = proof["dry_run"]
    rows = [
        (p["kind"], p["name"], p["removed"], "-" if dry else p["left"], p["was"][:12], p["now"][:12])
        for p in proof["places"]
    ]
    columns = ("searched", "where", "would go" if dry else "removed", "found afterwards", "digest before", "after")
    print_table(columns, rows, empty="flyball keeps nothing that could be searched")
    if proof["rebuilt"]:
        click.echo(f"rebuilt without these rows: {', '.join(proof['rebuilt'])}")
    for text in proof["remaining"]:
        click.echo(f"REMAINS: {text}")
    if dry:
        note("nothing was erased; leave out --dry-run")
    elif any(p["left"] for p in proof["places"]):
        note("rows of the subject came in while it was erased; stop what sends them and erase again")
    else:
        click.echo(f"proof {proof['subject'][:16]} of {proof['finished'][:19]}: a second search found nothing")


erase = verb(_erase)
