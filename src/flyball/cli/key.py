"""key create|list|revoke."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flyball.cli.output import note, print_table, verb

if TYPE_CHECKING:
    from flyball.project import Project

__all__ = ["create", "list_", "revoke"]


@click.option("--role", required=True, help="What the key may do: admin, or a role that views name.")
@click.option("--name", help="What to call it; made up when left out.")
def _create(project: Project, *, role: str, name: str | None, show: Callable[..., None]) -> None:
    """Make a key for callers; it is shown this once."""
    label, key = project.keys.create(role, name=name)
    show({"name": label, "role": role, "key": key}, _print_key)


def _print_key(made: dict[str, Any]) -> None:
    click.echo(made["key"])
    note(f"key {made['name']} of role {made['role']}: keep it now, it is not shown again")


@verb
def list_(project: Project, *, show: Callable[..., None]) -> None:
    """List keys by name and role."""
    found = [{"name": k.name, "role": k.role, "created": k.created, "revoked": k.revoked} for k in project.keys.list()]
    show(found, _print_keys)


def _print_keys(keys: list[dict[str, Any]]) -> None:
    rows = [(k["name"], k["role"], k["created"][:19], (k["revoked"] or "-")[:19]) for k in keys]
    print_table(("name", "role", "created", "revoked"), rows, empty="no keys: everybody who reaches the port may call")


@click.argument("name")
def _revoke(project: Project, name: str, *, show: Callable[..., None]) -> None:
    """Have a key open nothing any more."""
    project.keys.revoke(name)
    show({"name": name, "revoked": True}, lambda d: note(f"key {d['name']} is revoked"))


create = verb(_create)
revoke = verb(_revoke)
